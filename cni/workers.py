"""Threads that work calls off: as many as are wanted, up to a limit that hung ones do not fill.

Sixteen calls at a time keep two or sixteen processors busy; more only wait for each other. A call that is not done after
`SLOW` waits for something outside (a delegated program, a lock, a disk), so it no longer counts, up to `MOST` threads in all.
"""

from __future__ import annotations

import collections
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from cni.agent import Call

SLOW = 2.0  # seconds
_STACK = 512 * 1024  # bytes of a thread's stack: the plugins do not recurse


class Workers:
    def __init__(self, work: Callable[[Call], None], limit: int = 16, most: int = 256) -> None:
        self._work: Final = work
        self._limit: Final = limit
        self._most: Final = most
        self._changed: Final = threading.Condition()  # guards what follows
        self._waiting: Final[collections.deque[Call]] = collections.deque()
        self._running: Final[set[Call]] = set()
        self._threads = 0
        self._coming = 0  # threads that wait for a call, or have been started and not looked yet
        threading.stack_size(_STACK)

    def give(self, call: Call) -> None:
        with self._changed:
            self._waiting.append(call)
            self._changed.notify()
            self._reinforce()

    def running(self) -> list[Call]:
        """Those under way; and a thread for one that waits, where hung ones are in its way."""
        with self._changed:
            self._reinforce()
            return list(self._running)

    @property
    def quiet(self) -> bool:
        with self._changed:
            return not self._running and not self._waiting

    @property
    def threads(self) -> int:
        return self._threads

    def _reinforce(self) -> None:
        old = time.monotonic() - SLOW
        room = min(self._most, self._limit + sum(call.begun < old for call in self._running))
        if len(self._waiting) > self._coming and self._threads < room:
            self._threads += 1
            self._coming += 1
            threading.Thread(target=self._live, name=f"cni-{self._threads}", daemon=True).start()

    def _live(self) -> None:
        coming = True
        try:
            while True:
                with self._changed:
                    while not self._waiting:
                        self._changed.wait()
                    call = self._waiting.popleft()
                    call.begun = time.monotonic()
                    self._running.add(call)
                    self._coming -= 1
                    coming = False
                try:
                    self._work(call)
                finally:
                    with self._changed:
                        self._running.discard(call)
                        self._coming += 1
                        coming = True
        finally:  # by a bug, whose traceback is on stderr: others go on
            with self._changed:
                self._threads -= 1
                self._coming -= coming
                self._reinforce()
