"""Whether an object may be applied: every field declared, every value of its kind, every list element with its keys, none
twice.

Looser than decoding in one respect: null is any shape's empty value. Upstream: structured-merge-diff typed/validate.go, whose
sentences these are.
"""

from __future__ import annotations

from typing import Any, Final

from apiserver.managed import elements
from apiserver.managed.owned import step_of
from apiserver.managed.shapes import Keyed, List, Map, Scalar, SetOf, Shape, Struct

LIMIT: Final = 100  # findings: who has more is told of these


def findings(shape: Shape, value: Any) -> list[str]:
    """`.spec.foo: field not declared in schema`, one for each thing wrong."""
    found: list[str] = []
    _check(shape, value, "", found)
    return found[:LIMIT]


def _check(shape: Shape, value: Any, path: str, found: list[str]) -> None:
    if value is None:
        return
    match shape, value:
        case Scalar(kind="any"), _:
            return
        case Scalar(kind=kind), _:
            if not _is(kind, value):
                found.append(
                    f"{path}: expected {'numeric (int or float)' if kind == 'number' else kind}, {_got(value)}"
                )
        case Struct(fields=fields), dict():
            for name, one in value.items():
                if name in fields:
                    _check(fields[name], one, f"{path}.{name}", found)
                else:
                    found.append(f"{path}.{name}: field not declared in schema")
        case Map(element=element), dict():
            for name, one in value.items():
                _check(element, one, f"{path}.{name}", found)
        case Keyed(element=element), list():
            _keyed(shape, element, value, path, found)
        case SetOf(element=element), list():
            _set(element, value, path, found)
        case List(element=element), list():
            for index, one in enumerate(value):
                _check(element, one, f"{path}[{index}]", found)
        case _:
            what = "map" if isinstance(shape, Struct | Map) else "list"
            found.append(f"{path}: expected {what}, {_got(value)}")


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _keyed(shape: Keyed, element: Shape, values: list[Any], path: str, found: list[str]) -> None:
    seen: set[str] = set()
    step = step_of(shape)
    for index, one in enumerate(values):
        if not isinstance(one, dict):
            what = "a null element" if one is None else "non-map elements"
            found.append(f"{path}: element {index}: associative list with keys may not have {what}")
            continue
        missing = [name for name, default in shape.keys if name not in one and default is None]
        if missing:
            found.append(
                f"{path}: element {index}: associative list with keys has an element that omits key field"
                f' "{missing[0]}" (and doesn\'t have default value)'
            )
            continue
        spelt = elements.shown(step(one))
        if spelt in seen:
            found.append(f"{path}: duplicate entries for key {spelt}")
        seen.add(spelt)
        _check(element, one, f"{path}{spelt}", found)


def _set(element: Shape, values: list[Any], path: str, found: list[str]) -> None:
    seen: set[str] = set()
    for index, one in enumerate(values):
        match one:
            case None:
                found.append(
                    f"{path}: element {index}: associative list without keys has an element that's an explicit null"
                )
            case dict():
                found.append(f"{path}: element {index}: associative list without keys has an element that's a map type")
            case list():
                found.append(f"{path}: element {index}: not supported: associative list with lists as elements")
            case _:
                spelt = elements.shown(elements.value(one))
                if spelt in seen:
                    found.append(f"{path}: duplicate entries for key {spelt}")
                seen.add(spelt)
                _check(element, one, f"{path}{spelt}", found)


def _got(value: Any) -> str:
    return f"got {elements.spelt(value)}"


def sentence(many: list[str]) -> str:
    """One finding as it is, several as a list."""
    return many[0] if len(many) == 1 else "\n".join(["errors:", *(f"  {one}" for one in many)])
