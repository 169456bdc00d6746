"""Another program that insists on what we mend: two who are both quick would keep each other busy for ever.

What has been mended many times in a row, each time at once, is mended once in some seconds from then on, until the other one has
been quiet for a moment. All else goes on as ever. Pure; times are seconds of any clock.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from overlay import drift
from overlay.model import ROUTE_PROTOCOL, Action, CreateDevice, DeleteLink, DropRoute, PutRoute, Route

PAUSE: Final = 5.0
_MANY: Final = 20
"""Ten passes a second are the most there are, so two seconds of it."""
_QUIET: Final = 2.0


class Rivals:
    def __init__(self) -> None:
        self._mends: dict[str, tuple[int, float]] = {}
        """By a step's words how often it was needed in a row, and when it was last."""

    def sift(self, steps: Sequence[Action], now: float) -> tuple[list[Action], list[Action]]:
        """The steps to take now, and those that wait."""
        waiting = [step for step in steps if self._waits(step, now)]
        if any(isinstance(step, CreateDevice | DeleteLink) for step in waiting):
            return [], list(steps)  # the others hang on the device
        held = set(map(id, waiting))
        return [step for step in steps if id(step) not in held], waiting

    def note(self, mended: Iterable[Action], now: float, there: Iterable[Route] = ()) -> list[str]:
        """What was mended just now; in words, what is mended less often from now on, and by which of the routes that were
        `there`."""
        told = []
        for step in {drift.words(step): step for step in mended}.values():
            words = drift.words(step)
            count, last = self._mends.get(words, (0, now))
            count = count + 1 if now - last <= self._patience(count) else 1
            self._mends[words] = count, now
            if count == _MANY:
                told.append(
                    f"another program undoes this again and again, so it is mended once in {PAUSE:g} s from now on: {words}"
                    + _whose(step, there)
                )
        self._mends = {
            words: (count, last) for words, (count, last) in self._mends.items() if now - last <= self._patience(count)
        }
        return told

    def _waits(self, step: Action, now: float) -> bool:
        if not self._mends:
            return False
        count, last = self._mends.get(drift.words(step), (0, now))
        return count >= _MANY and now - last < PAUSE

    @staticmethod
    def _patience(count: int) -> float:
        """Seconds after which the next time is not in a row with the last."""
        return _QUIET + (PAUSE if count >= _MANY else 0.0)


def _whose(step: Action, there: Iterable[Route]) -> str:
    if not isinstance(step, PutRoute | DropRoute):
        return ""
    ours = step.route.destination
    others = sorted({one.protocol for one in there if one.destination == ours and one.protocol != ROUTE_PROTOCOL})
    named = (f"protocol {other} (`ip -{ours.version} route show proto {other}`)" for other in others)
    return f"; the other's route has {', '.join(named)}" if others else ""
