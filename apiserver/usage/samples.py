"""The last two samples of each node that somebody asked about.

A node that was asked about lately has its earlier point still: then one fetch gives a rate over the time since, and a second
request within FRESH costs nothing. A node asked about for the first time is looked at twice, FIRST seconds apart. One that did
not answer is left alone for a while, so that a dead node makes one request wait, not all; the others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from apiserver.outward import Outward
from apiserver.relay import Trust
from apiserver.relay.kubelets import Kubelet
from apiserver.usage.points import Sample, parsed

FRESH: Final = 10.0  # seconds for which a pair of points is good enough
STALE: Final = 300.0  # seconds after which an earlier point says nothing about now
FIRST: Final = 1.5
FETCH_SECONDS: Final = 5.0
AGAIN: Final = 10.0  # seconds after which a node that did not answer is asked again

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    older: Sample | None = None
    newer: Sample | None = None
    fetched: float = -STALE
    failed: float = -AGAIN


Fetch = Callable[[Kubelet], Awaitable[str]]
Pair = tuple[Sample, Sample]


class Samples:
    """The last two samples of each node that somebody asked about."""

    def __init__(
        self,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wait = wait
        self._known: dict[str, _Known] = {}

    async def of(self, nodes: Mapping[str, Kubelet]) -> dict[str, Pair]:
        """By node; those that gave none are missing."""
        names = list(nodes)
        pairs = await asyncio.gather(*(self._pair(name, nodes[name]) for name in names))
        return {name: pair for name, pair in zip(names, pairs, strict=True) if pair is not None}

    def keep(self, nodes: Iterable[str]) -> None:
        """Forget all others."""
        wanted = set(nodes)
        self._known = {name: known for name, known in self._known.items() if name in wanted}

    async def _pair(self, name: str, kubelet: Kubelet) -> Pair | None:
        known = self._known.setdefault(name, _Known())
        async with known.lock:
            if self._clock() - known.failed < AGAIN:
                return None
            if not (known.older and known.newer and self._clock() - known.fetched < FRESH):
                if self._clock() - known.fetched >= STALE:
                    known.newer = None
                await self._look(known, kubelet)
                if known.older is None and known.newer is not None:
                    await self._wait(FIRST)
                    await self._look(known, kubelet)
            return (known.older, known.newer) if known.older and known.newer else None

    async def _look(self, known: _Known, kubelet: Kubelet) -> None:
        import aiohttp

        try:
            sample = parsed(await self._fetch(kubelet), time.time())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning("metrics of the kubelet at %s: %s", kubelet.authority, str(error) or type(error).__name__)
            known.older = known.newer = None
            known.failed = self._clock()
            return
        known.failed = -AGAIN
        if known.newer is None or sample.when > known.newer.when:
            known.older, known.newer = known.newer, sample
            known.fetched = self._clock()


def fetching(session: Outward, trust: Trust) -> Fetch:
    async def fetch(kubelet: Kubelet) -> str:
        import aiohttp

        url = f"https://{kubelet.authority}/metrics/resource"
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        headers = {"Accept-Encoding": "identity"}
        async with session.get(url, ssl=trust.verified, timeout=timeout, headers=headers) as response:
            response.raise_for_status()
            return await response.text()

    return fetch
