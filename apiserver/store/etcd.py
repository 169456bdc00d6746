"""The store in etcd v3: the same Protocol, for more than one server or an etcd that is there already.

A transaction of ours is a transaction of etcd's; those that wait are folded into one (`folding`). A resource version is etcd's
revision and the index of the write in its transaction (`etcd_keys`).

A watch here is one watch on all of etcd's keys, not only ours: each revision then brings at least one event, so the position
moves with every revision whoever wrote it, and a read that must be exact asks etcd for its revision and waits for the watch to
reach it. (etcd 3.4 cannot be asked where a watch stands.)

When etcd is away, watches stay and are resumed after their last whole revision, writes are refused, and nothing is restarted.
Before a watch is resumed the last change it saw is looked up: an etcd that was restored from a backup, or lost its data, has
another history, and what the cache holds is no longer true. That is StoreLost: the server starts again from a fresh load.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

from apiserver.store import (
    Batch,
    Change,
    Committed,
    Compacted,
    Conflict,
    Op,
    Snapshot,
    StoreAway,
    Stored,
    StoreFailed,
    StoreFull,
    StoreLost,
    StoreUnsure,
    TooLarge,
    check_ops,
)
from apiserver.store.etcd_keys import Keys, Versions, ahead_key, restoring_key, without_index
from apiserver.store.folding import IN_FLIGHT, Folding
from apiserver.store.leases import Leases
from apiserver.store.position import Position
from kube import etcd_wire as wire
from kube.etcd import Access, Away, Etcd, Refused, Unsure
from kube.etcd_wire import Header, KeyValue, RangeAnswer, TxnAnswer

T = TypeVar("T")

PAGE: Final = 1000
HEALTH_EVERY: Final = 2.0
RESUME_EVERY: Final = 0.2
COMPACT_EVERY: Final = 300.0
COMPACT_KEY: Final = b"compact_rev_key"  # upstream's: servers of both kinds agree on who compacts

log = logging.getLogger(__name__)


class EtcdStore:
    """Made by `open_store`."""

    shared = True

    def __init__(self, etcd: Etcd, keys: Keys, versions: Versions, compact_every: float | None = COMPACT_EVERY) -> None:
        self._compact_every = compact_every
        self._etcd = etcd
        self._keys = keys
        self._versions = versions
        self._folding = Folding(keys, versions, self._send)
        self._leases = Leases(self._grant)
        self._cluster: int | None = None
        self._newest = 0  # the highest revision an answer had
        self._trouble: str | None = None
        self._lost = asyncio.Event()
        self._why_lost = ""
        self._asking: list[asyncio.Future[int]] = []
        self._asked = asyncio.Event()

    async def load(self, prefix: str = "", at: int | None = None) -> Snapshot:
        start = self._keys.outer_prefix(prefix)
        end, revision = wire.prefix_end(start), 0 if at is None else self._versions.revision(at)
        if at is not None and revision <= 0:
            raise Compacted(await self.oldest())
        entries: list[Stored] = []
        while True:
            try:
                page = await self._ask(self._etcd.range(start, end, limit=PAGE, revision=revision))
            except Refused as refused:
                if "future revision" in refused.message:
                    revision = 0
                    continue
                raise await self._compacted(refused) from refused
            revision = revision or page.header.revision
            entries += [Stored(*found) for kv in page.kvs if (found := self._stored(kv))]
            if not page.more:
                return Snapshot(self._versions.whole(revision), tuple(entries))
            start = page.kvs[-1].key + b"\0"

    def _stored(self, kv: KeyValue) -> tuple[str, bytes, int] | None:
        key = self._keys.inner(kv.key)
        return None if key is None else (key, without_index(kv.value), self._versions.of(kv))

    async def txn(self, ops: Sequence[Op]) -> Committed | Conflict:
        check_ops(ops)
        leases = [0 if op.ttl is None else await self._leases.lease(op.ttl) for op in ops]
        return await self._folding.commit(ops, leases)

    async def watch(self, after: int) -> AsyncGenerator[Batch, None]:
        position = Position(after, self._versions)
        if position.start <= 0:
            raise Compacted(await self.oldest())
        connected = False
        while True:
            try:
                await self._still_true(position)
                async with contextlib.aclosing(self._etcd.watch(position.start)) as answers:
                    async for answer in answers:
                        self._seen(answer.header)
                        if answer.compact_revision and position.resumed:
                            raise self._lose(f"etcd has compacted its history past {position.start}")
                        if answer.compact_revision:
                            raise Compacted(self._versions.whole(answer.compact_revision))
                        if answer.canceled:
                            raise Away(f"etcd: the watch was taken away: {answer.reason}")  # noqa: TRY301
                        if answer.created:
                            connected = True
                            if answer.header.revision < position.revision:
                                raise self._lose(f"etcd has gone back to before revision {position.revision}")
                        batch = position.advance(answer.events, self._change)
                        if batch:
                            yield batch
            except (Away, Refused) as error:
                self._in_trouble(str(error))
                await asyncio.sleep(RESUME_EVERY)
            position.resumed = connected

    async def _still_true(self, position: Position) -> None:
        """Raises StoreLost when the last change that the watch saw is not in etcd's history."""
        witness = position.witness
        if witness is None:
            return
        try:
            found = await self._ask(self._etcd.range(witness.kv.key, revision=position.revision))
        except StoreFailed as error:
            raise Away(str(error)) from error
        except Refused as refused:
            if "compacted" in refused.message:
                return  # the watch itself will say whether it can go on
            if "future revision" in refused.message:
                raise self._lose(f"etcd has gone back to before revision {position.revision}") from refused
            raise
        same = not found.kvs if witness.deleted else bool(found.kvs) and found.kvs[0] == witness.kv
        if not same:
            raise self._lose(f"etcd's history at revision {position.revision} is another one than before")

    def _change(self, event: wire.Event, place: int) -> Change | None:
        key = self._keys.inner(event.kv.key)
        if key is None:
            return None
        if event.deleted:
            return Change(self._versions.rv(event.kv.mod_revision, place), key, None)
        return Change(self._versions.of(event.kv), key, without_index(event.kv.value))

    async def current(self) -> int:
        """One question to etcd for all who ask at the same time. Who comes while one is under way waits for the next: that
        one's answer may be older than a write he knows of."""
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asking.append(mine)
        self._asked.set()
        return await mine

    async def _answer_current(self) -> NoReturn:
        while True:
            await self._asked.wait()
            self._asked.clear()
            asking, self._asking = self._asking, []
            try:
                rv = await self._revision()
            except (StoreFailed, StoreLost) as error:
                _settle(asking, error)
            else:
                _settle(asking, rv)

    async def _revision(self) -> int:
        answer = await self._heard(self._etcd.range(b"\0", count_only=True))
        return self._versions.whole(answer.header.revision)

    async def oldest(self) -> int:
        """etcd does not tell what it has compacted, only whether a revision can be read: found by halving."""
        low, high = 1, self._versions.revision(await self.current())
        while low < high:
            middle = (low + high) // 2
            try:
                await self._ask(self._etcd.range(b"\0", revision=middle, count_only=True))
                high = middle
            except Refused as refused:
                if "compacted" not in refused.message:
                    raise StoreFailed(str(refused)) from refused
                low = middle + 1
        return self._versions.whole(low)

    async def compact(self, rv: int) -> None:
        revision = self._versions.revision(min(rv, await self.current()))
        try:
            await self._ask(self._etcd.compact(revision))
        except Refused as refused:
            if "compacted" not in refused.message:
                raise StoreFailed(str(refused)) from refused

    async def health(self) -> None:
        await self._revision()
        if self._trouble is None:
            return
        if alarms := await self._heard(self._etcd.alarms()):
            self._in_trouble(f"etcd has raised {', '.join(sorted(set(alarms)))}")
            raise StoreFull(self._trouble)
        self._trouble = None
        log.info("etcd takes writes again")

    def trouble(self) -> str | None:
        return self._why_lost or self._trouble

    async def run(self) -> NoReturn:
        """Compacts as upstream does; keeps the answer to `trouble` true; raises StoreLost."""
        version, revision, waited = 0, 0, 0.0
        while True:
            try:
                async with asyncio.timeout(HEALTH_EVERY):
                    await self._lost.wait()
                raise StoreLost(self._why_lost)
            except TimeoutError:
                waited += HEALTH_EVERY
            with contextlib.suppress(StoreFailed, Refused):  # in `trouble` already; the next round tries again
                await self.health()
                if self._compact_every is not None and waited >= self._compact_every:
                    waited = 0.0
                    version, revision = await self._compact(version, revision)

    async def _compact(self, version: int, revision: int) -> tuple[int, int]:
        """Of all servers the one whose turn it is forgets what was before the last turn, five minutes ago: (version of the
        key that says so, revision now)."""
        put = wire.put_op(wire.put_request(COMPACT_KEY, str(revision).encode()))
        read = wire.range_op(wire.range_request(COMPACT_KEY))
        answer = await self._ask(self._etcd.txn([wire.version_is(COMPACT_KEY, version)], [put], [read]))
        if not answer.succeeded:
            return answer.ranges[0].kvs[0].version, answer.header.revision
        if revision:
            await self.compact(self._versions.rv(revision))
        return version + 1, answer.header.revision

    async def _send(self, compare: Sequence[bytes], success: Sequence[bytes], failure: Sequence[bytes]) -> TxnAnswer:
        return await self._heard(self._etcd.txn(compare, success, failure))

    async def _grant(self, ttl: int) -> tuple[int, int]:
        return await self._heard(self._etcd.grant(ttl))

    async def _heard(self, asked: Coroutine[Any, Any, T]) -> T:
        """As `_ask`, with etcd's no in the store's words."""
        try:
            return await self._ask(asked)
        except Refused as refused:
            raise self._said(refused) from refused

    def _said(self, refused: Refused) -> StoreFailed:
        """etcd's no, in the store's words."""
        message = refused.message
        if "too large" in message or "larger than max" in message:
            return TooLarge(f"{message}; etcd's --max-request-bytes is the limit")
        if "space exceeded" in message:
            self._in_trouble(f"{message}; compact, defragment and disarm etcd's alarm")
            return StoreFull(self._trouble or message)
        if "lease not found" in message:
            self._leases.forget()
            return StoreAway(message)
        return StoreFailed(str(refused))

    async def _ask(self, asked: Coroutine[Any, Any, T]) -> T:
        """etcd's answer. Every answer is about a state at least as new as any before, or it is another history."""
        if self._lost.is_set():
            asked.close()
            raise StoreLost(self._why_lost)
        before = self._newest
        try:
            answer = await asked
        except Away as error:
            self._in_trouble(str(error))
            raise StoreAway(str(error)) from error
        except Unsure as error:
            self._in_trouble(str(error))
            raise StoreUnsure(str(error)) from error
        if isinstance(answer, RangeAnswer | TxnAnswer):
            self._seen(answer.header)
            if answer.header.revision < before:
                raise self._lose(f"etcd has gone back from revision {before} to {answer.header.revision}")
        return answer

    def _seen(self, header: Header) -> None:
        if self._cluster is None:
            self._cluster = header.cluster_id
        elif header.cluster_id != self._cluster:
            raise self._lose("another etcd cluster answers")
        self._newest = max(self._newest, header.revision)

    async def _compacted(self, refused: Refused) -> Exception:
        if "compacted" in refused.message:
            return Compacted(await self.oldest())
        return StoreFailed(str(refused))

    def _in_trouble(self, why: str) -> None:
        if self._trouble is None:
            log.warning("%s", why)
        self._trouble = why

    def _lose(self, why: str) -> StoreLost:
        self._why_lost = why
        self._lost.set()
        return StoreLost(why)


