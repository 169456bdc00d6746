"""JSON bodies: fast to read, and, when somebody wants to know, which keys were written twice.

orjson keeps the last of two equal keys and says nothing. The second look is a count: what orjson kept, written again, has
as many colons as the body unless a key came twice. Only then the standard library's parser, ten times as slow, finds where.
"""

import json
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 250  # orjson writes 254 levels, and an object of a request may be put into a list or a Table


class _Pairs(dict[str, Any]):
    """An object in which at least one key came twice."""

    twice: tuple[str, ...] = ()


def loads(body: bytes) -> Any:
    """The document; raises ValueError in Go's words where Go has short ones."""
    if not body.strip():
        raise ValueError("unexpected end of JSON input")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as wrong:
        raise ValueError(_in_go(wrong.msg, wrong.doc, wrong.pos)) from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:  # only then can it be too deep for what we write
        _shallow(document)
    return document


def _in_go(text: str, document: str, position: int) -> str:
    """The parser's complaint as Go's encoding/json makes it: people search for that sentence."""
    if text == "unexpected end of data":
        return "unexpected end of JSON input"
    if text == "trailing comma is not allowed":
        position = next((at for at in range(position + 1, len(document)) if not document[at].isspace()), position)
        text = _TRAILING.get(document[position], text)
    elif text.startswith("invalid literal"):
        literal = text.removeprefix("invalid literal, expected ").strip("'")
        wrong = next((at for at, one in enumerate(literal) if document[position + at : position + at + 1] != one), 0)
        position, text = position + wrong, f"in literal {literal} (expecting '{literal[wrong]}')"
    elif text == "invalid escaped sequence in string":
        position, text = position + 1, "in string escape code"
    else:
        text = _GO.get(text, text)
    if position >= len(document):
        return "unexpected end of JSON input" if document else text
    character = {"'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(document[position], document[position])
    return f"invalid character '{character}' {text}"


_TRAILING: Final = {"}": "looking for beginning of object key string", "]": "looking for beginning of value"}
_GO: Final = {
    "unexpected character, expected a JSON value": "looking for beginning of value",
    "unexpected character, expected a string key": "looking for beginning of object key string",
    "unexpected character, expected ':' after key": "after object key",
    "unexpected character, expected ',' or '}'": "after object key:value pair",
    "unexpected character, expected ',' or ']'": "after array element",
    "unexpected content after document": "after top-level value",
    "unexpected control character in string": "in string literal",
    "no digit after decimal point": "after decimal point in numeric literal",
    "no digit after sign": "looking for beginning of value",
}


def _shallow(document: Any) -> None:
    try:
        orjson.dumps(document)
    except TypeError:
        raise ValueError("exceeded max depth") from None


def duplicates(body: bytes, document: Any) -> list[str]:
    """Paths of the keys that occur more than once in one object, in document order; `document` is what `loads` made."""
    return [] if _unique(body, document) else _duplicates(body)


def _unique(body: bytes, document: Any) -> bool:
    """Certain when true. A colon ends a key or stands in a text, and texts are the same on both sides as long as the body
    spells no colon as \\u003a; a key that came twice takes its colon, and those of its value, with it."""
    if b"\\u003" in body and (b"\\u003a" in body or b"\\u003A" in body):
        return False
    return body.count(b":") == orjson.dumps(document).count(b":")


def _duplicates(body: bytes) -> list[str]:
    seen = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal seen
        plain = dict(items)
        if len(plain) == len(items):
            return plain
        seen = True
        marked = _Pairs(items)
        names = [name for name, _ in items]
        marked.twice = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
        return marked

    try:
        document = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    found: list[str] = []
    if seen:
        _walk(document, "", found)
    return found


def _walk(value: Any, path: str, found: list[str]) -> None:
    match value:
        case dict():
            twice = value.twice if isinstance(value, _Pairs) else ()
            for key, item in value.items():
                below = f"{path}.{key}" if path else key
                if key in twice:
                    found.append(below)
                _walk(item, below, found)
        case list():
            for index, item in enumerate(value):
                _walk(item, f"{path}[{index}]", found)
        case _:
            pass
