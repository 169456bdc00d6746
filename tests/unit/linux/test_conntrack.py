"""Entries of the conntrack table, as the kernel writes them and otherwise."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from linux.conntrack import _LAYOUTS, _handle, endpoint

UDP, TCP, ICMP = socket.IPPROTO_UDP, socket.IPPROTO_TCP, socket.IPPROTO_ICMP
NESTED = 0x8000


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ends_of(kind: int, source: str, source_port: int, to: str, port: int, protocol: int = UDP, *, last: bool) -> bytes:
    """A tuple; `last` writes everything in the other order."""
    addresses = [ip_address(each).packed for each in (source, to)]
    first = 1 if len(addresses[0]) == 4 else 3
    parts = [attribute(first + n, address) for n, address in enumerate(addresses)]
    numbers = [
        attribute(1, bytes([protocol])),
        attribute(2, source_port.to_bytes(2, "big")),
        attribute(3, port.to_bytes(2, "big")),
    ]
    turned = -1 if last else 1
    both = [attribute(1 | NESTED, b"".join(parts[::turned])), attribute(2 | NESTED, b"".join(numbers[::turned]))]
    return attribute(kind | NESTED, b"".join(both[::turned]))


def entry(sender: str, to: str, answers: str, protocol: int = UDP, *, last: bool = False, zone: bytes = b"") -> bytes:
    parts = [
        ends_of(1, sender, 5353, to, 53, protocol, last=last),
        ends_of(2, answers, 8053, sender, 5353, protocol, last=last),
        zone,
        attribute(3, bytes(4)),
        attribute(12, b"\x01\x02\x03\x04"),
    ]
    return b"".join(parts[:: -1 if last else 1])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("version", "sender", "to", "answers"),
    [(4, "10.244.0.9", "10.96.0.10", "10.244.1.2"), (6, "fd01::9", "fd00::10", "fd01:1::2")],
)
def test_where_a_flow_goes_and_who_answers(version: int, sender: str, to: str, answers: str, last: bool) -> None:
    data = b"before" + entry(sender, to, answers, last=last)
    wanted = endpoint(ip_address(to).packed, 53), endpoint(ip_address(answers).packed, 8053)
    assert _LAYOUTS[version].ends(data, 6, len(data), UDP) == wanted
    assert _LAYOUTS[version].ends(data, 6, len(data), TCP) is None


def test_other_protocols_and_half_an_entry_are_none() -> None:
    layout = _LAYOUTS[4]
    whole = entry("10.244.0.9", "10.96.0.10", "10.244.1.2", TCP)
    assert layout.ends(whole, 0, len(whole), UDP) is None
    ping = attribute(1 | NESTED, attribute(2 | NESTED, attribute(1, bytes([ICMP])) + attribute(4, bytes(2))))
    assert layout.ends(ping, 0, len(ping), UDP) is None
    for cut in range(0, len(whole), 4):
        assert layout.ends(whole[:cut], 0, cut, UDP) is None


def test_a_flow_is_named_by_its_tuple_zone_and_number() -> None:
    zone = attribute(18, b"\x00\x07")
    data = entry("10.244.0.9", "10.96.0.10", "10.244.1.2", zone=zone)
    original = ends_of(1, "10.244.0.9", 5353, "10.96.0.10", 53, last=False)
    assert _handle(data, 0, len(data)) == original + zone + attribute(12, b"\x01\x02\x03\x04")
