"""OpenAPI: as much of it as clients act on, generated from the schema table.

`/openapi/v3` is an index, with a document for each group-version behind a URL that carries its hash (so it may be cached for
ever). kubectl takes three things from a document: whether PATCH knows `fieldValidation` and `dryRun`, the patch merge
keys for client-side apply, and the tree of fields for `explain`. Descriptions are left empty.

`/openapi/v2` exists for kubectl up to 1.28, which insists on reading it in protobuf before it uses v3. An empty document
satisfies it, if the content type is spelt with dots (the `@` of the Accept header does not parse as a media type).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

from apiserver import schema
from apiserver.document import Document, fixed
from apiserver.patch import SUPPORTED as PATCH_TYPES
from apiserver.schema import Field, ResourceInfo, Shape, Type
from kube.version import GIT_VERSION

Json = dict[str, Any]

_V2: Final = bytes.fromhex("0a03322e3012080a036b3873120176")  # Document{swagger "2.0", info{title "k8s", version "v"}}
_V2_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_REF: Final = "#/components/schemas/"
_SCALARS: Final[dict[str, Json]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "double": {"type": "number", "format": "double"},
    "byte": {"type": "string", "format": "byte"},
    "any": {"type": "object"},
}
_NAMED_SCALARS: Final[dict[str, Json]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    },
}
_WRITE: Final = {"dryRun": "string", "fieldManager": "string", "fieldValidation": "string"}
_LIST: Final = {
    "allowWatchBookmarks": "boolean",
    "continue": "string",
    "fieldSelector": "string",
    "labelSelector": "string",
    "limit": "integer",
    "resourceVersion": "string",
    "resourceVersionMatch": "string",
    "sendInitialEvents": "boolean",
    "timeoutSeconds": "integer",
    "watch": "boolean",
}
_DELETE: Final = {
    "dryRun": "string",
    "gracePeriodSeconds": "integer",
    "orphanDependents": "boolean",
    "propagationPolicy": "string",
}
_COLLECTION: Final = {name: kind for name, kind in _LIST.items() if name not in {"allowWatchBookmarks", "watch"}}


class OpenApi:
    """The documents about `rows`, each made when it is first asked for: the index, which has everybody's hash, makes them
    all."""

    def __init__(self, rows: Sequence[ResourceInfo]) -> None:
        self._places: dict[str, list[ResourceInfo]] = {}  # `apis/apps/v1` -> its resources
        for one in rows:
            if schema.type_name(one.gvk) is not None:
                place = f"apis/{one.group}/{one.version}" if one.group else f"api/{one.version}"
                self._places.setdefault(place, []).append(one)
        self._made: dict[str, Document] = {}

    def document(self, path: str, query: Mapping[str, str], accept: str) -> Document | None:
        """The document at `path` (without a trailing slash), or None for other paths."""
        if path == "/openapi/v2":
            return _v2_protobuf() if "protobuf" in accept else _v2_json()
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

    def _place(self, place: str) -> Document:
        if (found := self._made.get(place)) is None:
            found = self._made[place] = fixed(_content(place, self._places[place]))
        return found


@cache
def _v2_json() -> Document:
    info = {"title": "Kubernetes", "version": GIT_VERSION}
    return fixed({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}})


@cache
def _v2_protobuf() -> Document:
    return fixed(_V2, _V2_TYPE)


def _content(place: str, rows: Sequence[ResourceInfo]) -> Json:
    paths: Json = {}
    for one in rows:
        paths.update(_paths(f"/{place}", one))
    names = sorted(_reachable({name for one in rows for name in _roots(one)}))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": paths,
        "components": {"schemas": {name: _schema(schema.named(name), name) for name in names}},
    }


def _roots(one: ResourceInfo) -> Iterator[str]:
    yield from (_META + "DeleteOptions", _META + "Patch", _META + "Status", _META + "WatchEvent")
    kinds = [one.kind, f"{one.kind}List"]
    groups = [(one.group, one.version, kind) for kind in kinds]
    groups += [(sub.group or one.group, sub.version or one.version, sub.kind) for sub in one.subresources]
    for kind in groups:
        name = schema.type_name(kind)
        if name is not None:
            yield name


def _reachable(names: set[str]) -> set[str]:
    """The types, and all that they are made of."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            types = {field.type.removeprefix("[]") for field in schema.named(name).fields.values()}
            left.extend(types - _SCALARS.keys())
    return found


def _schema(one: Type, name: str) -> Json:
    if not one.fields:
        if name in _NAMED_SCALARS:
            return _NAMED_SCALARS[name]
        return {"type": "object"} if one.scalar == "any" else _with({"type": one.scalar}, format=one.format)
    required = [key for key, field in one.fields.items() if field.required]
    shape: Json = {"type": "object", "properties": {key: _property(field) for key, field in one.fields.items()}}
    kinds = [{"group": group, "version": version, "kind": kind} for group, version, kind in one.kinds]
    return _with(
        shape,
        required=required,
        **{
            "x-kubernetes-group-version-kind": kinds,
            "x-kubernetes-map-type": one.map_type,
            "x-kubernetes-unions": one.unions,
        },
    )


