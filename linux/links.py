"""Links and their addresses, as an event loop's daemon reads them. Each call is a question that takes microseconds.

A VXLAN device as the kernel sees it: frames to a MAC address travel in UDP to the host that the forwarding database names
(see `linux.neighbours`). `Vxlan.options` lists what is switched on beyond learning and GBP (a group, l2miss, ...), so that a
caller can tell a plain one from any other.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from linux.iptables.rules import Family
from linux.netlink import Conversation, Request
from linux.rtnetlink import Link, link, link_at, links
from linux.wire import CREATE, EXCLUSIVE, attribute, attributes

__all__ = [
    "AF",
    "Address",
    "Link",
    "Vxlan",
    "addresses",
    "all_addresses",
    "drop_address",
    "ip_address",
    "link",
    "link_at",
    "links",
    "put_address",
    "vxlan",
]

AF = {Family.V4: int(socket.AF_INET), Family.V6: int(socket.AF_INET6)}

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_NUMBER = struct.Struct("=I")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NODAD, _NOPREFIXROUTE = 0x02, 0x200
_TEMPORARY, _OPTIMISTIC, _FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x04, 0x08, 0x20, 0x40
_LINK_SCOPE = 253

_VNI, _UNDERLAY, _LOCAL, _LEARNING, _PORT, _LOCAL6, _GBP = 1, 3, 4, 7, 15, 17, 23  # IFLA_VXLAN_*
_OPTIONS = {
    2: "group",
    16: "group",
    11: "proxy",
    12: "rsc",
    13: "l2miss",
    14: "l3miss",
    25: "external",
    27: "gpe",
    30: "vnifilter",
}


@dataclass(frozen=True, slots=True)
class Vxlan:
    """`underlay` is the index of the interface that carries the UDP packets (0: any), `local` their source."""

    vni: int
    port: int
    underlay: int
    local: IPv4Address | IPv6Address | None
    learning: bool = False
    gbp: bool = False
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Address:
    device: int
    interface: IPv4Interface | IPv6Interface
    host_only: bool
    """Scope host or link: not for others to send to."""
    untried: bool = False
    """IPv6 has not found out yet whether nobody else has it."""
    failed: bool = False
    """Somebody else has it."""
    passing: bool = False
    """It is not to be used for anything new, or was made for a while (IPv6's temporary ones)."""


def vxlan(data: bytes) -> Vxlan:
    """A VXLAN link's `data`."""
    found = attributes(data)
    local = found.get(_LOCAL) or found.get(_LOCAL6)
    return Vxlan(
        vni=_number(found.get(_VNI)),
        port=int.from_bytes(found.get(_PORT, b""), "big"),
        underlay=_number(found.get(_UNDERLAY)),
        local=ip_address(local) if local and any(local) else None,
        learning=any(found.get(_LEARNING, b"")),
        gbp=_GBP in found,
        options=frozenset(name for key, name in _OPTIONS.items() if _is_set(found.get(key))),
    )


def addresses(ip: Conversation, device: int, family: Family) -> list[Address]:
    """Of one interface, in the kernel's order: primary addresses first."""
    asked = _ADDRESS.pack(AF[family], 0, 0, 0, device)
    try:
        found = ip.dump(_GETADDR, asked, f"list the addresses of link number {device}")
    except OSError as error:
        if error.errno == errno.ENODEV:
            return []
        raise
    return [one for body in found if body[0] == AF[family] and (one := _address(body)).device == device]


def all_addresses(ip: Conversation, family: Family) -> list[Address]:
    """Of just this family: asked for one that it does not have (ipv6.disable=1), the kernel shows all there are."""
    found = ip.dump(_GETADDR, _ADDRESS.pack(AF[family], 0, 0, 0, 0), "list the addresses")
    return [_address(body) for body in found if body[0] == AF[family]]


def put_address(device: int, address: IPv4Interface | IPv6Interface) -> Request:
    """Usable at once (nobody is asked whether he has it), and without a route to its network."""
    flags = _NODAD | _NOPREFIXROUTE if address.version == 6 else 0
    return Request(
        _NEWADDR,
        CREATE | EXCLUSIVE,
        _packed(device, address) + attribute(_IFA_FLAGS, _NUMBER.pack(flags)),
        "add the address {} to link number {}",
        (address, device),
        frozenset([errno.EEXIST]),
    )


def drop_address(device: int, address: IPv4Interface | IPv6Interface) -> Request:
    return Request(
        _DELADDR,
        0,
        _packed(device, address),
        "remove the address {} from link number {}",
        (address, device),
        frozenset([errno.EADDRNOTAVAIL, errno.ENODEV]),
    )


def ip_address(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _packed(device: int, address: IPv4Interface | IPv6Interface) -> bytes:
    family = AF[Family(address.version)]
    head = _ADDRESS.pack(family, address.network.prefixlen, 0, 0, device)
    return head + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _address(body: bytes) -> Address:
    family, length, flags, scope, device = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    interface = IPv4Interface((packed, length)) if len(packed) == 4 else IPv6Interface((packed, length))
    flags = _number(found.get(_IFA_FLAGS)) or flags
    six = family == AF[Family.V6]  # of IPv4 the first means that it is not the first one of its network
    return Address(
        device,
        interface,
        host_only=scope >= _LINK_SCOPE,
        untried=six and bool(flags & _TENTATIVE) and not flags & _OPTIMISTIC,
        failed=six and bool(flags & _FAILED),
        passing=bool(flags & (_DEPRECATED | _TEMPORARY if six else _DEPRECATED)),
    )


def _number(data: bytes | None) -> int:
    value: int = _NUMBER.unpack(data)[0] if data else 0
    return value


def _is_set(data: bytes | None) -> bool:
    """Some options are flags (there or not), others bytes (0 or 1)."""
    return data is not None and (not data or any(data))
