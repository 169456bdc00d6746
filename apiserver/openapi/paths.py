"""The operations of a document: every served path with its methods, named as upstream names them.

A verb of discovery becomes a method: list and create on the collection, get, update, patch and delete on the object, and so
on for subresources. Generated clients are named after `operationId`; kubectl reads the parameters of PATCH.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from apiserver import schema
from apiserver.openapi.schemas import REF
from apiserver.patch import SUPPORTED as PATCH_TYPES
from apiserver.schema import META, ResourceInfo, Subresource

Json = dict[str, Any]
Kind = tuple[str, str, str]

_WRITE: Final = {"dryRun": "string", "fieldManager": "string", "fieldValidation": "string"}
_PATCH: Final = _WRITE | {"force": "boolean"}
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
_COLLECTION: Final = _DELETE | {name: of for name, of in _LIST.items() if name not in {"allowWatchBookmarks", "watch"}}
_NO_QUERY: Final[Mapping[str, str]] = {}
_LOG: Final = {
    "container": "string",
    "follow": "boolean",
    "insecureSkipTLSVerifyBackend": "boolean",
    "limitBytes": "integer",
    "previous": "boolean",
    "sinceSeconds": "integer",
    "stream": "string",
    "tailLines": "integer",
    "timestamps": "boolean",
}
_EXEC: Final = {
    "container": "string",
    "stderr": "boolean",
    "stdin": "boolean",
    "stdout": "boolean",
    "tty": "boolean",
}
_CONNECT: Final[dict[str, Mapping[str, str]]] = {
    "attach": _EXEC,
    "exec": _EXEC | {"command": "string"},
    "portforward": {"ports": "integer"},
    "proxy": {"path": "string"},
}
# verb -> method, what the operation is called, what it is (x-kubernetes-action)
_METHODS: Final = {
    "get": ("get", "read", "get"),
    "create": ("post", "create", "post"),
    "update": ("put", "replace", "put"),
    "patch": ("patch", "patch", "patch"),
    "delete": ("delete", "delete", "delete"),
}
_CODES: Final = {
    "post": ("200", "201", "202"),
    "put": ("200", "201"),
    "patch": ("200", "201"),
    "delete": ("200", "202"),
}
_STATUS: Final[Kind] = ("", "v1", "Status")
_BROWSER_METHODS: Final = ("head", "options")  # what a proxied backend may also be asked with


def of(base: str, one: ResourceInfo) -> Iterator[tuple[str, Json]]:
    """(path, its item) of everything under one resource; `base` is `/apis/apps/v1`."""
    inside = f"{base}/namespaces/{{namespace}}/{one.plural}" if one.namespaced else f"{base}/{one.plural}"
    own = ["namespace"] if one.namespaced else []
    if collection := _collection(one):
        yield inside, collection | _parameters(own)
    if one.namespaced and "list" in one.verbs:
        everywhere = _operation(one, "list", "get", "list", _list_kind(one), _LIST)
        everywhere["operationId"] = everywhere["operationId"].replace("Namespaced", "") + "ForAllNamespaces"
        yield f"{base}/{one.plural}", {"get": everywhere} | _parameters([])
    if "get" in one.verbs:
        yield f"{inside}/{{name}}", _object(one) | _parameters([*own, "name"])
    for sub in one.subresources:
        path = f"{inside}/{{name}}/{sub.name}"
        yield path, _subresource(one, sub) | _parameters([*own, "name"])
        if sub.name == "proxy":
            yield f"{path}/{{path}}", _subresource(one, sub, "WithPath") | _parameters([*own, "name", "path"])


def _collection(one: ResourceInfo) -> Json:
    found: Json = {}
    if "list" in one.verbs:
        found["get"] = _operation(one, "list", "get", "list", _list_kind(one), _LIST)
    if "create" in one.verbs:
        found["post"] = _operation(one, "create", "post", "post", one.gvk, _WRITE)
    if "deletecollection" in one.verbs:
        found["delete"] = _operation(one, "deleteCollection", "delete", "deletecollection", _STATUS, _COLLECTION)
    return found


def _object(one: ResourceInfo) -> Json:
    queries = {"update": _WRITE, "patch": _PATCH, "delete": _DELETE}
    found: Json = {}
    for verb, (method, word, action) in _METHODS.items():
        if verb in one.verbs and verb != "create":
            shown = _STATUS if verb == "delete" else one.gvk
            found[method] = _operation(one, word, method, action, shown, queries.get(verb, _NO_QUERY))
    return found


def _subresource(one: ResourceInfo, sub: Subresource, suffix: str = "") -> Json:
    kind = (sub.group or one.group, sub.version or one.version, sub.kind)
    title = sub.name.title() + suffix
    query = _CONNECT.get(sub.name)
    if query is not None:
        methods = [_METHODS[verb][0] for verb in sub.verbs]
        if sub.name == "proxy":
            methods += _BROWSER_METHODS
        return {method: _operation(one, "connect", method, "connect", kind, query, title) for method in methods}
    queries = {"create": _WRITE, "update": _WRITE, "patch": _PATCH, "get": _LOG if sub.name == "log" else _NO_QUERY}
    found: Json = {}
    for verb, (method, word, action) in _METHODS.items():
        if verb in sub.verbs:
            found[method] = _operation(one, word, method, action, kind, queries[verb], title)
    return found


def _list_kind(one: ResourceInfo) -> Kind:
    return one.group, one.version, f"{one.kind}List"


def _parameters(names: list[str]) -> Json:
    path = [{"name": name, "in": "path", "required": True, "schema": _text} for name in names]
    return {"parameters": [*path, {"name": "pretty", "in": "query", "schema": _text}]}


_text: Final = {"type": "string", "uniqueItems": True}


def _operation(
    one: ResourceInfo, word: str, method: str, action: str, shown: Kind, query: Mapping[str, str], title: str = ""
) -> Json:
    """One method of a path; `shown` is the kind that it answers with, `title` the subresource's part of the name."""
    kind = shown if title else one.gvk
    answer: Json = {"schema": _type(shown)}
    codes = _CODES.get(method, ("200",)) if action not in ("connect", "deletecollection") else ("200",)
    operation: Json = {
        "operationId": _name(one, word, method, title),
        "parameters": [{"name": name, "in": "query", "schema": {"type": of}} for name, of in query.items()],
        "responses": {code: {"description": _MEANINGS[code], "content": {"application/json": answer}} for code in codes}
        | {"401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind[0], "version": kind[1], "kind": kind[2]},
    }
    body = _body(action, kind)
    return operation | ({"requestBody": body} if body else {})


_MEANINGS: Final = {"200": "OK", "201": "Created", "202": "Accepted"}


def _name(one: ResourceInfo, word: str, method: str, title: str) -> str:
    """`replaceAppsV1NamespacedDeploymentScale`, `connectCoreV1GetNodeProxy`, `deleteCoreV1CollectionNamespacedPod`."""
    group = "".join(part[:1].upper() + part[1:] for part in (one.group.removesuffix(".k8s.io") or "core").split("."))
    detail = "Collection" if word == "deleteCollection" else method.title() if word == "connect" else ""
    scope = "Namespaced" if one.namespaced else ""
    return f"{word.removesuffix('Collection')}{group}{one.version.title()}{detail}{scope}{one.kind}{title}"


def _type(kind: Kind) -> Json:
    name = schema.type_name(kind)
    return {"$ref": REF + name} if name else {"type": "string"}


def _body(action: str, kind: Kind) -> Json:
    match action:
        case "post" | "put":
            found = _type(kind)
            return {"content": {"*/*": {"schema": found}}, "required": True} if "$ref" in found else {}
        case "patch":
            shape = {"schema": {"$ref": f"{REF}{META}Patch"}}
            return {"content": dict.fromkeys(PATCH_TYPES, shape), "required": True}
        case "delete" | "deletecollection":
            return {"content": {"*/*": {"schema": {"$ref": f"{REF}{META}DeleteOptions"}}}}
        case _:
            return {}
