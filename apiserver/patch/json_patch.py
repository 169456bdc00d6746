"""JSON patch (RFC 6902): a list of operations, applied in order, all or none.

Sentences are those of the Go library the stock server uses (evanphx/json-patch v4), whose habits are kept as well: a
negative index counts from the end, and no operation may name the whole document.
"""

import copy
from typing import Any, Final

import orjson

LIMIT: Final = 10_000
COPIED: Final = 3 << 20  # bytes that one patch's copies may add: a few of the whole into itself would fill memory


class Malformed(ValueError):
    """Not a list of operations."""


class Refused(ValueError):
    """An operation that does not apply to this document."""


def apply(document: dict[str, Any], operations: Any) -> dict[str, Any]:
    """The document after the operations; `document` itself is changed and must be the caller's own."""
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise Malformed("json: cannot unmarshal the patch into Go value of type jsonpatch.Patch")
    copied = 0
    for operation in operations:
        copied += _operate(document, operation, COPIED - copied)
    return document


def _operate(document: dict[str, Any], operation: dict[str, Any], copies: int) -> int:
    """What it copied, in bytes, at most `copies`."""
    kind = operation.get("op", "unknown")
    path = operation.get("path")
    if not isinstance(path, str):
        raise Refused(f"{kind} operation failed to decode path: missing value")
    match kind:
        case "add":
            container, key = _parent(document, path, kind)
            _add(container, key, _value(operation), path)
        case "remove":
            container, key = _parent(document, path, kind)
            _remove(container, key, path)
        case "replace":
            container, key = _parent(document, path, kind)
            _replace(container, key, _value(operation), path)
        case "move":
            source, from_key = _parent(document, _from(operation), kind)
            moved = _get(source, from_key, _from(operation))
            _remove(source, from_key, _from(operation))
            _add(*_parent(document, path, kind), moved, path)
        case "copy":
            source, from_key = _parent(document, _from(operation), kind)
            written = _written(_get(source, from_key, _from(operation)), copies)
            _add(*_parent(document, path, kind), orjson.loads(written), path)
            return len(written)
        case "test":
            _test(document, path, operation.get("value"))
        case _:
            raise Refused(f"Unexpected kind: {kind}")
    return 0


def _written(value: Any, most: int) -> bytes:
    try:
        written = orjson.dumps(value)
    except TypeError as error:  # copies of copies: deeper than can be written
        raise Refused(f"Unable to complete the copy: {error}") from None
    if len(written) > most:
        grown = COPIED - most + len(written)
        raise Refused(
            f"Unable to complete the copy, the accumulated size increase of copy is {grown}, exceeding the limit {COPIED}"
        )
    return written


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise Refused(f"{operation['op']} operation failed to decode value: missing value")
    return copy.deepcopy(operation["value"])


def _from(operation: dict[str, Any]) -> str:
    source = operation.get("from")
    if not isinstance(source, str):
        raise Refused(f"{operation['op']} operation failed to decode from: missing value")
    return source


def _parent(document: Any, path: str, kind: str) -> tuple[Any, str]:
    """The container that a JSON pointer's last part addresses, and that part."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
    if len(parts) < 2:
        raise Refused(f'{kind} operation does not apply: doc is missing path: "{path}": missing value')
    for part in parts[1:-1]:
        match document:
            case dict():
                document = document.get(part)
            case list():
                index = _index(part, len(document))
                document = document[index] if index is not None and index < len(document) else None
            case _:
                document = None
    if not isinstance(document, (dict, list)):
        raise Refused(f'{kind} operation does not apply: doc is missing path: "{path}": missing value')
    return document, parts[-1]


def _index(part: str, size: int) -> int | None:
    try:
        index = int(part)
    except ValueError:
        return None
    index = index + size if index < 0 else index
    return index if index >= 0 else None


def _position(values: list[Any], key: str) -> int:
    index = _index(key, len(values))
    if index is None or index >= len(values):
        raise Refused(f"Unable to access invalid index: {key}: invalid index referenced")
    return index


def _get(container: Any, key: str, path: str) -> Any:
    if isinstance(container, list):
        return container[_position(container, key)]
    if key not in container:
        raise Refused(f"doc is missing key: {path}: missing value")
    return container[key]


def _add(container: Any, key: str, value: Any, path: str) -> None:
    if isinstance(container, dict):
        container[key] = value
    elif key == "-":
        container.append(value)
    else:
        index = _index(key, len(container) + 1 if key.startswith("-") else len(container))
        if index is None or index > len(container):
            raise Refused(f'add operation does not apply: "{path}": invalid index referenced')
        container.insert(index, value)


def _remove(container: Any, key: str, path: str) -> None:
    if isinstance(container, list):
        del container[_position(container, key)]
    elif key in container:
        del container[key]
    else:
        raise Refused(
            f"remove operation does not apply: {path}: Unable to remove nonexistent key: {key}: missing value"
        )


def _replace(container: Any, key: str, value: Any, path: str) -> None:
    if isinstance(container, list):
        container[_position(container, key)] = value
    elif key in container:
        container[key] = value
    else:
        raise Refused(f"replace operation does not apply: doc is missing key: {path}: missing value")


def _test(document: Any, path: str, wanted: Any) -> None:
    container, key = _parent(document, path, "test")
    found = container[_position(container, key)] if isinstance(container, list) else container.get(key)
    if not _equal(found, wanted):
        raise Refused(f"testing value {path} failed: test failed")


def _equal(left: Any, right: Any) -> bool:
    """JSON equality: Python's own would take true for 1."""
    match left, right:
        case dict(), dict():
            return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
        case list(), list():
            return len(left) == len(right) and all(map(_equal, left, right))
        case _:
            return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
