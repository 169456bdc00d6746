"""Snapshots put back, and stores read from beside the server.

Into SQLite: a new file is filled beside the place and renamed when it is whole. Into etcd: a mark says that a restore is under
way, and goes last; servers do not start while it is there, and the next restore begins by removing what the last one left.
Neither writes over anything: a store that holds objects is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from apiserver import layout
from apiserver.store import Committed, Op, Store, Stored, StoreFailed, snapshot
from apiserver.store.sqlite import open_store as open_sqlite

BATCH_OPS: Final = 100
BATCH_BYTES: Final = 1 << 20
EVENTS: Final = layout.prefix("", "events")


@contextmanager
def sqlite_objects(path: Path, prefix: str) -> Iterator[tuple[int, Iterator[Stored]]]:
    """(rv, objects below `prefix` in key order) of one moment, whether a server has the file open or not.

    Raises StoreFailed."""
    if not path.exists():
        raise StoreFailed(f"there is no store at {path}")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
        try:
            db.execute("BEGIN")
            meta = dict(db.execute("SELECT name, value FROM meta"))
            if meta["format"] != 2:
                raise StoreFailed(
                    f"{path} has format {meta['format']}; start the server once, it carries the file over"
                )
            query = "SELECT k, v, rv FROM kv WHERE k>=? AND k<? ORDER BY k"
            rows = db.execute(query, (prefix, prefix + "\U0010ffff"))
            yield meta["rv"], (Stored(*row) for row in rows)
        except sqlite3.Error as error:
            raise StoreFailed(f"{path} cannot be read: {error}") from error


async def into_sqlite(path: Path, header: snapshot.Header, objects: Iterable[Stored], event_ttl: float) -> None:
    """Raises StoreFailed for a store that holds objects or that a server has open, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(path):
        _refuse_full(path)
        room = Path(tempfile.mkdtemp(prefix="restore-", dir=path.parent))
        try:
            async with open_sqlite(room / path.name) as store:
                await store.start_from(header.restored_revision)
                await fill(store, objects, event_ttl)
                await store.compact(await store.current())
            with contextlib.closing(sqlite3.connect(room / path.name, isolation_level=None)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                db.execute("PRAGMA journal_mode=DELETE")  # all of it is in one file now; the server sets WAL again
            for old in ("-wal", "-shm"):
                Path(f"{path}{old}").unlink(missing_ok=True)
            os.rename(room / path.name, path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(room)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds the lock that a server's child holds while it has the file open."""
    with Path(f"{path}.lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreFailed(f"a server has {path} open; stop it first") from error
        yield


def _refuse_full(path: Path) -> None:
    if not path.exists():
        return
    with sqlite_objects(path, "") as (_, objects):
        found = next(objects, None)
    if found:
        raise StoreFailed(f"{path} holds objects ({found.key}); move it away first, a restore writes over nothing")


async def fill(store: Store, objects: Iterable[Stored], event_ttl: float) -> None:
    """Writes them in transactions as large as every store takes. Events get a new time to live."""
    ops: list[Op] = []
    size = 0
    for stored in objects:
        if ops and (len(ops) == BATCH_OPS or size + len(stored.value) > BATCH_BYTES):
            await _commit(store, ops)
            ops, size = [], 0
        ops.append(Op(stored.key, stored.value, 0, event_ttl if stored.key.startswith(EVENTS) else None))
        size += len(stored.key) + len(stored.value)
    if ops:
        await _commit(store, ops)


async def _commit(store: Store, ops: list[Op]) -> None:
    if not isinstance(await store.txn(ops), Committed):
        raise StoreFailed(f"somebody else writes to the store ({ops[0].key} is there already); stop every server first")


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
