"""The process that owns the SQLite file. Standard library only; started by path with `python -I -S`.

Why a process: the sqlite3 module hands the GIL over at every step, and in a busy event loop waits up to 5 ms to get
it back. Here nobody competes for it.

Group commit: while one COMMIT waits for the disk, further requests pile up in the socket; the next round takes them
all and commits them together. A reply leaves only after the COMMIT that carries its write.

    kv(k, rv, v, expires)        what is
    log(rv, k, prev_rv, prev)    what each change replaced
    meta(name, value)            the newest revision, how far history is forgotten, the file's format

The log holds the *replaced* value, so the values of history are found by walking back from kv: one extra copy per
write gives both the events since a revision and the whole state at a revision.

Wire: 4 bytes length (little endian) + marshal of a tuple; both ends are the same interpreter.
    request  (id, verb, *arguments)                 the first is (0, "open", path, history, expire_rows, moved)
    reply    (id, "ok" | "conflict" | "compacted" | "full" | "failed", payload)

A file stays as large as it has once been; freed pages are used again. One that is mostly free is rewritten at the next start.
"""

import contextlib
import fcntl
import marshal
import os
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

INDEX_BITS = 7
PAGE_LIMIT = 2 << 20
ROUND_BYTES = 4 << 20
LOCK_WAIT = 10.0
TRIM_EVERY = 500

PAGE_BYTES = 8192  # two objects a page: fewer overflow pages, half the work of a write with SQLite's own 4096
CACHE_KIB = 8192
VACUUM_PAGES = 8192

# A rowid table and a unique index, not WITHOUT ROWID: there the values lie in the inner nodes, and a write costs twice as much.
SCHEMA = """
CREATE TABLE kv(k TEXT NOT NULL UNIQUE, rv INTEGER NOT NULL, v BLOB NOT NULL, expires REAL);
CREATE INDEX kv_expires ON kv(expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS log(rv INTEGER PRIMARY KEY, k TEXT NOT NULL, prev_rv INTEGER NOT NULL, prev BLOB);
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES('revision', 1), ('rv', 128), ('compacted', 128), ('format', 2);
"""
FORMAT = 2
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PUT = """INSERT INTO kv VALUES(?,?,?,?)
ON CONFLICT(k) DO UPDATE SET rv=excluded.rv, v=excluded.v, expires=excluded.expires"""


Request = tuple[Any, ...]  # number, verb, arguments
Reply = tuple[int, str, Any]
WireOp = tuple[str, bytes | None, int | None, float | None]  # key, value, expected rv, expiry
Row = tuple[int, bytes | None]  # rv, value


class Refused(Exception):
    def __init__(self, word: str, payload: object) -> None:
        super().__init__(word)
        self.word, self.payload = word, payload


