"""What the schema says about merging and owning: the shape of each type.

    Scalar   a leaf of one kind of value
    Struct   fields with names, each of its own shape
    Map      any keys, one shape
    Keyed    a list whose elements are told apart by the values of some of their fields
    SetOf    a list whose elements are values, each at most once
    List     a list of which nothing can be said apart: always atomic

An atomic shape is owned and replaced as one. Maps and structs are granular unless the schema says atomic, lists are atomic
unless it says set or map; what has no type (RawExtension) is a leaf. Upstream: k8s.io/kube-openapi/pkg/schemaconv.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from apiserver import schema
from apiserver.schema import Field
from apiserver.schema import Shape as Holds

_DEFAULT_KEYS: Final = {"protocol": "TCP"}  # the one key with a default: of container ports and service ports
_NUMBERS: Final = frozenset({"int32", "int64", "double"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """`kind` is string, number, boolean, or any."""

    kind: str
    atomic: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """`fields` is filled when the type is first asked for, as types contain themselves. `present` are the fields that Go's
    empty value of the type has."""

    name: str
    fields: dict[str, Shape] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    atomic: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    element: Shape
    atomic: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Keyed:
    """`keys` are sorted, each with the value it has where an element leaves it out."""

    element: Shape
    keys: tuple[tuple[str, Any], ...]
    atomic: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SetOf:
    element: Shape
    atomic: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class List:
    element: Shape
    atomic: bool = True


Shape = Scalar | Struct | Map | Keyed | SetOf | List
ANY: Final = Scalar("any")


@cache
def of_kind(gvk: tuple[str, str, str]) -> Struct | None:
    """The shape of a kind's objects; None for kinds without a schema."""
    name = schema.type_name(gvk)
    return None if name is None else _struct(name, False)


@cache
def _struct(name: str, atomic: bool) -> Struct:
    kind = schema.named(name)
    found = Struct(name, atomic=atomic)
    _pending.append((found, kind.fields))
    if len(_pending) == 1:  # the outermost call: those inside are answered with what is not filled yet
        while _pending:
            struct, fields = _pending[0]
            for key, one in fields.items():
                struct.fields[key] = _shape(one)
            struct.present.update(_present(struct.name))
            _pending.pop(0)
    return found


_pending: Final[list[tuple[Struct, dict[str, Field]]]] = []


def _shape(one: Field) -> Shape:
    match one.shape:
        case Holds.ONE:
            return _value(one.type, one.map_type)
        case Holds.MAP:
            return Map(_value(one.type), atomic=one.map_type == "atomic")
        case Holds.LIST:
            return _list(one)


def _list(one: Field) -> Shape:
    element = _value(one.type)
    if one.list_type == "map" and one.list_keys:
        return Keyed(element, tuple((key, _DEFAULT_KEYS.get(key)) for key in sorted(one.list_keys)))
    if one.list_type == "set":
        return SetOf(element)
    if not one.list_type and "merge" in one.strategies:
        return Keyed(element, ((one.merge_key, None),)) if one.merge_key else SetOf(element)
    return List(element)


def _value(name: str, relation: str = "") -> Shape:
    """`relation` is what the field says about a type that may say something else of itself."""
    if name.startswith("[]"):
        return List(_value(name[2:]))
    if name in _NUMBERS:
        return Scalar("number")
    if name in ("string", "byte"):
        return Scalar("string")
    if name == "bool":
        return Scalar("boolean")
    kind = schema.load().types.get(name)
    if kind is None or kind.scalar == "any":
        return ANY
    if kind.fields:
        return _struct(name, (relation or kind.map_type) == "atomic")
    if name.endswith((".Quantity", ".IntOrString")):
        return ANY
    return Scalar("string")


def _present(name: str) -> set[str]:
    """The fields that Go writes although they are empty: without `omitempty`, or structs that are not pointers."""
    found: set[str] = set()
    message = schema.messages().get(name.replace("io.k8s.", "k8s.io.", 1).replace("-", "_"), {})
    for one in message.values():
        if "i" in one.flags:
            found |= _present(one.type)
        elif "e" not in one.flags or ("." in one.type and one.flags[0] == "o" and "p" not in one.flags):
            found.add(one.name)
    return found
