"""How a client wants to see objects: themselves, as rows of a Table, or only their metadata.

`View` renders one object, a list and the frames of a watch. Objects are served from the bytes that are stored; Tables
and metadata are made when asked for. A Table watch sends the column definitions once, in its first frame, so its
first frame is its own and the later ones are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class View(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> bool: ...

    def one(self, body: bytes) -> bytes:
        """One object, given as the bytes that would be served."""

    def many(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> bytes: ...

    def frame(self, word: str, entry: Entry) -> bytes: ...

    def bookmark(self, rv: int, *, initial_events_end: bool) -> bytes: ...

    def error(self, status: dict[str, Any]) -> bytes: ...


def frame(word: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (word.encode(), body)


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

    def many(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> bytes:
        head = orjson.dumps(
            {"kind": f"{self.info.kind}List", "apiVersion": self.info.group_version, "metadata": metadata, "items": []}
        )
        return b"".join((head[:-2], b",".join(self.one(entry.body) for entry in entries), b"]}"))

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

    def many(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> bytes:
        items = [_metadata_of(entry.body) for entry in entries]
        return orjson.dumps(
            {"kind": "PartialObjectMetadataList", "apiVersion": META, "metadata": metadata, "items": items}
        )

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

    def many(self, entries: Sequence[Entry], metadata: dict[str, Any]) -> bytes:
        return orjson.dumps(self._table([entry.parse() for entry in entries], metadata, True))

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
