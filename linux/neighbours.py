"""Permanent neighbours (which MAC an address has) and FDB entries (behind which host a MAC lives) of one device.

The forwarding database of a VXLAN device is written with NTF_SELF (the device's own, not a bridge's) and NLM_F_REPLACE:
for a MAC that has moved to another host CREATE alone answers EEXIST, and APPEND keeps the old host and says nothing. Only the
MAC of all zeros may have several hosts (REPLACE is refused for it); a deletion without a host takes them all.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from linux.iptables.rules import Family
from linux.links import AF, ip_address
from linux.netlink import Conversation, Request
from linux.turns import whole
from linux.wire import CREATE, REPLACE, attribute, spans

_NEW, _DELETE, _GET = 28, 29, 30  # RTM_*NEIGH
_HEAD = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_NUMBER = struct.Struct("=I")
_DESTINATION, _MAC, _INDEX = 1, 2, 8  # NDA_*
ODD = frozenset([6, 7, 8, 11, 13])  # NDA_PORT, _VNI, _IFINDEX, _SRC_VNI, _NH_ID: no plain entry has them
_PERMANENT, _NOARP = 0x80, 0x40  # NUD_*
_SELF = 0x02  # NTF_SELF
_BRIDGE = 7  # AF_BRIDGE
_GONE = frozenset([errno.ENOENT, errno.ENODEV])

IPAddress = IPv4Address | IPv6Address


class Neighbour(NamedTuple):
    address: IPAddress
    mac: str


class FdbEntry(NamedTuple):
    """`plain` is false for an entry with a port, VNI or interface of its own."""

    mac: str
    remote: IPAddress
    plain: bool = True


async def neighbours(ip: Conversation, device: int, family: Family) -> list[Neighbour]:
    """The permanent ones; those that the kernel learned come and go on their own."""
    what = f"list the neighbours of link number {device}"
    return await whole(lambda: _read_neighbours(ip, device, AF[family], what), what)


def put_neighbour(device: int, neighbour: Neighbour) -> Request:
    packed = neighbour.address.packed
    head = _HEAD.pack(10 if len(packed) == 16 else 2, device, _PERMANENT, 0, 0)
    body = head + attribute(_DESTINATION, packed) + attribute(_MAC, _bytes(neighbour.mac))
    return Request(_NEW, CREATE | REPLACE, body, "set the neighbour {} to {} on link number {}", (*neighbour, device))


def drop_neighbour(device: int, address: IPAddress) -> Request:
    packed = address.packed
    body = _HEAD.pack(10 if len(packed) == 16 else 2, device, 0, 0, 0) + attribute(_DESTINATION, packed)
    return Request(_DELETE, 0, body, "delete the neighbour {} of link number {}", (address, device), _GONE)


async def fdb_entries(ip: Conversation, device: int) -> list[FdbEntry]:
    """The permanent entries that name a remote host."""
    what = f"list the FDB of link number {device}"
    return await whole(lambda: _read_fdb(ip, device, what), what)


def put_fdb(device: int, mac: str, remote: IPAddress) -> Request:
    head = _HEAD.pack(_BRIDGE, device, _PERMANENT | _NOARP, _SELF, 0)
    body = head + attribute(_DESTINATION, remote.packed) + attribute(_MAC, _bytes(mac))
    about = mac, remote, device
    return Request(_NEW, CREATE | REPLACE, body, "set the FDB entry {} to {} on link number {}", about)


def drop_fdb(device: int, mac: str) -> Request:
    body = _HEAD.pack(_BRIDGE, device, _PERMANENT | _NOARP, _SELF, 0) + attribute(_MAC, _bytes(mac))
    return Request(_DELETE, 0, body, "delete the FDB entry {} of link number {}", (mac, device), _GONE)


def _read_neighbours(ip: Conversation, device: int, family: int, what: str) -> Iterator[list[Neighbour]]:
    asked = _HEAD.pack(family, 0, 0, 0, 0) + attribute(_INDEX, _NUMBER.pack(device))
    for data, places in ip.turns(_GET, asked, what):
        found: list[Neighbour] = []
        for start, end in places:
            _, index, state, _, _ = _HEAD.unpack_from(data, start)
            if index != device or not state & _PERMANENT:
                continue
            address = mac = b""
            for number, first, last in spans(data, start + 12, end):
                if number == _DESTINATION:
                    address = data[first:last]
                elif number == _MAC:
                    mac = data[first:last]
                    break  # the kernel writes the address before it
            if address:
                found.append(_neighbour(address, mac))
        yield found


def _read_fdb(ip: Conversation, device: int, what: str) -> Iterator[list[FdbEntry]]:
    asked = _HEAD.pack(_BRIDGE, 0, 0, 0, 0) + attribute(_INDEX, _NUMBER.pack(device))
    for data, places in ip.turns(_GET, asked, what):
        found: list[FdbEntry] = []
        for start, end in places:
            _, index, state, _, _ = _HEAD.unpack_from(data, start)
            if index != device or not state & _PERMANENT:
                continue
            remote = mac = b""
            plain = True
            for number, first, last in spans(data, start + 12, end):
                if number == _DESTINATION:
                    remote = data[first:last]
                elif number == _MAC:
                    mac = data[first:last]
                elif number in ODD:
                    plain = False
            if mac and (remote or not plain):
                found.append(_entry(mac, remote, plain))
        yield found


@lru_cache(1 << 14)
def _neighbour(address: bytes, mac: bytes) -> Neighbour:
    return Neighbour(ip_address(address), mac.hex(":"))


@lru_cache(1 << 14)
def _entry(mac: bytes, remote: bytes, plain: bool) -> FdbEntry:
    """One that leads to a next-hop object names no host."""
    return FdbEntry(mac.hex(":"), ip_address(remote or bytes(4)), plain)


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
