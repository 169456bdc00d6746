"""The kernel's announcements, from bytes."""

import socket
import struct

from linux.netlink import Notice, notices


def message(kind: int, body: bytes) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return whole + b"\0" * (-len(whole) % 4)


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def test_one_datagram_may_hold_several_kinds() -> None:
    link = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(1, b"\2" * 6) + attribute(3, b"flannel.1\0")
    address = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 8)
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, 254, 87, 0, 1, 0) + attribute(4, struct.pack("=I", 9))
    fdb = struct.pack("=BxxxiHBB", socket.AF_BRIDGE, 10, 0x80, 2, 0)
    datagram = message(17, link) + message(20, address) + message(25, route) + message(28, fdb) + message(3, b"")
    assert list(notices(datagram)) == [
        Notice("link", 7, "flannel.1"),
        Notice("address", 8),
        Notice("route", 9, protocol=87),
        Notice("neighbour", 10),
    ]


def test_broken_bytes_end_quietly() -> None:
    link = message(16, struct.pack("=BxHiII", 0, 1, 7, 0, 0) + b"\1\0\3\0")
    assert list(notices(link)) == [Notice("link", 7)]
    assert list(notices(b"\0" * 16)) == []
    assert list(notices(b"\1")) == []
