"""Routes of the main table, and the question which way an address lies.

The protocol number says who set a route (rtnetlink(7): 2 the kernel, 3 `ip route`, 4 an administrator, ...; the system's
names are in /etc/iproute2/rt_protos). A daemon with a number of its own finds its routes again on any device.

IPv6 takes a gateway as `onlink` only if what the table says of it does not lead elsewhere: where a route to the very
destination, or to a wider network, lies on another device, the kernel answers EINVAL even to a replacement. A host route
to the gateway, there for as long as it takes, settles that (`put_past_others`).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from linux.iptables.rules import Family
from linux.links import AF, ip_address
from linux.netlink import Conversation, RefusedError, Request
from linux.turns import whole
from linux.wire import CREATE, REPLACE, attribute, attributes, spans

MAIN = 254
UNICAST, LOCAL, BLACKHOLE, UNREACHABLE, PROHIBIT, THROW = 1, 2, 6, 7, 8, 9  # RTN_*

_NEW, _DELETE, _GET = 24, 25, 26  # RTM_*ROUTE
_HEAD = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NUMBER = struct.Struct("=I")
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC = 1, 4, 5, 6, 7  # RTA_*
_METRICS, _MULTIPATH, _TABLE, _VIA, _ENCAP_TYPE, _ENCAP, _NH_ID = 8, 9, 15, 18, 21, 22, 30
_ODD = frozenset([_PREFSRC, _METRICS, _MULTIPATH, _VIA, _ENCAP_TYPE, _ENCAP, _NH_ID])
_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index
_ONLINK = 4  # RTNH_F_ONLINK
_SCOPE_LINK, _ANY_SCOPE = 253, 255  # RT_SCOPE_NOWHERE; in a deletion it matches every scope
_LOOPBACK = 1  # in every network namespace
_GONE = frozenset([errno.ESRCH, errno.ENODEV])
_NO_WAY = frozenset([errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.EAGAIN])

IPAddress = IPv4Address | IPv6Address
Range = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """`onlink`: take the gateway as a neighbour on `device` although no address of the device covers it. `kind` is an
    RTN_* number. `plain` is false for what `put_route` cannot say: several next hops (the first is given), a next-hop
    object, an encapsulation, metrics, a source."""

    destination: Range
    gateway: IPAddress | None
    device: int
    onlink: bool
    protocol: int
    metric: int = 0
    kind: int = UNICAST
    plain: bool = True

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via} on link number {self.device}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True)
class Path:
    """Which way the kernel would send: `local` when the address is this machine's own."""

    device: int
    source: IPAddress | None
    gateway: IPAddress | None
    local: bool


async def routes(ip: Conversation, family: Family) -> list[Route]:
    """The main table but for what is cached, of every kind."""
    what = f"list the IPv{family.value} routes"
    return await whole(lambda: _read(ip, family, what), what)


def put_route(route: Route) -> Request:
    """Set a route, in the place of the first with the same destination and metric."""
    scope = 0 if route.gateway or route.kind != UNICAST else _SCOPE_LINK
    body = _body(route, scope, _ONLINK if route.onlink else 0)
    return Request(_NEW, CREATE | REPLACE, body, "set the route {}", (route,))


def put_past_others(route: Route) -> list[Request]:
    """The same, where a route to the gateway on another device stands in the way; to be carried out in this order."""
    assert route.gateway is not None
    packed = route.gateway.packed
    host = _network(packed, len(packed) * 8, AF[Family(route.gateway.version)])
    way = replace(route, destination=host, gateway=None, onlink=False, metric=1)
    return [put_route(way), put_route(route), drop_route(way)]


