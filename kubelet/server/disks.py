"""What is on the node's disks, as /stats/summary tells it: filesystems, pods' volumes, containers' logs and layers.

Filesystems are asked (statfs), logs are few files; what a volume on the node's own disk holds is counted by a walk in a thread
of its own, at most each volumeStatsAggPeriod, and only while somebody asks: usedBytes is there from the second question on.
A count that was given up at its bound is not told: half of it would be a lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubelet.containerlogs import loglinks
from kubelet.runtime import PodIdentity
from metrics.collector import Counted, Walks

Json = dict[str, Any]


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def filesystem(path: str, when: str) -> Json:
    """Of the filesystem that holds `path`; {} when there is none."""
    try:
        found = os.statvfs(path)
    except OSError:
        return {}
    return {
        "time": when,
        "availableBytes": found.f_bavail * found.f_frsize,
        "capacityBytes": found.f_blocks * found.f_frsize,
        "usedBytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
        "inodesFree": found.f_ffree,
        "inodes": found.f_files,
        "inodesUsed": found.f_files - found.f_ffree,
    }


def part_of(whole: Json, counted: Counted | None) -> Json:
    """A filesystem of which something takes a part; without the part where it is not known."""
    rest = {key: value for key, value in whole.items() if key not in ("usedBytes", "inodesUsed")}
    if not whole or counted is None or not counted.whole:
        return rest
    return rest | {"time": moment(counted.when), "usedBytes": counted.bytes, "inodesUsed": counted.inodes}


@dataclass(frozen=True, slots=True)
class Disks:
    """`walks` is None where nobody wants volumes counted."""

    root_dir: str
    pod_logs_dir: str
    walks: Walks | None

    def logs(self, pod: PodIdentity, container: str, attempt: int, when: float) -> Json:
        root = self.pod_logs_dir.rstrip("/")
        log = f"{root}/{pod.namespace}_{pod.name}_{pod.uid}/{container}/{attempt}.log"
        size = count = 0
        for path in (log, *loglinks.rotated(log)):
            try:
                size += os.stat(path).st_size
            except OSError:
                continue
            count += 1
        return part_of(filesystem(self.pod_logs_dir, moment(when)), Counted(size, count, when))

    def volumes(self, uid: str, when: str) -> Iterator[tuple[Json, bool]]:
        """Each volume of a pod, and whether it is on the node's own disk."""
        base = os.path.join(self.root_dir, "pods", uid, "volumes")
        disk = _device(base)
        for plugin in _names(base):
            for name in _names(os.path.join(base, plugin)):
                path = os.path.join(base, plugin, name)
                whole = filesystem(path, when)
                if _device(path) != disk:  # a filesystem of its own: it knows what it holds
                    yield {"name": name, **whole}, False
                else:
                    counted = self.walks.counted(path) if self.walks is not None else None
                    yield {"name": name, **part_of(whole, counted)}, True


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1
