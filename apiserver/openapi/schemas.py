"""The types of a document: what its resources are made of, with the keys that merging and applying need.

Upstream's prose is not ours to copy. A kind's description says where to read about it; its fields have none.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from apiserver import schema
from apiserver.schema import META, Field, ResourceInfo, Shape, Type
from kube.version import MAJOR, MINOR

Json = dict[str, Any]

REF: Final = "#/components/schemas/"
_REFERENCE: Final = f"https://kubernetes.io/docs/reference/generated/kubernetes-api/v{MAJOR}.{MINOR}/#"
_SCALARS: Final[dict[str, Json]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "double": {"type": "number", "format": "double"},
    "byte": {"type": "string", "format": "byte"},
    "any": {"type": "object"},
}
_CRD: Final = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_NAMED_SCALARS: Final[dict[str, Json]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    },
    **{
        _CRD + name: {}
        for name in ("JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray")
    },
}
_SHARED: Final = frozenset({META + "DeleteOptions", META + "WatchEvent"})  # of every group-version


def of(rows: Sequence[ResourceInfo]) -> Json:
    """The schemas of a group-version's resources, by name."""
    names = sorted(_reachable({name for one in rows for name in _roots(one)}))
    group, version = rows[0].group, rows[0].version
    return {name: _schema(schema.named(name), name, group, version) for name in names}


def _roots(one: ResourceInfo) -> Iterator[str]:
    if "get" in one.verbs:
        yield META + "Status"
    if "watch" in one.verbs:
        yield META + "WatchEvent"
    if "patch" in one.verbs:
        yield META + "Patch"
    if "delete" in one.verbs:
        yield META + "DeleteOptions"
    kinds = [(one.group, one.version, kind) for kind in (one.kind, f"{one.kind}List")]
    kinds += [(sub.group or one.group, sub.version or one.version, sub.kind) for sub in one.subresources]
    for kind in kinds:
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
            types = {field.named or field.type.removeprefix("[]") for field in schema.named(name).fields.values()}
            left.extend(types - _SCALARS.keys())
    return found


def _schema(one: Type, name: str, group: str, version: str) -> Json:
    if not one.fields:
        if name in _NAMED_SCALARS:
            return _NAMED_SCALARS[name]
        return {"type": "object"} if one.scalar == "any" else _with({"type": one.scalar}, format=one.format)
    required = [key for key, field in one.fields.items() if field.required]
    shape: Json = {"type": "object", "properties": {key: _property(field) for key, field in one.fields.items()}}
    kinds = list(one.kinds)
    if name in _SHARED and group:
        kinds.append((group, version, kinds[0][2]))
    return _with(
        shape,
        description=_description(one),
        required=required,
        **{
            "x-kubernetes-group-version-kind": [{"group": g, "version": v, "kind": kind} for g, v, kind in kinds],
            "x-kubernetes-map-type": one.map_type,
            "x-kubernetes-unions": one.unions,
        },
    )


def _description(one: Type) -> str:
    """Where the kind is described; "" for the parts of one."""
    if "metadata" not in one.fields or len(one.kinds) != 1:
        return ""
    group, version, kind = one.kinds[0]
    return f"{kind} is described at {_REFERENCE}{kind}-{version}-{(group or 'core').replace('.', '-')}".lower().replace(
        kind.lower(), kind, 1
    )


def _property(field: Field) -> Json:
    return _with(
        _shaped(_value(field.named or field.type), field.shape),
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
    return _SCALARS.get(name) or {"$ref": REF + name}


def _with(shape: Json, **more: Any) -> Json:
    return shape | {key: value for key, value in more.items() if value}
