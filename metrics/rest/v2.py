"""cAdvisor's info/v2 as JSON: attributes, spec, stats with instant CPU rates, derived usage (summary), storage.

The shapes are made of v1's, as in cAdvisor's own conversion (info/v2/conversion.go); percentiles are of the history's moments in
the last minute, hour and day, and `percent_complete` says how much of that time there is.
"""

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any

from metrics.history import COLUMNS, NONE
from metrics.model import Sample, Snapshot
from metrics.rest import v1
from metrics.rest.v1 import Json

_CPU = COLUMNS.index("cpu")
_WORKING_SET = COLUMNS.index("working_set")

Moments = Sequence[tuple[float, Sequence[int]]]
"""A group's times and rows, oldest first."""


def attributes(snapshot: Snapshot, version: str) -> Json:
    machine = v1.machine(snapshot)
    kept = ("num_cores", "cpu_frequency_khz", "memory_capacity", "machine_id", "system_uuid", "filesystems", "disk_map")
    more = ("network_devices", "topology", "cloud_provider", "instance_type")
    return {
        "kernel_version": snapshot.machine.kernel,
        "container_os_version": snapshot.machine.system,
        "docker_version": snapshot.runtime_version,
        "cadvisor_version": version,
        **{name: machine[name] for name in (*kept, *more)},
    }


def spec(sample: Sample) -> Json:
    found = v1.spec(sample)
    named = v1.reference(sample)
    return found | {key: named[key] for key in ("aliases", "namespace") if key in named}


def stats(found: list[Json], sample: Sample, *, deprecated: bool = False) -> list[Json]:
    """ContainerStats (v2.1), or v2.0's with its has_ fields, of v1's."""
    spec = v1.spec(sample)
    made: list[Json] = []
    for last, now in zip(itertools.chain([None], found), found, strict=False):
        parts: Json = {"timestamp": now["timestamp"]}
        wanted = ("cpu", "memory", "network", "processes", "diskio", "filesystem")
        has = {part: bool(spec[f"has_{part}"]) for part in wanted}
        if deprecated:
            parts |= {f"has_{part}": there for part, there in has.items()}
            parts |= {"has_hugetlb": False, "has_load": False, "has_custom_metrics": False}
        parts |= {part: now[part] for part in wanted if has[part] and part in now}
        if has["cpu"] and last is not None and (rate := _instant(last, now)):
            parts["cpu_inst"] = rate
        if "network" in parts:
            parts["network"] = {"interfaces": parts["network"]["interfaces"]}
        if "filesystem" in parts and not deprecated:
            parts["filesystem"] = _filesystem(parts["filesystem"])
        made.append(parts)
    return made


def _filesystem(found: list[Json]) -> Any:
    if len(found) != 1:
        return {}
    return {
        "totalUsageBytes": found[0]["usage"],
        "baseUsageBytes": found[0]["base_usage"],
        "containter_inode_usage": found[0]["inodes"],  # spelt so in cAdvisor
    }


def _instant(last: Json, now: Json) -> Json | None:
    """Nanocores between two moments; None when a counter started anew."""
    times = [dt.datetime.fromisoformat(one["timestamp"]).timestamp() for one in (last, now)]
    elapsed = times[1] - times[0]
    rates = {}
    for name in ("total", "user", "system"):
        used = now["cpu"]["usage"][name] - last["cpu"]["usage"][name]
        if used < 0 or elapsed <= 0:
            return None
        rates[name] = int(used / elapsed)
    return {"usage": rates}


def machine_stats(found: list[Json], sample: Sample) -> list[Json]:
    made = stats(found, sample, deprecated=True)
    wanted = ("timestamp", "cpu", "cpu_inst", "diskio", "memory", "network")
    kept = [{name: one[name] for name in wanted if name in one} for one in made]
    for moment, one in zip(made, kept, strict=True):
        one["filesystem"] = [
            {key: system[key] for key in ("device", "type", "capacity", "usage", "available", "inodes_free")}
            for system in moment.get("filesystem", [])
        ]
    return kept


def storage(snapshot: Snapshot) -> list[Json]:
    return [
        {
            "timestamp": v1.moment(snapshot.when),
            "device": found.device,
            "mountpoint": found.mountpoint,
            "capacity": found.total,
            "available": found.available,
            "usage": found.used,
            "labels": ["root"] if found.mountpoint == "/" else [],
            "inodes": found.inodes,
            "inodes_free": found.inodes_free,
        }
        for found in snapshot.filesystems
    ]


def summary(moments: Moments) -> Json:
    """DerivedStats: CPU in thousandths of a core, memory is the working set in bytes."""
    now = moments[-1][0]
    points = _points(moments)
    latest = points[-1] if points else (now, 0, max(0, moments[-1][1][_WORKING_SET]))
    return {
        "timestamp": v1.moment(now),
        "latest_usage": {"cpu": latest[1], "memory": latest[2]},
        "minute_usage": _usage(points, now, 60.0),
        "hour_usage": _usage(points, now, 3600.0),
        "day_usage": _usage(points, now, 86400.0),
    }


def _points(moments: Moments) -> list[tuple[float, int, int]]:
    """Time, milli-cores since the moment before, working set."""
    points = []
    for (before, old), (when, new) in itertools.pairwise(moments):
        used = new[_CPU] - old[_CPU]
        if used >= 0 and when > before and NONE not in (new[_CPU], old[_CPU]):
            points.append((when, int(used / (when - before) / 1e6), max(0, new[_WORKING_SET])))
    return points


def _usage(points: Sequence[tuple[float, int, int]], now: float, span: float) -> Json:
    inside = [point for point in points if point[0] > now - span]
    complete = min(100, round(100 * (now - inside[0][0]) / span)) if inside else 0
    return {
        "percent_complete": complete,
        "cpu": _percentiles([cpu for _, cpu, _ in inside]),
        "memory": _percentiles([memory for _, _, memory in inside]),
    }


def _percentiles(values: list[int]) -> Json:
    if not values:
        return {"present": False, "mean": 0, "max": 0, "fifty": 0, "ninety": 0, "ninetyfive": 0}
    ranked = sorted(values)

    def at(share: float) -> int:
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]

    return {
        "present": True,
        "mean": sum(ranked) // len(ranked),
        "max": ranked[-1],
        "fifty": at(0.5),
        "ninety": at(0.9),
        "ninetyfive": at(0.95),
    }
