"""How soon a pass may follow another: at once on a quiet system, coalesced on a busy one, never later than promised."""

from __future__ import annotations

import pytest

from kube.reconcile import Pace, Wake, forever


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Busy:
    """Passes of one length, asked for all the time; counts those of a span of seconds."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace, self._clock = pace, clock
        self.pauses: list[float] = []

    def run(self, seconds: float, length: float, idle: float = 0.0) -> int:
        end, passes = self._clock.now + seconds, 0
        while self._clock.now < end:
            self._clock.now += length
            self.pauses.append(self._pace.worked(length))
            self._clock.now += self.pauses[-1] + idle
            passes += 1
        return passes


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_change_and_the_second_right_after_it_go_out_at_once(clock: Clock) -> None:
    pace = Pace(1.0, clock=clock)
    for _ in range(5):
        clock.now += 0.03
        assert pace.worked(0.03) == 0.0


def test_cheap_passes_never_wait(clock: Clock) -> None:
    busy = Busy(Pace(1.0, clock=clock), clock)
    assert busy.run(60, length=0.001, idle=0.019) == 3000
    assert set(busy.pauses) == {0.0}


def test_a_burst_is_coalesced_into_its_share_of_the_time(clock: Clock) -> None:
    busy = Busy(Pace(1.0, clock=clock), clock)
    passes = busy.run(60, length=0.04)
    assert passes * 0.04 <= 0.2 * 60 + 0.6  # the share, what was in the bucket, and the pass that emptied it
    assert passes * 0.04 >= 0.2 * 60 - 0.1
    assert max(busy.pauses) <= 0.2 + 1e-9


def test_no_pause_is_longer_than_the_most(clock: Clock) -> None:
    busy = Busy(Pace(1.0, clock=clock), clock)
    busy.run(120, length=6.0)
    assert max(busy.pauses) == 1.0


def test_one_long_pass_out_of_a_quiet_time_delays_nothing(clock: Clock) -> None:
    """A start, a repair: the change right after it is a change on a quiet system."""
    pace = Pace(1.0, clock=clock)
    for _ in range(3):
        clock.now += 60 + 7
        assert pace.worked(7.0) == 0.0
        clock.now += 0.001
        assert pace.worked(0.001) <= 0.005


def test_a_second_long_pass_waits_but_is_not_held_against_those_that_come_later(clock: Clock) -> None:
    pace = Pace(1.0, clock=clock)
    clock.now += 6
    assert pace.worked(6.0) == 0.0
    clock.now += 6
    assert pace.worked(6.0) == 1.0
    clock.now += 1.0 + 0.06
    assert pace.worked(0.01) == 0.0


def test_it_recovers_in_a_quiet_time_and_never_saves_up_more_than_its_room(clock: Clock) -> None:
    pace = Pace(1.0, clock=clock)
    while pace.worked(0.12) == 0.0:
        pass
    clock.now += 3600
    passes = 0
    while pace.worked(0.12) == 0.0:
        passes += 1
    assert passes == 5  # half a second of work, of which a fifth is free


def test_without_a_pause_allowed_there_is_none(clock: Clock) -> None:
    pace = Pace(0.0, clock=clock)
    assert [pace.worked(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]


async def test_the_loop_keeps_the_pace(clock: Clock) -> None:
    """Passes of 0.6 s, all asked for at once: the first empties the bucket, the second waits for it."""
    waits: list[float] = []
    passes = 0

    class Told(Pace):
        def worked(self, seconds: float) -> float:
            waits.append(super().worked(seconds))
            clock.now += waits[-1]
            return 0.0  # waited for already, by this clock

    wake = Wake()

    async def sync() -> None:
        nonlocal passes
        passes += 1
        clock.now += 0.6
        if passes == 3:
            raise KeyError("enough")
        wake.set()

    with pytest.raises(KeyError):
        await forever(sync, wake, resync=60, pace=Told(1.0, clock=clock), clock=clock)
    assert waits == [0.0, 1.0]
