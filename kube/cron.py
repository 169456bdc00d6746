"""Cron schedules as CronJobs write them: what github.com/robfig/cron v3 calls the standard format.

Five fields (minute, hour, day of month, month, day of week), each a list of `*`, `?`, `N`, `N-M`, with `/STEP`; names of
months and days; `@hourly` and its like; `@every 1h30m`; a zone before it (`TZ=...`, `CRON_TZ=...`). When both days are
restricted either may match, as in every cron. Day of week is 0 to 6, Sunday is 0 and there is no 7. The sentences of
`CronError` are robfig's, because they are what `kubectl` shows.

Clocks that go back pass their hour twice, and so do schedules; hours that a clock leaps over do not happen.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

_MONTHS: Final = {
    name: index + 1
    for index, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])
}
_DAYS: Final = {name: index for index, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_YEARS: Final = 5
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class CronError(ValueError):
    """A text that is no schedule; the message says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    low: int
    high: int
    names: tuple[tuple[str, int], ...] = ()


_FIELDS: Final = (
    Bounds(0, 59),
    Bounds(0, 23),
    Bounds(1, 31),
    Bounds(1, 12, tuple(_MONTHS.items())),
    Bounds(0, 6, tuple(_DAYS.items())),
)


@dataclass(frozen=True, slots=True)
class Field:
    """The values that match; `star`: every value, so that it does not restrict the other day field."""

    values: frozenset[int]
    star: bool


@dataclass(frozen=True, slots=True)
class Every:
    """`@every`: so long after the last time, whatever the clock says."""

    delay: timedelta

    def after(self, moment: datetime) -> datetime | None:
        return moment.replace(microsecond=0) + self.delay


@dataclass(frozen=True, slots=True)
class Schedule:
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field
    zone: str = ""

    def after(self, moment: datetime) -> datetime | None:
        """The next time after `moment` (which has a zone), in UTC; None when there is none in five years."""
        zone = ZoneInfo(self.zone) if self.zone else moment.tzinfo or UTC
        today, moment = moment.astimezone(zone).date(), moment.astimezone(UTC)
        for day in self._days(today):
            times: list[datetime] = []
            for hour in self.hour.values:
                for minute in self.minute.values:
                    for fold in (0, 1):
                        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold)
                        exact = local.astimezone(UTC)
                        if exact > moment and exact.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                            times.append(exact)
            if times:
                return min(times)
        return None

    def _days(self, first: date) -> Iterator[date]:
        day, end = first, date(min(first.year + _YEARS + 1, 9999), 1, 1)
        while day < end:
            if day.month in self.month.values and self._is_day(day):
                yield day
            day += timedelta(days=1)

    def _is_day(self, day: date) -> bool:
        by_date, by_weekday = day.day in self.day.values, day.isoweekday() % 7 in self.weekday.values
        return by_date and by_weekday if self.day.star or self.weekday.star else by_date or by_weekday


@lru_cache(maxsize=1024)
def parse(text: str, zone: str = "") -> Schedule | Every:
    """The schedule that `text` spells, on the clocks of `zone` (of the moment asked about, where there is none)."""
    if not text:
        raise CronError("empty spec string")
    if text.startswith(("TZ=", "CRON_TZ=")):
        prefix, _, text = text.partition(" ")
        zone = prefix.partition("=")[2]
        text = text.strip()
    if zone and not known_zone(zone):
        raise CronError(f"provided bad location {zone}: unknown time zone {zone}")
    if text.startswith("@"):
        return _descriptor(text, zone)
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise CronError(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    minute, hour, day, month, weekday = (_field(part, bounds) for part, bounds in zip(parts, _FIELDS, strict=True))
    return Schedule(minute, hour, day, month, weekday, zone)


def known_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _descriptor(text: str, zone: str) -> Schedule | Every:
    if text in _DESCRIPTORS:
        return parse(_DESCRIPTORS[text], zone)
    if text.startswith("@every "):
        return Every(timedelta(seconds=max(1, int(_duration(text)))))
    raise CronError(f"unrecognized descriptor: {text}")


def _duration(text: str) -> float:
    given = text.removeprefix("@every ")
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", given):
        raise CronError(f'failed to parse duration {text}: time: invalid duration "{given}"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(given))


def _field(text: str, bounds: Bounds) -> Field:
    values: set[int] = set()
    star = False
    for part in text.split(","):
        if not part:
            continue
        found, is_star = _range(part, bounds)
        values |= found
        star = star or is_star
    return Field(frozenset(values), star)


def _range(text: str, bounds: Bounds) -> tuple[set[int], bool]:
    span, *steps = text.split("/")
    ends = span.split("-")
    single = len(ends) == 1
    star = ends[0] in ("*", "?")
    if star:
        start, end = bounds.low, bounds.high
    else:
        start = _number(ends[0], bounds)
        if len(ends) > 2:
            raise CronError(f"too many hyphens: {text}")
        end = start if single else _number(ends[1], bounds)
    if len(steps) > 1:
        raise CronError(f"too many slashes: {text}")
    step = _integer(steps[0]) if steps else 1
    if steps and single and not star:
        end = bounds.high
    if start < bounds.low:
        raise CronError(f"beginning of range ({start}) below minimum ({bounds.low}): {text}")
    if end > bounds.high:
        raise CronError(f"end of range ({end}) above maximum ({bounds.high}): {text}")
    if start > end:
        raise CronError(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    if step == 0:
        raise CronError(f"step of range should be a positive number: {text}")
    return set(range(start, end + 1, step)), star and step == 1


def _number(text: str, bounds: Bounds) -> int:
    return dict(bounds.names).get(text.lower(), -1) if text.lower() in dict(bounds.names) else _integer(text)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise CronError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    number = int(text)
    if number < 0:
        raise CronError(f"negative number ({number}) not allowed: {text}")
    return number
