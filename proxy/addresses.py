"""Addresses and ranges as people and controllers write them, read as Kubernetes reads them. Pure.

Go's old parser took IPv4 with leading zeros for decimal, so clusters hold such objects; they are read so and written
without the zeros. An IPv4 address mapped into IPv6 is the IPv4 address. None stands for what is not an address: one bad
object must not stop the others.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from linux.iptables.rules import Family
from proxy.model import Address, Network

_MAPPED = bytes(10) + b"\xff\xff"


def family_of(text: str) -> Family:
    """Which family `text` would be an address of, whether it is one or not."""
    return Family.V6 if ":" in text else Family.V4


def address(text: str) -> Address | None:
    found = spelt(text)
    if found is None:
        return None
    return IPv4Address(found[0]) if len(found[0]) == 4 else IPv6Address(found[0])


def spelt(text: str) -> tuple[bytes, str] | None:
    """An address in network order, and its one right spelling. Asked for every endpoint: `inet_pton` knows ten times as
    quickly as `ipaddress`."""
    if ":" in text:
        return _six(text)
    try:
        return socket.inet_pton(socket.AF_INET, text), text  # which takes no other spelling
    except (OSError, ValueError):
        four = _with_leading_zeros(text)
        return (four.packed, str(four)) if four else None


def _six(text: str) -> tuple[bytes, str] | None:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED):
        return packed[12:], str(IPv4Address(packed[12:]))
    short = socket.inet_ntop(socket.AF_INET6, packed)
    return packed, str(IPv6Address(packed)) if "." in short else short  # C still writes IPv4 into ::/96


def _with_leading_zeros(text: str) -> IPv4Address | None:
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    try:
        return IPv4Address(".".join(part.lstrip("0") or "0" for part in parts))
    except ValueError:
        return None


def network(text: str) -> Network | None:
    """A CIDR; bits behind the prefix are dropped, as Go's parser drops them."""
    host, slash, length = text.strip().partition("/")
    ip = address(host)
    if ip is None or not slash or not (length.isascii() and length.isdigit()) or len(length) > 3:
        return None
    try:
        return _network(ip, int(length))
    except ValueError:
        return None


def _network(ip: Address, length: int) -> Network:
    return IPv4Network((ip, length), strict=False) if ip.version == 4 else IPv6Network((ip, length), strict=False)
