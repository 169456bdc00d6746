"""What a kubelet's /metrics/resource says, and what two of its pages say together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import Final

from kube.quantity import binary

FRESH_CONTAINER: Final = 1.0  # seconds that a container must have lived for a rate since its start

_LINE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? ([-+0-9.eE]+|NaN|\+Inf)(?: (\d+))?$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Point:
    """`when` in seconds since the epoch, `cpu` in seconds since the container's start, `memory` in bytes."""

    when: float
    cpu: float = 0.0
    memory: int = 0
    started: float = 0.0


Name = tuple[str, str, str]  # namespace, pod, container


@dataclass(frozen=True, slots=True)
class Sample:
    node: Point | None
    containers: Mapping[Name, Point]

    @property
    def when(self) -> float:
        points = [self.node] if self.node else list(self.containers.values())
        return max((point.when for point in points), default=0.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Between two points."""

    when: float
    window: float
    cpu: float  # cores
    memory: int

    def to_dict(self) -> dict[str, str]:
        return {"cpu": f"{nano}n" if (nano := round(self.cpu * 1e9)) else "0", "memory": binary(self.memory)}


def parsed(text: str, now: float) -> Sample:
    """From a kubelet's /metrics/resource; a line without a time is of `now`."""
    found: dict[Name | None, dict[str, float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line) if not line.startswith("#") else None
        if match is None:
            continue
        family, labels, value, when = match.groups()
        scope, _, what = family.partition("_")
        if scope not in ("node", "container") or what not in _FAMILIES:
            continue
        given = dict(_LABEL.findall(labels or ""))
        name = (given.get("namespace", ""), given.get("pod", ""), given.get("container", ""))
        row = found.setdefault(None if scope == "node" else name, {})
        row[_FAMILIES[what]] = float(value)
        if what != "start_time_seconds":
            row["when"] = int(when) / 1000 if when else now
    points = {name: point for name, row in found.items() if (point := _point(row)) is not None}
    return Sample(points.pop(None, None), {name: point for name, point in points.items() if name is not None})


_FAMILIES: Final = {
    "cpu_usage_seconds_total": "cpu",
    "memory_working_set_bytes": "memory",
    "start_time_seconds": "started",
}


def _point(row: Mapping[str, float]) -> Point | None:
    if not (isfinite(row.get("cpu", nan)) and isfinite(row.get("memory", nan))):
        return None
    return Point(row["when"], row["cpu"], int(row["memory"]), row.get("started", 0.0))


def between(older: Point | None, newer: Point | None) -> Usage | None:
    """None where there are not two points of one life. One that began after the earlier point, or has none, is measured from
    its beginning."""
    if newer is None:
        return None
    if newer.started and (older is None or older.when <= newer.started):
        if newer.when - newer.started < FRESH_CONTAINER:
            return None
        older = replace(newer, when=newer.started, cpu=0.0)
    if older is None or older.started != newer.started:
        return None
    window, used = newer.when - older.when, newer.cpu - older.cpu
    return Usage(newer.when, window, used / window, newer.memory) if window > 0 and used >= 0 else None
