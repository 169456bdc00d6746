"""loopback: the container's own ``lo``, up. Runtimes call it for every container, before its network."""

from __future__ import annotations

import os

from cni import apply
from cni.spec import CHECK_FAILED, KERNEL_REFUSED, Address, CniError, Interface, Result, previous_result
from linux.netns import enter, identity, is_namespace
from linux.rtnetlink import Link, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json

_NAME = "lo"


def add(call: Call, config: Mapping[str, Json]) -> Result:
    """The result of the plugin before, where there was one."""
    netns = apply.open_namespace(call)
    try:
        with enter(netns):
            pod = Socket()
        with pod:
            link = _link(pod)
            pod.set_up(link.index)
            addresses = [Address(each.text, "", 0) for each in pod.addresses(link.index)]
    finally:
        os.close(netns)
    interface = Interface(_NAME, "00:00:00:00:00:00", call.netns, mtu=link.mtu)
    return previous_result(config) or Result([interface], addresses)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    del config
    if not call.netns or not is_namespace(call.netns) or identity(call.netns) == identity():
        return
    with enter(call.netns):
        pod = Socket()
    with pod:
        pod.change(_link(pod).index, up=False)


def check(call: Call, config: Mapping[str, Json]) -> None:
    del config
    netns = apply.open_namespace(call)
    try:
        with enter(netns):
            pod = Socket()
        with pod:
            if not _link(pod).up:
                raise CniError(CHECK_FAILED, "lo is down in the container")
    finally:
        os.close(netns)


def status(call: Call, config: Mapping[str, Json]) -> None:
    """Nothing is needed that a kernel could lack."""
    del call, config


def gc(call: Call, config: Mapping[str, Json]) -> None:
    """A namespace's lo goes with it."""
    del call, config


def _link(pod: Socket) -> Link:
    link = pod.link(_NAME)
    if link is None:
        raise CniError(KERNEL_REFUSED, "the container has no lo")
    return link
