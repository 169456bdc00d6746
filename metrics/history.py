"""The last minutes, and on request up to a day, of what the collector read.

One *frame* is one moment: the time, which group has which row, and an array of signed 64-bit numbers, COLUMNS a row. So a
container costs ROW_BYTES a moment and nothing else, groups that go leave nothing but rows of frames that grow old, and the
index of rows is one object from frame to frame for as long as the same groups are there.

The newest FINE frames are kept as they come; of older ones one every `duration / COARSE` seconds, until `duration`. A container
therefore never has more than FINE + COARSE rows (about 587 kB; two minutes at an interval of 1 s: 35 kB). All frames together
stay below BUDGET bytes: with very many groups the oldest go early.

Nothing is read while nobody looks: `Sampler` sleeps unless `--storage_duration` is above 0 or a page has polled within LEASE
seconds; when the last page is gone, so are the frames.
"""

import asyncio
import re
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kube.errors import UsageError
from metrics.model import Part, Sample, Snapshot

COLUMNS = (
    *("cpu", "cpu_user", "cpu_system", "periods", "throttled_periods", "throttled_ns"),
    *("usage", "max_usage", "working_set", "rss", "cache", "mapped_file", "swap", "failcnt", "faults", "major_faults"),
    *("read_bytes", "write_bytes", "reads", "writes"),
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"),
    *("cpu_some", "cpu_full", "memory_some", "memory_full", "io_some", "io_full", "pids", "oom_kills"),
)
"""Nanoseconds of CPU, microseconds of pressure, bytes and counts, as the kernel has them: totals, or what is now."""
NONE = -1
"""A value that the kernel does not give."""
ROW_BYTES = 8 * len(COLUMNS)

FINE = 600
COARSE = 1440
BUDGET = 64 << 20
SHORTEST = 120.0
"""Seconds that are kept when only a page asks: cAdvisor's two minutes."""
LONGEST = 86400.0
LEASE = 15.0
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 3600.0

PARTS = frozenset(
    {Part.CPU, Part.CPU_SPLIT, Part.MEMORY, Part.OOM, Part.IO, Part.NETWORK, Part.PIDS, Part.PRESSURE, Part.FILESYSTEMS}
)
"""What a frame holds of a snapshot; the machine's disks come with its file systems."""


@dataclass(frozen=True, slots=True)
class Frame:
    when: float
    rows: Mapping[str, int]
    """Each group's row, by its path."""
    values: "array[int]"

    def row(self, path: str) -> "array[int] | None":
        at = self.rows.get(path)
        return None if at is None else self.values[at * len(COLUMNS) : (at + 1) * len(COLUMNS)]


class History:
    """Frames, oldest first, for `duration` seconds (SHORTEST at least)."""

    def __init__(self, duration: float, budget: int = BUDGET) -> None:
        self.duration = max(duration, SHORTEST)
        self._step = self.duration / COARSE
        self._budget = budget
        self._coarse: deque[Frame] = deque()
        self._fine: deque[Frame] = deque()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Of the rows; the frames themselves are about 200 bytes each."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._coarse) + len(self._fine)

    def add(self, snapshot: Snapshot) -> None:
        self.keep(frame(snapshot))

    def keep(self, new: Frame) -> None:
        """One more; a frame that is not newer than the last is the same reading, asked for twice."""
        newest = self.newest()
        if newest is not None:
            if new.when <= newest.when:
                return
            if newest.rows == new.rows:
                new = Frame(new.when, newest.rows, new.values)
        self._fine.append(new)
        self._bytes += len(new.values) * 8
        if len(self._fine) > FINE:
            self._age(self._fine.popleft())
        self._drop(new.when - self.duration)

    def _age(self, frame: Frame) -> None:
        if self._coarse and frame.when - self._coarse[-1].when < self._step:
            self._bytes -= len(frame.values) * 8
        else:
            self._coarse.append(frame)

    def _drop(self, before: float) -> None:
        for frames in (self._coarse, self._fine):
            while frames and (frames[0].when < before or (self._bytes > self._budget and len(self) > 1)):
                self._bytes -= len(frames.popleft().values) * 8

    def clear(self) -> None:
        self._coarse.clear()
        self._fine.clear()
        self._bytes = 0

    def newest(self) -> Frame | None:
        return self._fine[-1] if self._fine else None

    def since(self, when: float, most: int | None = None) -> list[Frame]:
        """Frames later than `when`, oldest first, of which the newest `most`."""
        found: list[Frame] = []
        for frames in (self._fine, self._coarse):
            for frame in reversed(frames):
                if frame.when <= when or (most is not None and len(found) >= most):
                    return found[::-1]
                found.append(frame)
        return found[::-1]


def frame(snapshot: Snapshot) -> Frame:
    values = array("q")
    for sample in snapshot.samples:
        values.extend(row(sample, snapshot))
    return Frame(snapshot.when, {sample.path: at for at, sample in enumerate(snapshot.samples)}, values)


