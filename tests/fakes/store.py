"""A store in memory, with the same Protocol: the contract in tests/contracts/test_store.py runs over both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import NoReturn

from apiserver.store import (
    INDEX_BITS,
    Batch,
    Change,
    Committed,
    Compacted,
    Conflict,
    Op,
    Snapshot,
    Stored,
    check_ops,
    end_of,
    index_rv,
)


class MemoryStore:
    shared = False

    def __init__(self, history: int = 10_000) -> None:
        self.history = history
        self.values: dict[str, tuple[int, bytes]] = {}
        self.expiry: dict[str, float] = {}
        self.log: list[tuple[Change, tuple[int, bytes] | None]] = []
        self.revision = 1
        self.rv = self.compacted = index_rv(1, 0)
        self.changed = asyncio.Event()
        self.now = 0.0

    async def load(self, prefix: str = "", at: int | None = None) -> Snapshot:
        if at is not None and at < self.compacted:
            raise Compacted(self.compacted)
        at = None if at is None else min(end_of(at), self.rv)
        values: dict[str, tuple[int, bytes] | None] = dict(self.values)
        for change, replaced in reversed(self.log):
            if at is not None and change.rv > at:
                values[change.key] = replaced
        entries = [Stored(key, row[1], row[0]) for key, row in sorted(values.items()) if row and key.startswith(prefix)]
        return Snapshot(self.rv if at is None else at, tuple(entries))

    async def txn(self, ops: Sequence[Op]) -> Committed | Conflict:
        check_ops(ops)
        actual = tuple(self.values.get(op.key, (0, b""))[0] for op in ops)
        if any(op.expect is not None and op.expect != rv for op, rv in zip(ops, actual, strict=True)):
            return Conflict(actual)
        self.revision += 1
        rvs = tuple(index_rv(self.revision, index) for index in range(len(ops)))
        for rv, op in zip(rvs, ops, strict=True):
            self._write(rv, op)
        self._wake()
        return Committed(rvs)

    def _write(self, rv: int, op: Op) -> None:
        self.log.append((Change(rv, op.key, op.value), self.values.get(op.key)))
        self.rv = rv
        self.expiry.pop(op.key, None)
        if op.value is None:
            del self.values[op.key]
        else:
            self.values[op.key] = (rv, op.value)
        if op.ttl is not None:
            self.expiry[op.key] = self.now + op.ttl

    def _wake(self) -> None:
        if len(self.log) > self.history:
            self._compact(self.log[-self.history - 1][0].rv)
        self.changed.set()
        self.changed = asyncio.Event()

    async def watch(self, after: int) -> AsyncGenerator[Batch, None]:
        while True:
            if after < self.compacted:
                raise Compacted(self.compacted)
            changed = self.changed
            changes = tuple(change for change, _ in self.log if change.rv > after)
            if changes:
                yield Batch(changes)
                after = changes[-1].rv
            else:
                await changed.wait()

    async def current(self) -> int:
        return self.rv

    async def oldest(self) -> int:
        return self.compacted

    async def compact(self, rv: int) -> None:
        self._compact(rv)

    def _compact(self, rv: int) -> None:
        self.compacted = max(self.compacted, min(rv | (1 << INDEX_BITS) - 1, self.rv))
        self.log = [row for row in self.log if row[0].rv > self.compacted]

    async def expire(self, now: float) -> None:
        self.now = now
        for key in [key for key, end in self.expiry.items() if end <= now]:
            self.revision += 1
            self._write(index_rv(self.revision, 0), Op(key, None))
        self._wake()

    async def health(self) -> None:
        return None

    def trouble(self) -> str | None:
        return None

    async def run(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never")
