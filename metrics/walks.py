"""How much is in a directory tree: counted now and then in a thread of its own, never while somebody waits.

`counted` says what the last walk found and when that was, and asks for another where that is long ago. A walk ends at a
bound of inodes or of time, and is then not `whole`. Whatever the period, walks take no more than a fiftieth of a core: the
next one of a tree that took long is as much later. What nobody asks about any more is forgotten, and the thread sleeps.
"""

import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from metrics.model import Counted

_INODES: Final = 1_000_000
_SECONDS: Final = 60.0
_SHARE: Final = 50
_FORGET: Final = 5  # periods


@dataclass(slots=True)
class _Known:
    asked: float
    due: float = 0.0
    queued: bool = False
    last: Counted | None = None


class Walks:
    """`period` in seconds between two walks of a tree."""

    def __init__(
        self,
        period: float = 60.0,
        *,
        inodes: int = _INODES,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period = period
        self._bounds = (inodes, seconds)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def counted(self, path: str) -> Counted | None:
        """None until the first walk is over. Does not block."""
        now = self._clock()
        with self._lock:
            known = self._known.setdefault(path, _Known(now))
            known.asked = now
            if now >= known.due and not known.queued:
                known.queued = True
                self._queue.put(path)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._walk, name="metrics-walks", daemon=True)
                    self._thread.start()
            return known.last

    def close(self) -> None:
        """Ends the thread after the walk it is on."""
        with self._lock:
            if self._thread is not None:
                self._queue.put(None)
            self._thread = None

    def _walk(self) -> None:
        while (path := self._queue.get()) is not None:
            started = self._clock()
            found = count(path, *self._bounds)
            over = self._clock()
            with self._lock:
                forgotten = [
                    each for each, known in self._known.items() if over - known.asked > _FORGET * self._period + 60
                ]
                for each in forgotten:
                    del self._known[each]
                if known := self._known.get(path):
                    known.last, known.queued = found, False
                    known.due = over + max(self._period, _SHARE * (over - started))


def count(path: str, inodes: int = _INODES, seconds: float = _SECONDS) -> Counted | None:
    """Bytes and inodes below a directory on its own filesystem, as du counts them. None where there is no such directory."""
    try:
        top = os.lstat(path)
    except OSError:
        return None
    deadline = time.monotonic() + seconds
    size, number, linked, whole = top.st_blocks * 512, 1, {top.st_ino}, True
    pending = [path]
    while pending:
        if number >= inodes or time.monotonic() >= deadline:
            whole = False
            break
        try:
            entries = os.scandir(pending.pop())
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            whole = False
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # removed meanwhile; the rest of its directory is there
                if status.st_dev != top.st_dev or status.st_ino in linked:
                    continue
                folder = stat.S_ISDIR(status.st_mode)
                if status.st_nlink > 1 and not folder:
                    linked.add(status.st_ino)  # counted under its first name
                number += 1
                size += status.st_blocks * 512
                if folder:
                    pending.append(entry.path)
    device = f"{os.major(top.st_dev)}:{os.minor(top.st_dev)}"
    return Counted(size, number, time.time(), whole, device)