def drop_route(route: Route) -> Request:
    """By all that is said of it; what is not plain by destination, metric and protocol. For IPv4 a metric of 0 matches any,
    the best first: where the route meant has gone already, one that differs from it in the metric alone goes. IPv6 does not
    look at the kind, but has what leads nowhere on the loopback."""
    named = route if route.plain else replace(route, gateway=None, device=0)
    if route.kind != UNICAST and route.destination.version == 6:
        named = replace(named, device=_LOOPBACK)
    return Request(_DELETE, 0, _body(named, _ANY_SCOPE, 0), "delete the route {}", (route,), _GONE)


def path_to(ip: Conversation, address: IPAddress) -> Path | None:
    """The kernel's route to an address; None when there is none, or one that forbids."""
    packed = address.packed
    family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
    asked = _HEAD.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, packed)
    try:
        body = ip.ask(_GET, 0, asked, f"look up the route to {address}")[0]
    except RefusedError as error:
        if error.errno in _NO_WAY:
            return None
        raise
    kind = _HEAD.unpack_from(body)[7]
    if kind not in (UNICAST, LOCAL):
        return None  # IPv6 shows unreachable routes
    found = attributes(body, _HEAD.size)
    source, gateway = found.get(_PREFSRC), found.get(_GATEWAY)
    return Path(
        device=_NUMBER.unpack(found[_OIF])[0] if _OIF in found else 0,
        source=ip_address(source) if source else None,
        gateway=ip_address(gateway) if gateway else None,
        local=kind == LOCAL,
    )


def _body(route: Route, scope: int, flags: int) -> bytes:
    destination = route.destination
    family, length = AF[Family(destination.version)], destination.prefixlen
    body = _HEAD.pack(family, length, 0, 0, MAIN, route.protocol, scope, route.kind, flags)
    if length:
        body += attribute(_DST, destination.network_address.packed)
    if route.device:
        body += attribute(_OIF, _NUMBER.pack(route.device))
    if route.gateway:
        body += attribute(_GATEWAY, route.gateway.packed)
    if route.metric:
        body += attribute(_PRIORITY, _NUMBER.pack(route.metric))
    return body


def _read(ip: Conversation, family: Family, what: str) -> Iterator[list[Route]]:
    """Of just this family: asked for one that it does not have (ipv6.disable=1), the kernel shows all there are."""
    asked = _HEAD.pack(AF[family], 0, 0, 0, MAIN, 0, 0, 0, 0)
    for data, places in ip.turns(_GET, asked, what):
        found: list[Route] = []
        for start, end in places:
            if data[start + 4] == MAIN and data[start] == AF[family]:
                found.append(_route(data[start:end]))
        yield found


@lru_cache(1 << 14)
def _route(data: bytes) -> Route:
    """A route that stays as it is looks the same in every dump."""
    family, length, source_length, tos, _, protocol, _, kind, flags = _HEAD.unpack_from(data)
    destination = gateway = b""
    device = metric = 0
    plain = not (source_length or tos)
    for number, first, last in spans(data, _HEAD.size, len(data)):
        if number == _DST:
            destination = data[first:last]
        elif number == _GATEWAY:
            gateway = data[first:last]
        elif number == _OIF:
            device = _NUMBER.unpack_from(data, first)[0]
        elif number == _PRIORITY:
            metric = _NUMBER.unpack_from(data, first)[0]
        elif number in _ODD:
            plain = False
            if number == _MULTIPATH and last - first >= _HOP.size:
                size, flags, _, device = _HOP.unpack_from(data, first)
                gateway = attributes(data[first + _HOP.size : min(first + size, last)]).get(_GATEWAY, b"")
    return Route(
        destination=_network(destination, length, family),
        gateway=ip_address(gateway) if gateway else None,
        device=device if kind == UNICAST else 0,  # IPv6 puts what leads nowhere on the loopback
        onlink=bool(flags & _ONLINK),
        protocol=protocol,
        metric=metric,
        kind=kind,
        plain=plain,
    )


def _network(packed: bytes, length: int, family: int) -> Range:
    if family == socket.AF_INET:
        return IPv4Network((packed or bytes(4), length))
    return IPv6Network((packed or bytes(16), length))
