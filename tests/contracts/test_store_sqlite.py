"""What only the store in a file must stand: its older formats, damage, and the machine's disk."""

from __future__ import annotations

import contextlib
import random
import re
import sqlite3
from pathlib import Path

import pytest

from apiserver.store import StoreFailed
from apiserver.store.sqlite import open_store as open_sqlite
from tests.contracts.test_store import collect, put


async def test_a_file_of_the_first_format_is_carried_over(tmp_path: Path) -> None:
    """Objects and history at their new keys, with the versions they had; a file that is carried over is not touched again."""
    moved = {"/registry/core/pods/": "/registry/pods/", "/registry/core/nodes/": "/registry/minions/"}
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as old:
        old.executescript("""
            CREATE TABLE kv(k TEXT PRIMARY KEY, rv INTEGER NOT NULL, v BLOB NOT NULL, expires REAL) WITHOUT ROWID;
            CREATE INDEX kv_expires ON kv(expires) WHERE expires IS NOT NULL;
            CREATE TABLE log(rv INTEGER PRIMARY KEY, k TEXT NOT NULL, prev_rv INTEGER NOT NULL, prev BLOB);
            CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
            INSERT INTO meta VALUES('revision', 5), ('rv', 640), ('compacted', 256), ('format', 1);
            INSERT INTO kv VALUES('/registry/core/pods/a/x', 512, x'32', NULL), ('/registry/core/nodes/n', 384, x'31', 4e9),
              ('/registry/leases/l', 256, x'31', NULL);
            INSERT INTO log VALUES(384, '/registry/core/nodes/n', 0, NULL), (512, '/registry/core/pods/a/x', 256, x'31'),
              (640, '/registry/core/pods/a/y', 256, x'39');
        """)
        old.commit()
    for _ in range(2):
        async with open_sqlite(tmp_path / "state.db", moved=moved) as store:
            assert [(e.key, e.value, e.rv) for e in (await store.load()).entries] == [
                ("/registry/leases/l", b"1", 256),
                ("/registry/minions/n", b"1", 384),
                ("/registry/pods/a/x", b"2", 512),
            ]
            assert await collect(store, 256, 640) == [
                (384, "/registry/minions/n", b"1"),
                (512, "/registry/pods/a/x", b"2"),
                (640, "/registry/pods/a/y", None),
            ]
            assert [e.value for e in (await store.load("/registry/pods/", at=256)).entries] == [b"1", b"9"]
            await store.expire(5e9)
        with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as back:  # as the second round expects it
            back.executescript("""INSERT INTO kv VALUES('/registry/minions/n', 384, x'31', 4e9);
                DELETE FROM log WHERE rv>640; UPDATE meta SET value=5 WHERE name='revision';
                UPDATE meta SET value=640 WHERE name='rv';""")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no database" * 200, "the file is damaged"),
        (None, "its format is 9; this program reads formats 1 and 2"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "state.db"
    if content is None:
        async with open_sqlite(path):
            pass
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE meta SET value=9 WHERE name='format'")
            other.commit()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StoreFailed, match=f"{re.escape(str(path))}: .*{words}"):
        async with open_sqlite(path):
            pass
    assert path.read_bytes() == before


async def test_a_torn_page_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with open_sqlite(path) as store:
        for n in range(50):
            await put(store, f"/k/{n}", random.Random(n).randbytes(3000))
    torn = bytearray(path.read_bytes())
    torn[8 * 8192 : 8 * 8192 + 4096] = bytes(4096)
    path.write_bytes(torn)
    with pytest.raises(StoreFailed, match=r"the file is damaged \(.*restore a snapshot"):
        async with open_sqlite(path):
            pass
