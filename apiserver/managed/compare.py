"""What a write changed: the paths that are new or have another value, and those that are gone.

Equal parts are not walked into, so the cost is that of the change, not of the object. Structs, maps and lists that are empty
on both sides are leaves, which keeps "empty" and "absent" apart. Upstream: structured-merge-diff typed/compare.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from apiserver.managed import elements
from apiserver.managed.elements import MEMBER
from apiserver.managed.fieldset import EMPTY, FieldSet, union, without
from apiserver.managed.owned import applied, step_of
from apiserver.managed.shapes import Keyed, Map, SetOf, Shape, Struct

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`changed` are the paths that were added or modified."""

    changed: FieldSet = field(default_factory=dict)
    removed: FieldSet = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)

    def without(self, ignored: FieldSet) -> Comparison:
        return Comparison(without(self.changed, ignored), without(self.removed, ignored))


def compared(shape: Struct, old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    changed, removed = _members(shape.fields, None, old, new)
    return Comparison(changed or EMPTY, removed or EMPTY)


Pair = tuple[FieldSet | None, FieldSet | None]  # None: nothing; {}: the path itself
_NOTHING: Final[Pair] = (None, None)


def _compared(shape: Shape, old: Any, new: Any) -> Pair:
    if old is _ABSENT:
        return _whole(shape, new), None
    if new is _ABSENT:
        return None, _whole(shape, old)
    if old == new and type(old) is type(new):
        return _NOTHING
    match shape:
        case Struct(atomic=False, fields=fields) if _maps(old, new):
            return _members(fields, None, old or {}, new or {})
        case Map(atomic=False, element=element) if _maps(old, new):
            return _members({}, element, old or {}, new or {})
        case Keyed(element=element) if _lists(old, new):
            return _elements(shape, element, old or [], new or [])
        case SetOf() if _lists(old, new):
            before, after = (dict.fromkeys(map(elements.value, one or ()), EMPTY) for one in (old, new))
            return (
                {step: EMPTY for step in after if step not in before} or None,
                {step: EMPTY for step in before if step not in after} or None,
            )
        case _:
            return EMPTY, None


def _maps(old: Any, new: Any) -> bool:
    """Both maps (or null), and not both empty."""
    return isinstance(old, dict | None) and isinstance(new, dict | None) and bool(old or new)


def _lists(old: Any, new: Any) -> bool:
    return isinstance(old, list | None) and isinstance(new, list | None) and bool(old or new)


def _whole(shape: Shape, value: Any) -> FieldSet:
    """A value that is new or gone: its own path, and every path in it."""
    return everything(shape, value)


def everything(shape: Shape, value: Any) -> FieldSet:
    match shape, value:
        case Struct(atomic=False, fields=fields), dict() if value:
            below = {f"f:{name}": everything(fields[name], one) for name, one in value.items() if name in fields}
            return {MEMBER: EMPTY, **below}
        case Map(atomic=False, element=element), dict() if value:
            return {MEMBER: EMPTY, **{f"f:{name}": everything(element, one) for name, one in value.items()}}
        case Keyed(element=element), list() if value:
            key = step_of(shape)
            found: FieldSet = {MEMBER: EMPTY}
            for one in value:
                found = union(found, {key(one): everything(element, one)})
            return found
        case SetOf(), list() if value:
            return {MEMBER: EMPTY, **applied(shape, value)}
        case _:
            return EMPTY


def _members(fields: dict[str, Shape], element: Shape | None, old: dict[str, Any], new: dict[str, Any]) -> Pair:
    changed: FieldSet = {}
    removed: FieldSet = {}
    for name in old.keys() | new.keys():
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before is after or (before == after and type(before) is type(after)):
            continue
        shape = fields.get(name, element)
        if shape is not None:
            _note(f"f:{name}", _compared(shape, before, after), changed, removed)
    return changed or None, removed or None


def _elements(shape: Keyed, element: Shape, old: list[Any], new: list[Any]) -> Pair:
    """Elements by key; one that is there several times (as only old objects may have it) is compared as a whole."""
    changed: FieldSet = {}
    removed: FieldSet = {}
    before, after = indexed(shape, old), indexed(shape, new)
    for step in before.keys() | after.keys():
        olds, news = before.get(step, ()), after.get(step, ())
        if len(olds) > 1 or len(news) > 1:
            if olds != news:
                target = removed if not news else changed
                target[step] = EMPTY
            continue
        pair = _compared(element, olds[0] if olds else _ABSENT, news[0] if news else _ABSENT)
        _note(step, pair, changed, removed)
    return changed or None, removed or None


def indexed(shape: Keyed, values: list[Any]) -> dict[str, list[Any]]:
    key = step_of(shape)
    found: dict[str, list[Any]] = {}
    for one in values:
        found.setdefault(key(one), []).append(one)
    return found


def _note(step: str, pair: Pair, changed: FieldSet, removed: FieldSet) -> None:
    if pair[0] is not None:
        changed[step] = pair[0]
    if pair[1] is not None:
        removed[step] = pair[1]
