"""Reading version 2: one directory per group. See `linux.cgroup.usage` for units.

memory.usage minus inactive_file is the working set as in version 1; rss is `anon`, cache is `file`. CPU weight (1..10000)
becomes shares by the kubelet's linear formula (KEP-2254), the inverse of `linux.cgroup.tree.weight`.

The root group has neither memory.current nor limits: its usage is the machine's, as runc has it (fs2, statsFromMeminfo).
"""

from pathlib import Path

from linux.cgroup.files import number, pairs, text
from linux.cgroup.usage import Cpu, DeviceIo, Limits, Memory, Usage


def read(root: Path, path: str) -> Usage:
    """`root`: the mount point; `path`: the group below it."""
    folder = f"{root}/{path.strip('/')}".rstrip("/")
    return Usage(
        cpu=_cpu(folder),
        memory=_memory(folder, root=not path.strip("/")),
        pids=number(f"{folder}/pids.current"),
        io=_io(folder),
        limits=_limits(folder),
    )


def _cpu(folder: str) -> Cpu | None:
    stat = pairs(text(f"{folder}/cpu.stat"))
    if "usage_usec" not in stat:
        return None
    return Cpu(
        usage_ns=stat["usage_usec"] * 1000,
        user_ns=stat.get("user_usec", 0) * 1000,
        system_ns=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
    )


def _machine_usage(meminfo: str = "/proc/meminfo") -> int | None:
    """Bytes that are not free, by proc(5) in kB."""
    found = pairs((text(meminfo) or "").replace(":", "").replace(" kB", ""), None)
    total, free = found.get("MemTotal"), found.get("MemFree")
    return (total - free) * 1024 if total is not None and free is not None else None


def _memory(folder: str, *, root: bool = False) -> Memory | None:
    stat = pairs(text(f"{folder}/memory.stat"))
    usage = number(f"{folder}/memory.current")
    if usage is None and root:
        usage = _machine_usage()
    if usage is None:
        return None
    inactive = stat.get("inactive_file", 0)
    return Memory(
        usage=usage,
        working_set=max(0, usage - inactive),
        max_usage=number(f"{folder}/memory.peak"),
        rss=stat.get("anon", 0),
        cache=stat.get("file", 0),
        mapped_file=stat.get("file_mapped", 0),
        swap=number(f"{folder}/memory.swap.current") or 0,
        active_file=stat.get("active_file", 0),
        inactive_file=inactive,
        failcnt=0,
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
    )


def _io(folder: str) -> dict[str, DeviceIo]:
    found: dict[str, DeviceIo] = {}
    for line in (text(f"{folder}/io.stat") or "").splitlines():
        device, *fields = line.split() or [""]
        values = {name: int(value) for name, _, value in (f.partition("=") for f in fields) if value.isdecimal()}
        if values:
            found[device] = DeviceIo(
                read_bytes=values.get("rbytes", 0),
                write_bytes=values.get("wbytes", 0),
                reads=values.get("rios", 0),
                writes=values.get("wios", 0),
            )
    return found


def _limits(folder: str) -> Limits:
    weight = number(f"{folder}/cpu.weight")
    quota, _, period = (text(f"{folder}/cpu.max") or "").strip().partition(" ")
    return Limits(
        cpu_shares=2 + (weight - 1) * 262142 // 9999 if weight is not None else None,
        cpu_quota_us=int(quota) if quota.isdigit() else None,
        cpu_period_us=int(period) if period.isdigit() else None,
        memory_bytes=number(f"{folder}/memory.max"),
        pids=number(f"{folder}/pids.max"),
    )
