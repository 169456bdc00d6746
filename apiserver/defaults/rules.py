"""Defaults by type, compiled into one walk over an object.

As upstream's generated defaulters do it: a type's own defaults first, then those of what is below. A module lists what it
knows of a type, the schema table says where that type occurs, and `filler` compiles the few fields that have defaults
below them, so that a walk visits nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from apiserver import schema
from apiserver.schema import Shape

Json = dict[str, Any]
Setter = Callable[[Json], None]
Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class Default:
    """`values` are set where they are missing, `structs` are there even when nobody named them (so that their own
    defaults apply), `setters` do what depends on the rest of the object."""

    values: Mapping[str, Scalar] = field(default_factory=dict)
    structs: tuple[str, ...] = ()
    setters: tuple[Setter, ...] = ()


Defaults = Mapping[str, Default]
_API: Final = "io.k8s.api."
_TABLE: Final[dict[str, Default]] = {}


def register(defaults: Defaults) -> None:
    """Names are those of OpenAPI, `io.k8s.api.` left out."""
    for name, one in defaults.items():
        known = name if name.startswith("io.") else _API + name
        if known in _TABLE:
            raise AssertionError(f"two defaults for {known}")
        _TABLE[known] = one


def registered() -> Mapping[str, Default]:
    return _TABLE


Fill = Callable[[Any], None]
_FEW: Final = 6


def _fill(own: Default, steps: dict[str, Fill]) -> Fill:
    """The walk over one type, as short as what it has to do: most types only pass on what is below them."""
    values, structs, setters = tuple(own.values.items()), own.structs, own.setters
    below = _below(steps)
    if not structs and not setters:
        if not values and below:
            return below
        if not below:

            def plain(obj: Any) -> None:
                for key, value in values:
                    if key not in obj:
                        obj[key] = value

            return plain

    def fill(obj: Any) -> None:
        for key, value in values:
            if key not in obj:
                obj[key] = value
        for key in structs:
            if key not in obj:
                obj[key] = {}
        for setter in setters:
            setter(obj)
        if below is not None:
            below(obj)

    return fill


def _below(steps: dict[str, Fill]) -> Fill | None:
    few = tuple(steps.items())

    def look(obj: Any) -> None:
        for key, step in few:
            value = obj.get(key)
            if value is not None:
                step(value)

    def search(obj: Any) -> None:
        for key, value in obj.items():
            step = steps.get(key)
            if step is not None:
                step(value)

    match len(few):
        case 0:
            return None
        case 1:
            return _only(*few[0])
        case count:
            return look if count <= _FEW else search


def _only(key: str, step: Fill) -> Fill:
    def look(obj: Any) -> None:
        value = obj.get(key)
        if value is not None:
            step(value)

    return look


@cache
def filler(name: str) -> Fill | None:
    """What fills an object of that type, shared by all that hold it; None where there is nothing to fill in it, or below."""
    own = _TABLE.get(name, Default())
    known = schema.named(name).fields
    if unknown := (own.values.keys() | set(own.structs)) - known.keys():
        raise AssertionError(f"{name} has no fields {sorted(unknown)}")
    steps: dict[str, Fill] = {}
    for key, one in known.items():
        if "." not in one.type or one.type == name:  # one type holds itself: the schema of a definition
            continue
        below = filler(one.type) if one.type in schema.load().types else None
        if below is not None:
            steps[key] = _shaped(below, one.shape)
    if not (own.values or own.structs or own.setters or steps):
        return None
    return _fill(own, steps)


def _shaped(below: Fill, shape: Shape) -> Fill:
    def each(values: Any) -> None:
        for value in values:
            below(value)

    def each_value(values: Any) -> None:
        for value in values.values():
            below(value)

    match shape:
        case Shape.ONE:
            return below
        case Shape.LIST:
            return each
        case Shape.MAP:
            return each_value
