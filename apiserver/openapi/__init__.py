"""OpenAPI: as much of it as clients act on, generated from the schema table.

`/openapi/v3` is an index, with a document for each group-version behind a URL that carries its hash (so it may be cached for
ever). kubectl takes three things from a document: whether PATCH knows `fieldValidation` and `dryRun`, the patch merge
keys for client-side apply, and the tree of fields for `explain`. `schemas` writes the types, `paths` the operations.

`/openapi/v2` in protobuf exists for kubectl up to 1.28, which insists on reading it before it uses v3. An empty document
satisfies it, if the content type is spelt with dots (the `@` of the Accept header does not parse as a media type). As JSON it
is the whole thing in one document (`v2`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

from apiserver import schema
from apiserver.document import Document, fixed
from apiserver.openapi import paths, schemas, v2
from apiserver.schema import ResourceInfo
from kube.version import GIT_VERSION

Json = dict[str, Any]

_V2: Final = bytes.fromhex("0a03322e3012080a036b3873120176")  # Document{swagger "2.0", info{title "k8s", version "v"}}
_V2_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_INFO: Final = {"title": "Kubernetes", "version": GIT_VERSION}


class OpenApi:
    """The documents about `rows`, each made when it is first asked for: the index, which has everybody's hash, makes them
    all."""

    def __init__(self, rows: Sequence[ResourceInfo]) -> None:
        self._places: dict[str, Sequence[ResourceInfo]] = {}  # `apis/apps/v1` -> its resources
        for one in rows:
            if schema.type_name(one.gvk) is not None:
                place = f"apis/{one.group}/{one.version}" if one.group else f"api/{one.version}"
                self._places[place] = (*self._places.get(place, ()), one)
        self._made: dict[str, Document] = {}

    def document(self, path: str, query: Mapping[str, str], accept: str) -> Document | None:
        """The document at `path` (without a trailing slash), or None for other paths."""
        if path == "/openapi/v2":
            return _v2_protobuf() if "protobuf" in accept else self._v2()
        if path == "/openapi/v3":
            return self._index()
        place = path.removeprefix("/openapi/v3/")
        if place == path or place not in self._places:
            return None
        found = self._place(place)
        if query.get("hash") == found.digest:
            headers = {**found.headers, "Cache-Control": "public, immutable, max-age=31536000"}
            return replace(found, headers=headers)
        return found

    def _index(self) -> Document:
        if (found := self._made.get("")) is None:
            urls = {place: f"/openapi/v3/{place}?hash={self._place(place).digest}" for place in self._places}
            found = fixed({"paths": {place: {"serverRelativeURL": url} for place, url in urls.items()}})
            self._made[""] = found
        return found

    def _v2(self) -> Document:
        if (found := self._made.get("v2")) is None:
            found = self._made["v2"] = fixed(v2.of(_INFO, self._places))
        return found

    def _place(self, place: str) -> Document:
        if (found := self._made.get(place)) is None:
            rows = self._places[place]
            content = {
                "openapi": "3.0.0",
                "info": _INFO,
                "paths": {path: item for one in rows for path, item in paths.of(f"/{place}", one)},
                "components": {"schemas": schemas.of(rows)},
            }
            found = self._made[place] = fixed(content)
        return found


@cache
def _v2_protobuf() -> Document:
    return fixed(_V2, _V2_TYPE)
