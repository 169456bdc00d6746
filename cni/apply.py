"""Carries one attachment into the kernel and out of it.

Every step finds by name what an earlier process may have left and goes on from there, so a kill between any two steps
needs no journal: the runtime's DEL removes by name, a new ADD replaces by name. The pair is created with its pod end in
the pod's namespace already, and that end goes with the namespace, so nothing outlives the pod even if no DEL ever comes.
"""

from __future__ import annotations

import errno
import os
import time

from cni.model import Seen, address_text
from cni.plan import host_link, mac_of
from cni.spec import (
    ALREADY_ATTACHED,
    INVALID_CONFIGURATION,
    INVALID_NAMESPACE,
    KERNEL_REFUSED,
    UNKNOWN_CONTAINER,
    CniError,
)
from linux.netlink import RefusedError
from linux.netns import enter, identity, is_namespace
from linux.rtnetlink import Address, Link, Route, Socket, packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ParamSpec

    from cni.call import Call
    from cni.model import Attachment

    Parameters = ParamSpec("Parameters")

_FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_PATIENCE = 2.0  # seconds for the bridge port to carry frames; it takes well under a millisecond


def open_namespace(call: Call) -> int:
    """A descriptor of the container's namespace; CniError when it is none, or is the plugin's own."""
    if not os.path.exists(call.netns):
        raise CniError(
            UNKNOWN_CONTAINER, f"network namespace {call.netns} of container {call.container} does not exist"
        )
    if not is_namespace(call.netns):
        raise CniError(INVALID_NAMESPACE, f"{call.netns} is not a network namespace")
    if identity(call.netns) == identity():
        raise CniError(INVALID_NAMESPACE, f"{call.netns} is the plugin's own network namespace, not a container's")
    return os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)


def attach(wanted: Attachment, netns: int) -> tuple[str, str]:
    """Wires the pod up; the MACs of the bridge and of the host's end."""
    with Socket() as host:
        bridge = _bridge(host, wanted)
        if wanted.gateway:
            _own_gateway(host, bridge, wanted)
            _forward()
        _create_pair(host, wanted, netns, bridge.index)
        port = host.link(wanted.host)
        if port is None:
            raise CniError(KERNEL_REFUSED, f"{wanted.host} disappeared while it was being set up")
        if wanted.hairpin:
            host.change(port.index, hairpin=True)
        _configure_pod(wanted, netns)
        host.set_up(port.index)
        _await_carrier(host, port)
        return bridge.mac, port.mac


def detach(call: Call) -> None:
    """Removes the pod's link from whichever end can be found; neither being there is fine."""
    with Socket() as host:
        if _delete(host, host_link(call.container, call.ifname)):
            return
    # Another plugin (Go's bridge) may have named the host's end its own way: take the pod's end then.
    if call.netns and is_namespace(call.netns) and identity(call.netns) != identity():
        with enter(call.netns), Socket() as pod:
            link = pod.link(call.ifname)
            if link is not None and link.kind == "veth":
                _delete(pod, call.ifname)


def observe(wanted: Attachment, netns: int, reserved: Sequence[int]) -> Seen:
    """What is there of the attachment now."""
    with Socket() as host:
        bridge, port = host.link(wanted.bridge), host.link(wanted.host)
        master = host.link_at(port.master) if port is not None and port.master else None
        gateways = [each.text for each in host.addresses(bridge.index)] if bridge is not None else []
        hairpin = port is not None and port.hairpin
    with enter(netns):
        pod = Socket()
    with pod:
        link = pod.link(wanted.ifname)
        routes = pod.routes(link.index) if link is not None else []
        addresses = pod.addresses(link.index) if link is not None else []
    return Seen(
        reserved=reserved,
        gateways=gateways,
        master=None if port is None else master.name if master is not None else "",
        host_up=port is not None and port.up,
        hairpin=hairpin,
        container_up=link.up if link is not None else None,
        addresses=[each.text for each in addresses],
        routes=[(_route_text(each), unpacked(each.gateway) if each.gateway else "") for each in routes],
    )


