"""Many writers, one etcd transaction.

etcd commits a few thousand transactions a second whatever is in them, and each costs its client half a millisecond. So the
writes that are waiting when a transaction can be sent go into one, guards and all: when every guard holds, all of them are
written, at one revision, told apart by their index. When one fails, nothing was written; the answer says whose guard it was,
that writer is asked alone, and the others go again together.

A unit is what one caller wants all or nothing. Units whose keys overlap never share a transaction (etcd refuses a key twice).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from apiserver.store import (
    Committed,
    Conflict,
    Op,
    StoreAway,
    StoreFailed,
    StoreFull,
    StoreLost,
    StoreUnsure,
)
from apiserver.store.etcd_keys import Keys, Versions, with_index
from kube import etcd_wire as wire
from kube.etcd_wire import TxnAnswer

FOLD_OPS: Final = 100
FOLD_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 2

Send = Callable[[Sequence[bytes], Sequence[bytes], Sequence[bytes]], Awaitable[TxnAnswer]]


@dataclass(slots=True)
class Unit:
    ops: Sequence[Op]
    leases: Sequence[int]
    done: asyncio.Future[Committed | Conflict]
    size: int


class Folding:
    """`commit` is what callers wait for; IN_FLIGHT tasks run `work`."""

    def __init__(self, keys: Keys, versions: Versions, send: Send) -> None:
        self._keys = keys
        self._versions = versions
        self._send = send
        self._units: deque[Unit] = deque()
        self._some = asyncio.Event()

    async def commit(self, ops: Sequence[Op], leases: Sequence[int]) -> Committed | Conflict:
        done: asyncio.Future[Committed | Conflict] = asyncio.get_running_loop().create_future()
        size = sum(len(op.value or b"") + 2 * len(op.key) + 64 for op in ops)
        self._units.append(Unit(ops, leases, done, size))
        self._some.set()
        return await done

    async def work(self) -> NoReturn:
        while True:
            await self._some.wait()
            await asyncio.sleep(0)  # what else is asked in this turn of the loop goes along
            units = self._take()
            if units:
                await self._commit(units)

    def _take(self) -> list[Unit]:
        """The next units that fit together, oldest first. A caller that has gone before its write was sent is left out."""
        taken: list[Unit] = []
        keys: set[str] = set()
        count = size = 0
        while self._units:
            unit = self._units[0]
            if unit.done.done():
                self._units.popleft()
                continue
            full = count + len(unit.ops) > FOLD_OPS or size + unit.size > FOLD_BYTES
            if taken and (full or any(op.key in keys for op in unit.ops)):
                break
            taken.append(self._units.popleft())
            keys.update(op.key for op in unit.ops)
            count, size = count + len(unit.ops), size + unit.size
        if not self._units:
            self._some.clear()
        return taken

    async def _commit(self, units: list[Unit]) -> None:
        try:
            answer = await self._send(*self._transaction(units))
        except (StoreAway, StoreFull, StoreUnsure, StoreLost) as error:  # the store's matter
            self._fail(units, error)
        except StoreFailed as error:  # the matter of one of them: each hears its own answer
            if len(units) == 1:
                self._fail(units, error)
            else:
                await self._each(units)
        except asyncio.CancelledError:
            self._fail(units, StoreUnsure("the server ended while it was writing"))
            raise
        else:
            if answer.succeeded:
                self._committed(units, answer.header.revision)
            else:
                await self._refused(units, answer)

    async def _each(self, units: list[Unit]) -> None:
        for unit in units:
            await self._commit([unit])

    def _committed(self, units: list[Unit], revision: int) -> None:
        index = 0
        for unit in units:
            rvs = tuple(self._versions.rv(revision, index + place) for place in range(len(unit.ops)))
            index += len(rvs)
            if not unit.done.done():
                unit.done.set_result(Committed(rvs))

    async def _refused(self, units: list[Unit], answer: TxnAnswer) -> None:
        """Alone, a unit's answer is its Conflict. Together, who lost is asked alone and the others go again."""
        kvs = [found.kvs[0] if found.kvs else None for found in answer.ranges]
        if len(units) == 1:
            if not units[0].done.done():
                units[0].done.set_result(Conflict(tuple(self._versions.of(kv) if kv else 0 for kv in kvs)))
            return
        held: list[Unit] = []
        lost: list[Unit] = []
        for unit in units:
            mine, kvs = kvs[: len(unit.ops)], kvs[len(unit.ops) :]
            stands = all(
                op.expect is None or self._versions.revision(op.expect) == (kv.mod_revision if kv else 0)
                for op, kv in zip(unit.ops, mine, strict=True)
            )
            (held if stands else lost).append(unit)
        await self._each(lost)
        if held and lost:
            await self._commit(held)
        else:
            await self._each(held)

    @staticmethod
    def _fail(units: list[Unit], error: Exception) -> None:
        for unit in units:
            if not unit.done.done():
                unit.done.set_exception(error)

    def _transaction(self, units: list[Unit]) -> tuple[list[bytes], list[bytes], list[bytes]]:
        compare: list[bytes] = []
        success: list[bytes] = []
        failure: list[bytes] = []
        together = len(units) > 1
        for unit in units:
            for op, lease in zip(unit.ops, unit.leases, strict=True):
                key = self._keys.outer(op.key)
                if op.expect is not None:
                    compare.append(wire.mod_revision_is(key, self._versions.revision(op.expect)))
                if op.value is None:
                    success.append(wire.delete_op(wire.delete_request(key)))
                else:
                    value = with_index(op.value, len(success))
                    success.append(wire.put_op(wire.put_request(key, value, lease)))
                failure.append(wire.range_op(wire.range_request(key, keys_only=together)))
        return compare, success, failure