def row(sample: Sample, snapshot: Snapshot) -> Sequence[int]:
    usage, cpu, memory = sample.usage, sample.usage.cpu, sample.usage.memory
    io, networks, pressure = usage.io.values(), sample.interfaces, usage.pressure
    stalls = (pressure.cpu, pressure.memory, pressure.io) if pressure else (None, None, None)
    of_cpu: tuple[int | None, ...] = (None,) * 6
    if cpu:
        of_cpu = (cpu.usage_ns, cpu.user_ns, cpu.system_ns, cpu.periods, cpu.throttled_periods, cpu.throttled_ns)
    of_memory: tuple[int | None, ...] = (None,) * 10
    if memory:
        of_memory = (
            *(memory.usage, memory.max_usage, memory.working_set, memory.rss, memory.cache, memory.mapped_file),
            *(memory.swap, memory.failcnt, memory.page_faults, memory.major_page_faults),
        )
    of_network: tuple[int | None, ...] = (None,) * 8
    if networks:
        of_network = (
            *(sum(n.receive_bytes for n in networks), sum(n.receive_packets for n in networks)),
            *(sum(n.receive_errors for n in networks), sum(n.receive_dropped for n in networks)),
            *(sum(n.transmit_bytes for n in networks), sum(n.transmit_packets for n in networks)),
            *(sum(n.transmit_errors for n in networks), sum(n.transmit_dropped for n in networks)),
        )
    of_io = (
        _disks(snapshot)
        if sample.kind == "root" and snapshot.disks
        else (
            sum(d.read_bytes for d in io),
            sum(d.write_bytes for d in io),
            sum(d.reads for d in io),
            sum(d.writes for d in io),
        )
    )
    waits = [value for stall in stalls for value in ((stall.some_us, stall.full_us) if stall else (None, None))]
    numbers = (*of_cpu, *of_memory, *of_io, *of_network, *waits, usage.pids, usage.oom_kills)
    return [NONE if number is None else number for number in numbers]


_PARTITION = re.compile(r"p?[0-9]+")
_LAYERED = ("/dev/dm-", "/dev/loop", "/dev/md", "/dev/ram", "/dev/zram", "/dev/sr")
_SECTOR = 512


def _disks(snapshot: Snapshot) -> tuple[int, int, int, int]:
    """Bytes and operations of the machine's disks, each counted once: no partitions, nothing that lies on other devices. The
    root's own group counts on version 2 only, and there without what no group did."""
    disks = snapshot.disks
    whole = [
        one
        for name, one in disks.items()
        if not name.startswith(_LAYERED)
        and not any(
            name.startswith(other) and _PARTITION.fullmatch(name, len(other)) for other in disks if other != name
        )
    ]
    sizes = (sum(one.sectors_read for one in whole) * _SECTOR, sum(one.sectors_written for one in whole) * _SECTOR)
    return (*sizes, sum(one.reads for one in whole), sum(one.writes for one in whole))


class Sampler:
    """Fills a history, one frame each `interval` seconds, while somebody wants it. `read` blocks: it has a thread's time.

    Raises UsageError for a duration or an interval that makes no sense."""

    def __init__(
        self, read: Callable[[frozenset[Part]], Snapshot], *, duration: float = 0.0, interval: float = 1.0
    ) -> None:
        if not 0 <= duration <= LONGEST:
            raise UsageError(f"--storage_duration: {duration:g} s is not between 0 (only while a page is open) and 24h")
        if not SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL:
            raise UsageError(f"--housekeeping_interval: {interval:g} s is not between 100ms and 1h")
        self.history = History(duration)
        self.interval = interval
        self._always = duration > 0
        self._read = read
        self._until = 0.0
        self._latest: Snapshot | None = None
        self._wake = asyncio.Event()

    def lease(self) -> None:
        """A page looks: sample for LEASE seconds more (or three intervals, where that is longer)."""
        self._until = time.monotonic() + max(LEASE, 3 * self.interval)
        self._wake.set()

    def wanted(self) -> bool:
        return self._always or time.monotonic() < self._until

    def latest(self) -> Snapshot | None:
        """The newest frame's snapshot, if it is of now: who looks at the history need not read again."""
        found = self._latest
        return found if found is not None and time.time() - found.when < 2 * self.interval + 1.0 else None

    async def run(self) -> None:
        while True:
            if not self.wanted():
                self.history.clear()
                self._latest = None
                self._wake.clear()
                await self._wake.wait()
            self._latest, new = await asyncio.to_thread(self._sample)
            self.history.keep(new)
            await asyncio.sleep(self.interval)

    def _sample(self) -> tuple[Snapshot, Frame]:
        snapshot = self._read(PARTS)
        return snapshot, frame(snapshot)
