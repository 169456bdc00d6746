"""Flow control: a turn for everybody, so that one hot client starves nobody.

All requests share one event loop, so what is scarce is its time, and what a busy client takes is the queue of work on it.
A request therefore runs only when it has a turn. There are `TURNS` of them for reading and as many for writing, enough to
keep the loop and the store's group commit busy; a LIST of many objects takes several. When all are taken, requests wait in
a queue per user, and a turn that becomes free goes to the user who has been served least (start-time fair queueing, as in
upstream's API priority and fairness). Who has less than `SPARE` requests running never waits for others' turns.

--max-requests-inflight and --max-mutating-requests-inflight bound what is here at all, running or waiting. When that is
reached, the youngest waiting request of the user with the longest queue is refused, not the one that happens to come next:
429, Retry-After 1. Nobody waits longer than `PATIENCE`.

Exempt, as upstream: system:masters, health checks, and what is meant to last (watches, logs, exec, port-forward, proxies).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from apiserver import errors
from apiserver.authentication import MASTERS
from apiserver.authorization import Attributes
from apiserver.cache import Cache
from apiserver.registry import Registry
from kube.errors import UsageError

TURNS: Final = 32
SPARE: Final = 2
PATIENCE: Final = 15.0
KNOWN: Final = 256
WIDEST: Final = 10
OBJECTS_A_TURN: Final = 500
_READING: Final = frozenset({"get", "list", "watch", "head"})
_LASTING: Final = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
REFUSED: Final = "Too many requests, please try again later."


@dataclass(slots=True, eq=False)
class Queue:
    """One user's: `served` is how much it has had, in turns, on the common scale; `standing`: it is in the line."""

    user: str
    running: int = 0
    served: float = 0.0
    standing: bool = False
    waiting: deque[Turn] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Turn:
    """A request's. When it does not run at once, `wait`; in any case, `leave`."""

    level: Level
    queue: Queue
    width: int
    running: bool = False
    start: asyncio.Future[None] | None = None
    since: float = 0.0

    async def wait(self) -> None:
        """Raises 429."""
        if self.start is not None:
            await self.start

    def leave(self) -> None:
        self.level.leave(self)