def _settle(futures: Iterable[asyncio.Future[T]], outcome: T | Exception) -> None:
    for future in futures:
        if future.done():  # who asked has gone
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


async def _versions(etcd: Etcd, keys: Keys, *, restoring: bool) -> Versions:
    """Raises StoreFailed when etcd does not answer, and while what it holds is half a restore."""
    try:
        if not restoring and (await etcd.range(restoring_key(keys.prefix))).kvs:
            raise StoreFailed(f"a restore into {keys.prefix.decode()} was cut off; run `wherry store restore` again")
        found = (await etcd.range(ahead_key(keys.prefix))).kvs
    except (Away, Refused) as error:
        raise StoreAway(str(error)) from error
    return Versions(int(found[0].value) if found else 0)


@asynccontextmanager
async def open_store(
    access: Access,
    prefix: str,
    root: str = "/registry",
    *,
    compact_every: float | None = COMPACT_EVERY,
    restoring: bool = False,
) -> AsyncIterator[EtcdStore]:
    """Raises StoreFailed when no endpoint answers."""
    etcd = Etcd(access)
    try:
        keys = Keys(prefix, root)
        store = EtcdStore(etcd, keys, await _versions(etcd, keys, restoring=restoring), compact_every)
        await store.health()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(store._folding.work(), name=f"etcd-{n}") for n in range(IN_FLIGHT)]
            workers.append(group.create_task(store._answer_current(), name="etcd-revision"))
            try:
                yield store
            finally:
                for worker in workers:
                    worker.cancel()
    finally:
        await etcd.close()
