"""One contract over the store in memory, the store in SQLite and the store in a real etcd."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import pytest

from apiserver.store import Batch, Committed, Compacted, Conflict, Op, Store, end_of
from apiserver.store.etcd import open_store as open_etcd
from apiserver.store.sqlite import SqliteStore
from apiserver.store.sqlite import open_store as open_sqlite
from kube.etcd import Access
from tests.etcd import EtcdServer, running
from tests.fakes.store import MemoryStore
from tests.requirements import requires

EMBEDDED = ["memory", "sqlite"]
KINDS = [*EMBEDDED, "etcd"]

Opened = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture(scope="module")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    requires("etcd")
    with running(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@asynccontextmanager
async def embedded(kind: str, path: Path, history: int = 10_000) -> AsyncIterator[MemoryStore | SqliteStore]:
    if kind == "memory":
        yield MemoryStore(history)
    else:
        async with open_sqlite(path / "state.db", history=history) as store:
            yield store


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """`opened()`: the store, the same one each time (but for the one in memory)."""
    if request.param != "etcd":
        return lambda: embedded(request.param, tmp_path)
    access = Access((request.getfixturevalue("etcd_server").url,))
    prefix = f"/{uuid.uuid4().hex}"
    return lambda: open_etcd(access, prefix, root="")


@pytest.fixture
async def store(opened: Opened) -> AsyncIterator[Store]:
    async with opened() as store:
        yield store


async def put(store: Store, key: str, value: bytes, expect: int | None = None) -> int:
    result = await store.txn([Op(key, value, expect)])
    assert isinstance(result, Committed)
    return result.rvs[0]


async def collect(store: Store, after: int, until: int = 0, count: int = 0) -> list[tuple[int, str, bytes | None]]:
    """What a watch after `after` brings, until a version or a number of changes has come."""
    seen: list[tuple[int, str, bytes | None]] = []
    async with asyncio.timeout(20), aclosing(store.watch(after)) as watch:
        async for batch in watch:
            assert all(later.rv > former.rv for former, later in itertools.pairwise(batch.changes))
            assert all(change.rv <= batch.rv for change in batch.changes)
            seen += [(change.rv, change.key, change.value) for change in batch.changes]
            if (until and seen and seen[-1][0] >= until) or (count and len(seen) >= count):
                break
    return seen


async def test_a_put_is_seen_by_load(store: Store) -> None:
    rv = await put(store, "/a/1", b"one", 0)
    snapshot = await store.load("/a/")
    assert rv <= snapshot.rv <= end_of(rv)
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
    assert await store.txn([Op("/a", None, rv + 128)]) == Conflict((rv,))
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
        middle = group.create_task(collect(store, start, count=160))
    rvs = sorted(rv for writer in writers for rv in writer.result())
    assert len(set(rvs)) == 160
    assert [rv for rv, _, _ in middle.result()] == rvs
    assert await collect(store, start, count=160) == middle.result()


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
        assert {e.key: e.value for e in snapshot.entries} == expected
        assert rv <= snapshot.rv <= end_of(rv)
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


@pytest.mark.parametrize("kind", EMBEDDED)
async def test_the_log_is_bounded(kind: str, tmp_path: Path) -> None:
    async with embedded(kind, tmp_path, history=50) as store:
        last = 0
        for step in range(1100):
            last = await put(store, f"/k/{step % 3}", b"%d" % step)
        oldest = await store.oldest()
        assert len(await collect(store, oldest, last)) <= 50 + 500
        assert len((await store.load()).entries) == 3


@pytest.mark.parametrize("kind", EMBEDDED)
async def test_keys_with_a_time_to_live_expire_and_tell(kind: str, tmp_path: Path) -> None:
    async with embedded(kind, tmp_path) as store:
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


async def test_of_many_who_expect_the_same_one_wins(store: Store) -> None:
    """A counter that forty tasks raise by compare-and-swap: nothing is lost, whatever was folded with what."""
    rv = await put(store, "/counter", b"0", 0)
    tries = 0

    async def raise_it() -> None:
        nonlocal tries
        value, seen = 0, rv
        while True:
            tries += 1
            result = await store.txn([Op("/counter", b"%d" % (value + 1), seen)])
            if isinstance(result, Committed):
                return
            (entry,) = (await store.load("/counter")).entries
            value, seen = int(entry.value), entry.rv

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(raise_it())
        others = [group.create_task(put(store, f"/other/{n}", b"x", 0)) for n in range(100)]
    (counter,) = (await store.load("/counter")).entries
    assert int(counter.value) == 40
    assert tries > 40
    assert len({task.result() for task in others}) == 100
    changes = await collect(store, rv, count=140)
    assert [value for _, key, value in changes if key == "/counter"] == [b"%d" % n for n in range(1, 41)]
    assert {entry.key: entry.rv for entry in (await store.load("/other/")).entries} == {
        key: version for version, key, _ in changes if key != "/counter"
    }


async def test_the_longest_transaction(store: Store) -> None:
    ops = [Op(f"/k/{n:03}", b"%d" % n, 0) for n in range(128)]
    result = await store.txn(ops)
    assert isinstance(result, Committed)
    assert result.rvs == tuple(range(result.rvs[0], result.rvs[0] + 128))
    assert result.rvs[0] % 128 == 0
    assert [(e.key, e.rv) for e in (await store.load("/k/")).entries] == [
        (op.key, rv) for op, rv in zip(ops, result.rvs, strict=True)
    ]
    assert len(await collect(store, result.rvs[99], result.rvs[127])) == 28


async def test_a_transaction_is_one_moment(store: Store) -> None:
    """Some of its keys are put, some deleted; a past version shows it whole."""
    first = await store.txn([Op("/a", b"1"), Op("/b", b"1"), Op("/c", b"1")])
    assert isinstance(first, Committed)
    second = await store.txn([Op("/a", None, first.rvs[0]), Op("/b", b"2", first.rvs[1]), Op("/d", b"2", 0)])
    assert isinstance(second, Committed)
    await put(store, "/b", b"3")
    for rv in second.rvs:
        assert [(e.key, e.value) for e in (await store.load(at=rv)).entries] == [
            ("/b", b"2"),
            ("/c", b"1"),
            ("/d", b"2"),
        ]
    assert [(key, value) for _, key, value in await collect(store, first.rvs[-1], second.rvs[-1])][:3] == [
        ("/a", None),
        ("/b", b"2"),
        ("/d", b"2"),
    ]


async def test_prefixes_end_at_the_name(store: Store) -> None:
    for key in ("/pods/a/1", "/pods/ab/1", "/pods/a/2", "/podsx/a/1", "/pods/ä/1", "/pods/a/\U0010fffd"):
        await put(store, key, b"x", 0)
    found = [entry.key for entry in (await store.load("/pods/a/")).entries]
    assert found == ["/pods/a/1", "/pods/a/2", "/pods/a/\U0010fffd"]
    assert len((await store.load("/pods/")).entries) == 5
    assert len((await store.load()).entries) == 6


async def test_values_come_back_as_they_went(store: Store) -> None:
    """Also those that look like what the stores themselves write, and those near the limit of a request."""
    values = [b"", b"{}", b" " * 7, b"x\t \t \t \t", bytes(range(256)), random.Random(3).randbytes(1_400_000)]
    start = await store.current()
    for number, value in enumerate(values):
        await put(store, f"/v/{number}", value, 0)
    assert [entry.value for entry in (await store.load("/v/")).entries] == values
    assert [value for _, _, value in await collect(store, start, count=len(values))] == values


async def test_a_load_is_one_moment_while_others_write(store: Store) -> None:
    """Of values so large that the stores load them in pages; a writer rewrites them all, in order, again and again."""
    keys = [f"/large/{n}" for n in range(8)]
    for key in keys:
        await put(store, key, b"0" * 700_000)
    done = asyncio.Event()

    async def rewrite() -> None:
        step = 0
        while not done.is_set():
            step += 1
            for key in keys:
                await put(store, key, b"%d" % (step % 10) * 700_000)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(rewrite())
        for _ in range(8):
            snapshot = await store.load("/large/")
            assert [entry.key for entry in snapshot.entries] == keys
            firsts = [entry.value[0] for entry in snapshot.entries]
            assert sum(former != later for former, later in itertools.pairwise(firsts)) <= 1, firsts
            assert max(entry.rv for entry in snapshot.entries) <= snapshot.rv
        done.set()


async def test_more_than_a_page(store: Store) -> None:
    names = [f"/many/{n:05}" for n in range(2500)]
    for at in range(0, len(names), 125):
        assert isinstance(await store.txn([Op(name, name.encode(), 0) for name in names[at : at + 125]]), Committed)
    assert [entry.key for entry in (await store.load("/many/")).entries] == names


async def test_a_time_to_live_ends_by_itself(store: Store) -> None:
    """Told like any deletion; what was written again without one stays."""
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(store.run())
        result = await store.txn(
            [Op("/brief", b"1", ttl=1.0), Op("/kept", b"1", ttl=1.0), Op("/long", b"1", ttl=600.0)]
        )
        assert isinstance(result, Committed)
        rv = await put(store, "/kept", b"2")
        if isinstance(store, MemoryStore):
            await store.expire(2.0)
        (gone,) = await collect(store, rv, count=1)
        assert gone[1:] == ("/brief", None)
        assert [entry.key for entry in (await store.load()).entries] == ["/kept", "/long"]
        keeping.cancel()


@pytest.mark.parametrize("opened", ["sqlite", "etcd"], indirect=True)
async def test_what_was_written_is_there_after_a_restart(opened: Opened) -> None:
    async with opened() as store:
        first = await put(store, "/a", b"1", 0)
        second = await store.txn([Op("/a", b"2", first), Op("/b", b"1", 0)])
        assert isinstance(second, Committed)
    async with opened() as store:
        assert [(e.key, e.value, e.rv) for e in (await store.load()).entries] == [
            ("/a", b"2", second.rvs[0]),
            ("/b", b"1", second.rvs[1]),
        ]
        assert await store.current() >= second.rvs[1]
        third = await put(store, "/c", b"1", 0)
        assert third > second.rvs[1]
        changes = await collect(store, first, third)
        assert [(rv, key) for rv, key, _ in changes] == [*zip(second.rvs, ("/a", "/b"), strict=True), (third, "/c")]


async def test_whoever_asks_for_the_current_version_after_a_write_is_told_it(store: Store) -> None:
    async def write_and_ask(name: int) -> bool:
        rv = await put(store, f"/k/{name}", b"x")
        return await store.current() >= rv

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write_and_ask(n)) for n in range(60)]
    assert all(task.result() for task in tasks)
    assert store.trouble() is None
    await store.health()
