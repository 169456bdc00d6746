"""The store's file on a disk that fills up, and after very many writes."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apiserver.store import Committed, Op, Store, StoreFailed, StoreFull
from apiserver.store import sqlite as sqlite_store
from apiserver.store.sqlite import open_store
from tests.requirements import requires

DEADLINE = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    requires("root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "wherry-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def put(store: Store, key: str, value: bytes) -> int:
    result = await store.txn([Op(key, value)])
    assert isinstance(result, Committed)
    return result.rvs[0]


async def fill(store: Store, acknowledged: dict[str, int]) -> None:
    for number in itertools.count():
        key = f"/k/{number}"
        acknowledged[key] = await put(store, key, bytes(40_000))


async def test_a_full_disk_refuses_and_recovers(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half is left, reads go on, and what frees space is all it takes."""
    monkeypatch.setattr(sqlite_store, "EXPIRE_EVERY", 0.1)
    reserve, acknowledged = small_disk / "reserve", dict[str, int]()
    reserve.write_bytes(bytes(3 << 20))
    async with open_store(small_disk / "data" / "state.db") as store, asyncio.TaskGroup() as group:
        running = group.create_task(store.run())
        with pytest.raises(StoreFull, match="full"):
            await fill(store, acknowledged)
        assert "full" in (store.trouble() or "")
        assert {e.key: e.rv for e in (await store.load()).entries} == acknowledged
        with pytest.raises(StoreFull):
            await store.txn([Op("/a", bytes(40_000)), Op("/b", bytes(40_000))])
        reserve.unlink()
        async with asyncio.timeout(DEADLINE):
            while store.trouble() is not None:
                await asyncio.sleep(0.02)
        acknowledged["/after"] = await put(store, "/after", b"x")
        assert {e.key: e.rv for e in (await store.load()).entries} == acknowledged
        running.cancel()
    async with open_store(small_disk / "data" / "state.db") as store:
        assert {e.key: e.rv for e in (await store.load()).entries} == acknowledged


async def test_a_disk_that_is_full_from_the_start_is_said_so(small_disk: Path) -> None:
    (small_disk / "reserve").write_bytes(bytes((8 << 20) - 8192))
    with pytest.raises((StoreFailed, OSError), match=r"full|No space"):
        async with open_store(small_disk / "state.db"):
            pass


async def test_the_file_does_not_grow_with_the_number_of_writes(
    tmp_path: Path, trial: Callable[[int, int], int]
) -> None:
    """64 writers over a thousand keys of all sizes, as many times as there is time for: after the first tenth, no larger."""
    path, total = tmp_path / "state.db", trial(20_000, 1_000_000)
    sizes: list[int] = []

    async def write(store: Store, numbers: Iterator[int], until: int) -> None:
        for number in numbers:
            await put(store, f"/k/{number * 7919 % 1000}", bytes(500 + number * 31 % 3000))
            if number >= until:
                return

    async with open_store(path, history=total // 100) as store:
        numbers = iter(range(total))
        for tenth in range(1, 11):
            async with asyncio.TaskGroup() as group:
                for _ in range(64):
                    group.create_task(write(store, numbers, total * tenth // 10 - 64))
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        assert len((await store.load()).entries) == 1000
        assert (await store.current()) >> 7 > total - 100
    print(f"{total} writes; file and log after each tenth, MB: {[size >> 20 for size in sizes]}")
    assert max(sizes[2:]) <= 1.25 * max(sizes[:2])


async def test_a_file_that_was_large_is_given_back_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with open_store(path, history=10) as store:
        rvs = {f"/k/{n}": await put(store, f"/k/{n}", bytes(1_000_000)) for n in range(100)}
        for key, rv in rvs.items():
            assert isinstance(await store.txn([Op(key, None, rv)]), Committed)
        await store.compact(await store.current())
    before = path.stat().st_size
    async with open_store(path) as store:
        assert (await store.load()).entries == ()
    assert before > 90 << 20
    assert path.stat().st_size < 2 << 20
