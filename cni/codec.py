"""JSON for a process that lives 15 ms.

``import json`` costs as much as everything else the plugin does together, nearly all of it compiling the regular
expressions of the pure-Python fallback. The C scanner and the C string escaper behind it need none of that. This module
drives them directly, and steps aside for ``json`` where they are missing and where something is wrong, because ``json``
says best what. Three deliberate strictnesses: a key given twice is refused (which of two subnets was meant?), and so are
NaN and Infinity, which JSON does not have, and NUL and halves of surrogate pairs, which no name, path or address of the
kernel's can have.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


def decode(data: bytes) -> Json:
    """The value the bytes spell; ValueError (mostly json.JSONDecodeError, with a position) when they spell none."""
    text = data.decode("utf-8").strip(" \t\r\n")
    value: Json
    try:
        from _json import make_scanner

        value, end = make_scanner(_Rules())(text, 0)  # type: ignore[arg-type] # typeshed takes a Scanner; any context does
    except (ImportError, StopIteration, SystemError):  # SystemError: it found an error and no json.decoder to raise it
        return _decode_thoroughly(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    value = value if end == len(text) else _decode_thoroughly(text)
    if "\\u" in text:
        _refuse_odd_characters(value)
    return value


def _refuse_odd_characters(value: Json) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if "\0" in each or any("\ud800" <= character <= "\udfff" for character in each):
                raise ValueError(f"{each[:20]!r} has a character that nothing can have: NUL, or half a surrogate pair")
        elif isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def encode(value: Json) -> str:
    """The shortest JSON text of the value, ASCII, keys in their own order."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if hasattr(value, "items"):
        return "{" + ",".join(f"{_quoted(name)}:{encode(item)}" for name, item in value.items()) + "}"
    return "[" + ",".join(encode(item) for item in value) + "]"


def _quoted(text: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        from json.encoder import encode_basestring_ascii
    return encode_basestring_ascii(text)


def _decode_thoroughly(text: str) -> Json:
    import json

    value: Json = json.loads(text, object_pairs_hook=_object, parse_constant=_refused_constant)
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return found


def _refused_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


class _Rules:
    """What the C scanner asks its context for; the names are its own."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refused_constant)

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}
