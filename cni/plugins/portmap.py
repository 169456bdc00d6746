"""portmap: a port of the node leads to a pod (a Pod's ``hostPort``). Chained behind a plugin that gave the pod its addresses.

It makes rules and nothing else: no port is reserved, and a rule wins over a program of the node that listens there. Of two
containers that ask for one port the newer has it. Without ports to map it passes the result through.
(``cni.hostports`` has the keys and the rules.)
"""

from __future__ import annotations

import sys

from cni.hostports import flows, iptables, nftables
from cni.hostports.mapping import FAMILIES, parse, pods
from cni.spec import CHECK_FAILED, INVALID_CONFIGURATION, NOT_AVAILABLE, CniError, previous_result, valid_attachments
from linux import spawn
from linux.rtnetlink import Socket, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json
    from cni.hostports.mapping import Pod, Wish
    from cni.spec import Result

_CONF = "/proc/sys/net/ipv4/conf"


def add(call: Call, config: Mapping[str, Json]) -> Result:
    wish, result = parse(call.container, config), previous_result(config)
    if result is None:
        raise CniError(INVALID_CONFIGURATION, "portmap needs prevResult: chain it behind a plugin that gives addresses")
    if wish.ports:
        backend = _backend(wish, call.environment)
        for family, pod in pods(result, call.ifname).items():
            if not wish.of(family):
                continue
            if family == 4 and wish.snat:
                _route_localnet(pod)
            if backend == "nftables":
                nftables.forward(nftables.Table(family, call.environment), wish, pod)
            else:
                iptables.forward(iptables.Tables(family, call.environment), wish, pod)
            _forget(wish, family, pod, gone=False)
    return result


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """Needs neither the namespace nor prevResult; without the ports there is nothing to remove, as with the reference."""
    wish = parse(call.container, config)
    if not wish.ports:
        return
    had = pods(previous_result(config), call.ifname)
    for family in had or FAMILIES:
        for backend in _backends(wish, call.environment):
            if backend == "nftables":
                nftables.unforward(nftables.Table(family, call.environment), wish.network, [wish.container])
            else:
                iptables.unforward(iptables.Tables(family, call.environment), wish, had.get(family))
        _forget(wish, family, had.get(family), gone=True)


def check(call: Call, config: Mapping[str, Json]) -> None:
    wish, result = parse(call.container, config), previous_result(config)
    if result is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    missing: list[str] = []
    for family, pod in pods(result, call.ifname).items() if wish.ports else ():
        if not wish.of(family):
            continue
        if _backend(wish, call.environment) == "nftables":
            missing += nftables.differences(nftables.Table(family, call.environment), wish, pod)
        else:
            missing += iptables.differences(iptables.Tables(family, call.environment), wish, pod)
    if missing:
        raise CniError(CHECK_FAILED, missing[0], "; ".join(missing[1:]))


def status(call: Call, config: Mapping[str, Json]) -> None:
    """Whether hostPorts can be had: the packet filter's commands are there and the kernel takes them."""
    wish = parse(call.container, config)
    if _backend(wish, call.environment) == "nftables":
        words = nftables.Table(4, call.environment).usable()
    else:
        words = iptables.Tables(4, call.environment).usable()
    if words:
        raise CniError(NOT_AVAILABLE, f"no hostPort can be had: {words}")


def gc(call: Call, config: Mapping[str, Json]) -> None:
    wish = parse(call.container, config)
    containers = {container for container, _ in valid_attachments(config)}
    for family in FAMILIES:
        for backend in _backends(wish, call.environment):
            if backend == "nftables":
                nftables.collect(nftables.Table(family, call.environment), wish.network, containers)
            else:
                iptables.collect(iptables.Tables(family, call.environment), wish.network, containers)


def _backend(wish: Wish, environment: Mapping[str, str]) -> str:
    """The one to use: iptables unless the configuration says otherwise or only nft is installed."""
    if wish.backend:
        return wish.backend
    path = environment.get("PATH", "")
    return "nftables" if not spawn.find("iptables", path) and spawn.find("nft", path) else "iptables"


def _backends(wish: Wish, environment: Mapping[str, str]) -> list[str]:
    """Those in which rules of ours may be; what is not installed (any more) can be asked for none."""
    path = environment.get("PATH", "")
    programs = {"iptables": "iptables", "nftables": "nft"}
    return [
        backend
        for backend, program in programs.items()
        if wish.backend in ("", backend) and spawn.find(program, path) is not None
    ]


def _route_localnet(pod: Pod) -> None:
    """Lets packets from 127.0.0.1 leave through the link towards the pod; the kernel drops them as martians otherwise. Who
    answers them is the node itself, because they are masqueraded."""
    with Socket() as host:
        link = host.link_at(host.route_to(packed(pod.address))[0])
    if link is None:
        return  # nothing leads to the pod from here: then nothing local does either
    with open(f"{_CONF}/{link.name}/route_localnet", "rb+", buffering=0) as switch:
        if switch.read(1) == b"0":
            switch.seek(0)
            switch.write(b"1")


def _forget(wish: Wish, family: int, pod: Pod | None, *, gone: bool) -> None:
    """The rules are made (or gone) and stay so whatever becomes of this: as with the reference, a failure is only told."""
    try:
        flows.forget(family, wish.of(family), pod, gone=gone)
    except OSError as error:
        sys.stderr.write(f"portmap: flows to the hostPorts of container {wish.container}: {error}\n")
