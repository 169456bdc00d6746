"""What the kernel has, as values of one tunnel.

The tables are read whole where the kernel cannot pick what concerns us (a route into the network of the pods may lie
anywhere), in turns, so that the event loop goes on. What the plan must not touch (link-local addresses, multicast) is left
out here.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from linux import links, neighbours, routes, wireguard
from linux.netlink import GENERIC, Conversation
from overlay.model import (
    DEVICE_ALIAS,
    OURS,
    ROUTE_PROTOCOL,
    Device,
    Fdb,
    LocalAddress,
    Neighbour,
    Range,
    Route,
    RouteKind,
    Seen,
    SeenDevice,
    Tunnel,
    VxlanDevice,
    WireGuardDevice,
    WireGuardPeer,
)

_KINDS = {
    routes.UNICAST: RouteKind.UNICAST,
    routes.BLACKHOLE: RouteKind.BLACKHOLE,
    routes.UNREACHABLE: RouteKind.UNREACHABLE,
    routes.PROHIBIT: RouteKind.PROHIBIT,
    routes.THROW: RouteKind.THROW,
}
_ANSWERED = 180.0
"""Seconds for which a WireGuard session is good after its handshake."""
_WIREGUARD = Path("/sys/module/wireguard")


async def kernel(ip: Conversation, tunnel: Tunnel, pods: Sequence[Range]) -> Seen:
    """The state of one tunnel; see `Seen` for what is in it."""
    link = links.link(ip, tunnel.name) if tunnel.name else None
    index = link.index if link is not None else OURS
    where = _Where(index, tuple(pods))
    addresses: list[LocalAddress] = []
    ways: list[Route] = []
    for family in tunnel.families:
        addresses += where.addresses(links.all_addresses(ip, family))
        ways += where.routes(await routes.routes(ip, family))
    strays = tuple(_strays(ip, tunnel))
    if link is None:
        return Seen(None, strays, frozenset(addresses), routes=frozenset(ways))
    if link.kind == "wireguard":
        there = _wireguard(link)
        device, peers = WireGuardDevice(link.name, there.port, link.mtu, there.private_key), there.peers
        return Seen(
            SeenDevice(index, device, link.up, link.alias == DEVICE_ALIAS),
            strays,
            frozenset(addresses),
            peers=frozenset(_peer(one, time.time()) for one in peers),
            routes=frozenset(ways),
        )
    near: list[Neighbour] = []
    for family in tunnel.families:
        near += [Neighbour(address, mac) for address, mac in await neighbours.neighbours(ip, index, family)]
    far = await neighbours.fdb_entries(ip, index) if link.kind == "vxlan" else []
    return Seen(
        SeenDevice(index, _vxlan(link), link.up, link.alias == DEVICE_ALIAS),
        strays,
        frozenset(addresses),
        neighbours=frozenset(near),
        fdb=frozenset(Fdb(mac, remote, plain) for mac, remote, plain in far),
        routes=frozenset(ways),
    )


class _Where:
    """What lies on our device, or in the network of the pods."""

    def __init__(self, index: int, pods: tuple[Range, ...]) -> None:
        self._index = index
        # Whole numbers: comparing networks costs ten times as much, and a table may have thousands.
        self._spans = [
            (one.version, int(one.network_address), int(one.broadcast_address), one.prefixlen) for one in pods
        ]

    def addresses(self, found: Sequence[links.Address]) -> Iterator[LocalAddress]:
        for one in found:
            if one.interface.is_link_local:
                continue
            if one.device == self._index:
                yield LocalAddress(one.interface, OURS)
            elif self._in_pods(one.interface.version, int(one.interface.ip), one.interface.max_prefixlen):
                yield LocalAddress(one.interface, one.device)

    def routes(self, found: Sequence[routes.Route]) -> Iterator[Route]:
        for one in found:
            kind = _KINDS.get(one.kind)
            if kind is None:
                continue
            to, on_ours = one.destination, one.device == self._index != OURS
            number = int(to.network_address)
            if on_ours and _of_its_own(to.version, number):
                continue
            if on_ours or one.protocol == ROUTE_PROTOCOL or self._in_pods(to.version, number, to.prefixlen):
                device = OURS if on_ours else one.device
                yield Route(to, one.gateway, device, one.onlink, one.protocol, one.metric, kind, one.plain)

    def _in_pods(self, version: int, number: int, length: int) -> bool:
        return any(
            version == family and first <= number <= last and length >= prefix
            for family, first, last, prefix in self._spans
        )


def _of_its_own(version: int, number: int) -> bool:
    """Link-local or multicast."""
    if version == 4:
        return number >> 16 == 0xA9FE or number >> 28 == 0xE
    return number >> 118 == 0x3FA or number >> 120 == 0xFF


def _strays(ip: Conversation, tunnel: Tunnel) -> Iterator[tuple[int, str]]:
    """Where the kernel does not know a kind it would show us every link there is, so it is not asked for WireGuard's."""
    kinds = ("vxlan", "wireguard") if _WIREGUARD.exists() else ("vxlan",)
    for kind in kinds:
        for link in links.links(ip, kind):
            if link.alias == DEVICE_ALIAS and link.name not in tunnel.names:
                yield link.index, link.name


def _vxlan(link: links.Link) -> Device | None:
    if link.kind != "vxlan":
        return None
    there = links.vxlan(link.data)
    if there.local is None or there.options:
        return None
    return VxlanDevice(
        name=link.name,
        vni=there.vni,
        port=there.port,
        underlay=there.underlay,
        local=there.local,
        mtu=link.mtu,
        mac=link.mac,
        learning=there.learning,
        gbp=there.gbp,
    )


def _wireguard(link: links.Link) -> wireguard.State:
    with Conversation(GENERIC) as talk:
        number = wireguard.family(talk)
        return wireguard.read(talk, number, link.index) if number is not None else wireguard.State(0, "")


def _peer(one: wireguard.Peer, now: float) -> WireGuardPeer:
    answered = now - one.handshake < _ANSWERED
    return WireGuardPeer(one.key, one.endpoint, one.allowed, one.psk, one.keepalive, answered)
