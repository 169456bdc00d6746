"""Reading version 1: one directory per controller. See `linux.cgroup.usage` for units."""

import os
from collections.abc import Mapping
from pathlib import Path

from linux.cgroup.files import number, pairs, text
from linux.cgroup.usage import UNLIMITED, Cpu, DeviceIo, Limits, Memory, Usage

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def read(controllers: Mapping[str, Path], path: str) -> Usage:
    """`controllers`: controller name to mount point; `path`: the group below each."""

    def below(controller: str) -> str | None:
        root = controllers.get(controller)
        return f"{root}/{path.strip('/')}" if root else None

    return Usage(
        cpu=_cpu(below("cpuacct"), below("cpu")),
        memory=_memory(below("memory")),
        pids=number(f"{below('pids')}/pids.current"),
        io=_io(below("blkio")),
        limits=_limits(below("cpu"), below("memory"), below("pids")),
    )


def _cpu(accounting: str | None, scheduling: str | None) -> Cpu | None:
    usage = number(f"{accounting}/cpuacct.usage")
    if usage is None:
        return None
    split = pairs(text(f"{accounting}/cpuacct.stat"))
    throttling = pairs(text(f"{scheduling}/cpu.stat"))
    return Cpu(
        usage_ns=usage,
        user_ns=split.get("user", 0) * _TICK_NS,
        system_ns=split.get("system", 0) * _TICK_NS,
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_ns=throttling.get("throttled_time", 0),
    )


def _memory(folder: str | None) -> Memory | None:
    usage = number(f"{folder}/memory.usage_in_bytes")
    if usage is None:
        return None
    stat = pairs(text(f"{folder}/memory.stat"))
    inactive = stat.get("total_inactive_file", 0)
    return Memory(
        usage=usage,
        working_set=max(0, usage - inactive),
        max_usage=number(f"{folder}/memory.max_usage_in_bytes"),
        rss=stat.get("total_rss", 0),
        cache=stat.get("total_cache", 0),
        mapped_file=stat.get("total_mapped_file", 0),
        swap=stat.get("total_swap", 0),
        active_file=stat.get("total_active_file", 0),
        inactive_file=inactive,
        failcnt=number(f"{folder}/memory.failcnt") or 0,
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
    )


def _io(folder: str | None) -> dict[str, DeviceIo]:
    """The throttle files count what reached the block layer, whichever scheduler runs; `_recursive` where it exists."""
    found: dict[str, dict[str, int]] = {}
    for name, kind in (("io_service_bytes", "bytes"), ("io_serviced", "count")):
        content = text(f"{folder}/blkio.throttle.{name}_recursive") or text(f"{folder}/blkio.throttle.{name}")
        for line in (content or "").splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in ("Read", "Write") and words[2].isdecimal():
                found.setdefault(words[0], {})[f"{words[1]}.{kind}"] = int(words[2])
    return {
        device: DeviceIo(
            read_bytes=values.get("Read.bytes", 0),
            write_bytes=values.get("Write.bytes", 0),
            reads=values.get("Read.count", 0),
            writes=values.get("Write.count", 0),
        )
        for device, values in found.items()
    }


def _limits(cpu: str | None, memory: str | None, pids: str | None) -> Limits:
    quota = number(f"{cpu}/cpu.cfs_quota_us")
    limit = number(f"{memory}/memory.limit_in_bytes")
    return Limits(
        cpu_shares=number(f"{cpu}/cpu.shares"),
        cpu_quota_us=quota if quota is not None and quota > 0 else None,
        cpu_period_us=number(f"{cpu}/cpu.cfs_period_us"),
        memory_bytes=limit if limit is not None and limit < UNLIMITED else None,
        pids=number(f"{pids}/pids.max"),
    )
