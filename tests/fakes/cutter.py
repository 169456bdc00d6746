"""A wire that breaks: a TCP relay on 127.0.0.1 that cuts its connections at random, now and then within a frame."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def cutting(port: int, rng: random.Random, shortest: float, longest: float) -> AsyncIterator[int]:
    """Yields the relay's port; each connection to `port` lives between `shortest` and `longest` seconds."""
    at_work: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the end of the relay, which nobody has to be told of
            await relayed(reader, writer)

    async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        at_work.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            answers, onward = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(rng.uniform(shortest, longest)), asyncio.TaskGroup() as group:
                group.create_task(copied(reader, onward))
                group.create_task(copied(answers, writer))
        except* (OSError, TimeoutError):
            pass
        finally:
            for one in (writer, onward):
                if one is not None:
                    one.transport.abort()
            at_work.discard(task)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(at_work):
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.write_eof() if writer.can_write_eof() else None
