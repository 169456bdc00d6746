"""What the CNI plugin asks of rtnetlink: links (bridge, veth), addresses and routes. Each call is one question or one order.

A ``Socket`` speaks for the namespace of the thread that opened it, whatever that thread does later. Everything here
blocks for microseconds (the kernel answers before ``send`` returns), so it needs no event loop.

A veth is made down and set up afterwards: with IFF_UP in the creating message the kernel answers ENOTCONN, because the
peer is not linked yet. Its peer can be born in another namespace, which saves the move and the rename.

Addresses travel as packed bytes (4 or 16), so the family is never an argument of its own. The plugin starts a process per
pod and can afford neither pyroute2 (200 ms) nor ``dataclasses`` nor ``ipaddress`` here: its whole budget is 20.
"""

from __future__ import annotations

import _socket
import errno
import struct

from linux.netlink import Conversation, RefusedError
from linux.wire import ACK, CREATE, EXCLUSIVE, as_text, attribute, attributes, nest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 16, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_BRPORT_MODE = 1, 2, 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5

_IFF_UP = 1
_OPERSTATE_UP = 6
_AF_BRIDGE = 7
_TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_GLOBAL, _SCOPE_LINK, _UNICAST, _LOCAL = 254, 3, 0, 253, 1, 2

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NUMBER = struct.Struct("=I")


class Link:
    """``peer`` is the other end's index (veth; in its own namespace), ``master`` the bridge's, 0 for none."""

    __slots__ = ("index", "kind", "mac", "master", "mtu", "name", "operational", "peer", "up")

    def __init__(self, body: bytes) -> None:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        found = attributes(body, _LINK.size)
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        self.index: Final[int] = index
        self.up: Final = bool(flags & _IFF_UP)
        self.name: Final = as_text(found[_IFLA_IFNAME])
        self.mac: Final = found.get(_IFLA_ADDRESS, b"").hex(":")
        self.mtu: Final = _number(found.get(_IFLA_MTU))
        self.master: Final = _number(found.get(_IFLA_MASTER))
        self.peer: Final = _number(found.get(_IFLA_LINK))
        self.kind: Final = as_text(info.get(_IFLA_INFO_KIND, b""))
        self.operational: Final = found.get(_IFLA_OPERSTATE, b"\0")[0] == _OPERSTATE_UP


class Address:
    """An address on a link; ``packed`` is 4 or 16 bytes."""

    __slots__ = ("index", "length", "packed")

    def __init__(self, packed: bytes, length: int, index: int) -> None:
        self.packed: Final = packed
        self.length: Final = length
        self.index: Final = index

    @property
    def text(self) -> str:
        return f"{unpacked(self.packed)}/{self.length}"


class Route:
    """A route of the main table: ``destination`` b"" with length 0 is the default, ``gateway`` b"" is none."""

    __slots__ = ("destination", "gateway", "index", "length")

    def __init__(self, destination: bytes, length: int, gateway: bytes, index: int) -> None:
        self.destination: Final = destination
        self.length: Final = length
        self.gateway: Final = gateway
        self.index: Final = index


