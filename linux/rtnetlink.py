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

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 16, 18, 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER, _IFLA_BR_VLAN_FILTERING, _IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 1, 7, 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 8, 15
_RTAX_MTU, _RTAX_ADVMSS = 2, 8

_IFF_UP, _IFF_LOOPBACK, _IFF_PROMISC = 1, 8, 0x100
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x08, 0x40
_OPERSTATE_UP = 6
MAIN, _TABLE_LOCAL = 254, 255  # routing tables
_PROTOCOL_BOOT, _SCOPE_GLOBAL, _SCOPE_LINK, _UNICAST, _LOCAL = 3, 0, 253, 1, 2

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NUMBER = struct.Struct("=I")


class Link:
    """``peer`` is the other end's index (veth; in its own namespace), ``master`` the bridge's, 0 for none. ``mac`` is in lower
    case with colons, ``kind`` empty for hardware, ``data`` the attributes that only this kind has. ``hairpin`` and ``isolated``
    are a bridge port's; False for what is none."""

    __slots__ = (
        "alias", "data", "hairpin", "index", "isolated", "kind", "loopback", "mac", "master", "mtu", "name", "operational",
        "peer", "promiscuous", "up",
    )  # fmt: skip

    def __init__(self, body: bytes) -> None:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        found = attributes(body, _LINK.size)
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        on_bridge = info.get(_IFLA_INFO_SLAVE_KIND) == b"bridge\0"
        port = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b"")) if on_bridge else {}
        self.index: Final[int] = index
        self.up: Final = bool(flags & _IFF_UP)
        self.loopback: Final = bool(flags & _IFF_LOOPBACK)
        self.promiscuous: Final = bool(flags & _IFF_PROMISC)
        self.name: Final = as_text(found[_IFLA_IFNAME])
        self.mac: Final = found.get(_IFLA_ADDRESS, b"").hex(":")
        self.alias: Final = as_text(found.get(_IFLA_IFALIAS))
        self.mtu: Final = _number(found.get(_IFLA_MTU))
        self.master: Final = _number(found.get(_IFLA_MASTER))
        self.peer: Final = _number(found.get(_IFLA_LINK))
        self.kind: Final = as_text(info.get(_IFLA_INFO_KIND))
        self.data: Final = info.get(_IFLA_INFO_DATA, b"")
        self.operational: Final = found.get(_IFLA_OPERSTATE, b"\0")[0] == _OPERSTATE_UP
        self.hairpin: Final = port.get(_IFLA_BRPORT_MODE, b"\0") != b"\0"
        self.isolated: Final = port.get(_IFLA_BRPORT_ISOLATED, b"\0") != b"\0"


class Address:
    """An address on a link; ``packed`` is 4 or 16 bytes. IPv6: ``tentative`` while the kernel looks for a duplicate, ``failed``
    when it has found one."""

    __slots__ = ("failed", "index", "length", "packed", "tentative")

    def __init__(
        self, packed: bytes, length: int, index: int, *, tentative: bool = False, failed: bool = False
    ) -> None:
        self.packed: Final = packed
        self.length: Final = length
        self.index: Final = index
        self.tentative: Final = tentative
        self.failed: Final = failed

    @property
    def text(self) -> str:
        return f"{unpacked(self.packed)}/{self.length}"


