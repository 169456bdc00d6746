"""Route netlink from any event loop: requests through pyroute2, and a watch over the kernel's own announcements.

pyroute2's asyncio core asks the loop for a datagram endpoint on a netlink socket. uvloop refuses sockets that are not IP, so
`open_netlink` gives pyroute2 a loop whose endpoints read through `add_reader`, which both loops have. Requests set
NETLINK_GET_STRICT_CHK: the kernel then filters dumps by device or protocol itself, and a node with a thousand veths
answers a question about one device as fast as an empty one.

A connection is cheap (1.5 ms) and lives for one pass; what the kernel refuses is a `Refused`, an OSError with the words of
what was attempted. `Monitor` is the other half: it tells only that something has changed, never what to do about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_READ_SIZE = 1 << 18
_READS_PER_TURN = 64
_DUMP_ATTEMPTS = 5

Netlink = Any
"""An open pyroute2 AsyncIPRoute; pyroute2 has no types."""


class Refused(OSError):
    """The kernel said no. `errno` is its code; the message says what was attempted."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.asynccontextmanager
async def open_netlink() -> AsyncIterator[Netlink]:
    """A connection to the network namespace of this process."""
    ip = AsyncIPRoute(strict_check=True, use_event_loop=_ReadingLoop(asyncio.get_running_loop()))
    try:
        yield ip
    finally:
        ip.close()


@contextlib.contextmanager
def attempting(what: str) -> Iterator[None]:
    """Failures inside become `Refused` with these words."""
    try:
        yield
    except NetlinkError as error:
        code = int(error.code)
        raise Refused(code, f"{what}: {os.strerror(code)}") from error


@contextlib.contextmanager
def absent(*codes: int) -> Iterator[None]:
    """For deletions: these codes mean that it is already gone."""
    try:
        yield
    except Refused as error:
        if error.errno not in codes:
            raise


async def dump(what: str, ask: Callable[[], Awaitable[AsyncIterable[Any]]]) -> list[Any]:
    """All answers to a dump request; asked again when the table changed under the kernel's own reading (EINTR)."""
    for _ in range(_DUMP_ATTEMPTS):
        with attempting(what):
            answers = [message async for message in await ask()]
        if not any(message["header"]["flags"] & _DUMP_INTERRUPTED for message in answers):
            return answers
    raise Refused(errno.EINTR, f"{what}: it changed faster than it could be read")


class _ReadingLoop:
    """The running loop, but for datagram endpoints on sockets that uvloop does not know."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_datagram_endpoint(
        self, factory: Callable[[], asyncio.DatagramProtocol], *, sock: socket.socket
    ) -> tuple[_Reader, asyncio.DatagramProtocol]:
        protocol = factory()
        return _Reader(self._loop, sock, protocol), protocol


class _Reader:
    """Hands what arrives on a socket to a protocol; pyroute2 writes to the socket itself."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._protocol = protocol
        self._number: int | None = sock.fileno()
        sock.setblocking(False)
        loop.add_reader(self._number, self._read)

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.close()
                self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, None)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._number is not None:
            self._loop.remove_reader(self._number)
            self._number = None

    abort = close


@dataclass(frozen=True, slots=True)
class Notice:
    """The kernel announced a change. `device` is an interface's index (0: none), `name` its name where it was said,
    `protocol` who set the route."""

    kind: Literal["link", "address", "route", "neighbour"]
    device: int
    name: str = ""
    protocol: int = 0


class Monitor:
    """Calls `notice` for every link, IPv4 address, IPv4 route, neighbour and FDB change while it is open; with None when
    the kernel had more to say than we could read (ENOBUFS): then anything may have changed."""

    _GROUPS = (1 << 0) | (1 << 2) | (1 << 4) | (1 << 6)  # RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE

    def __init__(self, notice: Callable[[Notice | None], None]) -> None:
        self._notice = notice
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    async def __aenter__(self) -> Self:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setblocking(False)
        self._socket.bind((0, self._GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._notice(None)
                continue
            for found in notices(data):
                self._notice(found)


_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_KINDS: dict[int, Literal["link", "address", "route", "neighbour"]] = {
    16: "link",
    17: "link",
    20: "address",
    21: "address",
    24: "route",
    25: "route",
    28: "neighbour",
    29: "neighbour",
}
_IFLA_IFNAME = 3
_RTA_OIF = 4


def notices(data: bytes) -> Iterator[Notice]:
    """The announcements in one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, number, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        body = data[offset + _HEADER.size : offset + length]
        kind = _KINDS.get(number)
        if kind is not None:
            yield _notice(kind, body)
        offset += (length + 3) & ~3


def _notice(kind: Literal["link", "address", "route", "neighbour"], body: bytes) -> Notice:
    match kind:
        case "link":  # struct ifinfomsg: family, pad, type, index, flags, change
            name = _attribute(body, 16, _IFLA_IFNAME).rstrip(b"\0").decode(errors="replace")
            return Notice(kind, int.from_bytes(body[4:8], sys.byteorder), name)
        case "route":  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, ...
            return Notice(kind, int.from_bytes(_attribute(body, 12, _RTA_OIF), sys.byteorder), protocol=body[5])
        case "address" | "neighbour":  # struct ifaddrmsg, ndmsg: the index is the second 32 bits of both
            return Notice(kind, int.from_bytes(body[4:8], sys.byteorder))


def _attribute(body: bytes, offset: int, wanted: int) -> bytes:
    while offset + _ATTRIBUTE.size <= len(body):
        length, number = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        if number == wanted:
            return body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return b""