class Socket:
    """One conversation with the kernel about the namespace in which it was opened."""

    __slots__ = ("_talk",)

    def __init__(self) -> None:
        self._talk = Conversation()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._talk.close()

    # --- links -----------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        """The link of this name, None when there is none."""
        asked = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        return self._one_link(asked, f"look for link {name}")

    def link_at(self, index: int) -> Link | None:
        """The link with this index, None when there is none."""
        return self._one_link(_LINK.pack(0, 0, index, 0, 0), f"look for link number {index}")

    def links(self) -> list[Link]:
        """Every link of the namespace."""
        return [Link(body) for body in self._talk.dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0), "list the links")]

    def create_bridge(self, name: str, mac: bytes, mtu: int = 0) -> None:
        """A bridge, down. With a MAC of its own it keeps that MAC whichever ports come and go."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        body += attribute(_IFLA_ADDRESS, mac) + _mtu(mtu) + nest(_IFLA_LINKINFO, _kind(b"bridge"))
        self._ask(_NEWLINK, CREATE | EXCLUSIVE, body, f"create bridge {name}")

    def create_veth(self, name: str, peer: str, *, netns: int, mac: bytes, mtu: int = 0, master: int = 0) -> None:
        """A veth pair, both ends down: ``name`` here on the bridge ``master``, ``peer`` with ``mac`` in the namespace
        of the open descriptor ``netns``. EEXIST when either name is taken; nothing is left then."""
        other = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, peer.encode() + b"\0")
        other += attribute(_IFLA_ADDRESS, mac) + _mtu(mtu) + attribute(_IFLA_NET_NS_FD, _NUMBER.pack(netns))
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0") + _mtu(mtu)
        if master:
            body += attribute(_IFLA_MASTER, _NUMBER.pack(master))
        data = nest(_IFLA_INFO_DATA, nest(_VETH_INFO_PEER, other))
        body += nest(_IFLA_LINKINFO, _kind(b"veth") + data)
        self._ask(_NEWLINK, CREATE | EXCLUSIVE, body, f"create veth {name} with its peer {peer}")

    def set_up(self, index: int) -> None:
        self._ask(_NEWLINK, 0, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP), f"set link number {index} up")

    def set_hairpin(self, index: int, on: bool) -> None:
        """Whether the bridge may send a frame back out of the port it came from (a pod reaching itself by Service)."""
        body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0)
        body += nest(_IFLA_PROTINFO, attribute(_IFLA_BRPORT_MODE, bytes([on])))
        self._ask(_SETLINK, 0, body, f"set hairpin mode of bridge port number {index}")

    def hairpin(self, index: int) -> bool:
        """Whether the port is in hairpin mode; False also for what is no bridge port."""
        for body in self._talk.dump(_GETLINK, _LINK.pack(_AF_BRIDGE, 0, 0, 0, 0), "list the bridge ports"):
            if _LINK.unpack_from(body)[2] == index:
                port = attributes(attributes(body, _LINK.size).get(_IFLA_PROTINFO, b""))
                return port.get(_IFLA_BRPORT_MODE, b"\0") != b"\0"
        return False

    def delete_link(self, index: int) -> None:
        """A veth takes its peer along. ENODEV when the link is gone already."""
        self._ask(_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), f"delete link number {index}")

    # --- addresses and routes --------------------------------------------------------------------------------

    def addresses(self, index: int) -> list[Address]:
        """The link's addresses of both families."""
        found = []
        for body in self._talk.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), "list the addresses"):
            _, length, _, _, where = _ADDRESS.unpack_from(body)
            if where == index:
                parts = attributes(body, _ADDRESS.size)
                found.append(Address(parts.get(_IFA_LOCAL) or parts[_IFA_ADDRESS], length, where))
        return found

    def add_address(self, address: Address, broadcast: bytes = b"") -> None:
        """EEXIST when the link has it already."""
        body = _address(address) + (attribute(_IFA_BROADCAST, broadcast) if broadcast else b"")
        self._ask(_NEWADDR, CREATE | EXCLUSIVE, body, f"add address {address.text} to link number {address.index}")

    def delete_address(self, address: Address) -> None:
        """EADDRNOTAVAIL when the link does not have it."""
        self._ask(_DELADDR, 0, _address(address), f"remove address {address.text} from link number {address.index}")

    def routes(self, index: int) -> list[Route]:
        """The main table's routes through the link."""
        found = []
        for body in self._talk.dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "list the routes"):
            length, table = body[1], body[4]
            parts = attributes(body, _ROUTE.size)
            if table == _TABLE_MAIN and _number(parts.get(_RTA_OIF)) == index:
                found.append(Route(parts.get(_RTA_DST, b""), length, parts.get(_RTA_GATEWAY, b""), index))
        return found

    def route_to(self, address: bytes) -> tuple[int, bool]:
        """The index of the link by which packets to this address leave, and whether it is the host's own; (0, False) where
        nothing leads there."""
        body = _ROUTE.pack(_family(address), len(address) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address)
        try:
            said = self._talk.ask(_GETROUTE, 0, body, f"look for the route to {unpacked(address)}")[0]
        except RefusedError as error:
            if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}:
                return 0, False  # EACCES: a prohibit route, EINVAL: a blackhole
            raise
        return _number(attributes(said, _ROUTE.size).get(_RTA_OIF)), said[7] == _LOCAL

    def add_route(self, route: Route) -> None:
        """EEXIST when the table has a route to this destination already."""
        family = _family(route.gateway or route.destination)
        scope = _SCOPE_GLOBAL if route.gateway else _SCOPE_LINK
        body = _ROUTE.pack(family, route.length, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _UNICAST, 0)
        if route.length:
            body += attribute(_RTA_DST, route.destination)
        if route.gateway:
            body += attribute(_RTA_GATEWAY, route.gateway)
        body += attribute(_RTA_OIF, _NUMBER.pack(route.index))
        to = f"{unpacked(route.destination)}/{route.length}" if route.length else "everywhere"
        self._ask(_NEWROUTE, CREATE | EXCLUSIVE, body, f"add the route to {to} through link number {route.index}")

    def _one_link(self, asked: bytes, what: str) -> Link | None:
        try:
            return Link(self._talk.ask(_GETLINK, 0, asked, what)[0])
        except RefusedError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._talk.ask(kind, flags | ACK, body, what)


def packed(address: str) -> bytes:
    """4 or 16 bytes of an address's text; ValueError when it is none."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            return _socket.inet_pton(family, address)
        except OSError:
            continue
    raise ValueError(f"{address!r} is not an IP address")


def unpacked(address: bytes) -> str:
    """The text of a packed address."""
    return _socket.inet_ntop(_family(address), address)


def _family(address: bytes) -> int:
    return _socket.AF_INET6 if len(address) == 16 else _socket.AF_INET


def _kind(name: bytes) -> bytes:
    return attribute(_IFLA_INFO_KIND, name)


def _mtu(mtu: int) -> bytes:
    return attribute(_IFLA_MTU, _NUMBER.pack(mtu)) if mtu else b""


def _address(address: Address) -> bytes:
    body = _ADDRESS.pack(_family(address.packed), address.length, 0, _SCOPE_GLOBAL, address.index)
    return body + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _number(data: bytes | None) -> int:
    value: int = _NUMBER.unpack(data)[0] if data else 0
    return value
