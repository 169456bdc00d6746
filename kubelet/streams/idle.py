"""streamingConnectionIdleTimeout: a stream that carries nothing, either way, for so long is closed.

Pings do not count, ours or the client's: they say that somebody is there, not that anything is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kubelet.runtime import Channel, Stream


class Idle:
    """`seconds` 0 is never."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = asyncio.get_running_loop().time()

    def touch(self) -> None:
        self._last = asyncio.get_running_loop().time()

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Carry the work on until it ends or nothing has happened for too long."""
        if not self._seconds:
            await work()
            return
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_task(work))
            watching = group.create_task(self._over())
            working.add_done_callback(lambda _: watching.cancel())
            watching.add_done_callback(lambda _: working.cancel())

    async def _over(self) -> None:
        clock = asyncio.get_running_loop().time
        while (left := self._last + self._seconds - clock()) > 0:  # noqa: ASYNC110 - each piece would set an Event
            await asyncio.sleep(left)


async def _task(work: Callable[[], Awaitable[None]]) -> None:
    await work()


class Watched:
    """A command's stream that says when something passes."""

    def __init__(self, stream: Stream, touch: Callable[[], None]) -> None:
        self._stream = stream
        self._touch = touch

    async def read(self) -> tuple[Channel, bytes] | None:
        piece = await self._stream.read()
        self._touch()
        return piece

    async def write(self, data: bytes) -> None:
        self._touch()
        await self._stream.write(data)

    async def close_stdin(self) -> None:
        await self._stream.close_stdin()

    async def resize(self, width: int, height: int) -> None:
        self._touch()
        await self._stream.resize(width, height)

    async def exit_code(self) -> int:
        return await self._stream.exit_code()

    async def close(self) -> None:
        await self._stream.close()