class Route:
    """``destination`` b"" with length 0 is the default of the gateway's family, ``gateway`` b"" is none. ``scope`` None: global
    through a gateway, the link's without. ``priority`` 0 is the kernel's own choice (0; IPv6: 1024)."""

    __slots__ = ("advmss", "destination", "gateway", "index", "length", "mtu", "priority", "scope", "table")

    def __init__(
        self,
        destination: bytes,
        length: int,
        gateway: bytes,
        index: int,
        *,
        table: int = MAIN,
        priority: int = 0,
        scope: int | None = None,
        mtu: int = 0,
        advmss: int = 0,
    ) -> None:
        self.destination: Final = destination
        self.length: Final = length
        self.gateway: Final = gateway
        self.index: Final = index
        self.table: Final = table
        self.priority: Final = priority
        self.scope: Final = scope
        self.mtu: Final = mtu
        self.advmss: Final = advmss


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

    def fileno(self) -> int:
        return self._talk.fileno()

    # --- links -----------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        """The link of this name, None when there is none."""
        return link(self._talk, name)

    def link_at(self, index: int) -> Link | None:
        """The link with this index, None when there is none."""
        return link_at(self._talk, index)

    def links(self) -> list[Link]:
        """Every link of the namespace."""
        return links(self._talk)

    def create_bridge(self, name: str, mac: bytes, mtu: int = 0, *, vlans: bool = False) -> None:
        """A bridge, down. With a MAC of its own it keeps that MAC whichever ports come and go. ``vlans``: it keeps apart
        what its ports' VLANs keep apart."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        data = nest(_IFLA_INFO_DATA, attribute(_IFLA_BR_VLAN_FILTERING, b"\1")) if vlans else b""
        body += attribute(_IFLA_ADDRESS, mac) + _mtu(mtu) + nest(_IFLA_LINKINFO, _kind(b"bridge") + data)
        self._ask(_NEWLINK, CREATE | EXCLUSIVE, body, f"create bridge {name}")

    def create_veth(
        self, name: str, peer: str, *, netns: int = -1, mac: bytes = b"", mtu: int = 0, master: int = 0
    ) -> None:
        """A veth pair, both ends down: ``name`` here on the bridge ``master``, ``peer`` with ``mac`` in the namespace
        of the open descriptor ``netns`` (-1: here too). EEXIST when either name is taken; nothing is left then."""
        other = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, peer.encode() + b"\0") + _mtu(mtu)
        if mac:
            other += attribute(_IFLA_ADDRESS, mac)
        if netns >= 0:
            other += attribute(_IFLA_NET_NS_FD, _NUMBER.pack(netns))
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0") + _mtu(mtu)
        if master:
            body += attribute(_IFLA_MASTER, _NUMBER.pack(master))
        data = nest(_IFLA_INFO_DATA, nest(_VETH_INFO_PEER, other))
        body += nest(_IFLA_LINKINFO, _kind(b"veth") + data)
        self._ask(_NEWLINK, CREATE | EXCLUSIVE, body, f"create veth {name} with its peer {peer}")

    def set_up(self, index: int) -> None:
        self.change(index, up=True)

    def change(
        self,
        index: int,
        *,
        up: bool | None = None,
        promiscuous: bool = False,
        mac: bytes = b"",
        alias: str = "",
        hairpin: bool | None = None,
        isolated: bool | None = None,
    ) -> None:
        """Several changes of one link in one message. ``hairpin`` (a frame may leave by the port it came from: a pod reaching
        itself by Service) and ``isolated`` (no frame to another isolated port) are a bridge port's."""
        flags = (_IFF_UP if up else 0) | (_IFF_PROMISC if promiscuous else 0)
        body = _LINK.pack(0, 0, index, flags, flags | (0 if up is None else _IFF_UP))
        if mac:
            body += attribute(_IFLA_ADDRESS, mac)
        if alias:
            body += attribute(_IFLA_IFALIAS, alias.encode())
        port = b"" if hairpin is None else attribute(_IFLA_BRPORT_MODE, bytes([hairpin]))
        port += b"" if isolated is None else attribute(_IFLA_BRPORT_ISOLATED, bytes([isolated]))
        if port:
            kind = attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0")
            body += nest(_IFLA_LINKINFO, kind + nest(_IFLA_INFO_SLAVE_DATA, port))
        words = [] if up is None else ["up" if up else "down"]
        words += ["promiscuous"] * promiscuous + [f"to the MAC {mac.hex(':')}"] * bool(mac)
        words += ["to hairpin mode"] * bool(hairpin) + ["isolated"] * bool(isolated)
        self._ask(_NEWLINK, 0, body, f"set link number {index} {' and '.join(words) or 'its alias'}")

    def enslave(self, index: int, bridge: int) -> None:
        """Makes the link a port of the bridge."""
        body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_MASTER, _NUMBER.pack(bridge))
        self._ask(_NEWLINK, 0, body, f"put link number {index} on bridge number {bridge}")

    def delete_link(self, index: int) -> None:
        """A veth takes its peer along. ENODEV when the link is gone already."""
        self._ask(_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), f"delete link number {index}")

    # --- addresses and routes --------------------------------------------------------------------------------

    def addresses(self, index: int) -> list[Address]:
        """The link's addresses of both families."""
        found = []
        for body in self._talk.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, index), "list the addresses"):
            _, length, flags, _, where = _ADDRESS.unpack_from(body)
            if where == index:
                parts = attributes(body, _ADDRESS.size)
                flags |= _number(parts.get(_IFA_FLAGS))
                address = parts.get(_IFA_LOCAL) or parts[_IFA_ADDRESS]
                tentative, failed = bool(flags & _IFA_F_TENTATIVE), bool(flags & _IFA_F_DADFAILED)
                found.append(Address(address, length, where, tentative=tentative, failed=failed))
        return found

    def add_address(self, address: Address, broadcast: bytes = b"", *, at_once: bool = False) -> None:
        """EEXIST when the link has it already. ``at_once``: IPv6 is not to look for a duplicate first, which takes a second."""
        flags = _IFA_F_NODAD if at_once and len(address.packed) == 16 else 0
        body = _address(address, flags) + (attribute(_IFA_BROADCAST, broadcast) if broadcast else b"")
        self._ask(_NEWADDR, CREATE | EXCLUSIVE, body, f"add address {address.text} to link number {address.index}")

    def delete_address(self, address: Address) -> None:
        """EADDRNOTAVAIL when the link does not have it."""
        self._ask(_DELADDR, 0, _address(address), f"remove address {address.text} from link number {address.index}")

    def routes(self, index: int) -> list[Route]:
        """The routes through the link, of every table but the kernel's local one, both families."""
        found = []
        for body in self._talk.dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "list the routes"):
            parts = attributes(body, _ROUTE.size)
            length, table, scope = body[1], _number(parts.get(_RTA_TABLE)) or body[4], body[6]
            if table == _TABLE_LOCAL or _number(parts.get(_RTA_OIF)) != index:
                continue
            metrics = attributes(parts.get(_RTA_METRICS, b""))
            found.append(
                Route(
                    parts.get(_RTA_DST, b""),
                    length,
                    parts.get(_RTA_GATEWAY, b""),
                    index,
                    table=table,
                    priority=_number(parts.get(_RTA_PRIORITY)),
                    scope=scope,
                    mtu=_number(metrics.get(_RTAX_MTU)),
                    advmss=_number(metrics.get(_RTAX_ADVMSS)),
                )
            )
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
        scope = route.scope if route.scope is not None else _SCOPE_GLOBAL if route.gateway else _SCOPE_LINK
        table = route.table if route.table < 256 else 0
        body = _ROUTE.pack(family, route.length, 0, 0, table, _PROTOCOL_BOOT, scope, _UNICAST, 0)
        if route.length:
            body += attribute(_RTA_DST, route.destination)
        if route.gateway:
            body += attribute(_RTA_GATEWAY, route.gateway)
        body += attribute(_RTA_OIF, _NUMBER.pack(route.index)) + attribute(_RTA_TABLE, _NUMBER.pack(route.table))
        if route.priority:
            body += attribute(_RTA_PRIORITY, _NUMBER.pack(route.priority))
        metrics = attribute(_RTAX_MTU, _NUMBER.pack(route.mtu)) if route.mtu else b""
        metrics += attribute(_RTAX_ADVMSS, _NUMBER.pack(route.advmss)) if route.advmss else b""
        if metrics:
            body += nest(_RTA_METRICS, metrics)
        to = f"{unpacked(route.destination)}/{route.length}" if route.length else "everywhere"
        self._ask(_NEWROUTE, CREATE | EXCLUSIVE, body, f"add the route to {to} through link number {route.index}")

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._talk.ask(kind, flags | ACK, body, what)