def _bridge(host: Socket, wanted: Attachment) -> Link:
    """The bridge, made when missing and up; other processes may be doing the same this instant."""
    link = host.link(wanted.bridge)
    if link is None:
        # The MAC is set, not left to follow the ports: a pod's neighbour entry for its gateway must outlive its peers.
        mac = mac_of(wanted.gateway) if wanted.gateway else b"\x0a\x58" + os.urandom(4)
        _tolerating(errno.EEXIST, host.create_bridge, wanted.bridge, mac, wanted.mtu)
        link = host.link(wanted.bridge)
    if link is None or link.kind != "bridge":
        kind = "gone again" if link is None else f"a {link.kind or 'physical'} link"
        raise CniError(INVALID_CONFIGURATION, f"bridge {wanted.bridge} is {kind}: name another bridge or remove it")
    if not link.up:
        host.set_up(link.index)
    return link


def _own_gateway(host: Socket, bridge: Link, wanted: Attachment) -> None:
    """The bridge's IPv4 address is the gateway's and no other: after the subnet changed, the old one goes."""
    gateway = Address(wanted.gateway.to_bytes(4, "big"), wanted.length, bridge.index)
    stale = [each for each in host.addresses(bridge.index) if len(each.packed) == 4]
    if any(each.text == gateway.text for each in stale):
        return
    for each in stale:
        _tolerating(errno.EADDRNOTAVAIL, host.delete_address, each)
    broadcast = (wanted.gateway | (0xFFFFFFFF >> wanted.length)).to_bytes(4, "big")
    _tolerating(errno.EEXIST, host.add_address, gateway, broadcast)


def _forward() -> None:
    """The node routes between its bridge and the rest; this is the plugin's own namespace's switch."""
    with open(_FORWARDING, "rb+", buffering=0) as switch:
        if switch.read(1) == b"0":
            switch.seek(0)  # a sysctl ignores, without a word, what is written further on
            switch.write(b"1")


def _create_pair(host: Socket, wanted: Attachment, netns: int, bridge: int) -> None:
    for _ in range(2):
        try:
            host.create_veth(wanted.host, wanted.ifname, netns=netns, mac=wanted.mac, mtu=wanted.mtu, master=bridge)
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
        else:
            return
        # No reservation stood when ours was made, so a pair of this name is what a killed ADD left: replace it.
        if not _delete(host, wanted.host):
            break
    raise CniError(
        ALREADY_ATTACHED, f"the container has an interface {wanted.ifname} already, and not from this plugin"
    )


def _configure_pod(wanted: Attachment, netns: int) -> None:
    with enter(netns):
        pod = Socket()
    with pod:
        link = pod.link(wanted.ifname)
        if link is None:
            raise CniError(KERNEL_REFUSED, f"{wanted.ifname} disappeared from the container while it was being set up")
        broadcast = (wanted.address | (0xFFFFFFFF >> wanted.length)).to_bytes(4, "big")
        pod.add_address(Address(wanted.address.to_bytes(4, "big"), wanted.length, link.index), broadcast)
        pod.set_up(link.index)
        for each in wanted.routes:
            destination, _, length = each.destination.partition("/")
            gateway = packed(each.gateway) if each.gateway else b""
            pod.add_route(Route(packed(destination), int(length), gateway, link.index))


def _await_carrier(host: Socket, port: Link) -> None:
    """The kernel reports a link's carrier from a work queue, and the bridge forwards from then on."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        link = host.link_at(port.index)
        if link is not None and link.operational:
            return
        if time.monotonic() > deadline:
            raise CniError(KERNEL_REFUSED, f"{port.name} carries no frames after {_PATIENCE:g} s: is the bridge up?")
        time.sleep(0.001)


def _delete(socket: Socket, name: str) -> bool:
    """Whether there was such a link to delete."""
    link = socket.link(name)
    if link is None:
        return False
    _tolerating(errno.ENODEV, socket.delete_link, link.index)
    return True


def _tolerating(
    number: int, request: Callable[Parameters, None], *args: Parameters.args, **keywords: Parameters.kwargs
) -> None:
    """Makes the request; this one refusal means that somebody else has done it."""
    try:
        request(*args, **keywords)
    except RefusedError as error:
        if error.errno != number:
            raise


def _route_text(route: Route) -> str:
    return f"{unpacked(route.destination) if route.destination else address_text(0)}/{route.length}"
