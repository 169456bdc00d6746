"""What the page polls: who is there, and each moment's rates since the one it has.

A row is SHOWN for one group: what happened between a frame and the one before it, as rates, and what was so then. `null` is what
the kernel does not say, or a counter that started anew. The list of groups is sent only when it is not the one that the page has
(`known` is its tag); rows are in its order.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

from linux.cgroup.usage import UNLIMITED
from metrics.history import COLUMNS, NONE, Frame, History
from metrics.jsontext import encoded
from metrics.model import Sample, Snapshot

SHOWN = (
    *("cpu", "throttled", "working_set", "rss", "cache", "swap", "rx", "tx", "read", "write"),
    *("cpu_some", "memory_some", "memory_full", "io_some", "io_full", "pids", "oom_kills"),
)
"""Cores; share of periods throttled; bytes; bytes a second; shares of time; counts."""
FIRST, FIRST_ROWS = 61, 20_000
"""Frames, and rows in them, that a page that has just come gets of all groups (two at least, for the rates); `past` has the
rest of the one it looks at."""

_AT = {name: at for at, name in enumerate(COLUMNS)}
_RATES = (  # column, what one unit of it is
    *(("rx_bytes", 1.0), ("tx_bytes", 1.0), ("read_bytes", 1.0), ("write_bytes", 1.0)),
    *(("cpu_some", 1e-6), ("memory_some", 1e-6), ("memory_full", 1e-6), ("io_some", 1e-6), ("io_full", 1e-6)),
)
_RATES_AT = tuple((_AT[name], unit) for name, unit in _RATES)
_CPU, _PERIODS, _THROTTLED = _AT["cpu"], _AT["periods"], _AT["throttled_periods"]
_LEVELS_AT = tuple(_AT[name] for name in ("working_set", "rss", "cache", "swap"))
_COUNTS_AT = tuple(_AT[name] for name in ("pids", "oom_kills"))

Number = float | int | None


def time_of(text: str) -> float:
    """Unix time; 0 (everything) for what is none."""
    try:
        when = float(text)
    except ValueError:
        return 0.0
    return when if math.isfinite(when) else 0.0


def shown(elapsed: float, old: Sequence[int] | None, new: Sequence[int]) -> list[Number]:
    """One row: `new` as it is, and what changed since `old`, `elapsed` seconds before."""
    levels: list[Number] = [None if new[at] == NONE else new[at] for at in (*_LEVELS_AT, *_COUNTS_AT)]
    if old is None or elapsed <= 0:
        return [None, None, *levels[:4], *(None for _ in _RATES), *levels[4:]]
    rates = [_rate(old[at], new[at], elapsed, unit) for at, unit in _RATES_AT]
    periods = new[_PERIODS] - old[_PERIODS]
    throttled = new[_THROTTLED] - old[_THROTTLED]
    share = (
        round(throttled / periods, 4) if periods > 0 and 0 <= throttled <= periods else (0 if periods == 0 else None)
    )
    cpu = _rate(old[_CPU], new[_CPU], elapsed, 1e-9)
    return [cpu, share, *levels[:4], *rates, *levels[4:]]


def _rate(old: int, new: int, elapsed: float, unit: float) -> Number:
    if old == NONE or new == NONE or new < old:
        return None
    change = (new - old) * unit / elapsed
    return round(change) if unit == 1.0 else round(change, 5)


def wanted(history: History, since: float) -> list[Frame | None]:
    """The frames later than `since`, so many at most, behind the one before them (or None), from which rates are."""
    newest = history.newest()
    groups = len(newest.rows) if newest is not None else 0
    new = history.since(since, max(2, min(FIRST, FIRST_ROWS // max(1, groups))))
    before: list[Frame | None] = [*history.since(0.0, len(new) + 1)]
    return before if len(before) > len(new) else [None, *new]


def delta(
    snapshot: Snapshot, frames: Sequence[Frame | None], *, known: str, keeps: float, interval: float
) -> dict[str, Any]:
    """`frames` as `wanted` has them. Values only, and of many groups long enough for a thread of its own."""
    groups = [_group(sample) for sample in snapshot.samples]
    tag = hashlib.blake2b(encoded(groups), digest_size=9).hexdigest()
    order = [sample.path for sample in snapshot.samples]
    found: dict[str, Any] = {
        "when": snapshot.when,
        "interval": interval,
        "keeps": keeps,
        "load": snapshot.load,
        "failed": snapshot.failed,
        "groups": tag,
        "filesystems": [[one.device, one.mountpoint, one.used, one.total] for one in snapshot.filesystems],
        "frames": [[new.when, _rows(old, new, order)] for old, new in itertools.pairwise(frames) if new],
    }
    if tag != known:
        found |= {"shown": SHOWN, "machine": _machine(snapshot), "list": groups}
    return found


def _rows(old: Frame | None, new: Frame, order: Sequence[str]) -> list[list[Number] | None]:
    rows: list[list[Number] | None] = []
    elapsed = new.when - old.when if old is not None else 0.0
    for path in order:
        now = new.row(path)
        rows.append(None if now is None else shown(elapsed, old.row(path) if old is not None else None, now))
    return rows


def past(frames: Sequence[Frame], path: str) -> dict[str, Any]:
    """All there is of one group."""
    moments = [(frame.when, row) for frame in frames if (row := frame.row(path)) is not None]
    return {
        "path": path,
        "shown": SHOWN,
        "moments": [[when, shown(when - last, old, new)] for (last, old), (when, new) in itertools.pairwise(moments)],
    }


def _group(sample: Sample) -> dict[str, Any]:
    labels, owner, limits = sample.labels, sample.identity, sample.usage.limits
    quota, period = limits.cpu_quota_us, limits.cpu_period_us
    memory = limits.memory_bytes
    return {
        "path": sample.path,
        "kind": sample.kind,
        "name": labels["name"],
        "container": labels["container"],
        "pod": labels["pod"],
        "namespace": labels["namespace"],
        "image": labels["image"],
        "runtime": owner.runtime if owner else "",
        "id": owner.id if owner and sample.kind != "pod" else "",
        "started": sample.started,
        "cpu_limit": quota / period if quota and period and quota > 0 else None,
        "cpu_shares": limits.cpu_shares,
        "memory_limit": memory if memory is not None and 0 < memory < UNLIMITED else None,
        "pids_limit": limits.pids,
        "interfaces": [interface.name for interface in sample.interfaces],
    }


def _machine(snapshot: Snapshot) -> dict[str, Any]:
    found = snapshot.machine
    return {
        "cores": found.cores,
        "memory": found.memory_bytes,
        "swap": found.swap_bytes,
        "kernel": found.kernel,
        "system": found.system,
        "booted": found.booted,
        "runtime": snapshot.runtime_version,
    }