@dataclass(slots=True, eq=False)
class Level:
    """Reading, or writing. `limit` 0: none. The figures are for the metrics."""

    name: str
    limit: int
    turns: int = TURNS
    patience: float = PATIENCE
    taken: int = 0
    running: int = 0
    waiting: int = 0
    dispatched: int = 0
    waited: list[float] = field(default_factory=lambda: [0.0, 0.0])  # seconds, requests
    rejected: dict[str, int] = field(default_factory=lambda: {"queue-full": 0, "time-out": 0})
    _queues: dict[str, Queue] = field(default_factory=dict)
    _line: list[tuple[float, int, Queue]] = field(default_factory=list)
    _served: float = 0.0
    _ticket: int = 0
    _sweep: asyncio.TimerHandle | None = None

    def enter(self, user: str, width: int) -> Turn:
        """Raises 429."""
        queue = self._queues.get(user)
        if queue is None:
            queue = self._queues[user] = Queue(user)
        if self.limit and self.running + self.waiting >= self.limit:
            self._make_room(queue)
        turn = Turn(self, queue, width)
        if queue.running < SPARE or (not queue.waiting and self.taken + width <= self.turns):
            self._run(turn)
        else:
            loop = asyncio.get_running_loop()
            turn.start, turn.since = loop.create_future(), loop.time()
            queue.waiting.append(turn)
            self.waiting += 1
            self._stand(queue)
            if self._sweep is None:
                self._sweep = loop.call_later(self.patience, self._refuse_the_old, loop)
        return turn

    def leave(self, turn: Turn) -> None:
        queue = turn.queue
        if turn.running:
            self.taken -= turn.width
            self.running -= 1
            queue.running -= 1
            if self.waiting:
                self._next()
        elif turn in queue.waiting:
            queue.waiting.remove(turn)
            self.waiting -= 1
        self._forget(queue)

    def users(self) -> int:
        """How many have something here."""
        return sum(1 for queue in self._queues.values() if queue.running or queue.waiting)

    def _run(self, turn: Turn) -> None:
        turn.running = True
        queue = turn.queue
        self.taken += turn.width
        self.running += 1
        self.dispatched += 1
        queue.running += 1
        queue.served = max(queue.served, self._served) + turn.width

    def _stand(self, queue: Queue) -> None:
        if not queue.standing:
            queue.standing = True
            self._ticket += 1
            heapq.heappush(self._line, (max(queue.served, self._served), self._ticket, queue))

    def _next(self) -> None:
        """Starts who has been served least, as many as there are turns for."""
        while self._line:
            served, _, queue = self._line[0]
            while queue.waiting and queue.waiting[0].start.done():  # type: ignore[union-attr]
                queue.waiting.popleft()  # its client is gone, and it is about to notice
                self.waiting -= 1
            if queue.waiting and self.taken and self.taken + queue.waiting[0].width > self.turns:
                return
            heapq.heappop(self._line)
            queue.standing = False
            if not queue.waiting:
                continue
            turn = queue.waiting.popleft()
            self.waiting -= 1
            self._served = served
            self._run(turn)
            if queue.waiting:
                self._stand(queue)
            self._tell(turn, None)

    def _tell(self, turn: Turn, refused: errors.StatusError | None) -> None:
        """The one that waits: it runs, or is refused."""
        start = turn.start
        if start is None or start.done():
            return
        self.waited[0] += start.get_loop().time() - turn.since
        self.waited[1] += 1
        if refused is None:
            start.set_result(None)
        else:
            start.set_exception(refused)

    def _refuse_the_old(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whoever has waited too long; looks again when the next one will have. One timer, not one a request."""
        first = loop.time()
        for queue in self._queues.values():
            while queue.waiting and queue.waiting[0].since + self.patience <= loop.time():
                self.waiting -= 1
                self.rejected["time-out"] += 1
                self._tell(queue.waiting.popleft(), errors.too_many_requests(REFUSED))
            if queue.waiting:
                first = min(first, queue.waiting[0].since)
        again = first + self.patience
        self._sweep = loop.call_at(again, self._refuse_the_old, loop) if self.waiting else None

    def _make_room(self, newcomer: Queue) -> None:
        """Refuses the youngest of the longest queue; when that is the newcomer's own, or nobody waits, the newcomer."""
        self.rejected["queue-full"] += 1
        refused = errors.too_many_requests(REFUSED)
        longest = max(self._queues.values(), key=lambda queue: len(queue.waiting))
        if len(longest.waiting) <= len(newcomer.waiting) + 1:
            self._forget(newcomer)
            raise refused
        self.waiting -= 1
        self._tell(longest.waiting.pop(), refused)

    def _forget(self, queue: Queue) -> None:
        """Of many users, those who have nothing here; they come back as if served as much as everybody."""
        if len(self._queues) > KNOWN and not queue.running and not queue.waiting:
            self._queues.pop(queue.user, None)


@dataclass(frozen=True, slots=True)
class Flow:
    """`size`: how many objects a LIST would go through."""

    reading: Level
    writing: Level
    size: Callable[[Attributes], int]

    def enter(self, asked: Attributes) -> Turn | None:
        """None for what is exempt. Raises 429."""
        user = asked.user
        if MASTERS in user.groups or asked.verb == "watch" or asked.subresource in _LASTING:
            return None
        if asked.verb not in _READING:
            return self.writing.enter(user.name, 1)
        if not asked.resource and asked.path.startswith(_HEALTH):
            return None
        width = 1
        if asked.verb == "list":
            width = min(WIDEST, 1 + self.size(asked) // OBJECTS_A_TURN)
        return self.reading.enter(user.name, width)


def flow(reading: int, writing: int, size: Callable[[Attributes], int]) -> Flow:
    """The limits of the two flags; 0 is none. Raises UsageError."""
    for flag, limit in (("--max-requests-inflight", reading), ("--max-mutating-requests-inflight", writing)):
        if limit < 0:
            raise UsageError(f"{flag}: {limit} is negative; give a number of requests, or 0 for no limit")
    return Flow(Level("readOnly", reading), Level("mutating", writing), size)


def sizing(cache: Cache, registry: Registry) -> Callable[[Attributes], int]:
    """How many objects a LIST goes through, as far as that is known beforehand: all of the resource."""

    def size(asked: Attributes) -> int:
        resource = None if asked.name else registry.find(asked.group, asked.version, asked.resource)
        return len(cache.shelf(resource.prefix)) if resource else 1

    return size
