"""The fields of an object, as sets: of one that is new, and of one that is applied.

`created` is the hot one (every create passes here), so it is a closure a type, compiled when first asked for, that walks the
object once and writes the set in its final order. Two forms of each: *fresh* for what was not there before (its own path is
in the set, as `.`), and *filled* for what Go's empty object already has (`spec`, but not `spec.strategy.rollingUpdate`):
there only what lies below is new, which is why a new Pod's creator owns `f:containers` but no `.` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, Final

import orjson

from apiserver.managed import elements
from apiserver.managed.elements import MEMBER
from apiserver.managed.fieldset import FieldSet, union
from apiserver.managed.shapes import Keyed, Map, Scalar, SetOf, Shape, Struct

Fresh = Callable[[Any], FieldSet]
Filled = Callable[[Any], FieldSet | None]

_LEAF: Final[FieldSet] = {}
_TOP_LEFT_OUT: Final = frozenset({"apiVersion", "kind"})


def created(shape: Struct, obj: Mapping[str, Any], left_out: Mapping[str, Any]) -> FieldSet:
    """The set of a new object without the fields of `left_out` (field -> True, or the names to leave out one level down).

    Objects come in series that differ in their metadata only (the pods of one controller), so the sets of recent specs are
    remembered by the spec's bytes: a look costs a twentieth of the walk.
    """
    found: FieldSet = {}
    for name in sorted(obj):
        skipped = left_out.get(name)
        if skipped is True or name in _TOP_LEFT_OUT or name not in shape.fields:
            continue
        value = obj[name]
        if skipped and type(value) is dict:
            value = {key: one for key, one in value.items() if key not in skipped}
        below = _remembered(shape, value) if name == "spec" else _walked(shape, name, value)
        if below is not None:
            found[f"f:{name}"] = below
    return found


def _walked(shape: Struct, name: str, value: Any) -> FieldSet | None:
    field = shape.fields[name]
    return _filled(field)(value) if name in shape.present else _fresh(field)(value)


_MOST_REMEMBERED: Final = 64
_LARGEST_REMEMBERED: Final = 16 << 10
_specs: Final[dict[tuple[str, bytes], FieldSet | None]] = {}


def _remembered(shape: Struct, spec: Any) -> FieldSet | None:
    key = shape.name, orjson.dumps(spec)
    if key in _specs:
        return _specs[key]
    found = _walked(shape, "spec", spec)
    if len(key[1]) <= _LARGEST_REMEMBERED:
        if len(_specs) >= _MOST_REMEMBERED:
            del _specs[next(iter(_specs))]
        _specs[key] = found
    return found


@cache
def _fresh(shape: Shape) -> Fresh:
    """A value that was not there: `{}` is the path alone."""
    match shape:
        case Struct(atomic=False):
            return _fresh_struct(shape)
        case Map(atomic=False, element=element):
            return _fresh_map(element)
        case Keyed(element=element):
            return _fresh_keyed(shape)
        case SetOf():
            return _set
        case _:
            return _leaf


def _leaf(_: Any) -> FieldSet:
    return _LEAF


def _fresh_struct(shape: Struct) -> Fresh:
    table: dict[str, tuple[str, Fresh | None]] = {}

    def compile_fields() -> dict[str, tuple[str, Fresh | None]]:
        for name, field in shape.fields.items():
            walk = _fresh(field)
            table[name] = (f"f:{name}", None if walk is _leaf else walk)
        return table

    def walk(value: Any) -> FieldSet:
        if not value:
            return _LEAF
        fields = table or compile_fields()
        found: FieldSet = {MEMBER: _LEAF}
        for name in sorted(value):
            step, inner = fields[name]
            found[step] = _LEAF if inner is None else inner(value[name])
        return found

    return walk


def _fresh_map(element: Shape) -> Fresh:
    inner = _fresh(element)
    leaves = inner is _leaf

    def walk(value: Any) -> FieldSet:
        if not value:
            return _LEAF
        found: FieldSet = {MEMBER: _LEAF}
        for name in sorted(value):
            found["f:" + name] = _LEAF if leaves else inner(value[name])
        return found

    return walk


def _fresh_keyed(shape: Keyed) -> Fresh:
    items = _items(shape)

    def walk(value: Any) -> FieldSet:
        return {MEMBER: _LEAF, **items(value)} if value else _LEAF

    return walk


def _items(shape: Keyed) -> Callable[[list[Any]], FieldSet]:
    inner, key = _fresh(shape.element), step_of(shape)
    rank = _rank(shape)

    def walk(values: list[Any]) -> FieldSet:
        found: FieldSet = {}
        for one in values if len(values) < 2 else sorted(values, key=rank):
            step = key(one)
            if step not in found:
                found[step] = inner(one)
        return found

    return walk


def _rank(shape: Keyed) -> Callable[[dict[str, Any]], Any]:
    """What elements are sorted by: as `elements.sort_key` would, without spelling and reading the step. Values of one key
    are all of one kind, as the object conforms to its type."""
    if len(shape.keys) == 1:
        ((name, default),) = shape.keys
        return lambda one: one.get(name, default) or ""
    keys = shape.keys
    return lambda one: tuple([one.get(name, default) or "" for name, default in keys])


def _set(value: list[Any]) -> FieldSet:
    return {MEMBER: _LEAF, **_values(value)} if value else _LEAF


def _values(values: list[Any]) -> FieldSet:
    steps = sorted({elements.value(one) for one in values}, key=elements.sort_key)
    return dict.fromkeys(steps, _LEAF)


@cache
def step_of(shape: Keyed) -> Callable[[dict[str, Any]], str]:
    """The step to an element of the list. The same few names come again and again, so they are remembered."""
    if len(shape.keys) == 1 and shape.keys[0][1] is None:
        name = shape.keys[0][0]
        spell = lru_cache(4096)(lambda one: elements.key(((name, one),)))
        return lambda one: spell(one[name]) if type(one.get(name)) is str else elements.key(((name, one.get(name)),))
    keys = shape.keys
    many = lru_cache(4096)(lambda *values: elements.key(tuple(zip((name for name, _ in keys), values, strict=True))))

    def step(one: dict[str, Any]) -> str:
        values = [one.get(name, default) for name, default in keys]
        if all(type(value) is str or type(value) is int for value in values):
            return many(*values)
        return elements.key(
            tuple((name, value) for (name, _), value in zip(keys, values, strict=True) if value is not None)
        )

    return step


@cache
def _filled(shape: Shape) -> Filled:
    """A value where Go's empty object has an empty one: None when nothing is new."""
    match shape:
        case Struct(atomic=False):
            return _filled_struct(shape)
        case Map(atomic=False, element=element):
            fresh = _fresh_map(element)
            return lambda value: {step: one for step, one in fresh(value).items() if step != MEMBER} or None
        case Keyed():
            items = _items(shape)
            return lambda value: items(value) or None
        case SetOf():
            return lambda value: _values(value) or None
        case Scalar():
            return lambda value: _LEAF if value or value is None else None
        case _:
            return lambda value: _LEAF if value else None


