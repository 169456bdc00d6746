"""Sets of field paths: FieldsV1, and their algebra.

A set is the JSON of FieldsV1 itself, so nothing is encoded or decoded on the way:

    {"f:spec": {"f:replicas": {}, "f:template": {".": {}, "f:spec": {...}}}}

An empty dict below the top is a path in the set; `.` says the same of a path that has others below it; a dict without `.` is
only on the way. The top is never a path: `{}` there is the empty set. Sets are values: no function here changes one.
Upstream: structured-merge-diff fieldpath/set.go, serialize.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from apiserver.managed import elements
from apiserver.managed.elements import MEMBER, Malformed
from apiserver.managed.shapes import Keyed, Map, Shape, Struct

FieldSet = dict[str, Any]  # recursive: step -> FieldSet
EMPTY: Final[FieldSet] = {}
DEPTH: Final = 100
Node = FieldSet | None


def parse(document: Any) -> FieldSet:
    """FieldsV1 as a client sent it; raises Malformed."""
    return _parse(document, 0)


def _parse(document: Any, depth: int) -> FieldSet:
    if not isinstance(document, dict) or depth > DEPTH:
        raise Malformed("FieldsV1 is a map of maps")
    found: FieldSet = {}
    for step, below in document.items():
        if step == MEMBER:
            if depth:
                found[MEMBER] = {}
        else:
            found[elements.canonical(step)] = _parse(below, depth + 1)
    return {} if found.keys() == {MEMBER} else found


def ordered(one: FieldSet) -> FieldSet:
    """The same set with its steps in upstream's order, `.` first: what is served and stored."""
    if len(one) < 2:
        return {step: ordered(below) for step, below in one.items()}
    steps = sorted((step for step in one if step != MEMBER), key=elements.sort_key)
    head: FieldSet = {MEMBER: {}} if MEMBER in one else {}
    for step in steps:
        head[step] = ordered(one[step])
    return head


def is_member(node: FieldSet) -> bool:
    """Whether the path to `node` (which is not the top) is in the set."""
    return not node or MEMBER in node


def _made(member: bool, below: FieldSet) -> Node:
    if not below:
        return {} if member else None
    return {MEMBER: {}, **below} if member else below


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    if not right or left is right:
        return left
    if not left:
        return right
    merged = dict(left)
    for step, below in right.items():
        mine = left.get(step)
        merged[step] = below if mine is None else _union(mine, below)
    return merged


def _union(left: FieldSet, right: FieldSet) -> FieldSet:
    """Of two sets below the top, where an empty one is a path."""
    if left == right:
        return left
    merged = union(left, right)
    if MEMBER not in merged and (not left or not right):
        return {MEMBER: {}, **merged}
    return merged


def difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """The paths of `left` that are not in `right`; what lies below a path of `right` stays."""
    if not right:
        return left
    kept: FieldSet = {}
    for step, mine in left.items():
        other = right.get(step)
        if other is None or step == MEMBER:
            kept[step] = mine
            continue
        member = is_member(mine) and not is_member(other)
        node = _made(member, difference(_below(mine), _below(other)))
        if node is not None:
            kept[step] = node
    return kept


def without(left: FieldSet, right: FieldSet) -> FieldSet:
    """The paths of `left` that are neither in `right` nor below a path of it."""
    if not right:
        return left
    kept: FieldSet = {}
    for step, mine in left.items():
        other = right.get(step)
        if other is None or step == MEMBER:
            kept[step] = mine
            continue
        if is_member(other):
            continue
        node = _made(is_member(mine), without(_below(mine), other))
        if node is not None:
            kept[step] = node
    return kept


def intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    found: FieldSet = {}
    for step, mine in left.items():
        other = right.get(step)
        if other is None or step == MEMBER:
            continue
        node = _made(is_member(mine) and is_member(other), intersection(mine, other))
        if node is not None:
            found[step] = node
    return found


def _below(node: FieldSet) -> FieldSet:
    return {step: one for step, one in node.items() if step != MEMBER} if MEMBER in node else node


def paths(one: FieldSet, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """In upstream's order: at each level first the paths that end there, then what lies below."""
    steps = sorted((step for step in one if step != MEMBER), key=elements.sort_key)
    for step in steps:
        if is_member(one[step]):
            yield (*prefix, step)
    for step in steps:
        if one[step]:
            yield from paths(one[step], (*prefix, step))


def of_paths(many: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> FieldSet:
    found: FieldSet = {}
    for path in many:
        node: Node = {}
        for step in reversed(path):
            node = {step: node}
        found = union(found, node or {})
    return found


def with_named(one: FieldSet, shape: Shape) -> FieldSet:
    """The set with every struct field on the way made a path of its own: fields of a struct belong to whoever owns
    anything in them, keys of a map do not."""
    found: FieldSet = {}
    for step, below in one.items():
        inner = below_of(shape, step)
        node = with_named(below, inner) if inner is not None else below
        if node and MEMBER not in node and isinstance(shape, Struct) and step[2:] in shape.fields:
            node = {MEMBER: {}, **node}
        found[step] = node
    return found


def below_of(shape: Shape, step: str) -> Shape | None:
    """The shape that a step leads to; None where the schema knows nothing."""
    match shape:
        case Struct() if step[0] == "f":
            return shape.fields.get(step[2:])
        case Map() if step[0] == "f":
            return shape.element
        case Keyed() if step[0] == "k":
            return shape.element
        case _:
            return None
