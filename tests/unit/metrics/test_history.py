"""What is kept of the past, and how much of it."""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from linux.cgroup.usage import Cpu, Usage
from metrics import history
from metrics.history import COARSE, COLUMNS, FINE, NONE, ROW_BYTES, History, Sampler
from metrics.model import Disk, Machine, Part, Sample, Snapshot

MACHINE = Machine(cores=1, physical_cores=1, memory_bytes=1, swap_bytes=0, kernel="", system="")


def snapshot(when: float, *paths: str) -> Snapshot:
    samples = tuple(Sample(path, {}, Usage(cpu=Cpu(int(when * 1e9)), memory=None, pids=3)) for path in paths)
    return Snapshot(when, MACHINE, samples)


def of(kept: History, path: str) -> list[Sequence[int]]:
    return [row for frame in kept.since(0.0) if (row := frame.row(path)) is not None]


def times(kept: History) -> list[float]:
    return [frame.when for frame in kept.since(0.0)]


def test_a_container_costs_its_row_a_moment_and_nothing_else() -> None:
    kept = History(120)
    paths = [f"/c{n}" for n in range(100)]
    for second in range(60):
        kept.add(snapshot(1000.0 + second, *paths))
    assert ROW_BYTES == 8 * len(COLUMNS) == 288
    assert kept.bytes == 60 * 100 * ROW_BYTES
    frames = kept.since(0.0)
    assert len({id(frame.rows) for frame in frames}) == 1, "one index for as long as the same groups are there"
    held = sum(sys.getsizeof(frame.values) + sys.getsizeof(frame) for frame in frames)
    assert held < kept.bytes * 1.25


def test_what_the_kernel_does_not_say_is_not_zero() -> None:
    kept = History(120)
    kept.add(snapshot(5.0, "/a"))
    row, *_ = of(kept, "/a")
    assert row[COLUMNS.index("cpu")] == 5_000_000_000
    assert row[COLUMNS.index("usage")] == row[COLUMNS.index("rx_bytes")] == NONE
    assert row[COLUMNS.index("pids")] == 3


def test_the_machines_disks_are_counted_once() -> None:
    def disk(sectors: int) -> Disk:
        return Disk(*([sectors] * 11))

    names = {"/dev/sda": 10, "/dev/sda1": 4, "/dev/sda2": 6, "/dev/nvme0n1": 5, "/dev/nvme0n1p1": 5, "/dev/dm-0": 6}
    disks = {name: disk(sectors) for name, sectors in names.items()}
    root = Sample("/", {}, Usage(cpu=None, memory=None, pids=None), kind="root")
    kept = History(120)
    kept.add(Snapshot(5.0, MACHINE, (root,), disks=disks))
    row, *_ = of(kept, "/")
    assert row[COLUMNS.index("read_bytes")] == 15 * 512
    assert row[COLUMNS.index("writes")] == 15


def test_old_moments_go_and_with_them_the_containers_that_went() -> None:
    kept = History(120)
    for second in range(100):
        kept.add(snapshot(1000.0 + second, "/a", "/gone"))
    for second in range(100, 260):
        kept.add(snapshot(1000.0 + second, "/a"))
    assert times(kept)[0] >= 1259 - 120
    assert of(kept, "/gone") == []
    assert all("/gone" not in frame.rows for frame in kept.since(0.0))
    assert kept.bytes == len(kept) * ROW_BYTES


def test_a_long_time_is_fine_at_its_end_and_coarse_before() -> None:
    kept = History(14400)
    for step in range(15_000):  # a second each
        kept.add(snapshot(float(step + 1), "/a"))
    seen = times(kept)
    assert len(seen) <= FINE + COARSE + 1
    assert seen[-FINE:] == [float(n) for n in range(15_001 - FINE, 15_001)]
    steps = {later - earlier for earlier, later in itertools.pairwise(seen[:-FINE])}
    assert steps == {10.0}
    assert 15_000 - 14400 <= seen[0] < 15_000 - 14400 + 11


def test_memory_has_a_bound_however_many_containers_there_are() -> None:
    budget = 400_000
    kept = History(3600, budget)
    paths = [f"/c{n}" for n in range(200)]
    for second in range(60):
        kept.add(snapshot(1000.0 + second, *paths))
        assert kept.bytes <= budget
    assert len(kept) == budget // (200 * ROW_BYTES)
    assert times(kept)[-1] == 1059.0
    kept.add(snapshot(2000.0, *(f"/c{n}" for n in range(2000))))  # more than all of it: the newest moment stays
    assert times(kept) == [2000.0]


def test_the_same_reading_twice_is_one_moment() -> None:
    kept = History(120)
    for when in (10.0, 10.0, 9.0, 11.0):
        kept.add(snapshot(when, "/a"))
    assert times(kept) == [10.0, 11.0]


def test_the_newest_so_many_since() -> None:
    kept = History(120)
    for second in range(10):
        kept.add(snapshot(float(second + 1), "/a"))
    assert [f.when for f in kept.since(7.0)] == [8.0, 9.0, 10.0]
    assert [f.when for f in kept.since(0.0, 2)] == [9.0, 10.0]
    assert kept.since(10.0) == []


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_nothing_is_read_until_somebody_looks_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LEASE", 0.3)
    readings: list[frozenset[Part]] = []

    def read(parts: frozenset[Part]) -> Snapshot:
        readings.append(parts)
        return snapshot(time.time(), "/a")

    sampler = Sampler(read, interval=0.1)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sampler.run())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not readings
        sampler.lease()
        await until(lambda: len(sampler.history) >= 3)
        assert readings[0] == history.PARTS
        await until(lambda: not sampler.wanted() and not len(sampler.history))  # nobody polls any more
        assert sampler.history.bytes == 0
        before = len(readings)
        sampler.lease()
        await until(lambda: len(readings) > before)
        task.cancel()


async def test_with_a_duration_it_samples_unasked() -> None:
    sampler = Sampler(lambda _parts: snapshot(time.time(), "/a"), duration=600, interval=0.1)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sampler.run())
        await until(lambda: len(sampler.history) >= 2)
        task.cancel()
    assert sampler.history.duration == 600
