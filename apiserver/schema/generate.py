"""Derive the schema tables from the documents that Kubernetes publishes.

    python -m apiserver.schema.generate --openapi DIR --protobuf-fields FILE

DIR is laid out like `api/` of the Kubernetes source tree: `openapi-spec/swagger.json` (or `swagger.json`), and a
`discovery/` folder with `api__v1.json` and one `apis__GROUP__VERSION.json` for each group-version. FILE maps each protobuf
message to its fields, `{"k8s.io.api.core.v1.Pod": {"1": ["metadata", TYPE, FLAGS]}}` with the flags of
`model.WireField`; it is read off `generated.proto` (numbers and types) and `types.go` (pointers, inlined structs and
`omitempty`, which a .proto file does not tell).

Two files are written beside this module: `types.json.gz` (types and resources, read at start) and `protobuf.json.gz`
(read when the first protobuf body arrives). Every type of a stable version goes in, whether served or not; what
is left out is said in `served.py`. Descriptions stay out: they are upstream's prose.
"""

import argparse
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from apiserver.schema.model import Field, ResourceInfo, Shape, Subresource, Table, Type

HERE: Final = Path(__file__).parent
_STABLE: Final = re.compile(r"^v\d+$")
_REF: Final = "#/definitions/"
_ANY: Final = frozenset({"RawExtension", "FieldsV1", "JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool",
                         "JSONSchemaPropsOrStringArray", "CustomResourceSubresourceStatus", "Patch"})  # fmt: skip
_SPREAD: Final = frozenset({"DeleteOptions", "WatchEvent", "Status", "APIResourceList", "APIGroup", "APIGroupList"})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m apiserver.schema.generate", description="Write the schema tables.")
    parser.add_argument("--openapi", type=Path, required=True, help="folder with swagger.json and discovery/")
    parser.add_argument("--protobuf-fields", type=Path, required=True, help="JSON table of protobuf messages")
    given = parser.parse_args(argv)
    candidates = (given.openapi / "swagger.json", given.openapi / "openapi-spec" / "swagger.json")
    swagger_path = next((path for path in candidates if path.exists()), None)
    if swagger_path is None:
        parser.error(f"--openapi {given.openapi}: no swagger.json there")
    swagger = json.loads(swagger_path.read_text())
    messages = json.loads(given.protobuf_fields.read_text())
    types = types_of(swagger["definitions"], messages)
    resources = resources_of(given.openapi / "discovery")
    write(HERE / "types.json.gz", msgspec.to_builtins(Table(swagger["info"]["version"], types, resources)))
    write(HERE / "protobuf.json.gz", {name: message for name, message in sorted(messages.items()) if stable(name)})
    print(f"{len(types)} types, {len(resources)} resources")
    return 0


def stable(name: str) -> bool:
    """True for types of a stable version, and of packages without one (Quantity, IntOrString, version.Info)."""
    package = name.split(".")[-2]
    return not re.match(r"^v\d", package) or bool(_STABLE.match(package))


def types_of(definitions: dict[str, Any], messages: dict[str, Any]) -> dict[str, Type]:
    return {
        name: type_of(name, definition, definitions, flags_of(wire_name(name), messages))
        for name, definition in sorted(definitions.items())
        if stable(name)
    }


def wire_name(name: str) -> str:
    """`io.k8s.api.core.v1.Pod` -> `k8s.io.api.core.v1.Pod`; the generated Go packages spell dashes as underscores."""
    return name.replace("io.k8s.", "k8s.io.", 1).replace("-", "_")


def flags_of(message: str, messages: dict[str, Any]) -> dict[str, str]:
    """JSON name -> flags, with the fields of inlined messages lifted into their parent."""
    found: dict[str, str] = {}
    for name, kind, flags in messages.get(message, {}).values():
        if "i" in flags:
            found |= flags_of(kind, messages)
        else:
            found[name] = flags
    return found


def type_of(name: str, definition: dict[str, Any], definitions: dict[str, Any], flags: dict[str, str]) -> Type:
    if "properties" not in definition:
        return Type(scalar=scalar_of(name, definition), format=definition.get("format", ""))
    required = set(definition.get("required", ()))
    named = definition.get("x-kubernetes-group-version-kind", ())
    kinds = [(kind["group"], kind["version"], kind["kind"]) for kind in named]
    if any(kind in _SPREAD for _, _, kind in kinds):  # listed under every group: the core entry stands for all
        kinds = [kind for kind in kinds if kind[:2] == ("", "v1")]
    return Type(
        fields={
            key: field_of(prop, key in required, flags.get(key, ""), definitions)
            for key, prop in definition["properties"].items()
        },
        kinds=tuple(kinds),
        map_type=definition.get("x-kubernetes-map-type", ""),
        unions=tuple(definition.get("x-kubernetes-unions", ())),
    )


