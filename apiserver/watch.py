"""One watcher: what it is told, in which words, and what happens when it reads too slowly.

A watcher hangs on its resource's shelf. For each event the selector decides the word:

    matched before   matches now    told
    no               yes            ADDED     with the new object
    yes              yes            MODIFIED  with the new object
    yes              no             DELETED   with the old object at the new resource version

so that a client which applies what it is told always holds exactly what LIST would give it. A frame is rendered once an
event and shared by all watchers that see the object in the same view; the shelf offers an event only to the watchers of the
buckets it falls into (all, its namespace, its node, its name).

Frames are written to the client's connection when they are made; nothing of a live watch waits here. A watcher with too much
unread is ended, behind what it was told; the client watches again from the last version it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from apiserver import errors
from apiserver.cache import EVERYTHING, Bucket, Cache, Entry, Event, Frames
from apiserver.http.exchange import Outlet, framed

MAX_BYTES: Final = 4 << 20
SLICE: Final = 256 << 10
MATCHED_AT_ONCE: Final = 2000
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
    """`after`: what happened up to there it learns from `show` or `replay`."""

    __slots__ = ("_backlog", "_matches", "_outlet", "_size", "_tally", "_view", "_wake", "after", "ended", "told")

    def __init__(self, matches: Matches, view: FrameView, outlet: Outlet, after: int, tally: list[int]) -> None:
        self._matches = matches
        self._view = view
        self._outlet = outlet
        self._backlog: list[bytes] | None = []
        self._size = 0
        self._wake = asyncio.Event()
        self._tally = tally  # of its resource: frames and bytes told since the start
        self.after = after
        self.told = after  # what this one has been told of, while others wait for their turn
        self.ended = False

    def offer(self, event: Event, frames: Frames) -> None:
        if event.rv > self.after:
            self.told = event.rv
            if piece := self._piece(event, frames):
                self.put(piece)

    def _piece(self, event: Event, frames: Frames) -> bytes | None:
        """What this watcher is told of the event; rendered once for all who see it alike."""
        old, new = event.old, event.new
        was = old is not None and self._matches(old)
        now = new is not None and self._matches(new)
        if not was and not now:
            return None
        word, entry = ("MODIFIED" if was else "ADDED", new) if now else ("DELETED", old)
        assert entry is not None
        view = self._view
        if not view.shared:
            return framed(view.frame(word, entry if now else entry.at(event.rv)))
        piece = frames.get((word, view.name))
        if piece is None:
            piece = framed(view.frame(word, entry if now else entry.at(event.rv)))
            frames[word, view.name] = piece
        return piece

    def put(self, piece: bytes) -> None:
        if self.ended:
            return
        self._tally[0] += 1
        self._tally[1] += len(piece)
        if self._backlog is None:
            self._outlet.write(piece)
            if self._outlet.unsent > MAX_BYTES:
                self.end()
            return
        self._backlog.append(piece)
        self._size += len(piece)
        if self._size > MAX_BYTES:
            self._backlog = []
            self.end()

    async def show(self, entries: Iterable[Entry]) -> None:
        """Synthetic ADDED frames for what was there before the watch began, as fast as the client reads. What happens
        meanwhile waits in the backlog."""
        frames: list[bytes] = []
        size = 0
        for seen, entry in enumerate(entries, 1):
            if self._matches(entry):
                frames.append(self._view.frame("ADDED", entry))
                size += len(frames[-1])
            if size > SLICE or seen % MATCHED_AT_ONCE == 0:
                await self._flush(frames)
                frames, size = [], 0
                if self.ended:
                    return
        await self._flush(frames)

    async def replay(self, events: Iterable[Event]) -> None:
        """What happened before the watch began, likewise."""
        size = 0
        for seen, event in enumerate(events, 1):
            if piece := self._piece(event, {}):
                self._outlet.write(piece)
                size += len(piece)
            if size > SLICE or seen % MATCHED_AT_ONCE == 0:
                await self._flush([])
                size = 0

    async def _flush(self, frames: list[bytes]) -> None:
        if frames:
            self._outlet.write(framed(b"".join(frames)))
        await self._outlet.drained()
        await asyncio.sleep(0)

    def live(self) -> None:
        """The beginning is told; from here on an event is written when it happens."""
        backlog, self._backlog = self._backlog or (), None
        if backlog and not self.ended:
            self._outlet.write(b"".join(backlog))

    def end(self) -> None:
        self.ended = True
        self._wake.set()

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
        self.sent: dict[str, list[int]] = {}
        self.closing = False

    def close(self) -> None:
        self.closing = True
        for watcher in self.open:
            watcher.end()

    async def follow(
        self,
        prefix: str,
        start: Start,
        matches: Matches,
        view: FrameView,
        outlet: Outlet,
        *,
        seconds: float,
        bookmarks: bool,
    ) -> None:
        """Tells the client until the time is up, it reads too slowly or the server ends."""
        shelf = self.cache.shelf(prefix)
        end = asyncio.get_running_loop().time() + seconds
        # Nothing awaits between joining the subscribers and knowing what was before: no event is missed or told twice.
        events = None if start.rv is None else shelf.since(start.rv)
        if start.rv is not None and events is None:
            outlet.write(framed(view.error(errors.too_old_resource_version(start.rv, shelf.floor).to_dict())))
            return
        entries = list(start.entries()) if start.rv is None else []
        watcher = Watcher(matches, view, outlet, self.cache.rv, self.sent.setdefault(prefix, [0, 0]))
        self.open[watcher] = prefix
        try:
            with shelf.subscribed(watcher.offer, start.bucket):
                await watcher.replay(events or ())
                await watcher.show(entries)
                watcher.live()
                if start.initial_events_end:
                    watcher.put(framed(view.bookmark(self._promised(watcher.told), initial_events_end=True)))
                if not self.closing:
                    await self._lasting(watcher, view, end, bookmarks)
        finally:
            watcher.ended = True
            del self.open[watcher]

    def _promised(self, rv: int) -> int:
        """The newest version that every watcher from `rv` on has been told of, or does not need to be."""
        return max(rv, self.cache.told)

    async def _lasting(self, watcher: Watcher, view: FrameView, end: float, bookmarks: bool) -> None:
        clock = asyncio.get_running_loop().time
        times = _bookmark_times(clock(), end, self._bookmark_every) if bookmarks else iter(())
        bookmark = next(times, end)
        while not watcher.ended and clock() < end:
            if clock() >= bookmark:
                # An answer may precede its event, a bookmark never may.
                watcher.put(framed(view.bookmark(self._promised(watcher.told), initial_events_end=False)))
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
