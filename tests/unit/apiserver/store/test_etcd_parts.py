"""The parts of the etcd store that need no etcd: keys and versions, leases, folding, the position of a watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from apiserver.store import Change, Committed, Conflict, Op, StoreAway, StoreFailed, StoreUnsure, TooLarge, end_of
from apiserver.store.etcd_keys import Keys, Versions, with_index, without_index
from apiserver.store.folding import FOLD_OPS, Folding
from apiserver.store.leases import MAX_KEYS, Leases
from apiserver.store.position import Position
from apiserver.store.refusal import refused
from kube import etcd_wire as wire
from kube.etcd_wire import Event, Header, KeyValue, RangeAnswer, TxnAnswer


def test_keys_move_below_the_prefix() -> None:
    keys = Keys("/other/cluster/", "/registry")
    assert keys.outer("/registry/pods/a/b") == b"/other/cluster/pods/a/b"
    assert keys.outer_prefix("/registry/pods/") == b"/other/cluster/pods/"
    assert keys.outer_prefix("") == b"/other/cluster/"
    assert keys.inner(b"/other/cluster/pods/a/b") == "/registry/pods/a/b"
    assert keys.inner(b"/other/cluster2/pods/a/b") is None
    assert keys.inner(b"/other/cluster/\xff") is None


@pytest.mark.parametrize("value", [b"", b"{}", b" " * 7, b"\t" * 20])
@pytest.mark.parametrize("index", [0, 1, 99, 127])
def test_a_value_says_which_write_of_its_transaction_it_was(value: bytes, index: int) -> None:
    stored = with_index(value, index)
    assert without_index(stored) == value
    assert Versions().of(KeyValue(b"k", stored, 5, 1, 0)) == 5 << 7 | index
    assert Versions(1000).of(KeyValue(b"k", stored, 5, 1, 0)) == 1005 << 7 | index
    assert Versions(1000).revision(1005 << 7 | index) == 5


def test_what_others_wrote_has_index_0() -> None:
    assert without_index(b"{}\n") == b"{}\n"
    assert Versions().of(KeyValue(b"k", b"{}\n", 5, 1, 0)) == 5 << 7
    assert Versions().of(KeyValue(b"k", b"", 0, 0, 0)) == 0


async def test_leases_are_shared_while_they_are_long_enough() -> None:
    now, granted = 0.0, list[int]()

    async def grant(ttl: int) -> tuple[int, int]:
        granted.append(ttl)
        return len(granted), ttl

    leases = Leases(grant, lambda: now)
    assert [await leases.lease(3600), await leases.lease(3600)] == [1, 1]
    now = 59
    assert await leases.lease(3600) == 1
    now = 61
    assert await leases.lease(3600) == 2
    assert await leases.lease(10) == 3  # a lease of an hour is no lease of ten seconds
    assert granted == [3660, 3660, 11]
    for _ in range(MAX_KEYS):
        await leases.lease(10)
    assert len(granted) == 4
    leases.forget()
    await leases.lease(10)
    assert len(granted) == 5


class FakeEtcd:
    """Transactions on a dict, refused as told; what was sent is kept."""

    def __init__(self) -> None:
        self.revision = 10
        self.kvs: dict[bytes, KeyValue] = {}
        self.sent: list[int] = []
        self.errors: list[StoreFailed] = []
        self.limit = 1 << 30

    async def send(self, compare: Sequence[bytes], success: Sequence[bytes], failure: Sequence[bytes]) -> TxnAnswer:
        self.sent.append(len(success))
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        if sum(map(len, success)) > self.limit:
            raise TooLarge("etcdserver: request is too large")
        for one in compare:
            found = dict(wire.fields(one))
            kv = self.kvs.get(found[3])  # type: ignore[call-overload]
            if found[6] != (kv.mod_revision if kv else 0):
                return TxnAnswer(Header(revision=self.revision), False, tuple(self._ranges(failure)))
        self.revision += 1
        for operation in success:
            ((kind, request),) = wire.fields(operation)
            fields = dict(wire.fields(request))  # type: ignore[arg-type]
            key: bytes = fields[1]  # type: ignore[assignment]
            if kind == 2:
                self.kvs[key] = KeyValue(key, fields[2], self.revision, 1, 0)  # type: ignore[arg-type]
            else:
                del self.kvs[key]
        return TxnAnswer(Header(revision=self.revision), True, ())

    def _ranges(self, failure: Sequence[bytes]) -> list[RangeAnswer]:
        found = []
        for operation in failure:
            ((_, request),) = wire.fields(operation)
            kv = self.kvs.get(dict(wire.fields(request))[1])  # type: ignore[arg-type, call-overload]
            found.append(RangeAnswer(Header(), (kv,) if kv else (), False, 1))
        return found


@asynccontextmanager
async def folding() -> AsyncIterator[tuple[FakeEtcd, Folding]]:
    etcd = FakeEtcd()
    folded = Folding(Keys("/registry", ""), Versions(), etcd.send)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(folded.work())
        yield etcd, folded
        task.cancel()


async def commit(folded: Folding, *ops: Op) -> Committed | Conflict:
    return await folded.commit(ops, [0] * len(ops))


async def test_what_waits_together_goes_together() -> None:
    async with folding() as (etcd, folded):
        results = await asyncio.gather(*(commit(folded, Op(f"/{n}", b"x", 0)) for n in range(250)))
        assert etcd.sent == [FOLD_OPS, FOLD_OPS, 50]
        rvs = [result.rvs[0] for result in results if isinstance(result, Committed)]
        assert rvs == sorted(set(rvs))
        assert {Versions().of(kv) for kv in etcd.kvs.values()} == set(rvs)


async def test_one_key_twice_is_two_transactions_in_order() -> None:
    async with folding() as (etcd, folded):
        await asyncio.gather(commit(folded, Op("/a", b"1")), commit(folded, Op("/a", b"2")))
        assert etcd.sent == [1, 1]
        assert without_index(etcd.kvs[b"/registry/a"].value) == b"2"


async def test_who_lost_is_asked_alone_and_the_others_go_again() -> None:
    async with folding() as (etcd, folded):
        first = await commit(folded, Op("/a", b"1", 0))
        assert isinstance(first, Committed)
        results = await asyncio.gather(
            commit(folded, Op("/x", b"1", 0), Op("/y", b"1", 0)),
            commit(folded, Op("/a", b"2", 0)),
            commit(folded, Op("/z", b"1", 0)),
        )
        assert results[1] == Conflict(first.rvs)
        assert isinstance(results[0], Committed)
        assert isinstance(results[2], Committed)
        assert etcd.sent == [1, 4, 1, 3]


async def test_one_that_is_too_large_does_not_take_the_others_along() -> None:
    async with folding() as (etcd, folded):
        etcd.limit = 5000
        small = [commit(folded, Op(f"/{n}", b"x" * 100, 0)) for n in range(5)]
        results = await asyncio.gather(commit(folded, Op("/large", b"x" * 6000)), *small, return_exceptions=True)
        assert isinstance(results[0], TooLarge)
        assert all(isinstance(one, Committed) for one in results[1:])


@pytest.mark.parametrize("error", [StoreAway("away"), StoreUnsure("lost")])
async def test_an_etcd_that_fails_is_not_asked_again_for_each(error: StoreFailed) -> None:
    async with folding() as (etcd, folded):
        etcd.errors = [error]
        results = await asyncio.gather(*(commit(folded, Op(f"/{n}", b"x")) for n in range(9)), return_exceptions=True)
        assert results == [error] * 9
        assert etcd.sent == [9]
        assert isinstance(await commit(folded, Op("/a", b"x")), Committed)


async def test_who_went_away_before_it_was_sent_writes_nothing() -> None:
    async with folding() as (etcd, folded):
        async with asyncio.TaskGroup() as group:
            gone = group.create_task(commit(folded, Op("/gone", b"x")))
            kept = group.create_task(commit(folded, Op("/kept", b"x")))
            gone.cancel()
        assert isinstance(kept.result(), Committed)
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        assert list(etcd.kvs) == [b"/registry/kept"]


def event(key: bytes, revision: int, value: bytes = b"v", *, deleted: bool = False) -> Event:
    return Event(deleted, KeyValue(key, value, revision, 1, 0))


def read(one: Event, place: int) -> Change | None:
    return None if one.kv.key == b"foreign" else Change(one.kv.mod_revision << 7 | place, one.kv.key.decode(), None)


def test_a_position_moves_with_every_revision_and_resumes_within_one() -> None:
    position = Position(5 << 7 | 1, Versions())  # two writes of revision 5 were seen
    assert position.start == 5
    batch = position.advance([event(b"a", 5), event(b"b", 5), event(b"c", 5), event(b"d", 6)], read)
    assert batch is not None
    assert [change.rv for change in batch.changes] == [5 << 7 | 2, 6 << 7]
    assert (batch.rv, position.start) == (end_of(6 << 7), 7)
    batch = position.advance([event(b"foreign", 9)], read)
    assert batch is not None
    assert (batch.changes, batch.rv, position.start) == ((), end_of(9 << 7), 10)
    assert position.advance([], read) is None


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (TooLarge("x"), 413, None),
        (StoreAway("x"), 503, "1"),
        (StoreUnsure("x"), 500, None),
        (StoreFailed("x"), 500, None),
    ],
)
def test_refusals_say_whether_to_try_again(error: StoreFailed, code: int, retry: str | None) -> None:
    status = refused(error)
    assert (status.code, status.headers.get("Retry-After")) == (code, retry)
