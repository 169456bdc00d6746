from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet import backoff
from kubelet.backoff import Entry

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def test_first_restart_is_immediate_then_ten_seconds_doubled_to_five_minutes() -> None:
    entry: Entry | None = None
    now, waits = EPOCH, []
    for _ in range(8):
        wait = backoff.remaining(entry, now, now)
        waits.append(wait)
        ended, now = now, now + timedelta(seconds=wait)
        entry = backoff.following(entry, ended, now)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_good_run_starts_over() -> None:
    entry = Entry(300, EPOCH)
    ended = EPOCH + timedelta(seconds=601)
    assert backoff.remaining(entry, ended, ended) == 0
    assert backoff.following(entry, ended, ended).delay == 10
    ended = EPOCH + timedelta(seconds=599)
    assert backoff.remaining(entry, ended, ended) == 300


def test_the_configured_cap_caps_the_first_delay_too() -> None:
    assert backoff.following(None, EPOCH, EPOCH, cap=5).delay == 5


@given(st.lists(st.floats(0, 2000), max_size=20))
def test_delays_stay_between_the_first_and_the_cap(runs: list[float]) -> None:
    entry: Entry | None = None
    now = EPOCH
    for run in runs:
        now += timedelta(seconds=run)
        wait = backoff.remaining(entry, now, now)
        assert 0 <= wait <= backoff.CAP
        entry = backoff.following(entry, now, now + timedelta(seconds=wait))
        assert backoff.INITIAL <= entry.delay <= backoff.CAP
        now += timedelta(seconds=wait)


@pytest.mark.parametrize(
    ("seconds", "text"), [(10, "10s"), (40, "40s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s"), (3600, "1h0m0s")]
)
def test_spelt_as_go_does_and_read_back(seconds: float, text: str) -> None:
    assert backoff.spelt(seconds) == text
    assert backoff.told(f"back-off {text} restarting failed container=a pod=p_default(u)") == seconds


def test_other_messages_tell_no_delay() -> None:
    assert backoff.told("") == 0
    assert backoff.told('Back-off pulling image "x"') == 0
