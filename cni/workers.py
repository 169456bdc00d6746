"""Threads that work calls off: as many as are wanted, up to a limit that hung ones do not fill.

Sixteen calls at a time keep two or sixteen processors busy; more only wait for each other. A call that is not done after
`SLOW` waits for something outside (a delegated program, a lock, a disk), so it no longer counts, up to `MOST` threads in all.
"""

from __future__ import annotations

import queue
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
        self._waiting: Final[queue.SimpleQueue[Call]] = queue.SimpleQueue()
        self._lock: Final = threading.Lock()  # guards what follows
        self._running: Final[set[Call]] = set()
        self._open = 0  # calls given and not done
        self._threads = 0
        self._idle = 0
        threading.stack_size(_STACK)

    def give(self, call: Call) -> None:
        with self._lock:
            self._open += 1
            self._waiting.put(call)
            if self._idle:
                self._idle -= 1
            else:
                self._reinforce()

    def running(self) -> list[Call]:
        """Those under way; and a thread for one that waits, where hung ones are in its way."""
        with self._lock:
            if not self._waiting.empty() and not self._idle:
                self._reinforce()
            return list(self._running)

    @property
    def quiet(self) -> bool:
        return not self._open

    def _reinforce(self) -> None:
        old = time.monotonic() - SLOW
        # Threads that have not taken their first call yet are as busy as the others.
        if self._threads < min(self._most, self._limit + sum(call.begun < old for call in self._running)):
            self._threads += 1
            threading.Thread(target=self._live, name=f"cni-{self._threads}", daemon=True).start()

    def _live(self) -> None:
        try:
            while True:
                call = self._next()
                try:
                    self._work(call)
                finally:
                    with self._lock:
                        self._running.discard(call)
                        self._open -= 1
        finally:  # by a bug, whose traceback is on stderr: others go on
            with self._lock:
                self._threads -= 1

    def _next(self) -> Call:
        with self._lock:
            call = None if self._waiting.empty() else self._waiting.get_nowait()
            if call is None:
                self._idle += 1
            else:
                self._running.add(call)
        if call is None:
            call = self._waiting.get()
            with self._lock:
                self._running.add(call)
        call.begun = time.monotonic()
        return call
