"""Blocking work (mounts, trees of files, cgroups), in threads: a filesystem that hangs holds up one pod and not the node.

Nobody can end a thread that hangs in a system call. So whoever gives up on a call leaves its thread behind, and

- who wants the same done again waits for that thread, instead of giving another one to the same filesystem;
- those left behind do not count among the few that may be at work at once: others go on;
- there may be only so many of them. Beyond that, one clear refusal is better than a node that silently does nothing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kube.errors import Retry

T = TypeVar("T")

TIMEOUT = 123.0  # seconds; upstream's for volumes
AT_ONCE = 8
LEFT_BEHIND = 120  # about as many as a node has pods


class Threads:
    def __init__(self, *, timeout: float = TIMEOUT, left_behind: int = LEFT_BEHIND, name: str = "volumes") -> None:
        self._timeout = timeout
        self._most = left_behind
        self._room = asyncio.Semaphore(AT_ONCE)
        self._pool = ThreadPoolExecutor(AT_ONCE + left_behind, thread_name_prefix=name)
        self._left: dict[str, asyncio.Future[Any]] = {}  # whom nobody waits for any more, by what they do

    async def do(self, what: str, work: Callable[[], T]) -> T:
        """Raises Retry when it takes too long."""
        try:
            async with asyncio.timeout(self._timeout):
                while (earlier := self._left.get(what)) is not None:
                    await asyncio.wait([earlier])
                if len(self._left) >= self._most:
                    raise Retry(f"{what}: {len(self._left)} calls hang, no more are begun; is a filesystem hanging?")
                async with self._room:
                    return await self._one(what, work)
        except TimeoutError:
            raise Retry(f"{what}: not done within {self._timeout:g} s; is a filesystem hanging?") from None

    async def _one(self, what: str, work: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(running)
        finally:
            if not running.done():
                self._left[what] = running
                running.add_done_callback(lambda _: self._left.pop(what, None))

    def close(self) -> None:
        for running in self._left.values():
            running.cancel()  # nobody asks any more
        self._pool.shutdown(wait=False, cancel_futures=True)