class Database:
    def __init__(self, path: str, history: int, expire_rows: int, moved: dict[str, str]) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
        self.db.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("PRAGMA journal_size_limit=16777216")
        self.db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self.settle(moved)
        self.history = history
        self.expire_rows = expire_rows
        self.since_trim = 0
        self.remember()

    def settle(self, moved: dict[str, str]) -> None:
        """The tables as this program knows them: made, or carried over from the format before, all at once or not at all."""
        tables = {name for (name,) in self.db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        found = 0
        if "meta" in tables:
            ((found,),) = self.db.execute("SELECT value FROM meta WHERE name='format'")
        elif tables:
            raise SystemExit("it is an SQLite file, but not one of this store's")
        damage = self.db.execute("PRAGMA quick_check(1)").fetchone()[0] if found else "ok"
        if damage != "ok":
            raise SystemExit(f"the file is damaged ({damage})")
        match found:
            case 0:
                self.db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
            case 1:
                self.migrate(moved)
            case 2:
                pass
            case other:
                raise SystemExit(f"its format is {other}; this program reads formats 1 and 2: a newer one wrote it")
        self.shrink()

    def migrate(self, moved: dict[str, str]) -> None:
        """From format 1: keys lay elsewhere, and kv was WITHOUT ROWID."""
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("ALTER TABLE kv RENAME TO kv_1")
        self.db.execute("DROP INDEX kv_expires")
        for statement in SCHEMA.split(";"):
            self.db.execute(statement)
        self.db.execute("INSERT INTO kv SELECT k, rv, v, expires FROM kv_1")
        self.db.execute("DROP TABLE kv_1")
        for table in ("kv", "log"):
            for old, new in moved.items():
                query = f"UPDATE {table} SET k=?||substr(k, ?) WHERE k>=? AND k<?"
                self.db.execute(query, (new, len(old) + 1, old, old + "\U0010ffff"))
        self.db.execute("UPDATE meta SET value=? WHERE name='format'", (FORMAT,))
        self.db.execute("COMMIT")

    def shrink(self) -> None:
        """Gives back what is free, when that is most of a large file."""
        pages = self.db.execute("PRAGMA page_count").fetchone()[0]
        free = self.db.execute("PRAGMA freelist_count").fetchone()[0]
        if pages > VACUUM_PAGES and free > pages / 2:
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk: it stays as it is
                self.db.execute("VACUUM")

    def remember(self) -> None:
        meta = dict(self.db.execute("SELECT name, value FROM meta"))
        self.revision, self.rv, self.compacted = meta["revision"], meta["rv"], meta["compacted"]

    def round(self, requests: list[Request], send: Callable[[list[Reply]], None]) -> None:
        """Carries out the requests in one SQLite transaction; answers after the COMMIT."""
        replies: list[Reply] = []
        try:
            self.db.execute("BEGIN IMMEDIATE")
            before = self.revision, self.compacted
            replies.extend(self.answer(request) for request in requests)
            if (self.revision, self.compacted) != before:
                self.db.execute("UPDATE meta SET value=? WHERE name='revision'", (self.revision,))
                self.db.execute("UPDATE meta SET value=? WHERE name='rv'", (self.rv,))
                self.db.execute("UPDATE meta SET value=? WHERE name='compacted'", (self.compacted,))
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self.remember()
            word = "full" if error.sqlite_errorcode == sqlite3.SQLITE_FULL else "failed"
            replies = [(request[0], word, str(error)) for request in requests]
        send(replies)

    def answer(self, request: Request) -> Reply:
        number, verb, *arguments = request
        try:
            return (number, "ok", getattr(self, verb)(*arguments))
        except Refused as refused:
            return (number, refused.word, refused.payload)

    def txn(self, ops: list[WireOp]) -> list[int]:
        found = [self.db.execute("SELECT rv, v FROM kv WHERE k=?", (op[0],)).fetchone() or (0, None) for op in ops]
        if any(op[2] is not None and op[2] != row[0] for op, row in zip(ops, found, strict=True)):
            raise Refused("conflict", [row[0] for row in found])
        self.revision += 1
        return [
            self.write(self.revision << INDEX_BITS | index, key, value, expires, row)
            for index, ((key, value, _, expires), row) in enumerate(zip(ops, found, strict=True))
        ]

    def write(self, rv: int, key: str, value: bytes | None, expires: float | None, replaced: Row) -> int:
        if value is None:
            self.db.execute("DELETE FROM kv WHERE k=?", (key,))
        else:
            self.db.execute(PUT, (key, rv, value, expires))
        self.db.execute("INSERT INTO log VALUES(?,?,?,?)", (rv, key, *replaced))
        self.rv = rv
        self.since_trim += 1
        if self.since_trim >= TRIM_EVERY:
            self.trim()
        return rv

    def trim(self) -> None:
        self.since_trim = 0
        row = self.db.execute("SELECT rv FROM log ORDER BY rv DESC LIMIT 1 OFFSET ?", (self.history,)).fetchone()
        if row:
            self.compact(row[0])

    def compact(self, rv: int) -> None:
        """Whole revisions only: a transaction is forgotten or remembered, never cut in two."""
        self.compacted = max(self.compacted, min(rv | (1 << INDEX_BITS) - 1, self.rv))
        self.db.execute("DELETE FROM log WHERE rv<=?", (self.compacted,))

    def expire(self, now: float) -> list[tuple[int, str]]:
        """Deletes what has outlived its time; answers the (rv, key) pairs."""
        query = "SELECT k, rv, v FROM kv WHERE expires<=? LIMIT ?"
        rows = self.db.execute(query, (now, self.expire_rows)).fetchall()
        gone: list[tuple[int, str]] = []
        for key, rv, value in rows:
            self.revision += 1
            gone.append((self.write(self.revision << INDEX_BITS, key, None, None, (rv, value)), key))
        return gone

    def start_from(self, revision: int) -> None:
        """An empty store goes on counting from a later revision, and has no history before it."""
        if self.db.execute("SELECT 1 FROM kv LIMIT 1").fetchone() or revision < self.revision:
            raise Refused("failed", "only an empty store can start from a later revision")
        self.revision = revision
        self.rv = self.compacted = (revision + 1 << INDEX_BITS) - 1

    def probe(self) -> None:
        """A write that changes nothing: raises what a write would."""
        self.db.execute("UPDATE meta SET value=? WHERE name='revision'", (self.revision,))

    def status(self) -> tuple[int, int]:
        return self.rv, self.compacted

    def since(self, after: int) -> list[tuple[int, str, bytes | None]]:
        """The changes after a resource version, oldest first: (rv, key, value or None)."""
        if after < self.compacted:
            raise Refused("compacted", self.compacted)
        values: dict[str, bytes | None] = {}
        changes: list[tuple[int, str, bytes | None]] = []
        query = "SELECT rv, k, prev FROM log WHERE rv>? ORDER BY rv DESC"
        for rv, key, replaced in self.db.execute(query, (after,)).fetchall():
            if key not in values:
                row = self.db.execute("SELECT v FROM kv WHERE k=?", (key,)).fetchone()
                values[key] = row and row[0]
            changes.append((rv, key, values[key]))
            values[key] = replaced
        return changes[::-1]

    def load(self, start: str, end: str, at: int | None) -> tuple[int, list[tuple[str, int, bytes]], str | None]:
        """(rv, rows, where the next page starts) of what lies from `start` to before `end`, with the log rolled back to `at`.
        A page is what fits PAGE_LIMIT, so that a large store never is in one message."""
        if at is not None and at < self.compacted:
            raise Refused("compacted", self.compacted)
        at = self.rv if at is None else min(at | (1 << INDEX_BITS) - 1, self.rv)
        rows: list[tuple[str, int, bytes]] = []
        size, following = 0, None
        for row in self.db.execute("SELECT k, rv, v FROM kv WHERE k>=? AND k<? ORDER BY k", (start, end)):
            if size > PAGE_LIMIT:
                following = row[0]
                break
            rows.append(row)
            size += len(row[2])
        if at < self.rv:
            query = "SELECT k, prev_rv, prev FROM log WHERE rv>? AND k>=? AND k<? ORDER BY rv DESC"
            old = {key: (rv, value) for key, rv, value in self.db.execute(query, (at, start, following or end))}
            rows = [row for row in rows if row[0] not in old]
            rows += [(key, rv, value) for key, (rv, value) in old.items() if value is not None]
        return at, sorted(rows), following


def frames(connection: socket.socket) -> Iterator[list[Request]]:
    """Rounds of whole requests: blocks for the first, then takes what is already there."""
    buffer = bytearray()
    while True:
        piece = connection.recv(1 << 18)
        while piece:
            buffer += piece
            if len(buffer) > ROUND_BYTES:
                break
            try:
                piece = connection.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        requests: list[Request] = []
        position = 0
        while len(buffer) >= position + 4:
            (length,) = struct.unpack_from("<I", buffer, position)
            if len(buffer) < position + 4 + length:
                break
            requests.append(marshal.loads(memoryview(buffer)[position + 4 : position + 4 + length]))
            position += 4 + length
        del buffer[:position]
        if requests:
            yield requests
        if not piece:
            return


def lock(path: str) -> None:
    """One owner a file. The previous one may still be finishing its last COMMIT after its parent was killed."""
    descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SystemExit("another process has it open") from None
            time.sleep(0.05)
        else:
            return


def main() -> None:
    """Speaks through the socket that is its standard input."""
    # A terminal's Ctrl-C and systemd's SIGTERM reach the whole group; the parent still needs us for its last writes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=0)
    os.umask(0o077)

    def send(replies: list[Reply]) -> None:
        pieces = []
        for reply in replies:
            payload = marshal.dumps(reply)
            pieces += [struct.pack("<I", len(payload)), payload]
        connection.sendall(b"".join(pieces))

    rounds = frames(connection)
    ((_, _, path, history, expire_rows, moved),) = next(rounds)
    try:
        lock(path)
        database = Database(path, history, expire_rows, moved)
    except (SystemExit, sqlite3.Error, OSError) as error:
        why = str(error)
        if isinstance(error, sqlite3.DatabaseError) and error.sqlite_errorcode in DAMAGED:
            why = f"the file is damaged ({error})"
        send([(0, "failed", " ".join(why.split()))])
        return
    send([(0, "ok", None)])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent was killed: nobody to tell
        for requests in rounds:
            database.round(requests, send)


if __name__ == "__main__":
    main()