def _filled_struct(shape: Struct) -> Filled:
    table: dict[str, tuple[str, Filled]] = {}

    def compile_fields() -> dict[str, tuple[str, Filled]]:
        for name, field in shape.fields.items():
            table[name] = (f"f:{name}", _filled(field) if name in shape.present else _fresh(field))
        return table

    def walk(value: Any) -> FieldSet | None:
        fields = table or compile_fields()
        found: FieldSet = {}
        for name in sorted(value):
            step, inner = fields[name]
            below = inner(value[name])
            if below is not None:
                found[step] = below
        return found or None

    return walk


def applied(shape: Shape, value: Any) -> FieldSet:
    """The set that an applied object asks for: its leaves, and its elements and map keys themselves."""
    match shape, value:
        case Struct(atomic=False, fields=fields), dict():
            return {
                f"f:{name}": _applied(fields[name], one, named=True)
                for name, one in value.items()
                if name in fields and _owns(fields[name], one)
            }
        case Map(atomic=False, element=element), dict():
            return {f"f:{name}": _applied(element, one, named=False) for name, one in value.items()}
        case Keyed(element=element), list():
            key = step_of(shape)
            found: FieldSet = {}
            for one in value:
                found = union(found, {key(one): _applied(element, one, named=False)})
            return found
        case SetOf(), list():
            return _values(value)
        case _:
            return {}


def _applied(shape: Shape, value: Any, *, named: bool) -> FieldSet:
    below = applied(shape, value)
    return {MEMBER: {}, **below} if below and not named else below


def _owns(shape: Shape, value: Any) -> bool:
    """An empty list says nothing (an empty map does), and so does a struct in which every list is empty."""
    match shape, value:
        case Keyed() | SetOf(), list():
            return bool(value)
        case Struct(atomic=False, fields=fields), dict():
            return not value or any(_owns(fields[name], one) for name, one in value.items() if name in fields)
        case _:
            return True
