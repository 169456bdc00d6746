"""One watcher: what it is told, in which words, and what happens when it reads too slowly.

A watcher hangs on its resource's shelf. For each event the selector decides the word:

    matched before   matches now    told
    no               yes            ADDED     with the new object
    yes              yes            MODIFIED  with the new object
    yes              no             DELETED   with the old object at the new resource version

so that a client which applies what it is told always holds exactly what LIST would give it. A frame is rendered once an
event and shared by all watchers that see the object in the same view; the shelf offers an event only to the watchers of the
buckets it falls into (all, its namespace, its node, its name).

A watcher whose unread frames pass the limit is closed; the client watches again from the last version it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from apiserver import errors
from apiserver.cache import EVERYTHING, Bucket, Cache, Entry, Event, Frames, Shelf

MAX_BYTES: Final = 4 << 20
BOOKMARK_EVERY: Final = 60.0
BOOKMARK_BEFORE_END: Final = 2.0
Matches = Callable[[Entry], bool]


class FrameView(Protocol):
    """How a watcher sees objects; `name` keys the frames that watchers share when they may."""

    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> bool: ...

    def frame(self, word: str, entry: Entry) -> bytes: ...

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes: ...

    def error(self, status: dict[str, Any]) -> bytes: ...


class Watcher:
    def __init__(self, matches: Matches, view: FrameView) -> None:
        self._matches = matches
        self._view = view
        self._frames: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self.ended = False

    def offer(self, event: Event, frames: Frames) -> None:
        was = event.old is not None and self._matches(event.old)
        now = event.new is not None and self._matches(event.new)
        match was, now:
            case False, True:
                self._tell("ADDED", event, event.new, frames)
            case True, True:
                self._tell("MODIFIED", event, event.new, frames)
            case True, False:
                self._tell("DELETED", event, event.old, frames)
            case _:
                pass

    def _tell(self, word: str, event: Event, entry: Entry | None, frames: Frames) -> None:
        assert entry is not None
        if not self._view.shared:
            self.put(self._view.frame(word, entry if word != "DELETED" else entry.at(event.rv)))
            return
        key = (word, self._view.name)
        frame = frames.get(key)
        if frame is None:
            frame = self._view.frame(word, entry if word != "DELETED" else entry.at(event.rv))
            frames[key] = frame
        self.put(frame)

    def show(self, entries: Iterable[Entry]) -> None:
        """Synthetic ADDED frames for what was there before the watch began; they do not count against the limit."""
        self._frames += [self._view.frame("ADDED", entry) for entry in entries if self._matches(entry)]
        self._wake.set()

    def put(self, frame: bytes) -> None:
        if self.ended:
            return
        self._frames.append(frame)
        self._size += len(frame)
        if self._size > MAX_BYTES:
            self._frames.clear()
            self.end()
        self._wake.set()

    def end(self) -> None:
        self.ended = True
        self._wake.set()

    def take(self) -> bytes:
        frames, self._frames, self._size = self._frames, [], 0
        self._wake.clear()
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()


@dataclass(frozen=True, slots=True)
class Start:
    """Where a watch begins: with everything there is (`rv` None) or with the events after `rv`."""

    rv: int | None
    entries: Callable[[], Iterable[Entry]]
    bucket: Bucket = EVERYTHING
    initial_events_end: bool = False


class Watches:
    """Every open watch of the server, so that shutting down can end them with a clean last chunk."""

    def __init__(self, cache: Cache, *, bookmark_every: float = BOOKMARK_EVERY) -> None:
        self.cache = cache
        self._bookmark_every = bookmark_every
        self.open: dict[Watcher, str] = {}
        self.closing = False

    def close(self) -> None:
        self.closing = True
        for watcher in self.open:
            watcher.end()

    async def follow(
        self, prefix: str, start: Start, matches: Matches, view: FrameView, *, seconds: float, bookmarks: bool
    ) -> AsyncIterator[bytes]:
        """Chunks for the client until the time is up, it reads too slowly or the server ends."""
        shelf = self.cache.shelf(prefix)
        watcher = Watcher(matches, view)
        self.open[watcher] = prefix
        try:
            with shelf.watched(watcher.offer, start.bucket):
                if not self._begin(shelf, start, watcher, view):
                    yield view.error(errors.too_old_resource_version(start.rv or 0, shelf.floor).to_dict())
                    return
                async for chunk in self._chunks(watcher, view, seconds, bookmarks):
                    yield chunk
        finally:
            del self.open[watcher]

    def _begin(self, shelf: Shelf, start: Start, watcher: Watcher, view: FrameView) -> bool:
        """Nothing awaits between joining the shelf's watchers and this: no event is missed or told twice."""
        if start.rv is None:
            watcher.show(start.entries())
        else:
            events = shelf.since(start.rv)
            if events is None:
                return False
            for event in events:
                watcher.offer(event, {})
        if start.initial_events_end:
            watcher.put(view.bookmark(self.cache.rv, initial_events_end=True))
        return True

    async def _chunks(self, watcher: Watcher, view: FrameView, seconds: float, bookmarks: bool) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        times = _bookmark_times(clock(), end, self._bookmark_every) if bookmarks else iter(())
        bookmark = next(times, end)
        while True:
            if chunk := watcher.take():
                yield chunk
            if self.closing or watcher.ended or clock() >= end:
                return
            if clock() >= bookmark:
                # Every event up to the cache's version is in the queue already, so it may be promised.
                watcher.put(view.bookmark(self.cache.rv, initial_events_end=False))
                bookmark = next(times, end)
                continue
            await watcher.wait(min(end, bookmark) - clock())


def _bookmark_times(now: float, end: float, every: float) -> Iterator[float]:
    """About once a minute, and shortly before the end."""
    moment = now
    while (moment := moment + every * random.uniform(0.9, 1.1)) < end - BOOKMARK_BEFORE_END:
        yield moment
    if end - BOOKMARK_BEFORE_END > now:
        yield end - BOOKMARK_BEFORE_END
