"""Connections of this process whose own address has gone.

TCP does not notice when the address that a connection comes from is taken from its interface: it goes on sending, nobody can
answer, and the connection ends many minutes later. Whoever waits on it waits as long. So they are broken from outside, by
shutdown(2) on the descriptor: their owners, whatever library they belong to, read the end and connect anew, from an
address that there is.
"""

import contextlib
import os
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

_SO_NETNS_COOKIE = 71
_COOKIE_SIZE = 8

Address = IPv4Address | IPv6Address


def abandon(present: Collection[Address]) -> list[str]:
    """Break every connection that does not come from one of the addresses `present`, which are all that this network namespace
    has; in words, the broken ones. Loopback's, and sockets of other namespaces, are left alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as here:
        home = _namespace(here)
    broken = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                broken += _broken(int(name), present, home)
    return broken


def _broken(number: int, present: Collection[Address], home: bytes) -> list[str]:
    with socket.socket(fileno=os.dup(number)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return []
        peer = connection.getpeername()
        address = _plain(connection.getsockname()[0])
        if address.is_loopback or address in present or _namespace(connection) != home:
            return []
        connection.shutdown(socket.SHUT_RDWR)
        return [f"from {address} to {_plain(peer[0])} port {peer[1]}"]


def _plain(text: str) -> Address:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _namespace(one: socket.socket) -> bytes:
    """Empty where the kernel does not tell (before 5.14)."""
    try:
        return one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_SIZE)
    except OSError:
        return b""