def scalar_of(name: str, definition: dict[str, Any]) -> str:
    if name.rsplit(".", 1)[1] in _ANY or definition.get("type") in (None, "object"):
        return "any"
    return str(definition["type"])


def field_of(prop: dict[str, Any], required: bool, flags: str, definitions: dict[str, Any]) -> Field:
    inner, shape = prop, Shape.ONE
    if prop.get("type") == "array":
        inner, shape = prop["items"], Shape.LIST
    elif "additionalProperties" in prop:
        inner, shape = prop["additionalProperties"], Shape.MAP
    return Field(
        type=value_type(inner, definitions),
        shape=shape,
        required=required,
        omit=omitted_when_empty(flags, inner, shape),
        patch=prop.get("x-kubernetes-patch-strategy", ""),
        merge_key=prop.get("x-kubernetes-patch-merge-key", ""),
        list_type=prop.get("x-kubernetes-list-type", ""),
        list_keys=tuple(prop.get("x-kubernetes-list-map-keys", ())),
        map_type=prop.get("x-kubernetes-map-type", ""),
        named=str(inner["$ref"]).removeprefix(_REF)
        if value_type(inner, definitions) == "any" and "$ref" in inner
        else "",
        always=bool(flags) and not {"e", "p"} & set(flags) and shape is Shape.ONE and "$ref" not in inner,
    )


def omitted_when_empty(flags: str, inner: dict[str, Any], shape: Shape) -> bool:
    """Go leaves out empty values with omitempty, but never a struct: `resources: {}` and a Quantity stay."""
    return "e" in flags and "p" not in flags and not (shape is Shape.ONE and "$ref" in inner)


def value_type(prop: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in prop:
        name = str(prop["$ref"]).removeprefix(_REF)
        return name if "properties" in definitions[name] or scalar_of(name, definitions[name]) != "any" else "any"
    match prop.get("type"), prop.get("format"):
        case "integer", str(width):
            return width
        case "integer", None:
            return "int64"
        case "number", _:
            return "double"
        case "string", "byte":
            return "byte"
        case "array", _:  # a list of lists, or a map of lists: the element type, wrapped
            return f"[]{value_type(prop['items'], definitions)}"
        case "boolean", _:
            return "bool"
        case "string", _:
            return "string"
        case _:
            return "any"


def resources_of(folder: Path) -> tuple[ResourceInfo, ...]:
    """Every resource of every stable group-version, core first, its subresources folded in."""
    found: list[ResourceInfo] = []
    for path in (folder / "api__v1.json", *sorted(folder.glob("apis__*__*.json"))):
        document = json.loads(path.read_text())
        group, _, version = document["groupVersion"].rpartition("/")
        if _STABLE.match(version):
            found.extend(rows_of(group, version, document["resources"]))
    return tuple(found)


def rows_of(group: str, version: str, rows: list[dict[str, Any]]) -> list[ResourceInfo]:
    below: dict[str, list[Subresource]] = {}
    for row in rows:
        parent, slash, name = row["name"].partition("/")
        if slash:
            own = (row.get("group", ""), row.get("version", ""))
            below.setdefault(parent, []).append(Subresource(name, row["kind"], tuple(row["verbs"]), *own))
    return [
        ResourceInfo(
            group,
            version,
            row["name"],
            row["singularName"],
            row["kind"],
            row["namespaced"],
            tuple(row["verbs"]),
            tuple(row.get("shortNames", ())),
            tuple(row.get("categories", ())),
            tuple(below.get(row["name"], ())),
        )
        for row in rows
        if "/" not in row["name"]
    ]


def write(path: Path, document: object) -> None:
    """Reproducible: no time and no name in the gzip header, so the same documents give the same bytes."""
    raw = json.dumps(document, separators=(",", ":"), sort_keys=False).encode()
    path.write_bytes(gzip.compress(raw, 9, mtime=0))


if __name__ == "__main__":
    sys.exit(main())
