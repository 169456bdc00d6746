"""YAML bodies, read as the JSON they stand for.

PyYAML speaks YAML 1.1 with Python's taste (dates become datetimes, `1:30` becomes 90); Kubernetes reads YAML as a way to
write JSON. So scalars resolve as in sigs.k8s.io/yaml: null, booleans (yes/no/on/off included), integers (beyond 64 bits
floats), floats, and everything else is a string. Anchors may be used, within a budget: a few lines of aliases can stand for
gigabytes.
"""

import re
from math import isfinite
from typing import Any, Final

import yaml

_BUDGET: Final = 20_000  # nodes of a short document; a longer one has as many as it has bytes
_DEPTH: Final = 200
_INTEGERS: Final = range(-(1 << 63), 1 << 64)  # what is beyond them is a float, as in JSON
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)")


class Malformed(ValueError):
    """The text is not YAML, or not YAML that stands for a JSON document."""


class _Loader(yaml.CSafeLoader):
    """CSafeLoader with Kubernetes' idea of scalars, and duplicate keys remembered."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        name = key if isinstance(key, str) else _key(key)
        if name in found:
            loader.duplicates.append(f'line {key_node.start_mark.line + 1}: key "{name}" already set in map')
        found[name] = loader.construct_object(value_node, deep=True)
    return found


def _key(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float() | None:
            return "null" if value is None else str(value)
        case _:
            raise Malformed("yaml: a mapping key must be a scalar")


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    found = _integer(loader, node)
    return found if found in _INTEGERS else float(found)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits, 8 if digits.startswith("0") and len(digits) > 1 else 10)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_BOOL: Final = re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)")
for tag, pattern, first in (
    ("bool", rf"^{_BOOL.pattern}$", "yYnNtTfFoO"),
    ("int", rf"^{_INT.pattern}$", "-+0123456789"),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), [*first.replace("\0", ""), ""])


def _in_go(wrong: yaml.MarkedYAMLError) -> str:
    """`line 3: did not find expected node content`, as Go's parser (the same libyaml) says it."""
    if wrong.context == "expected a single document in the stream":
        return "more than one document; send them one by one"
    mark = wrong.problem_mark or wrong.context_mark
    where = f"line {mark.line + 1}: " if mark else ""
    return f"{where}{wrong.problem or wrong.context or 'not YAML'}"


def loads(body: bytes) -> tuple[Any, list[str]]:
    """The document and its duplicate keys."""
    loader = _Loader(body)
    try:
        document = loader.get_single_data()
    except yaml.MarkedYAMLError as wrong:
        raise Malformed(f"error converting YAML to JSON: yaml: {_in_go(wrong)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, OverflowError) as wrong:
        raise Malformed(f"error converting YAML to JSON: yaml: {' '.join(str(wrong).split())}") from None
    except RecursionError:
        raise Malformed("error converting YAML to JSON: yaml: exceeded max depth") from None
    finally:
        loader.dispose()
    left = [max(_BUDGET, len(body))]
    return _unshared(document, left, 0), loader.duplicates


def _unshared(value: Any, left: list[int], depth: int) -> Any:
    """A copy in which no part is shared, so that it may be changed in place; bounded, as aliases multiply."""
    left[0] -= 1
    if left[0] < 0:
        raise Malformed("error converting YAML to JSON: yaml: document contains excessive aliasing")
    if depth > _DEPTH:
        raise Malformed("error converting YAML to JSON: yaml: exceeded max depth")
    match value:
        case dict():
            return {key: _unshared(item, left, depth + 1) for key, item in value.items()}
        case list():
            return [_unshared(item, left, depth + 1) for item in value]
        case float() if not isfinite(value):
            raise Malformed(f"error converting YAML to JSON: yaml: cannot represent {value} as JSON")
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.decode("latin-1")
        case _:
            raise Malformed(f"error converting YAML to JSON: yaml: cannot represent {type(value).__name__} as JSON")
