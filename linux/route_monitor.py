"""What rtnetlink announces by itself: links, addresses, routes, neighbours, FDB entries and some settings of both families.

`Monitor` tells only that something has changed, never what to do about it. Changes made over a conversation whose port it
was told (`mine`) are passed over: whoever wrote them knows. The kernel signs announcements of addresses, routes and neighbours
with the port of the one who asked for the change; what follows from a change by itself (the routes that die with a
device) it signs with 0, so it is always heard. It does not sign those of a device's own forwarding database.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from types import TracebackType
from typing import Literal, Self

from linux.neighbours import ODD
from linux.overflow import Overflow
from linux.wire import as_text, attributes, messages

_READ_SIZE = 1 << 18
_READS_PER_TURN = 400  # more than a batch of ours brings about (200 messages), so that a long one is not lost
_RECEIVE = 1 << 22  # some 10,000 announcements: a device with 3,000 entries may go
_GROUPS = sum(1 << number - 1 for number in (1, 3, 5, 7, 9, 11, 24, 25))
"""RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF"""
Kind = Literal["link", "address", "route", "neighbour", "setting"]
_KINDS: dict[int, Kind] = {
    16: "link",
    17: "link",
    20: "address",
    21: "address",
    24: "route",
    25: "route",
    28: "neighbour",
    29: "neighbour",
    80: "setting",
    81: "setting",
}
_IFLA_IFNAME, _IFLA_IFALIAS = 3, 20
_RTA_DST, _RTA_OIF = 1, 4
_NDA_DST, _NDA_LLADDR = 1, 2
_CAME = frozenset([16, 20, 24, 28, 80])  # RTM_NEW*
_PERMANENT = 0x80  # NUD_PERMANENT
_BRIDGE = 7  # AF_BRIDGE
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NETCONFA_IFINDEX = 1


@dataclass(frozen=True, slots=True)
class Notice:
    """The kernel announced a change; a `setting` is one of net.ipv4.conf or net.ipv6.conf (forwarding, rp_filter, ...; most
    others are not announced). `device` is an interface's index (0: none), `name` its name where it was said,
    `protocol` who set the route, `family` AF_INET, AF_INET6 or AF_BRIDGE (for FDB entries), 0 for links. `about` is a route's
    destination (None: the default route) or an address as a network of one; `alias` a link's. Of a permanent FDB entry that
    came, or has another host now, `mac` is whose and `about` where."""

    kind: Kind
    device: int
    name: str = ""
    protocol: int = 0
    family: int = 0
    about: IPv4Network | IPv6Network | None = None
    alias: str = ""
    mac: str = ""


class Monitor:
    """Calls `notice` for each change while it is open; with None when the kernel had more to say than we could read:
    then anything may have changed. `room` is the bytes that may wait for us. Names the namespace of the thread
    that makes it."""

    def __init__(self, notice: Callable[[Notice | None], None], *, room: int = _RECEIVE) -> None:
        self.mine: set[int] = set()
        """Ports of conversations whose changes are not told."""
        self._notice = notice
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._overflow = Overflow(self._socket, room)

    async def __aenter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                break
            for found in notices(data, self.mine):
                self._notice(found)
        if self._overflow.happened():
            self._notice(None)


def notices(data: bytes, passed_over: Collection[int] = ()) -> Iterator[Notice]:
    """The announcements in one datagram, but for those signed with one of these ports."""
    for number, _, _, port, start, end in messages(data):
        kind = _KINDS.get(number)
        if kind is not None and not (port and port in passed_over):
            yield _notice(kind, data[start:end], came=number in _CAME)


def _notice(kind: Kind, body: bytes, *, came: bool) -> Notice:
    match kind:
        case "link":  # struct ifinfomsg: family, pad, type, index, flags, change
            found = attributes(body, 16)
            return Notice(
                kind, _number(body[4:8]), name=as_text(found.get(_IFLA_IFNAME)), alias=as_text(found.get(_IFLA_IFALIAS))
            )
        case "route":  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, ...
            found = attributes(body, 12)
            to = _network(found[_RTA_DST], body[1]) if _RTA_DST in found else None
            return Notice(kind, _number(found.get(_RTA_OIF, b"")), protocol=body[5], family=body[0], about=to)
        case "address":  # struct ifaddrmsg: family, prefix length, flags, scope, index
            found = attributes(body, 8)
            packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            to = _network(packed, len(packed) * 8) if packed else None
            return Notice(kind, _number(body[4:8]), family=body[0], about=to)
        case "neighbour":  # struct ndmsg: family, pad, index, state, flags, type
            mac, about = _entry(body) if came and body[0] == _BRIDGE else ("", None)
            return Notice(kind, _number(body[4:8]), family=body[0], about=about, mac=mac)
        case "setting":  # struct netconfmsg: family; of all interfaces and of new ones the index is negative
            index = attributes(body, 4).get(_NETCONFA_IFINDEX, b"")
            return Notice(kind, max(int.from_bytes(index, sys.byteorder, signed=True), 0), family=body[0])


def _entry(body: bytes) -> tuple[str, IPv4Network | IPv6Network | None]:
    """Of an FDB entry, where it is a plain one that leads to a host for good."""
    found = attributes(body, 12)
    host = found.get(_NDA_DST)
    if not host or _NDA_LLADDR not in found or not _number(body[8:10]) & _PERMANENT or found.keys() & ODD:
        return "", None
    return found[_NDA_LLADDR].hex(":"), _network(host, len(host) * 8)


def _network(packed: bytes, length: int) -> IPv4Network | IPv6Network:
    return IPv4Network((packed, length)) if len(packed) == 4 else IPv6Network((packed, length))


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)
