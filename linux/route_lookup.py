"""Where the kernel would send a packet to an address: what `ip route get` asks, without the program. Calls block."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")
_GETROUTE, _NEWROUTE, _ERROR = 26, 24, 2
_REQUEST = 1
_DESTINATION, _OUT, _GATEWAY = 1, 4, 5  # RTA_*
_LOCAL = 2  # RTN_LOCAL
_NO_WAY = frozenset([errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.EAGAIN])


@dataclass(frozen=True, slots=True)
class Way:
    """`local`: the address is this host's own."""

    device: str
    local: bool = False
    gateway: IPv4Address | IPv6Address | None = None


class Routes:
    """Asks in the network namespace of the thread that opened it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(5)
        self._names = dict(socket.if_nameindex())
        self._known: dict[IPv4Address | IPv6Address, Way | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

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
        packed = address.packed
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(4 + len(packed), _DESTINATION) + packed
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body)
        answer = self._socket.recv(1 << 16)
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        if kind == _ERROR:
            code = -_NUMBER.unpack_from(answer, _HEADER.size)[0]
            if code in _NO_WAY:
                return None
            raise OSError(code, f"look up the route to {address}")
        return self._way(answer)

    def _way(self, answer: bytes) -> Way:
        kind = _ROUTE.unpack_from(answer, _HEADER.size)[7]
        device, gateway, offset = "", None, _HEADER.size + _ROUTE.size
        while offset + 4 <= len(answer):
            length, number = _ATTRIBUTE.unpack_from(answer, offset)
            if length < 4:
                break
            content = answer[offset + 4 : offset + length]
            if number == _OUT:
                device = self._names.get(_NUMBER.unpack(content)[0], "")
            elif number == _GATEWAY:
                gateway = IPv4Address(content) if len(content) == 4 else IPv6Address(content)
            offset += (length + 3) & ~3
        return Way(device, kind == _LOCAL, gateway)
