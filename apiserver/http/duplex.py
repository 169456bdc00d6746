"""An upgraded connection: raw bytes both ways, each side waiting for the other when it is slower."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

UNREAD_BYTES: Final = 1 << 20  # before we stop reading


class Line(Protocol):
    """What is below: `http.connection.Connection`."""

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class RawConnection:
    """`exchange.Duplex`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._unread = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        self._pieces.put_nowait(bytes(data))
        self._unread += len(data)
        if self._unread > UNREAD_BYTES:
            self._line.pause()

    def end(self) -> None:
        self._pieces.put_nowait(b"")

    async def read(self) -> bytes:
        if self._ended:
            return b""
        piece = await self._pieces.get()
        self._ended = not piece
        before, self._unread = self._unread, self._unread - len(piece)
        if before > UNREAD_BYTES >= self._unread:
            self._line.resume()
        return piece

    async def write(self, data: bytes) -> None:
        self._line.write(data)
        await self._line.drained()
