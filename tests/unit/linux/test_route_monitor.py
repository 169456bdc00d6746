"""The kernel's announcements, from bytes."""

import socket
import struct
from ipaddress import ip_network

from linux.route_monitor import Notice, notices
from linux.wire import HEADER, attribute


def message(kind: int, body: bytes, port: int = 0) -> bytes:
    whole = HEADER.pack(16 + len(body), kind, 0, 0, port) + body
    return whole + b"\0" * (-len(whole) % 4)


def test_one_datagram_may_hold_several_kinds() -> None:
    link = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(1, b"\2" * 6) + attribute(3, b"flannel.1\0")
    link += attribute(20, b"wherry overlay\0")
    address = (
        struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 8) + attribute(1, b"\x0a\1\2\3") + attribute(2, b"\x0a\1\2\3")
    )
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, 254, 87, 0, 1, 0)
    route += attribute(1, b"\x0a\4\5\0") + attribute(4, struct.pack("=I", 9))
    default = struct.pack("=BBBBBBBBI", socket.AF_INET6, 0, 0, 0, 254, 9, 0, 1, 0) + attribute(4, struct.pack("=I", 9))
    fdb = struct.pack("=BxxxiHBB", socket.AF_BRIDGE, 10, 0x80, 2, 0)
    datagram = message(17, link) + message(20, address) + message(25, route) + message(24, default) + message(28, fdb)
    assert list(notices(datagram + message(3, b""))) == [
        Notice("link", 7, name="flannel.1", alias="wherry overlay"),
        Notice("address", 8, family=socket.AF_INET, about=ip_network("10.1.2.3/32")),
        Notice("route", 9, protocol=87, family=socket.AF_INET, about=ip_network("10.4.5.0/24")),
        Notice("route", 9, protocol=9, family=socket.AF_INET6),
        Notice("neighbour", 10, family=socket.AF_BRIDGE),
    ]


def test_an_fdb_entry_says_what_it_is() -> None:
    head = struct.pack("=BxxxiHBB", socket.AF_BRIDGE, 10, 0x80 | 0x40, 2, 0)
    entry = head + attribute(2, b"\2\0\0\0\0\1") + attribute(1, b"\x0a\1\2\3")
    six = head + attribute(2, b"\2\0\0\0\0\1") + attribute(1, bytes.fromhex("fd00") + bytes(13) + b"\7")
    learned = struct.pack("=BxxxiHBB", socket.AF_BRIDGE, 10, 0x02, 2, 0) + entry[len(head) :]
    odd = entry + attribute(6, b"\x12\xb5")
    told = list(
        notices(message(28, entry) + message(28, six) + message(29, entry) + message(28, learned) + message(28, odd))
    )
    plain = Notice("neighbour", 10, family=socket.AF_BRIDGE)
    mac = "02:00:00:00:00:01"
    assert told == [
        Notice("neighbour", 10, family=socket.AF_BRIDGE, about=ip_network("10.1.2.3/32"), mac=mac),
        Notice("neighbour", 10, family=socket.AF_BRIDGE, about=ip_network("fd00::7/128"), mac=mac),
        plain,
        plain,
        plain,
    ]


def test_what_we_wrote_ourselves_is_passed_over_and_what_follows_from_it_is_not() -> None:
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 87, 0, 1, 0)
    datagram = message(24, route, port=4711) + message(25, route, port=0) + message(25, route, port=4712)
    assert len(list(notices(datagram, {4711}))) == 2
    assert len(list(notices(datagram, {4711, 0}))) == 2, "0 is the kernel itself"


def test_broken_bytes_end_quietly() -> None:
    link = message(16, struct.pack("=BxHiII", 0, 1, 7, 0, 0) + b"\1\0\3\0")
    assert list(notices(link)) == [Notice("link", 7)]
    assert list(notices(b"\0" * 16)) == []
    assert list(notices(b"\1")) == []