def _property(field: Field) -> Json:
    return _with(
        _shaped(_value(field.type), field.shape),
        **{
            "x-kubernetes-list-map-keys": field.list_keys,
            "x-kubernetes-list-type": field.list_type,
            "x-kubernetes-map-type": field.map_type,
            "x-kubernetes-patch-merge-key": field.merge_key,
            "x-kubernetes-patch-strategy": field.patch,
        },
    )


def _shaped(value: Json, shape: Shape) -> Json:
    match shape:
        case Shape.ONE:
            return {"allOf": [value]} if "$ref" in value else dict(value)
        case Shape.LIST:
            return {"type": "array", "items": value}
        case Shape.MAP:
            return {"type": "object", "additionalProperties": value}


def _value(name: str) -> Json:
    if name.startswith("[]"):
        return {"type": "array", "items": _value(name[2:])}
    return _SCALARS.get(name) or {"$ref": _REF + name}


def _with(shape: Json, **more: Any) -> Json:
    return shape | {key: value for key, value in more.items() if value}


def _paths(base: str, one: ResourceInfo) -> Iterator[tuple[str, Json]]:
    inside = f"{base}/namespaces/{{namespace}}/{one.plural}" if one.namespaced else f"{base}/{one.plural}"
    own = {"namespace": True} if one.namespaced else {}
    collection = _operations(one, "collection", own)
    if collection:
        yield inside, collection
    if one.namespaced and "list" in one.verbs:
        everywhere = _operation(one, "list", _list_kind(one), _LIST)
        everywhere["operationId"] += "ForAllNamespaces"
        yield f"{base}/{one.plural}", {"get": everywhere}
    single = _operations(one, "object", own | {"name": True})
    if single:
        yield f"{inside}/{{name}}", single
    for sub in one.subresources:
        kind = (sub.group or one.group, sub.version or one.version, sub.kind)
        operations = {
            method: _operation(one, action, kind, query, sub.name)
            for verb, (method, action, query) in _SUBRESOURCE_VERBS.items()
            if verb in sub.verbs
        }
        yield f"{inside}/{{name}}/{sub.name}", operations | _path_parameters(own | {"name": True})


_SUBRESOURCE_VERBS: Final[dict[str, tuple[str, str, Mapping[str, str]]]] = {
    "get": ("get", "get", {}),
    "create": ("post", "post", _WRITE),
    "update": ("put", "put", _WRITE),
    "patch": ("patch", "patch", _WRITE | {"force": "boolean"}),
}


def _list_kind(one: ResourceInfo) -> tuple[str, str, str]:
    return one.group, one.version, f"{one.kind}List"


def _operations(one: ResourceInfo, what: str, path_parameters: Mapping[str, bool]) -> Json:
    kind = (one.group, one.version, one.kind)
    status = ("", "v1", "Status")
    found: Json = {}
    if what == "collection":
        for verb, method, action, shown, query in (
            ("list", "get", "list", _list_kind(one), _LIST),
            ("create", "post", "post", kind, _WRITE),
            ("deletecollection", "delete", "deletecollection", status, _DELETE | _COLLECTION),
        ):
            if verb in one.verbs:
                found[method] = _operation(one, action, shown, query)
    else:
        for verb, method, shown, query in (
            ("get", "get", kind, {}),
            ("update", "put", kind, _WRITE),
            ("patch", "patch", kind, _WRITE | {"force": "boolean"}),
            ("delete", "delete", status, _DELETE),
        ):
            if verb in one.verbs:
                found[method] = _operation(one, method, shown, query)
    return found | _path_parameters(path_parameters) if found else found


def _path_parameters(names: Mapping[str, bool]) -> Json:
    path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    pretty = {"name": "pretty", "in": "query", "schema": {"type": "string"}}
    return {"parameters": [*path, pretty]}


def _operation(
    one: ResourceInfo, action: str, shown: tuple[str, str, str], query: Mapping[str, str], subresource: str = ""
) -> Json:
    """One method of a path; `shown` is the kind that it answers with."""
    kind = shown if subresource else (one.group, one.version, one.kind)
    name = schema.type_name(shown)
    answer: Json = {"schema": {"$ref": _REF + name} if name else {"type": "string"}}
    operation: Json = {
        "operationId": f"{action}{one.version.title()}{one.kind}{subresource.title()}",
        "parameters": [
            {"name": parameter, "in": "query", "schema": {"type": kind_of}} for parameter, kind_of in query.items()
        ],
        "responses": {"200": {"description": "OK", "content": {"application/json": answer}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind[0], "version": kind[1], "kind": kind[2]},
    }
    body = _body(action, kind)
    return operation | ({"requestBody": body} if body else {})


def _body(action: str, kind: tuple[str, str, str]) -> Json:
    match action:
        case "post" | "put":
            name = schema.type_name(kind)
            return {"content": {"*/*": {"schema": {"$ref": _REF + name}}}, "required": True} if name else {}
        case "patch":
            shape = {"schema": {"$ref": _REF + _META + "Patch"}}
            return {"content": dict.fromkeys(PATCH_TYPES, shape), "required": True}
        case "delete" | "deletecollection":
            return {"content": {"*/*": {"schema": {"$ref": _REF + _META + "DeleteOptions"}}}}
        case _:
            return {}
