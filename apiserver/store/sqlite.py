"""The embedded store: SQLite in a child process (see `sqlite_child`), spoken to over a socketpair.

Requests are answered in the order they were sent, so the order of replies is the order of commits: live batches for
watchers are made from replies as they arrive. A watcher that starts in the past subscribes first and then asks for
the history; live batches that the history already covers are dropped.

The child's death is the daemon's: writes in flight may or may not be on disk, and only a fresh load can tell. Their
callers get StoreLost, `run()` raises it, and systemd starts us again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import marshal
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from apiserver import layout
from apiserver.store import (
    Batch,
    Change,
    Committed,
    Compacted,
    Conflict,
    Op,
    Snapshot,
    Stored,
    StoreFailed,
    StoreFull,
    StoreLost,
    check_ops,
)

EXPIRE_EVERY = 5.0
EXPIRE_ROWS = 1000  # of one round, so that writes do not wait for a long one
HISTORY = 10_000
CLOSE_WAIT = 10.0

Changes = Callable[[Any], tuple[Change, ...]]
Reply = tuple[int, str, Any]  # number of the request, word, payload


@dataclass(slots=True)
class _Waiting:
    """A request on its way: who waits, and which changes its answer means for watchers."""

    future: asyncio.Future[Any]
    changes: Changes | None


class _Channel(asyncio.Protocol):
    """Frames of replies; all that arrived together are handed on together."""

    def __init__(self, on_replies: Callable[[list[Reply]], None]) -> None:
        self.buffer = bytearray()
        self.on_replies = on_replies

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        position = 0
        replies: list[Reply] = []
        while len(self.buffer) >= position + 4:
            (length,) = struct.unpack_from("<I", self.buffer, position)
            if len(self.buffer) < position + 4 + length:
                break
            frame = bytes(memoryview(self.buffer)[position + 4 : position + 4 + length])
            position += 4 + length
            replies.append(marshal.loads(frame))
        del self.buffer[:position]
        self.on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_replies([(-1, "lost", str(exc or "the store's process ended"))])


class SqliteStore:
    """Made by `open_store`."""

    shared = False

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._opened: asyncio.Future[Any] = loop.create_future()
        self._waiting: dict[int, _Waiting] = {0: _Waiting(self._opened, None)}
        self._subscribers: set[asyncio.Queue[Batch | None]] = set()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._lost = asyncio.Event()
        self._why_lost = ""
        self._trouble: str | None = None

    async def load(self, prefix: str = "", at: int | None = None) -> Snapshot:
        entries: list[Stored] = []
        start: str | None = prefix
        while start is not None:  # the first page fixes the moment that the others are rolled back to
            at, rows, start = await self._ask("load", start, prefix + "\U0010ffff", at)
            entries += [Stored(key, value, rv) for key, rv, value in rows]
        return Snapshot(at or 0, tuple(entries))

    async def txn(self, ops: Sequence[Op]) -> Committed | Conflict:
        check_ops(ops)

        def changes(rvs: list[int]) -> tuple[Change, ...]:
            return tuple(Change(rv, op.key, op.value) for rv, op in zip(rvs, ops, strict=True))

        now = time.time()
        wire = [(op.key, op.value, op.expect, None if op.ttl is None else now + op.ttl) for op in ops]
        try:
            return Committed(tuple(await self._ask("txn", wire, changes=changes)))
        except _Conflicted as conflict:
            return Conflict(conflict.actual)

    async def watch(self, after: int) -> AsyncGenerator[Batch, None]:
        queue: asyncio.Queue[Batch | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            history = tuple([Change(*row) for row in await self._ask("since", after)])
            if history:
                yield Batch(history)
                after = history[-1].rv
            while True:
                batch = await queue.get()
                if batch is None:
                    raise StoreLost(self._why_lost)
                if batch.changes[0].rv > after:
                    yield batch
                elif batch.rv > after:  # the history covered its first transactions
                    yield Batch(tuple([one for one in batch.changes if one.rv > after]))
        finally:
            self._subscribers.discard(queue)

    async def current(self) -> int:
        rv, _ = await self._ask("status")
        return int(rv)

    async def oldest(self) -> int:
        _, oldest = await self._ask("status")
        return int(oldest)

    async def compact(self, rv: int) -> None:
        await self._ask("compact", rv)

    async def health(self) -> None:
        await self._ask("status")

    def trouble(self) -> str | None:
        return self._why_lost or self._trouble

    async def start_from(self, revision: int) -> None:
        """An empty store goes on counting from there. Raises StoreFailed for one that holds something."""
        await self._ask("start_from", revision)

    async def expire(self, now: float) -> None:
        """Deletes the keys whose time to live ended before `now` (Unix time), a thousand at a time."""

        def changes(gone: list[tuple[int, str]]) -> tuple[Change, ...]:
            return tuple(Change(rv, key, None) for rv, key in gone)

        while len(await self._ask("expire", now, changes=changes)) >= EXPIRE_ROWS:
            pass

    async def run(self) -> NoReturn:
        """Expires keys; raises StoreLost when the child ends. Own it in the daemon's TaskGroup."""
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), EXPIRE_EVERY)
            except TimeoutError:
                with contextlib.suppress(StoreFailed):  # a full disk: the next pass tries again
                    await self.expire(time.time())
                    if self._trouble is not None:
                        await self._ask("probe")
                        self._trouble = None
                continue
            raise StoreLost(self._why_lost)

    async def _ask(self, verb: str, *arguments: object, changes: Changes | None = None) -> Any:
        if self._lost.is_set() or self._transport is None:
            raise StoreLost(self._why_lost)
        number = next(self._numbers)
        waiting = _Waiting(asyncio.get_running_loop().create_future(), changes)
        self._waiting[number] = waiting
        self._post((number, verb, *arguments))
        return await waiting.future

    def _post(self, request: tuple[Any, ...]) -> None:
        payload = marshal.dumps(request)
        if not self._unsent:  # what is asked in one turn of the loop is sent in one piece
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += (struct.pack("<I", len(payload)), payload)

    def _send(self) -> None:
        pieces, self._unsent = self._unsent, []
        if self._transport is not None:
            self._transport.writelines(pieces)

    def _on_replies(self, replies: list[Reply]) -> None:
        """Watchers are told before callers, so that whoever reads on its own reply finds the cache up to date."""
        changes: list[Change] = []
        answered: list[tuple[_Waiting, Reply]] = []
        for reply in replies:
            number, word, payload = reply
            if word == "lost":
                self._lose(payload)
                return
            waiting = self._waiting.pop(number)
            answered.append((waiting, reply))
            if word == "ok" and waiting.changes:
                changes += waiting.changes(payload)
        if changes:
            batch = Batch(tuple(changes))
            for queue in self._subscribers:
                queue.put_nowait(batch)
        for waiting, (_, word, payload) in answered:
            self._answer(waiting, word, payload)

    def _answer(self, waiting: _Waiting, word: str, payload: Any) -> None:
        if waiting.future.done():  # its caller was cancelled; the write stands all the same
            return
        match word:
            case "ok":
                waiting.future.set_result(payload)
            case "conflict":
                waiting.future.set_exception(_Conflicted(tuple(payload)))
            case "compacted":
                waiting.future.set_exception(Compacted(payload))
            case "full":
                waiting.future.set_exception(StoreFull(payload))
            case _:
                waiting.future.set_exception(StoreFailed(payload))
        if word in ("full", "failed"):
            self._trouble = f"writes are refused: {payload}"

    def _lose(self, why: str) -> None:
        self._why_lost = why
        self._lost.set()
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(StoreLost(why))
        self._waiting.clear()
        for queue in self._subscribers:
            queue.put_nowait(None)


