"""An event loop whose clock goes by itself: when there is nothing to do until a timer, it is that time at once. What takes
hours takes no time, and takes the same each run. Nothing outside may be waited for: no sockets, no threads."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Hurried(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for something that no clock will bring")
        self.now += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._hurried = _Hurried()
        super().__init__(self._hurried)

    def time(self) -> float:
        # A hair more than was asked for, as real clocks do: a timer that is due must count as due.
        return self._hurried.now + 1e-6


def run(main: Coroutine[Any, Any, Any]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)
