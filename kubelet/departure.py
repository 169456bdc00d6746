"""Word that a pod is to go, for those who are busy with what only makes sense for a pod that stays.

Pulling an image or running a postStart hook may take for ever; a pod that is deleted meanwhile must not wait for it. What
the runtime was asked to create or start is never cut short: it might come to life after everybody has looked away.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Departed(Exception):
    """The pod was deleted while it was being worked for."""


class Departure:
    def __init__(self) -> None:
        self._come = False
        self._limits: set[asyncio.Timeout] = set()

    def set(self) -> None:
        self._come = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def cuts(self) -> AsyncIterator[None]:
        """The body is cancelled, and Departed raised, once the pod is to go."""
        if self._come:
            raise Departed
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if limit.expired():
                raise Departed from None
            raise
