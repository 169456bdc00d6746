"""Cron schedules: robfig's tables of when, and its sentences about what is none."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.cron import CronError, Schedule, parse

START = datetime(2012, 7, 9, 14, 45, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("text", "moment", "wanted"),
    [
        ("* * * * *", START, "2012-07-09T14:46"),
        ("0/15 * * * *", START, "2012-07-09T15:00"),
        ("20-35/15 * * * *", START, "2012-07-09T15:20"),
        ("*/15 * 9-20 * *", datetime(2012, 7, 20, 23, 46, tzinfo=UTC), "2012-08-09T00:00"),
        ("0 0 9 Apr-Oct ?", START, "2012-08-09T00:00"),
        ("0 0 29 Feb ?", START, "2016-02-29T00:00"),
        ("0 0 * Feb Mon", START, "2013-02-04T00:00"),
        ("0 12 1,15 * Mon", START, "2012-07-15T12:00"),  # either day will do
        ("0 12 */2 * Mon", START, "2012-07-11T12:00"),  # a step is a restriction too
        ("@hourly", START, "2012-07-09T15:00"),
        ("@weekly", START, "2012-07-15T00:00"),
        ("@yearly", START, "2013-01-01T00:00"),
        ("@every 1h30m", START, "2012-07-09T16:15"),
        ("TZ=Asia/Tokyo 0 0 * * *", START, "2012-07-09T15:00"),
    ],
)
def test_the_next_time(text: str, moment: datetime, wanted: str) -> None:
    found = parse(text).after(moment)
    assert found is not None
    assert found == datetime.fromisoformat(wanted).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["0 0 30 Feb ?", "0 0 31 Apr *"])
def test_some_days_never_come(text: str) -> None:
    assert parse(text).after(START) is None


def test_hours_that_clocks_leap_over_and_pass_twice() -> None:
    zone = ZoneInfo("America/New_York")
    gone = parse("30 2 * * *", "America/New_York").after(datetime(2012, 3, 11, 0, 0, tzinfo=zone))
    assert gone == datetime(2012, 3, 12, 2, 30, tzinfo=zone)
    once = parse("30 1 * * *", "America/New_York").after(datetime(2012, 11, 4, 0, 0, tzinfo=zone))
    assert once is not None
    assert once == datetime(2012, 11, 4, 1, 30, tzinfo=zone).astimezone(UTC)
    assert parse("30 1 * * *", "America/New_York").after(once) == once + timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* 5 j * *", 'failed to parse int from j: strconv.Atoi: parsing "j": invalid syntax'),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("@never", "unrecognized descriptor: @never"),
        ("@every soon", 'failed to parse duration @every soon: time: invalid duration "soon"'),
        ("TZ=Mars/Base 0 0 * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
    ],
)
def test_texts_that_are_none(text: str, why: str) -> None:
    with pytest.raises(CronError) as wrong:
        parse(text)
    assert str(wrong.value) == why


@given(
    st.integers(0, 59),
    st.integers(0, 23),
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_daily_schedules_come_within_a_day_and_match(minute: int, hour: int, moment: datetime) -> None:
    schedule = parse(f"{minute} {hour} * * *")
    assert isinstance(schedule, Schedule)
    found = schedule.after(moment)
    assert found is not None
    assert moment < found <= moment + timedelta(days=1)
    assert (found.minute, found.hour, found.second) == (minute, hour, 0)