class _Conflicted(Exception):
    def __init__(self, actual: tuple[int, ...]) -> None:
        super().__init__("conflict")
        self.actual = actual


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_store(
    path: Path, *, history: int = HISTORY, moved: Mapping[str, str] | None = None
) -> AsyncIterator[SqliteStore]:
    """Starts the child and waits until it owns the file; on exit waits until it has finished its last commit. In a file of the
    first format keys move from the prefixes `moved` names to those it gives (`layout.moved` when None).

    Raises StoreFailed naming the file when it cannot be opened, or when another process has it open.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    child = Path(__file__).with_name("sqlite_child.py")
    argv = [sys.executable, "-I", "-S", str(child), str(path)]  # the path is for who reads `ps`
    with theirs:
        process = subprocess.Popen(argv, stdin=theirs.fileno())  # noqa: ASYNC220
    store = SqliteStore()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: _Channel(store._on_replies), sock=ours)
    try:
        store._transport = transport
        prefixes = dict(layout.moved() if moved is None else moved)
        store._post((0, "open", str(path), history, EXPIRE_ROWS, prefixes))
        try:
            await store._opened
        except (StoreFailed, StoreLost) as error:
            remedy = "; restore a snapshot into an empty directory" if "damaged" in str(error) else ""
            raise StoreFailed(f"cannot open {path}: {error}{remedy}") from error
        for directory in (path.parent, path.parent.parent):  # SQLite syncs its files, not the way to them
            _sync(directory)
        yield store
    finally:
        transport.close()
        await asyncio.to_thread(process.wait, CLOSE_WAIT)
