"""The store: a Protocol shaped like etcd v3, and the values that cross it.

Every write gets one revision, and every change in that write its own resource version:

    resource version = revision << 7 | index within the transaction

so that any single event is a point from which a watch can resume, even when several keys were written together
(kubernetes#110210 is what happens otherwise). All numbers in this interface are resource versions.

Values never contain their own resource version: with etcd it is known only after the commit. It is stamped in
when an object is served (see `apiserver.cache`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

INDEX_BITS = 7
MAX_OPS = 1 << INDEX_BITS  # also etcd's default --max-txn-ops


@dataclass(frozen=True, slots=True)
class Op:
    """Put `value` at `key`, or delete the key when `value` is None.

    `expect` is the resource version the key must have: 0 = the key must not exist, None = any (puts only).
    `ttl` in seconds: the key is deleted by the store when it has passed without another put.
    """

    key: str
    value: bytes | None
    expect: int | None = None
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    rvs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written; `actual[i]` is the resource version that op i's key has (0 = absent)."""

    actual: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    key: str
    value: bytes
    rv: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    rv: int
    entries: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class Change:
    rv: int
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """The changes of one or more whole transactions, in commit order.

    `seen`: everything up to this resource version has now been seen, when that is more than the last change says (in a
    store that others also write to, a revision may hold nothing of ours).
    """

    changes: tuple[Change, ...]
    seen: int = 0

    @property
    def rv(self) -> int:
        return self.seen or self.changes[-1].rv


class Compacted(Exception):
    """The history after the asked revision is gone; `oldest` is the first that can still be asked for."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history before {oldest} has been compacted")
        self.oldest = oldest


class StoreFailed(Exception):
    """The store refused this request; nothing was written."""


class StoreAway(StoreFailed):
    """The store does not answer now; nothing was written, and the same request may succeed in a moment."""


class StoreUnsure(StoreFailed):
    """The store was lost while it was writing: the write may or may not have happened. Read before you repeat it."""


class StoreFull(StoreFailed):
    """No space is left; nothing was written, and reads go on."""


class TooLarge(StoreFailed):
    """The store takes no request as large as this one."""


class StoreLost(Exception):
    """What was read from the store no longer holds (its process ended, its history is another one): the daemon must end
    and start from a fresh load."""


class Store(Protocol):
    shared: bool
    """Whether others may write to it."""

    async def load(self, prefix: str = "", at: int | None = None) -> Snapshot:
        """Everything under `prefix`, now or as it was after the transaction of `at` (Compacted if too old)."""

    async def txn(self, ops: Sequence[Op]) -> Committed | Conflict:
        """All or nothing. On return the write is on disk."""

    def watch(self, after: int) -> AsyncGenerator[Batch, None]:
        """Every change after `after`, in commit order, for ever (Compacted if the log no longer reaches back)."""

    async def current(self) -> int:
        """A resource version that covers every change acknowledged before the call, and none that is yet to come."""

    async def oldest(self) -> int:
        """The oldest resource version that `load(at=)` and `watch(after=)` accept."""

    async def compact(self, rv: int) -> None:
        """Forget the history up to and including `rv`."""

    async def health(self) -> None:
        """Return when the store answers; raise StoreFailed or StoreLost when it does not."""

    def trouble(self) -> str | None:
        """Why writes are refused just now, as far as known without asking; None when they are not."""

    async def run(self) -> NoReturn:
        """The store's own housekeeping (expiry, compaction, health). Raises StoreLost. Own it in the daemon's TaskGroup."""


def end_of(rv: int) -> int:
    """The last resource version that the transaction of `rv` can have."""
    return rv | MAX_OPS - 1


def index_rv(revision: int, index: int) -> int:
    return revision << INDEX_BITS | index


def check_ops(ops: Sequence[Op]) -> None:
    """Raises ValueError for transactions that no store can carry out."""
    if not 0 < len(ops) <= MAX_OPS:
        raise ValueError(f"a transaction has 1 to {MAX_OPS} operations, not {len(ops)}")
    if len({op.key for op in ops}) != len(ops):
        raise ValueError("a transaction names each key once")
    if any(op.value is None and not op.expect for op in ops):
        raise ValueError("a delete names the resource version it expects")
