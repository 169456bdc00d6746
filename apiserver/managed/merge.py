"""Objects from objects and sets: an applied object laid over the live one, and paths taken out of an object.

Where both have elements of a keyed list or a set, the applied order wins for those that are applied, and elements that only
the live object has keep their place among them. Arguments are never changed; results may share parts with them.
Upstream: structured-merge-diff typed/merge.go, typed/remove.go, merge/update.go.
"""

from __future__ import annotations

from typing import Any, Final

from apiserver.managed import elements
from apiserver.managed.compare import indexed
from apiserver.managed.fieldset import FieldSet, difference, intersection, is_member, union, with_named
from apiserver.managed.owned import applied, step_of
from apiserver.managed.shapes import Keyed, Map, SetOf, Shape, Struct

_ABSENT: Final = object()


def laid_over(shape: Shape, live: Any, config: Any) -> Any:
    """The live object with the applied one merged into it."""
    match shape:
        case Struct(atomic=False, fields=fields) if _both(dict, live, config):
            return _members(fields, None, live or {}, config or {})
        case Map(atomic=False, element=element) if _both(dict, live, config):
            return _members({}, element, live or {}, config or {})
        case Keyed() | SetOf() if _both(list, live, config):
            return _elements(shape, live or [], config or [])
        case _:
            return config


def _both(kind: type, live: Any, config: Any) -> bool:
    """Both of that kind or null, and not both empty: what is empty on both sides is replaced like a scalar."""
    return all(one is None or isinstance(one, kind) for one in (live, config)) and bool(live or config)


def _members(fields: dict[str, Shape], element: Shape | None, live: dict[str, Any], config: dict[str, Any]) -> Any:
    merged = dict(live)
    for name, one in config.items():
        shape = fields.get(name, element)
        merged[name] = one if shape is None or name not in live else laid_over(shape, live[name], one)
    return merged


def _elements(shape: Keyed | SetOf, live: list[Any], config: list[Any]) -> list[Any]:
    """Upstream's walk over both lists at once: equal steps merge; a live element that the other list does not have is
    taken when its turn comes; one that stands elsewhere in the applied list waits for its turn there."""
    before, after = _steps(shape, live), _steps(shape, config)
    left, right = list(before), list(after)
    shared = [step for step in right if step in before]
    merged: list[Any] = []
    l = r = 0  # noqa: E741
    while l < len(left) or r < len(right):
        if l < len(left) and r < len(right):
            if left[l] == right[r]:
                merged.append(_merged(shape, before[left[l]], after[right[r]]))
                l, r, shared = l + 1, r + 1, shared[1:]  # noqa: E741
                continue
            if left[l] in after and shared and shared[0] != left[l]:
                l += 1  # noqa: E741
                continue
        if l < len(left) and left[l] not in after:
            merged.extend(before[left[l]])
            l += 1  # noqa: E741
            continue
        if r < len(right):
            step = right[r]
            merged.append(_merged(shape, before.get(step, []), after[step]))
            r += 1
            if shared and shared[0] == step:
                shared = shared[1:]
        else:
            l += 1  # noqa: E741
    return merged


def _steps(shape: Keyed | SetOf, values: list[Any]) -> dict[str, list[Any]]:
    if isinstance(shape, Keyed):
        return indexed(shape, values)
    found: dict[str, list[Any]] = {}
    for one in values:
        found.setdefault(elements.value(one), []).append(one)
    return found


def _merged(shape: Keyed | SetOf, live: list[Any], config: list[Any]) -> Any:
    """Several live elements with one key (an old object's) give way to the applied one."""
    if isinstance(shape, SetOf) or len(live) != 1:
        return config[0]
    return laid_over(shape.element, live[0], config[0])


def removed(shape: Shape, value: Any, paths: FieldSet) -> Any:
    """The value without those paths; None when nothing is left. What is emptied goes itself: upstream leaves a null in its
    place, whose owner then owns what is not there, and conflicts with whoever fills it again."""
    if not paths:
        return value
    match shape, value:
        case Struct(atomic=False, fields=fields), dict():
            return _kept_members(fields, None, value, paths)
        case Map(atomic=False, element=element), dict():
            return _kept_members({}, element, value, paths)
        case Keyed(element=element), list():
            step = step_of(shape)
            kept = []
            for one in value:
                below = paths.get(step(one))
                if below is None:
                    kept.append(one)
                elif not is_member(below) and (left := removed(element, one, below)) is not None:
                    kept.append(left)
            return kept or None
        case SetOf(), list():
            return [one for one in value if elements.value(one) not in paths] or None
        case Struct() | Map(), dict():
            return None
        case _, list():
            return None
        case _:
            return value


def _kept_members(fields: dict[str, Shape], element: Shape | None, value: dict[str, Any], paths: FieldSet) -> Any:
    kept: dict[str, Any] = {}
    for name, one in value.items():
        below = paths.get(f"f:{name}")
        if below is None:
            kept[name] = one
            continue
        if is_member(below):
            continue
        shape = fields.get(name, element)
        left = one if shape is None else removed(shape, one, below)
        if left is not None:
            kept[name] = left
    return kept or None


def pruned(shape: Struct, merged: Any, last: FieldSet, managed: FieldSet) -> Any:
    """The merged object without what its applier applied `last` and no longer does, unless it is in `managed` (what all
    managers own now, this one's new set included).

    Three steps, as upstream: take out all that was applied; put back what somebody owns; and put back what hung below
    something taken out but was never applied itself.
    """
    if not last:
        return merged
    was = with_named(last, shape)
    out = removed(shape, merged, was)
    out = kept(shape, merged, union(applied(shape, out), managed))
    rest = with_named(applied(shape, out), shape)
    everything = with_named(applied(shape, merged), shape)
    return removed(shape, merged, intersection(difference(everything, rest), was))


def kept(shape: Struct, value: Any, paths: FieldSet) -> Any:
    """The value without everything that is not on those paths or on the way to one."""
    everything = with_named(applied(shape, value), shape)
    return removed(shape, value, difference(everything, with_named(paths, shape)))
