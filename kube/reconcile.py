"""The one loop.

An event says only *that* something changed. A pass rereads everything it needs and computes the whole wish again; what
failed is another pass, later. So nothing is lost when events are, and a restart is just the first pass.

`forever` serves rooms whose unit is the whole node (proxy, overlay): one wake, one pass. `by_key` serves rooms whose unit
is an object (pods, controllers): a key is handled by one pass at a time, and a key that is added while its pass runs gets
exactly one more. Nobody else in this code base writes a `while True` around a sync.

A pass returns the seconds after which it wants to be run again in any case, or None. It may raise:
`Retry`, `ApiError` or `OSError` (the world refused: backed off), `Invalid` (logged; the pass counts as done, because the
pass itself has already told the object's author), or a group of nothing but these (a pass may use a TaskGroup). Anything
else is a bug and ends the daemon. A pass that must not end it for the sake of one key asks `foreseen` (the kubelet's does).
"""

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Never, TypeVar

from kube.errors import ApiError, Invalid, Retry

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait after the nth failure in a row: `first` doubled each time, at most `most`, +-`jitter` of itself."""

    first: float = 0.2
    most: float = 30.0
    jitter: float = 0.1

    def delay(self, failures: int) -> float:
        if failures <= 0:
            return 0.0
        plain = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        return plain * (1.0 + random.uniform(-self.jitter, self.jitter))


class Wake:
    """A flag that many may raise and one waits for; raised twice before it is seen is seen once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        """True when it was raised (and it is lowered then), False when `timeout` seconds passed first."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


@dataclass(frozen=True, slots=True)
class _Refusal:
    """`asked`: seconds the refusing side wants us to wait, 0 if it did not say. `author`: only the object's author is wrong.
    `race`: somebody else wrote first (409), the ordinary way of two writers and not worth a warning."""

    words: str
    asked: float = 0.0
    author: bool = False
    race: bool = False


def _refusal(error: BaseException) -> _Refusal | None:
    """What was refused, or None when `error` is a bug."""
    match error:
        case ApiError():
            return _Refusal(str(error), error.retry_after, race=error.status == 409)
        case Invalid():
            return _Refusal(str(error), author=True)
        case Retry() | OSError():
            return _Refusal(str(error) or type(error).__name__)
        case BaseExceptionGroup():
            parts = [_refusal(one) for one in error.exceptions]
            found = [one for one in parts if one is not None]
            if len(found) < len(parts):
                return None
            return _Refusal(
                "; ".join(dict.fromkeys(one.words for one in found)),
                max(one.asked for one in found),
                all(one.author for one in found),
                all(one.race for one in found),
            )
        case _:
            return None


def foreseen(error: BaseException) -> bool:
    """Whether it is one of the failures that a pass may raise, and no bug."""
    return _refusal(error) is not None


class Pace:
    """How soon after a pass the next may begin: a bucket of seconds of work.

    Passes take out the time they last; `share` of each second flows back in, up to `room`. While something is in it a pass
    may begin at once, so a quiet system answers the first change and the ones right after it without a delay, and cheap
    passes never wait. When it is empty the passes last more than their share of the time: the next waits until the bucket
    has recovered, at most `most` seconds, and takes all that has come in meanwhile. One pass out of a quiet time only empties
    the bucket, however long it was: after a start or a repair, the next change goes at once. Seconds throughout.
    """

    def __init__(
        self, most: float, *, share: float = 0.2, room: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._share, self._room, self._clock = most, share, room, clock
        self._left = room
        self._filled = clock()

    def worked(self, seconds: float) -> float:
        """A pass of that length has ended: how long the next one waits."""
        now = self._clock()
        quiet = max(0.0, now - self._filled - seconds)
        found = min(self._room, self._left + quiet * self._share)
        left = found - seconds * (1.0 - self._share)  # the share of its own time is its own
        self._left = max(left, 0.0) if found > self._room / 2 else left
        self._filled = now
        if self._left >= 0.0:
            return 0.0
        pause = min(self._most, -self._left / self._share)
        self._left = max(self._left, -self._most * self._share)  # a very long pass is not held against the later ones
        return pause


async def forever(
    sync: Callable[[], Awaitable[float | None]],
    wake: Wake,
    *,
    resync: float,
    min_interval: float = 0.0,
    pace: Pace | None = None,
    backoff: Backoff = Backoff(),
    name: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Never:
    """Run `sync` now, then whenever `wake` is raised, at least every `resync` seconds, never within `min_interval` of its
    last end (with a `pace`: when that allows), and after a failure when its back-off has passed (a wake does not shorten a
    back-off)."""
    failures = 0
    while True:
        wanted: float | None = None
        begun = clock()
        try:
            wanted = await sync()
            failures = 0
        except Exception as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            if refusal.author:
                failures = 0
                log.error("%s: %s", name or "sync", refusal.words)
            else:
                failures += 1
                pause = max(refusal.asked, backoff.delay(failures), min_interval)
                log.warning("%s: %s; again in %.1f s", name or "sync", refusal.words, pause)
                await asyncio.sleep(pause)
                continue
        pause = min_interval if pace is None else pace.worked(clock() - begun)
        await asyncio.sleep(pause)  # also 0: a pass that wakes itself must not keep the loop for itself
        await wake.wait(timeout=resync if wanted is None else min(resync, max(0.0, wanted - pause)))


@dataclass(slots=True)
class Keys(Generic[K]):
    """The keys whose objects may have changed, each at most once, some of them not before a moment."""

    _due: list[tuple[float, int, K]] = field(default_factory=list)
    _when: dict[K, float] = field(default_factory=dict)
    _busy: set[K] = field(default_factory=set)
    _wake: Wake = field(default_factory=Wake)
    _count: int = 0

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a pass over `key`, not before `after` seconds from now; an earlier request wins over a later one."""
        when = time.monotonic() + max(0.0, after)
        if key in self._when and self._when[key] <= when:
            return
        self._when[key] = when
        self._count += 1
        heapq.heappush(self._due, (when, self._count, key))
        self._wake.set()

    def __len__(self) -> int:
        return len(self._when) + len(self._busy)

    def pending(self) -> int:
        """How many keys wait for a pass that is due by now."""
        now = time.monotonic()
        return sum(1 for when in self._when.values() if when <= now)

    async def take(self) -> K:
        """The next key that is due and not being worked on; the caller calls `done` for it. For one caller at a time."""
        while True:
            now = time.monotonic()
            held: list[tuple[float, int, K]] = []
            found: K | None = None
            timeout: float | None = None
            while self._due:
                when, count, key = self._due[0]
                if self._when.get(key) != when:
                    heapq.heappop(self._due)
                    continue
                if when > now:
                    timeout = when - now
                    break
                heapq.heappop(self._due)
                if key in self._busy:
                    held.append((when, count, key))
                    continue
                found = key
                break
            for entry in held:
                heapq.heappush(self._due, entry)
            if found is not None:
                del self._when[found]
                self._busy.add(found)
                return found
            await self._wake.wait(timeout=timeout)

    def done(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._when:
            self._wake.set()


async def by_key(
    sync: Callable[[K], Awaitable[float | None]],
    keys: Keys[K],
    *,
    workers: int = 4,
    backoff: Backoff = Backoff(first=0.1, most=30.0),
    name: str = "",
) -> None:
    """Run `sync(key)` for every key added to `keys`, `workers` at a time, the same key never twice at once; a failed key
    comes again when its own back-off has passed, or at once when somebody adds it: something has changed since it failed.
    Runs until cancelled."""
    failures: dict[K, int] = {}
    room = asyncio.Semaphore(workers)

    async def work(key: K) -> None:
        try:
            wanted = await sync(key)
            failures.pop(key, None)
            if wanted is not None:
                keys.add(key, after=wanted)
        except Exception as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            if refusal.author:
                failures.pop(key, None)
                log.error("%s %s: %s", name or "sync", key, refusal.words)
            else:
                failures[key] = failures.get(key, 0) + 1
                pause = max(refusal.asked, backoff.delay(failures[key]))
                level = logging.DEBUG if refusal.race else logging.WARNING
                log.log(level, "%s %s: %s; again in %.1f s", name or "sync", key, refusal.words, pause)
                keys.add(key, after=pause)
        finally:
            keys.done(key)
            room.release()

    # One takes for all: a hundred idle workers that wait for the same flag would all wake for each key.
    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()
            group.create_task(work(await keys.take()))
            await asyncio.sleep(0)  # keys that are always due must not keep the loop for themselves
