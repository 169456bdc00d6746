"""One contract over the store in memory and the store in SQLite."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from apiserver.store import Batch, Committed, Compacted, Conflict, Op, Store
from apiserver.store.sqlite import SqliteStore, open_store
from tests.fakes.store import MemoryStore

KINDS = ["memory", "sqlite"]


@asynccontextmanager
async def opened(kind: str, path: Path, history: int = 10_000) -> AsyncIterator[MemoryStore | SqliteStore]:
    if kind == "memory":
        yield MemoryStore(history)
    else:
        async with open_store(path / "state.db", history=history) as store:
            yield store


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemoryStore | SqliteStore]:
    async with opened(request.param, tmp_path) as store:
        yield store


async def put(store: Store, key: str, value: bytes, expect: int | None = None) -> int:
    result = await store.txn([Op(key, value, expect)])
    assert isinstance(result, Committed)
    return result.rvs[0]


async def collect(store: Store, after: int, until: int) -> list[tuple[int, str, bytes | None]]:
    seen: list[tuple[int, str, bytes | None]] = []
    watch = store.watch(after)
    async with asyncio.timeout(10):
        async for batch in watch:
            seen += [(change.rv, change.key, change.value) for change in batch.changes]
            if seen[-1][0] >= until:
                break
    await watch.aclose()  # type: ignore[attr-defined]
    return seen


async def test_a_put_is_seen_by_load(store: Store) -> None:
    rv = await put(store, "/a/1", b"one", 0)
    snapshot = await store.load("/a/")
    assert snapshot.rv == rv
    assert [(e.key, e.value, e.rv) for e in snapshot.entries] == [("/a/1", b"one", rv)]
    assert (await store.load("/b/")).entries == ()


async def test_expectations_decide_all_or_nothing(store: Store) -> None:
    first = await put(store, "/a", b"1", 0)
    assert await store.txn([Op("/b", b"x", 0), Op("/a", b"2", 0)]) == Conflict((0, first))
    assert [e.key for e in (await store.load()).entries] == ["/a"]
    assert isinstance(await store.txn([Op("/a", b"2", first), Op("/b", b"x", 0)]), Committed)
    assert isinstance(await store.txn([Op("/a", None, first)]), Conflict)
    assert [e.value for e in (await store.load()).entries] == [b"2", b"x"]


async def test_every_change_of_a_transaction_has_its_own_version(store: Store) -> None:
    result = await store.txn([Op("/a", b"1"), Op("/b", b"2"), Op("/c", b"3")])
    assert isinstance(result, Committed)
    first, second, third = result.rvs
    assert (second, third) == (first + 1, first + 2)
    assert await collect(store, first, third) == [(second, "/b", b"2"), (third, "/c", b"3")]


async def test_a_delete_needs_the_version_it_saw(store: Store) -> None:
    rv = await put(store, "/a", b"1")
    with pytest.raises(ValueError, match="names the resource version"):
        await store.txn([Op("/a", None)])
    assert await store.txn([Op("/a", None, rv + 1)]) == Conflict((rv,))
    deleted = await store.txn([Op("/a", None, rv)])
    assert isinstance(deleted, Committed)
    assert await store.txn([Op("/a", None, rv)]) == Conflict((0,))
    assert await collect(store, rv, deleted.rvs[0]) == [(deleted.rvs[0], "/a", None)]


async def test_watch_gives_history_and_then_what_comes(store: Store) -> None:
    first = await put(store, "/a", b"1")
    second = await put(store, "/a", b"2")
    watch = store.watch(first)
    batch = await anext(watch)
    assert [(c.rv, c.value) for c in batch.changes] == [(second, b"2")]
    waiting = asyncio.ensure_future(anext(watch))  # noqa: TID251
    third = await put(store, "/b", b"3")
    assert [(c.rv, c.value) for c in (await waiting).changes] == [(third, b"3")]
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_misses_nothing_while_many_write(store: Store) -> None:
    start = await store.current()

    async def write(name: int) -> list[int]:
        return [await put(store, f"/k/{name}", b"%d" % step) for step in range(20)]

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(name)) for name in range(8)]
        middle = group.create_task(collect(store, start, start + (160 << 7)))
    rvs = sorted(rv for writer in writers for rv in writer.result())
    assert len(set(rvs)) == 160
    assert [rv for rv, _, _ in middle.result()] == rvs


async def test_load_at_a_past_version(store: Store) -> None:
    states: list[tuple[int, dict[str, bytes]]] = []
    rng, state, rvs = random.Random(7), dict[str, bytes](), dict[str, int]()
    for step in range(120):
        key = f"/k/{rng.randrange(6)}"
        if key in state and rng.random() < 0.4:
            result = await store.txn([Op(key, None, rvs[key])])
            assert isinstance(result, Committed)
            del state[key], rvs[key]
            states.append((result.rvs[0], dict(state)))
        else:
            rvs[key] = await put(store, key, b"%d" % step)
            state[key] = b"%d" % step
            states.append((rvs[key], dict(state)))
    for rv, expected in states[::7]:
        snapshot = await store.load("/k/", at=rv)
        assert ({e.key: e.value for e in snapshot.entries}, snapshot.rv) == (expected, rv)
    replay = {e.key: e.value for e in (await store.load("/k/", at=states[10][0])).entries}
    for _, key, value in await collect(store, states[10][0], states[-1][0]):
        replay[key] = value or b""
        if value is None:
            del replay[key]
    assert replay == state


async def test_compaction_forgets_history_only(store: Store) -> None:
    first = await put(store, "/a", b"1")
    second = await put(store, "/a", b"2")
    third = await put(store, "/a", b"3")
    await store.compact(second)
    with pytest.raises(Compacted) as compacted:
        await collect(store, first, third)
    assert compacted.value.oldest == await store.oldest()
    with pytest.raises(Compacted):
        await store.load(at=first)
    assert await collect(store, await store.oldest(), third) == [(third, "/a", b"3")]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_log_is_bounded(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, history=50) as store:
        last = 0
        for step in range(1100):
            last = await put(store, f"/k/{step % 3}", b"%d" % step)
        oldest = await store.oldest()
        assert len(await collect(store, oldest, last)) <= 50 + 500
        assert len((await store.load()).entries) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_with_a_time_to_live_expire_and_tell(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.txn([Op("/short", b"1", ttl=0.0), Op("/long", b"1", ttl=9e9), Op("/ever", b"1")])
        await store.txn([Op("/renewed", b"1", ttl=0.0)])
        rv = await put(store, "/renewed", b"2")
        await store.expire(4e9)
        assert [e.key for e in (await store.load()).entries] == ["/ever", "/long", "/renewed"]
        gone = await collect(store, rv, rv + 128)
        assert [(key, value) for _, key, value in gone] == [("/short", None)]


async def test_nonsense_is_refused(store: Store) -> None:
    for ops in ([], [Op("/a", b"")] * 2, [Op(f"/{n}", b"") for n in range(129)]):
        with pytest.raises(ValueError):
            await store.txn(ops)


def test_batches_know_their_version() -> None:
    with pytest.raises(IndexError):
        _ = Batch(()).rv
