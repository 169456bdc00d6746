"""A request's body on its way in: whole for those who decode it, piece by piece for those who pass it on.

Nobody holds more of it than is useful. Up to `LOOKAHEAD` bytes are taken from the socket before anybody has asked; then the
connection stops reading until somebody does. A whole body ends at `MAX_BODY`: beyond it the client is told 413.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol

from apiserver import errors
from apiserver.errors import StatusError

MAX_BODY: Final = 3 << 20
LOOKAHEAD: Final = 256 << 10


class Source(Protocol):
    """The connection that a body comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def go_on(self) -> None:
        """Tells a client that waits for it (Expect: 100-continue) that its body is wanted."""


class Body:
    """`announced`: its Content-Length, 0 when there is none."""

    __slots__ = ("_failure", "_pieces", "_source", "_unread", "_waiter", "announced", "complete")

    def __init__(self, source: Source, announced: int) -> None:
        self.announced = announced
        self.complete = False
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: StatusError | None = None

    def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > LOOKAHEAD and self._waiter is None:
            self._source.pause()
        self._wake()

    def end(self, failure: StatusError | None = None) -> None:
        """No more will come: it is whole, or (`failure`) what came was no HTTP."""
        self.complete = True
        self._failure = failure
        self._wake()

    async def whole(self) -> bytes:
        """Raises 413, and 400 for what was no HTTP."""
        if self.announced > MAX_BODY:
            raise errors.request_entity_too_large(MAX_BODY)
        while not self.complete:
            if self._unread > MAX_BODY:
                raise errors.request_entity_too_large(MAX_BODY)
            await self._more()
        if self._failure:
            raise self._failure
        if self._unread > MAX_BODY:
            raise errors.request_entity_too_large(MAX_BODY)
        if len(self._pieces) != 1:
            self._pieces = deque((b"".join(self._pieces),))
        return self._pieces[0]

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises 400 for what was no HTTP."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._unread -= len(piece)
                yield piece
            if self.complete:
                if self._failure:
                    raise self._failure
                return
            await self._more()

    async def discarded(self, most: int) -> bool:
        """Reads and forgets the rest; False when it is longer than `most`."""
        taken = 0
        while not self.complete:
            taken += self._unread
            if taken > most:
                return False
            self._pieces.clear()
            self._unread = 0
            await self._more()
        return self._failure is None

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self._source.go_on()
        self._source.resume()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
