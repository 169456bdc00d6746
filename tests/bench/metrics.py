"""A scrape of a node with a hundred containers, against reading the same files bare.

The tree is real: a hundred cgroups in every hierarchy the machine has, made for the run. Docker is left out (its list of a
hundred containers is one request, the same for whoever asks).
"""

import contextlib
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linux.cgroup.tree import hierarchies
from metrics import exposition
from metrics.collector import Collector
from metrics.observe import identity

COUNT = 100
RUNS = 15
NAME = f"metrics.scrape.{COUNT}"
_V1 = {
    "cpuacct": ("cpuacct.usage", "cpuacct.stat"),
    "cpu": ("cpu.stat", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "memory": ("memory.usage_in_bytes", "memory.stat", "memory.max_usage_in_bytes", "memory.limit_in_bytes"),
    "pids": ("pids.current", "pids.max"),
    "blkio": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
}
_V2 = (
    *("cpu.stat", "cpu.weight", "cpu.max", "memory.current", "memory.stat", "memory.peak", "memory.max"),
    *("memory.swap.current", "io.stat", "pids.current", "pids.max"),
)


def rows(only: str | None) -> Iterator[dict[str, Any]]:
    if only and not NAME.startswith(only):
        return
    trees = hierarchies()
    mounts = {trees.unified: _V2} if trees.unified else {trees.controllers[c]: f for c, f in _V1.items()}
    top = f"wherry-bench-{uuid.uuid4().hex[:8]}"
    names = [f"{index:064x}" for index in range(1, COUNT + 1)]
    try:
        for mount in mounts:
            for name in names:
                Path(str(mount), top, name).mkdir(parents=True)
        files = [
            f"{mount}/{top}/{name}/{file}" for mount, wanted in mounts.items() for name in names for file in wanted
        ]
        known = {n: identity(n, f"c{n[-4:]}", "image", {"io.kubernetes.container.name": "c"}, 1.0) for n in names}
        collector = Collector(lambda: known, f"/{top}", fresh=-1.0)
        floor, ours = [], []
        size = 0
        for _ in range(RUNS):
            started = time.perf_counter()
            _bare(files)
            floor.append(time.perf_counter() - started)
            started = time.perf_counter()
            text = exposition.cadvisor(collector.snapshot())
            ours.append(time.perf_counter() - started)
            size = len(text)
        assert text.count("container_memory_rss{") >= COUNT
    finally:
        for mount in mounts:
            for name in [*names, ""]:
                with contextlib.suppress(OSError):
                    Path(str(mount), top, name).rmdir()
    yield {
        "name": NAME,
        "unit": "ms",
        "ours": statistics.median(ours) * 1e3,
        "floor": statistics.median(floor) * 1e3,
        "ratio": statistics.median(ours) / statistics.median(floor),
        "runs": RUNS,
        "note": f"{COUNT} cgroups, {size / 1e3:.0f} kB of text; floor: the same files opened, read and closed",
    }


def _bare(files: list[str]) -> None:
    for path in files:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        os.read(handle, 65536)
        os.close(handle)
