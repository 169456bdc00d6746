"""A store in one file: taken while the server runs, from SQLite or etcd, and put back into an empty store of either kind.

The file is gzip of JSON lines (`zcat FILE | jq` reads it):

    {"format":"wherry-store-snapshot","version":1,"rv":81919,"taken":"2026-01-01T00:00:00Z","store":"sqlite"}
    {"key":"/registry/pods/default/web","rv":640,"value":{"kind":"Pod",...}}
    {"objects":1,"sha256":"..."}

One line an object in key order, its value byte for byte as stored (`"base64":"..."` where that is no single line of JSON). The
last line counts the objects and has the SHA-256 of all bytes before it: a file that was cut off or altered is refused before
anything is written. It appears whole or not at all, readable by its owner only, as it holds the cluster's Secrets.

What is put back gets new resource versions, far above every one the lost store can have given out, and the history before it
is forgotten: clients that saw more than the snapshot has are told 410 and list again, instead of believing what is gone.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from apiserver.store import INDEX_BITS, Stored

FORMAT: Final = "wherry-store-snapshot"
VERSION: Final = 1
LEAP: Final = 1_000_000_000
"""Revisions between a snapshot and what is restored from it: more than a lost store can have written since."""
MARK: Final = b',"value":'


class Unreadable(Exception):
    """The file is no snapshot, or no longer the one that was written. The message names what is wrong."""


@dataclass(frozen=True, slots=True)
class Header:
    rv: int
    taken: str
    store: str

    @property
    def restored_revision(self) -> int:
        return (self.rv >> INDEX_BITS) + LEAP


def write(path: Path, header: Header, objects: Iterable[Stored]) -> int:
    """The number of objects written. Raises OSError, and then leaves `path` as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                count = _write(packed, header, objects)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return count


def _write(packed: gzip.GzipFile, header: Header, objects: Iterable[Stored]) -> int:
    first = {"format": FORMAT, "version": VERSION, "rv": header.rv, "taken": header.taken, "store": header.store}
    line = orjson.dumps(first) + b"\n"
    digest, count = hashlib.sha256(line), 0
    packed.write(line)
    for stored in objects:
        line = _line(stored)
        digest.update(line)
        packed.write(line)
        count += 1
    packed.write(orjson.dumps({"objects": count, "sha256": digest.hexdigest()}) + b"\n")
    return count


def _line(stored: Stored) -> bytes:
    head = orjson.dumps({"key": stored.key, "rv": stored.rv})[:-1]
    if b"\n" not in stored.value and _is_json(stored.value):
        return b"".join((head, MARK, stored.value, b"}\n"))
    return b"".join((head, b',"base64":"', base64.b64encode(stored.value), b'"}\n'))


def _is_json(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def check(path: Path) -> tuple[Header, int]:
    """The header and the number of objects of a whole and unaltered snapshot. Raises Unreadable, OSError."""
    with path.open("rb") as file:
        lines = _lines(file)
        header = _header(next(lines, b""))
        count = sum(1 for _ in lines)
    return header, count - 1


def read(path: Path) -> Iterator[Stored]:
    """The objects of a file that `check` has passed."""
    with path.open("rb") as file:
        lines = _lines(file)
        next(lines)
        held = next(lines)
        for line in lines:  # one behind, as the last line is none
            yield _object(held)
            held = line


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """All lines; raises Unreadable after the last one unless it is the right last one."""
    digest, held, count = hashlib.sha256(), b"", -1
    try:
        with gzip.open(file) as packed:
            for line in packed:
                digest.update(held)
                held = line
                count += 1
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f"it is cut off, damaged or no gzip file ({error})") from error
    last = _dict(held)
    if last.get("objects") != count - 1 or last.get("sha256") != digest.hexdigest():
        raise Unreadable("its checksum does not fit: it was cut off or altered")


def _header(line: bytes) -> Header:
    first = _dict(line)
    if first.get("format") != FORMAT:
        raise Unreadable("it is no snapshot of a store; `wherry store snapshot FILE` writes them")
    if first.get("version") != VERSION:
        raise Unreadable(f"its version is {first.get('version')}; this program reads version {VERSION}")
    return Header(int(first["rv"]), str(first.get("taken", "")), str(first.get("store", "")))


def _object(line: bytes) -> Stored:
    mark = line.find(MARK)
    if mark >= 0:
        head = _dict(line[:mark] + b"}")
        return Stored(head["key"], line[mark + len(MARK) : -2], head["rv"])
    found = _dict(line)
    try:
        return Stored(found["key"], base64.b64decode(found["base64"], validate=True), found["rv"])
    except (KeyError, binascii.Error) as error:
        raise Unreadable(f"a line of it cannot be read ({error})") from error


def _dict(line: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
