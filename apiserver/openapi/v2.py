"""The second version's document, for tools that still read it as JSON (Terraform, older generators): one for everything.

Made of the third version's parts. What differs: types are `definitions`, a body is a parameter, an answer has its schema
beside the code, a parameter its type, and there is no `oneOf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from apiserver.codec import JSON, SUPPORTED, YAML
from apiserver.openapi import paths, schemas
from apiserver.schema import ResourceInfo

Json = dict[str, Any]

_SCALARS: Final[dict[str, Json]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
}
_PRODUCES: Final = (JSON, YAML)


def of(info: Json, places: dict[str, Sequence[ResourceInfo]]) -> Json:
    """`places` is `apis/apps/v1` -> its resources."""
    definitions: Json = {}
    every: Json = {}
    for place, rows in places.items():
        for name, one in schemas.of(rows).items():
            if name not in definitions or len(str(one)) > len(str(definitions[name])):
                definitions[name] = _SCALARS.get(name) or _schema(one)
        for one_row in rows:
            every.update((path, _item(item)) for path, item in paths.of(f"/{place}", one_row))
    return {"swagger": "2.0", "info": info, "paths": every, "definitions": dict(sorted(definitions.items()))}


def _schema(value: Any) -> Any:
    """The same schema with references spelt as this version does, and no `allOf` around a single one."""
    match value:
        case {"$ref": str(name)}:
            return {"$ref": name.replace(schemas.REF, "#/definitions/")}
        case {"allOf": [one], **rest}:
            return _schema(one) | {key: _schema(more) for key, more in rest.items()}
        case dict():
            return {key: _schema(one) for key, one in value.items()}
        case list() | tuple():
            return [_schema(one) for one in value]
        case _:
            return value


def _item(item: Json) -> Json:
    return {
        key: [_parameter(one) for one in value] if key == "parameters" else _operation(value)
        for key, value in item.items()
    }


def _operation(operation: Json) -> Json:
    kept = {key: value for key, value in operation.items() if key not in ("requestBody", "responses", "parameters")}
    body = operation.get("requestBody")
    parameters = [_parameter(one) for one in operation["parameters"]]
    consumes = ["*/*"]
    if body:
        content = body["content"]
        consumes = list(content) if "*/*" not in content else list(SUPPORTED)
        schema = _schema(next(iter(content.values()))["schema"])
        required = {"required": True} if body.get("required") else {}
        parameters.insert(0, {"name": "body", "in": "body", "schema": schema} | required)
    responses = {code: _response(one) for code, one in operation["responses"].items()}
    shape = {"consumes": consumes, "produces": list(_PRODUCES), "schemes": ["https"]}
    return kept | shape | {"parameters": parameters, "responses": responses}


def _parameter(one: Json) -> Json:
    kind: Json = one["schema"]
    return {key: value for key, value in one.items() if key != "schema"} | kind


def _response(one: Json) -> Json:
    content = one.get("content")
    found = {"description": one["description"]}
    return found | ({"schema": _schema(next(iter(content.values()))["schema"])} if content else {})
