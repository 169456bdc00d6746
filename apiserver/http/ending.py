"""A stream that tells its end: read to the last chunk, closed before that, or dropped without ever having been read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, cast


class Ending:
    """`chunks`, and one call of `ended` when nobody will read on."""

    def __init__(self, chunks: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        self._chunks = chunks
        self._ended: Callable[[], None] | None = ended

    def __aiter__(self) -> Ending:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._end()
            raise

    async def aclose(self) -> None:
        try:
            await cast("Any", self._chunks).aclose()
        finally:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
