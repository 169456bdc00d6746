"""Times to live in etcd: leases, shared by keys that end at about the same time.

A lease a key would double the writes. As upstream does (apiserver/pkg/storage/etcd3/lease_manager.go), a lease is granted for a
little longer than asked (a minute, or a twentieth of the time) and given to up to a thousand keys while it still is long enough.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

REUSE_SECONDS: Final = 60.0
REUSE_FRACTION: Final = 0.05
MAX_KEYS: Final = 1000

Grant = Callable[[int], Awaitable[tuple[int, int]]]


class Leases:
    def __init__(self, grant: Grant, clock: Callable[[], float] = time.monotonic) -> None:
        self._grant = grant
        self._clock = clock
        self._lock = asyncio.Lock()
        self._id = 0
        self._ends = 0.0
        self._keys = 0

    async def lease(self, ttl: float) -> int:
        """A lease that lasts `ttl` seconds and little more."""
        extra = min(REUSE_SECONDS, ttl * REUSE_FRACTION)
        async with self._lock:
            left = self._ends - self._clock()
            if not (ttl <= left <= ttl + extra + 1 and self._keys < MAX_KEYS):  # etcd grants whole seconds
                began = self._clock()
                self._id, granted = await self._grant(max(1, math.ceil(ttl + extra)))
                self._ends, self._keys = began + granted, 0
            self._keys += 1
            return self._id

    def forget(self) -> None:
        """The lease is not to be used any more: etcd does not know it."""
        self._ends = 0.0
