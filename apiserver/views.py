"""How a client wants to see objects: themselves, as rows of a Table, or only their metadata.

`View` renders one object, a list and the frames of a watch. Objects are served from the bytes that are stored; Tables
and metadata are made when asked for. A Table watch sends the column definitions once, in its first frame, so its
first frame is its own and the later ones are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson

from apiserver import printers
from apiserver.cache import Entry
from apiserver.conversion import Convert
from apiserver.schema import ResourceInfo

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
META: Final = "meta.k8s.io/v1"
SLICE: Final = 256 << 10
ITEMS_AT_ONCE: Final = 500  # of those that are made when asked for, 20 us each
ROWS_AT_ONCE: Final = 50


class View(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> bool: ...

    def one(self, body: bytes) -> bytes:
        """One object, given as the bytes that would be served."""

    def slices(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> Iterator[bytes]:
        """A list of them, in pieces that take a few milliseconds to make."""

    def frame(self, word: str, entry: Entry) -> bytes: ...

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes: ...

    def error(self, status: dict[str, Any]) -> bytes: ...


def frame(word: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (word.encode(), body)


def _sliced(head: dict[str, Any], items: Iterable[bytes], most: int = ITEMS_AT_ONCE) -> Iterator[bytes]:
    """`head` with `items` in its last list, which is empty."""
    pieces: list[bytes] = []
    size = 0
    before = orjson.dumps(head).removesuffix(b"]}")
    for item in items:
        pieces += (before, item)
        before = b","
        size += len(item)
        if size > SLICE or len(pieces) >= 2 * most:
            yield b"".join(pieces)
            pieces, size = [], 0
    pieces.append(b"]}" if before == b"," else before + b"]}")
    yield b"".join(pieces)


def _bookmark_metadata(rv: int, initial_events_end: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {"resourceVersion": str(rv)}
    return metadata | {"annotations": {INITIAL_EVENTS_END: "true"}} if initial_events_end else metadata


@dataclass(frozen=True, slots=True)
class Objects:
    """`convert` turns what is stored into what this group-version calls it; None when they are the same."""

    info: ResourceInfo
    convert: Convert | None = None
    shared: bool = True

    @property
    def name(self) -> str:
        return self.info.group_version if self.convert else "object"

    def one(self, body: bytes) -> bytes:
        return orjson.dumps(self.convert(orjson.loads(body))) if self.convert else body

    def slices(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> Iterator[bytes]:
        head = {"kind": f"{self.info.kind}List", "apiVersion": self.info.group_version, "metadata": metadata}
        return _sliced(head | {"items": []}, (self.one(entry.body) for entry in entries))

    def frame(self, word: str, entry: Entry) -> bytes:
        return frame(word, self.one(entry.body))

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes:
        metadata = _bookmark_metadata(rv, initial_events_end)
        obj = {"kind": self.info.kind, "apiVersion": self.info.group_version, "metadata": metadata}
        return frame("BOOKMARK", orjson.dumps(obj))

    def error(self, status: dict[str, Any]) -> bytes:
        return frame("ERROR", orjson.dumps(status))


@dataclass(frozen=True, slots=True)
class Metadata:
    info: ResourceInfo
    name: str = "metadata"
    shared: bool = True

    def one(self, body: bytes) -> bytes:
        return orjson.dumps(_metadata_of(body))

    def slices(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> Iterator[bytes]:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": META, "metadata": metadata, "items": []}
        return _sliced(head, (self.one(entry.body) for entry in entries))

    def frame(self, word: str, entry: Entry) -> bytes:
        return frame(word, self.one(entry.body))

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes:
        metadata = _bookmark_metadata(rv, initial_events_end)
        obj = {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": metadata}
        return frame("BOOKMARK", orjson.dumps(obj))

    def error(self, status: dict[str, Any]) -> bytes:
        return frame("ERROR", orjson.dumps(status))


def _metadata_of(body: bytes) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": orjson.loads(body)["metadata"]}


@dataclass(slots=True)
class Tables:
    """`info` is what is stored, which rows are printed from; `include` is None, Metadata or Object: what each row carries
    (`?includeObject=`), and then as `convert` shows it."""

    info: ResourceInfo
    include: str = "Metadata"
    convert: Convert | None = None
    first: bool = field(default=True)

    @property
    def name(self) -> str:
        return f"table/{self.include}/{self.info.group_version if self.convert else ''}"

    @property
    def shared(self) -> bool:
        return not self.first

    def one(self, body: bytes) -> bytes:
        obj = orjson.loads(body)
        return orjson.dumps(self._table([obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, True))

    def slices(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> Iterator[bytes]:
        whole = printers.ordered(self.info)  # rows in an order of their own are known when all are
        step = max(len(entries), 1) if whole else ROWS_AT_ONCE
        parts = (entries[start : start + step] for start in range(0, len(entries), step))
        return _sliced(self._table([], metadata, True), (self._rows(part) for part in parts), ROWS_AT_ONCE)

    def _rows(self, entries: Sequence[Entry]) -> bytes:
        return orjson.dumps(self._table([entry.parse() for entry in entries], {}, False)["rows"])[1:-1]

    def frame(self, word: str, entry: Entry) -> bytes:
        obj = entry.parse()
        table = self._table([obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, self.first)
        self.first = False
        return frame(word, orjson.dumps(table))

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes:
        table = self._table([], _bookmark_metadata(rv, initial_events_end), self.first)
        self.first = False
        return frame("BOOKMARK", orjson.dumps(table))

    def error(self, status: dict[str, Any]) -> bytes:
        return frame("ERROR", orjson.dumps(status))

    def _table(self, objects: list[dict[str, Any]], metadata: dict[str, Any], columns: bool) -> dict[str, Any]:
        table: dict[str, Any] = printers.table(
            self.info, objects, datetime.now(UTC), include_object=self.include, watch_first=columns
        )
        if self.convert is not None and self.include == "Object":
            for row in table["rows"]:
                row["object"] = self.convert(row["object"])
        return table | {"metadata": metadata}
