"""Reading version 1: one directory per controller. See `linux.cgroup.usage` for units.

A hybrid machine has the tree of version 2 beside these, without controllers: pressure is read there.
"""

import os

from linux.cgroup import pressure
from linux.cgroup.files import Budget, Folder, field, number, pairs
from linux.cgroup.tree import Hierarchies
from linux.cgroup.usage import UNLIMITED, Ask, Cpu, DeviceIo, Limits, Memory, Usage

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")

LIMIT_FILES = frozenset(
    {"cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
    | {"memory.soft_limit_in_bytes", "pids.max"}
)


class Group:
    """One group; its frequent files stay open until it is closed."""

    __slots__ = (
        "_blkio",
        "_cpu",
        "_cpuacct",
        "_cpuset",
        "_hybrid",
        "_io",
        "_io_files",
        "_limits",
        "_memory",
        "_pids",
        "_stat",
    )

    def __init__(self, trees: Hierarchies, path: str, budget: Budget) -> None:
        def below(controller: str) -> Folder:
            # Where a controller is not mounted, nothing is there to be read.
            return Folder(f"{trees.controllers.get(controller, _NOWHERE)}/{path.strip('/')}".rstrip("/"), budget)

        self._cpuacct, self._cpu, self._memory = below("cpuacct"), below("cpu"), below("memory")
        self._pids, self._blkio, self._cpuset = below("pids"), below("blkio"), below("cpuset")
        self._hybrid = f"{trees.hybrid}/{path.strip('/')}" if trees.hybrid else ""
        self._limits: Limits | None = None
        self._stat: tuple[bytes, tuple[int, ...]] = (b"", (0,) * len(_STAT))
        self._io: tuple[bytes, bytes, dict[str, DeviceIo]] = (b"", b"", {})
        mount = trees.controllers.get("blkio", _NOWHERE)  # the group itself may be in the making
        suffix = "_recursive" if os.path.exists(f"{mount}/{_IO_BYTES}_recursive") else ""
        self._io_files = (f"{_IO_BYTES}{suffix}", f"{_IO_COUNT}{suffix}")

    def folders(self, there: bool) -> tuple[str, ...]:
        """Where limits are written; only what is `there`, or also what the runtime may yet make."""
        folders = (self._memory, self._cpu, self._pids)
        return tuple(
            f.path for f in folders if not f.path.startswith(_NOWHERE) and (not there or os.path.isdir(f.path))
        )

    @property
    def descriptors(self) -> int:
        return sum(folder.descriptors for folder in self._held())

    def forget_limits(self) -> None:
        self._limits = None

    def close(self) -> None:
        for folder in self._held():
            folder.close()

    def _held(self) -> tuple[Folder, ...]:
        return (self._cpuacct, self._memory, self._blkio)

    def read(self, ask: Ask) -> Usage:
        """Raises Gone."""
        limits = self._limits
        if limits is None:
            limits = self._limits = self._may_use()
        control = self._memory.once("memory.oom_control") if ask.oom else None
        return Usage(
            cpu=self._used_cpu(ask.split, limits.cpu_quota_us is not None),
            memory=self._used_memory(ask),
            pids=number(self._pids.once("pids.current")) if ask.pids else None,
            io=self._devices() if ask.io else {},
            limits=limits,
            oom_kills=field(b"\n" + control, b"\noom_kill ") if control else None,
            pressure=pressure.read(self._hybrid) if ask.pressure and self._hybrid else None,
        )

    def _used_cpu(self, split: bool, limited: bool) -> Cpu | None:
        usage = number(self._cpuacct.read("cpuacct.usage"))
        if usage is None or not (split or limited):
            return None if usage is None else Cpu(usage)
        times = pairs(self._cpuacct.once("cpuacct.stat")) if split else {}
        stat = pairs(self._cpu.once("cpu.stat")) if limited else {}
        user, system = number(times.get(b"user")), number(times.get(b"system"))
        return Cpu(
            usage_ns=usage,
            user_ns=user * _TICK_NS if user is not None else None,
            system_ns=system * _TICK_NS if system is not None else None,
            periods=number(stat.get(b"nr_periods")) or 0,
            throttled_periods=number(stat.get(b"nr_throttled")) or 0,
            throttled_ns=number(stat.get(b"throttled_time")) or 0,
            bursts=number(stat.get(b"nr_bursts")) or 0,
            burst_ns=number(stat.get(b"burst_time")) or 0,
        )

    def _used_memory(self, ask: Ask) -> Memory | None:
        folder = self._memory
        usage = number(folder.read("memory.usage_in_bytes"))
        if usage is None:
            return None
        data = folder.read("memory.stat", 4096) or b""
        if data != self._stat[0]:
            lines = b"\n" + data
            self._stat = data, tuple(field(lines, key) for key in _STAT)
        rss, cache, mapped, swap, active, inactive, faults, major, own, own_major = self._stat[1]
        return Memory(
            usage=usage,
            working_set=usage - inactive if usage > inactive else 0,
            max_usage=number(folder.once("memory.max_usage_in_bytes")) if ask.peak else None,
            rss=rss,
            cache=cache,
            mapped_file=mapped,
            swap=swap,
            active_file=active,
            inactive_file=inactive,
            failcnt=number(folder.once("memory.failcnt")) if ask.peak else None,
            page_faults=faults,
            major_page_faults=major,
            own_page_faults=own,
            own_major_page_faults=own_major,
            kernel=number(folder.once("memory.kmem.usage_in_bytes")) if ask.peak else None,
        )

    def _devices(self) -> dict[str, DeviceIo]:
        """The throttle files count what reached the block layer, whichever scheduler runs; `_recursive` where it exists."""
        size, count = self._blkio.read(self._io_files[0]) or b"", self._blkio.read(self._io_files[1]) or b""
        if size != self._io[0] or count != self._io[1]:
            self._io = size, count, _io(size, count)
        return self._io[2]

    def _may_use(self) -> Limits:
        cpu, memory = self._cpu, self._memory
        quota = number(cpu.once("cpu.cfs_quota_us"))
        return Limits(
            cpu_shares=number(cpu.once("cpu.shares")),
            cpu_quota_us=quota if quota is not None and quota > 0 else None,
            cpu_period_us=number(cpu.once("cpu.cfs_period_us")),
            memory_bytes=_limit(memory.once("memory.limit_in_bytes")),
            pids=number(self._pids.once("pids.max")),
            swap_bytes=_limit(memory.once("memory.memsw.limit_in_bytes")),
            swap_with_memory=True,
            reservation_bytes=_limit(memory.once("memory.soft_limit_in_bytes")),
            cpuset=(self._cpuset.once("cpuset.effective_cpus") or b"").decode("ascii", "replace").strip(),
        )


_NOWHERE = "/nonexistent"
_IO_BYTES, _IO_COUNT = "blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"
_STAT = (
    *(b"\ntotal_rss ", b"\ntotal_cache ", b"\ntotal_mapped_file ", b"\ntotal_swap ", b"\ntotal_active_file "),
    *(b"\ntotal_inactive_file ", b"\ntotal_pgfault ", b"\ntotal_pgmajfault ", b"\npgfault ", b"\npgmajfault "),
)


def _io(size: bytes, count: bytes) -> dict[str, DeviceIo]:
    found: dict[str, dict[str, int]] = {}
    for data, kind in ((size, "bytes"), (count, "count")):
        for line in data.decode("ascii", "replace").splitlines():
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


def _limit(data: bytes | None) -> int | None:
    found = number(data)
    return found if found is not None and found < UNLIMITED else None
