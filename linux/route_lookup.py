"""Where the kernel would send a packet to an address: what `ip route get` asks, without the program. Calls block."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from linux import routes
from linux.netlink import Conversation


@dataclass(frozen=True, slots=True)
class Way:
    """`local`: the address is this host's own."""

    device: str
    local: bool = False
    gateway: IPv4Address | IPv6Address | None = None


class Routes:
    """Asks in the network namespace of the thread that opened it."""

    def __init__(self) -> None:
        self._talk = Conversation()
        self._names = dict(socket.if_nameindex())
        self._known: dict[IPv4Address | IPv6Address, Way | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._talk.close()

    def to(self, address: IPv4Address | IPv6Address) -> Way | None:
        """None where there is no route, or an unreachable, blackhole or prohibit one."""
        if address not in self._known:
            self._known[address] = self._asked(address)
        return self._known[address]

    def device(self, address: IPv4Address | IPv6Address) -> str:
        """The interface towards it; empty without a route."""
        way = self.to(address)
        return way.device if way else ""

    def _asked(self, address: IPv4Address | IPv6Address) -> Way | None:
        path = routes.path_to(self._talk, address)
        return Way(self._names.get(path.device, ""), path.local, path.gateway) if path is not None else None
