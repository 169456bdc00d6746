"""The connection itself, after an Upgrade that aiohttp knows nothing about.

aiohttp hands what arrives on a connection to its current parser. We set ourselves as that parser, write the response's head
on the transport, and tell aiohttp that the response is done when the conversation is; it then closes the connection, and
cancels the handler when the client does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, cast

from aiohttp import web

UNREAD: Final = 1 << 20  # bytes, before we stop reading


class Taken(web.StreamResponse):
    """Stands for a response that was written by hand."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, _request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        return None


class RawConnection:
    """`kube.spdy.Wire` over an upgraded connection."""

    def __init__(self, request: web.Request, headers: Iterable[tuple[str, str]]) -> None:
        """Raises ConnectionResetError."""
        if request.transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport = request.transport
        self._protocol = request.protocol
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._unread = 0
        self._ended = False
        lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in headers), "", ""]
        self._transport.write("\r\n".join(lines).encode())
        self._protocol.set_parser(cast("Any", self))

    async def read(self) -> bytes:
        if self._ended:
            return b""
        piece = await self._pieces.get()
        self._ended = not piece
        before, self._unread = self._unread, self._unread - len(piece)
        if before > UNREAD >= self._unread:
            self._transport.resume_reading()
        return piece

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._protocol._drain_helper()

    # What aiohttp calls

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._pieces.put_nowait(bytes(data))
        self._unread += len(data)
        if self._unread > UNREAD:
            self._transport.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        self._pieces.put_nowait(b"")

    def set_exception(self, *_: object) -> None:
        self.feed_eof()
