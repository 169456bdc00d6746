"""One step of a field path, spelt as FieldsV1 spells it:

    f:NAME           a field of a struct, or a key of a map
    k:{"name":"x"}   the element of a list-map with those keys
    v:"x"            the element of a set
    i:3              an index (read, never written)

A step is kept as that string: two steps are the same if their strings are, so keys are sorted by name and values are JSON as
Go writes it. Upstream: structured-merge-diff fieldpath/serialize-pe.go and element.go.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

MEMBER: Final = "."  # not a step: says that a set holds the path itself, besides what lies below it
_ORDER: Final = {"f": 0, "k": 1, "v": 2, "i": 3}
_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Malformed(ValueError):
    """No step of a path."""


def spelt(value: Any) -> str:
    """JSON as Go's encoder writes it: compact, and safe inside HTML."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text if text.isascii() and text.isalnum() else text.translate(_ESCAPES)


def field(name: str) -> str:
    return f"f:{name}"


def value(one: Any) -> str:
    return f"v:{spelt(one)}"


def key(pairs: tuple[tuple[str, Any], ...]) -> str:
    """`pairs` are sorted by name."""
    inner = ",".join([f'"{name}":{spelt(one)}' for name, one in pairs])
    return f"k:{{{inner}}}"


def canonical(step: str) -> str:
    """A step that a client wrote, in the spelling used here; raises Malformed."""
    kind, colon, rest = step[:1], step[1:2], step[2:]
    if colon != ":" or kind not in _ORDER:
        raise Malformed(f"unknown path element type: {step!r}")
    if kind == "f":
        return step
    try:
        parsed = orjson.loads(rest)
    except ValueError as wrong:
        raise Malformed(f"{step!r}: {wrong}") from None
    match kind, parsed:
        case "k", dict():
            return key(tuple(sorted(parsed.items())))
        case "v", _:
            return value(parsed)
        case "i", int():
            return f"i:{parsed}"
        case _:
            raise Malformed(f"{step!r} is not a path element")


def sort_key(step: str) -> Any:
    """Upstream's order: fields, keys, values, indices, each among its own by value."""
    kind = step[0]
    if kind == "f":
        return 0, step[2:]
    parsed = orjson.loads(step[2:])
    if kind == "k":
        return 1, tuple((name, *_rank(one)) for name, one in parsed.items())
    return _ORDER[kind], _rank(parsed)


def _rank(one: Any) -> tuple[int, Any]:
    """Numbers before strings before booleans before null, as value.Compare has it."""
    match one:
        case bool():
            return 2, one
        case int() | float():
            return 0, one
        case str():
            return 1, one
        case _:
            return 3, spelt(one)


def shown(step: str) -> str:
    """The step as conflicts show it: `.name`, `[name="x"]`, `[="x"]`, `[3]`."""
    kind, rest = step[0], step[2:]
    match kind:
        case "f":
            return f".{rest}"
        case "k":
            return f"[{','.join(f'{name}={spelt(one)}' for name, one in orjson.loads(rest).items())}]"
        case "v":
            return f"[={rest}]"
        case _:
            return f"[{rest}]"
