"""portmap: a port of the node leads to a pod (a Pod's ``hostPort``). Chained behind a plugin that gave the pod its addresses.

It makes rules and nothing else: no port is reserved, and a rule wins over a program of the node that listens there. Of two
containers that ask for one port the newer has it. Without ports to map it passes the result through.
(``cni.hostports`` has the keys and the rules.)
"""

from __future__ import annotations

import sys

from cni.hostports.mapping import FAMILIES, Wish, parse, pods
from cni.nat import Host
from cni.spec import CHECK_FAILED, INVALID_CONFIGURATION, NOT_AVAILABLE, CniError, previous_result, valid_attachments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Protocol

    from cni.call import Call
    from cni.codec import Json
    from cni.hostports.mapping import Pod
    from cni.spec import Result

    class Filter(Protocol):
        """A packet filter is a module with these: ``cni.hostports.iptables``, ``cni.hostports.nftables``."""

        def forward(self, wish: Wish, pod: Pod, host: Host) -> None: ...
        def unforward(self, wish: Wish, family: int, pod: Pod | None, host: Host) -> bool: ...
        def differences(self, wish: Wish, pod: Pod, host: Host) -> list[str]: ...
        def collect(self, network: str, containers: Iterable[str], family: int, host: Host) -> None: ...
        def obstacle(self, host: Host) -> str: ...


_CONF = "/proc/sys/net/ipv4/conf"


def add(call: Call, config: Mapping[str, Json]) -> Result:
    wish, result = parse(call.container, config), previous_result(config)
    if result is None:
        raise CniError(INVALID_CONFIGURATION, "portmap needs prevResult: chain it behind a plugin that gives addresses")
    for pod in pods(result, call.ifname).values() if wish.ports else ():
        if wish.of(pod.family):
            call.begin()
            if pod.family == 4 and wish.snat:
                _route_localnet(pod)
            with Host(call.environment) as host:
                _filter(wish, host).forward(wish, pod, host)
            _forget(wish, pod.family, pod, gone=False)
    return result


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """Needs neither the namespace nor prevResult; without the ports there is nothing to remove, as with the reference. Of ports
    that no ADD of ours would take another's rules may be: they are found by their names."""
    try:
        wish = parse(call.container, config)
    except CniError:
        wish = Wish(str(config["name"]), call.container)
    else:
        if not wish.ports:
            return
    had = _had(call, config)
    for family in had or FAMILIES:
        with Host(call.environment) as host:
            for each in _filters(wish, host):
                if each.unforward(wish, family, had.get(family), host):
                    break  # an ADD writes one of them
        _forget(wish, family, had.get(family), gone=True)


def _had(call: Call, config: Mapping[str, Json]) -> dict[int, Pod]:
    """The container's addresses, where prevResult says them in words that can be read."""
    try:
        return pods(previous_result(config), call.ifname)
    except CniError:
        return {}


def check(call: Call, config: Mapping[str, Json]) -> None:
    wish, result = parse(call.container, config), previous_result(config)
    if result is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    missing: list[str] = []
    for pod in pods(result, call.ifname).values() if wish.ports else ():
        if wish.of(pod.family):
            with Host(call.environment) as host:
                missing += _filter(wish, host).differences(wish, pod, host)
    if missing:
        raise CniError(CHECK_FAILED, missing[0], "; ".join(missing[1:]))


def status(call: Call, config: Mapping[str, Json]) -> None:
    """Whether hostPorts can be had: the packet filter's commands are there and the kernel takes them."""
    host = Host(call.environment)
    words = _filter(parse(call.container, config), host).obstacle(host)
    if words:
        raise CniError(NOT_AVAILABLE, f"no hostPort can be had: {words}")


def gc(call: Call, config: Mapping[str, Json]) -> None:
    wish = parse(call.container, config)
    containers = {container for container, _ in valid_attachments(config)}
    for family in FAMILIES:
        with Host(call.environment) as host:
            for each in _filters(wish, host):
                each.collect(wish.network, containers, family, host)


def _filter(wish: Wish, host: Host) -> Filter:
    """The one to use: iptables unless the configuration says otherwise or only nft is installed."""
    return _named(wish.backend or ("nftables" if _installed(host) == ["nftables"] else "iptables"))


def _filters(wish: Wish, host: Host) -> list[Filter]:
    """Those in which rules of ours may be; what is not installed (any more) can be asked for none."""
    return [_named(name) for name in _installed(host) if wish.backend in ("", name)]


def _installed(host: Host) -> list[str]:
    programs = {"iptables": "iptables", "nftables": "nft"}
    return [name for name, program in programs.items() if host.find(program)]


def _named(backend: str) -> Filter:
    if backend == "nftables":
        from cni.hostports import nftables

        return nftables
    from cni.hostports import iptables

    return iptables


def _route_localnet(pod: Pod) -> None:
    """Lets packets from 127.0.0.1 leave through the link towards the pod; the kernel drops them as martians otherwise. Who
    answers them is the node itself, because they are masqueraded."""
    from linux.rtnetlink import Socket, packed

    with Socket() as host:
        index, _ = host.route_to(packed(pod.address))
        link = host.link_at(index) if index else None
    if link is None:
        return  # nothing leads to the pod from here: then nothing local does either
    with open(f"{_CONF}/{link.name}/route_localnet", "rb+", buffering=0) as switch:
        if switch.read(1) == b"0":
            switch.seek(0)
            switch.write(b"1")


def _forget(wish: Wish, family: int, pod: Pod | None, *, gone: bool) -> None:
    """The rules are made (or gone) and stay so whatever becomes of this: as with the reference, a failure is only told."""
    from cni.hostports import flows

    try:
        flows.forget(family, wish.of(family), pod, gone=gone)
    except OSError as error:
        sys.stderr.write(f"portmap: flows to the hostPorts of container {wish.container}: {error}\n")
