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


@dataclass(frozen=True, slots=True)
class Fill:
    values: tuple[tuple[str, Scalar], ...]
    structs: tuple[str, ...]
    setters: tuple[Setter, ...]
    steps: dict[str, Callable[[Any], None]]

    def __call__(self, obj: Any) -> None:
        for key, value in self.values:
            if key not in obj:
                obj[key] = value
        for key in self.structs:
            if key not in obj:
                obj[key] = {}
        for setter in self.setters:
            setter(obj)
        steps = self.steps
        if steps:
            for key, below in obj.items():
                step = steps.get(key)
                if step is not None:
                    step(below)


@cache
def filler(name: str) -> Fill | None:
    """What fills an object of that type; None where there is nothing to fill in it, or below."""
    return _compile(name, ())


def _compile(name: str, above: tuple[str, ...]) -> Fill | None:
    own = _TABLE.get(name, Default())
    known = schema.named(name).fields
    if unknown := (own.values.keys() | set(own.structs)) - known.keys():
        raise AssertionError(f"{name} has no fields {sorted(unknown)}")
    steps: dict[str, Callable[[Any], None]] = {}
    for key, one in known.items():
        if "." not in one.type or one.type == name or one.type in above:
            continue
        below = _compile(one.type, (*above, name)) if one.type in schema.load().types else None
        if below is not None:
            steps[key] = _shaped(below, one.shape)
    if not (own.values or own.structs or own.setters or steps):
        return None
    return Fill(tuple(own.values.items()), own.structs, own.setters, steps)


def _shaped(below: Fill, shape: Shape) -> Callable[[Any], None]:
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
