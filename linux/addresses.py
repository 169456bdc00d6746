"""The addresses of this network namespace, read again only after the kernel said that some have changed.

A read walks every interface (a node has one per pod), so it is not for every pass; rtnetlink announces each address that
comes or goes to the groups RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR, and that is all the socket here is asked for.
(`linux.route_monitor.Monitor` hears much more.)
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from linux.overflow import Overflow

_GROUPS = 1 << 4 | 1 << 8  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_READ_SIZE = 1 << 16
_ROOM = 1 << 18

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class LocalAddresses:
    """A context in which `changed` is called, from the event loop, when an address came or went; `known` is up to date."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._known: tuple[Address, ...] | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        Overflow(self._socket, _ROOM)  # a full buffer must not make the socket faulty

    async def __aenter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def known(self) -> tuple[Address, ...]:
        if self._known is None:
            self._known = tuple(read())
        return self._known

    def _readable(self) -> None:
        try:
            while self._socket.recv(_READ_SIZE):
                pass
        except BlockingIOError:
            pass  # whether some were lost is all the same: they all say one thing
        self._known = None
        self._changed()


def read() -> list[Address]:
    """Every address of this network namespace."""
    import psutil

    return [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