def link(ip: Conversation, name: str) -> Link | None:
    """The link of this name, None when there is none."""
    asked = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    return _one_link(ip, asked, f"look for link {name}")


def link_at(ip: Conversation, index: int) -> Link | None:
    """The link with this index, None when there is none."""
    return _one_link(ip, _LINK.pack(0, 0, index, 0, 0), f"look for link number {index}")


def links(ip: Conversation, kind: str = "") -> list[Link]:
    """Every link of the namespace, or those of one kind. The kernel picks them where it knows the kind, and otherwise
    shows all."""
    asked = _LINK.pack(0, 0, 0, 0, 0) + (nest(_IFLA_LINKINFO, _kind(kind.encode())) if kind else b"")
    found = (Link(body) for body in ip.dump(_GETLINK, asked, f"list the {kind} links" if kind else "list the links"))
    return [one for one in found if not kind or one.kind == kind]


def _one_link(ip: Conversation, asked: bytes, what: str) -> Link | None:
    try:
        return Link(ip.ask(_GETLINK, 0, asked, what)[0])
    except RefusedError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


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


def _address(address: Address, flags: int = 0) -> bytes:
    body = _ADDRESS.pack(_family(address.packed), address.length, flags, _SCOPE_GLOBAL, address.index)
    return body + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _number(data: bytes | None) -> int:
    value: int = _NUMBER.unpack(data)[0] if data else 0
    return value
