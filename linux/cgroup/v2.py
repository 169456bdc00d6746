"""Reading version 2: one directory per group. See `linux.cgroup.usage` for units.

memory.usage minus inactive_file is the working set as in version 1; rss is `anon`, cache is `file`. CPU weight (1..10000)
becomes shares by the kubelet's linear formula (KEP-2254), the inverse of `linux.cgroup.tree.weight`.

The root group has neither memory.current nor limits: its usage is the machine's, as runc has it (fs2, statsFromMeminfo).
"""

from pathlib import Path

from linux.cgroup import pressure
from linux.cgroup.files import Budget, Folder, content, field, number, pairs
from linux.cgroup.usage import Ask, Cpu, DeviceIo, Limits, Memory, Usage

LIMIT_FILES = frozenset(
    {"cpu.weight", "cpu.max", "memory.max", "memory.min", "memory.swap.max", "pids.max", "cpuset.cpus"}
)


class Group:
    """One group; its frequent files stay open until it is closed."""

    __slots__ = ("_folder", "_io", "_limits", "_root", "_stat")

    def __init__(self, mount: Path, path: str, budget: Budget) -> None:
        self._root = not path.strip("/")
        self._folder = Folder(f"{mount}/{path.strip('/')}".rstrip("/"), budget)
        self._limits: Limits | None = None
        self._stat: tuple[bytes, tuple[int, ...]] = (b"", (0,) * len(_STAT))
        self._io: tuple[bytes, dict[str, DeviceIo]] = (b"", {})

    def folders(self, there: bool) -> tuple[str, ...]:  # noqa: ARG002 - version 1 has several, and some late
        """Where limits are written."""
        return (self._folder.path,)

    @property
    def descriptors(self) -> int:
        return self._folder.descriptors

    def forget_limits(self) -> None:
        self._limits = None

    def close(self) -> None:
        self._folder.close()

    def read(self, ask: Ask) -> Usage:
        """Raises Gone."""
        folder = self._folder
        limits = self._limits
        if limits is None:
            limits = self._limits = _limits(folder)
        events = folder.once("memory.events") if ask.oom else None
        return Usage(
            cpu=_cpu(folder.read("cpu.stat")),
            memory=self._memory(ask),
            pids=number(folder.read("pids.current")) if ask.pids else None,
            io=self._devices() if ask.io else {},
            limits=limits,
            oom_kills=field(b"\n" + events, b"\noom_kill ") if events else None,
            pressure=pressure.read(folder.path) if ask.pressure else None,
        )

    def _memory(self, ask: Ask) -> Memory | None:
        folder = self._folder
        usage = number(folder.read("memory.current"))
        if usage is None and self._root:
            usage = _machine_usage()
        if usage is None:
            return None
        data = folder.read("memory.stat", 8192) or b""
        if data != self._stat[0]:
            lines = b"\n" + data
            self._stat = data, tuple(field(lines, key) for key in _STAT)
        rss, cache, mapped, active, inactive, faults, major, kernel = self._stat[1]
        return Memory(
            usage=usage,
            working_set=usage - inactive if usage > inactive else 0,
            max_usage=number(folder.once("memory.peak")) if ask.peak else None,
            rss=rss,
            cache=cache,
            mapped_file=mapped,
            swap=number(folder.read("memory.swap.current")) or 0 if ask.swap else 0,
            active_file=active,
            inactive_file=inactive,
            failcnt=0,
            page_faults=faults,
            major_page_faults=major,
            kernel=kernel,
        )

    def _devices(self) -> dict[str, DeviceIo]:
        data = self._folder.read("io.stat", 4096) or b""
        if data != self._io[0]:
            self._io = data, _io(data)
        return self._io[1]


_STAT = (
    *(b"\nanon ", b"\nfile ", b"\nfile_mapped ", b"\nactive_file ", b"\ninactive_file "),
    *(b"\npgfault ", b"\npgmajfault ", b"\nkernel "),
)


def _cpu(data: bytes | None) -> Cpu | None:
    stat = pairs(data)
    try:
        if b"nr_periods" not in stat:  # the root group has no quota
            return Cpu(
                int(stat[b"usage_usec"]) * 1000, int(stat[b"user_usec"]) * 1000, int(stat[b"system_usec"]) * 1000
            )
        return Cpu(
            usage_ns=int(stat[b"usage_usec"]) * 1000,
            user_ns=int(stat[b"user_usec"]) * 1000,
            system_ns=int(stat[b"system_usec"]) * 1000,
            periods=int(stat[b"nr_periods"]),
            throttled_periods=int(stat[b"nr_throttled"]),
            throttled_ns=int(stat[b"throttled_usec"]) * 1000,
            bursts=int(stat.get(b"nr_bursts", 0)),
            burst_ns=int(stat.get(b"burst_usec", 0)) * 1000,
        )
    except (KeyError, ValueError):
        return None


def _machine_usage(meminfo: str = "/proc/meminfo") -> int | None:
    """Bytes that are not free, by proc(5) in kB."""
    found = pairs((content(meminfo) or b"").replace(b" kB", b""))
    try:
        return (int(found[b"MemTotal:"]) - int(found[b"MemFree:"])) * 1024
    except (KeyError, ValueError):
        return None


def _io(data: bytes) -> dict[str, DeviceIo]:
    found: dict[str, DeviceIo] = {}
    for line in data.decode("ascii", "replace").splitlines():
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


def _limits(folder: Folder) -> Limits:
    weight = number(folder.once("cpu.weight"))
    quota, period = [*(folder.once("cpu.max") or b"").split(), b"", b""][:2]
    return Limits(
        cpu_shares=2 + (weight - 1) * 262142 // 9999 if weight is not None else None,
        cpu_quota_us=number(quota),
        cpu_period_us=number(period),
        memory_bytes=number(folder.once("memory.max")),
        pids=number(folder.once("pids.max")),
        swap_bytes=number(folder.once("memory.swap.max")),
        reservation_bytes=number(folder.once("memory.min")),
        cpuset=(folder.once("cpuset.cpus.effective") or b"").decode("ascii", "replace").strip(),
    )
