"""Make a decoded JSON object conform to its type: upstream's "decode into a Go struct", without the struct.

One walk over the object, driven by closures compiled from the schema table once per type:

    unknown fields   are dropped and reported with their path ("spec.containers[0].foo")
    null             means absence
    empty values     that Go's `omitempty` would leave out are left out, so that equal objects have equal bytes
    spellings        become canonical: quantities ("1000m" -> "1"), times (UTC, whole seconds), base64
    a wrong type     is `Mismatch`, worded as Go's encoding/json words it, because people search for that sentence

The object is changed in place and returned.
"""

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import orjson

from apiserver import schema
from apiserver.schema import Field, Shape
from apiserver.seen import Seen
from kube import quantity

Path = tuple[
    Any, str | int
]  # (path of the parent, key or index); () at the top. Spelt out only when something is wrong.
Scalar = Callable[[Any], Any]
Nested = Callable[[Any, Any, list[str]], Any]
Compiled = tuple[type | None, Scalar | None, Nested | None, bool]  # the type that needs no second look; omit when empty

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_INDEX: Final = re.compile(r"\[\d+\]")
_HUGE_EXPONENT: Final = re.compile(r"[eE][+-]?\d{4,}")
_AROUND: Final = 40
_FINDINGS: Final = 100  # unknown fields that are named; more are dropped all the same
_INT64: Final = 2**63
_PLAIN: Final[dict[str, type]] = {"string": str, "bool": bool}


_SERIAL: Final = frozenset({"io.k8s.api.core.v1.PodSpec"})  # large, and many are alike


class Mismatch(ValueError):
    """A value of the wrong type; `owner` and `path` are filled in on the way out."""

    def __init__(self, text: str, go_type: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.go_type = go_type
        self.owner = ""
        self.path = ""

    def __str__(self) -> str:
        if not self.go_type:
            return self.text
        where = f"Go struct field {self.owner}.{_INDEX.sub('', self.path)}" if self.owner else "Go value"
        return f"json: cannot unmarshal {self.text} into {where} of type {self.go_type}"


def conform(obj: dict[str, Any], type_name: str) -> tuple[dict[str, Any], list[str]]:
    """The object pruned and spelt canonically, and the paths of the fields that its type does not have."""
    unknown: list[str] = []
    return _struct(type_name)(obj, (), unknown), unknown


def _spelt(path: Any) -> str:
    """`spec.containers[0].name`."""
    text = ""
    while path:
        path, part = path
        text = f"[{part}]{text}" if type(part) is int else f".{part}{text}"
    return text.removeprefix(".")


def _note(unknown: list[str], path: Any) -> None:
    if len(unknown) < _FINDINGS:
        unknown.append(_spelt(path))


def _wrong(value: Any, go_type: str) -> Mismatch:
    match value:
        case bool():
            return Mismatch("bool", go_type)
        case int() | float():
            return Mismatch(f"number {value}" if go_type.startswith(("int", "float")) else "number", go_type)
        case str():
            return Mismatch("string", go_type)
        case list():
            return Mismatch("array", go_type)
        case _:
            return Mismatch("object", go_type)


def go_name(name: str, shape: Shape = Shape.ONE) -> str:
    """How Go spells the type: `v1.PodSpec`, `[]v1.Container`, `map[string]string`."""
    plain = {"double": "float64", "byte": "[]uint8", "any": "interface {}"}.get(name)
    spelt = plain or (".".join(name.rsplit(".", 2)[-2:]) if "." in name else name)
    match shape:
        case Shape.LIST:
            return f"[]{spelt}"
        case Shape.MAP:
            return f"map[string]{spelt}"
        case Shape.ONE:
            return spelt


@cache
def _struct(name: str) -> Nested:
    kind = schema.named(name)
    owner = name.rsplit(".", 1)[1]
    compiled: dict[str, Compiled] = {}

    def fields() -> dict[str, Compiled]:
        for key, field in kind.fields.items():
            scalar, nested = _value(field)
            omit = field.omit and key != "managedFields"  # an empty list there asks to forget all owners
            compiled[key] = (_PLAIN.get(field.type) if field.shape is Shape.ONE else None, scalar, nested, omit)
        return compiled

    def check(value: Any, path: Any, unknown: list[str]) -> Any:
        if type(value) is not dict:
            raise _wrong(value, go_name(name))
        table = compiled or fields()
        key = ""
        try:
            for key, before in tuple(value.items()):
                found = table.get(key)
                if found is None:
                    _note(unknown, (path, key))
                    del value[key]
                    continue
                if before is None:
                    del value[key]
                    continue
                plain, scalar, nested, omit = found
                if type(before) is plain:
                    after = before
                elif scalar is not None:
                    after = scalar(before)
                else:
                    assert nested is not None
                    after = nested(before, (path, key), unknown)
                if omit and not after:
                    del value[key]
                elif after is not before:
                    value[key] = after
        except Mismatch as wrong:
            if not wrong.owner:
                wrong.owner = owner
                wrong.path = _spelt((path, key))
            raise
        return value

    return _recalled(check) if name in _SERIAL else check


def _recalled(check: Nested) -> Nested:
    """Without the walk for what an earlier walk left as it was."""
    seen = Seen()

    def look(value: Any, path: Any, unknown: list[str]) -> Any:
        key, known = seen.look(value)
        if known:
            return value
        before = len(unknown)
        after = check(value, path, unknown)
        if key and len(unknown) == before and seen.look(after)[0] == key:
            seen.keep(key)
        return after

    return look


def _value(field: Field) -> tuple[Scalar | None, Nested | None]:
    scalar = _scalar(field.type)
    nested = None if scalar else _struct(field.type)
    match field.shape, scalar, nested:
        case Shape.ONE, _, _:
            return scalar, nested
        case Shape.LIST, None, one if one is not None:
            return None, _list_of(one, field)
        case Shape.MAP, None, one if one is not None:
            return None, _map_of(one, field)
        case Shape.LIST, plain, _ if plain is not None:
            return _plain_list(plain, field), None
        case Shape.MAP, plain, _ if plain is not None:
            return _plain_map(plain, field), None
    raise AssertionError(field)


def _list_of(one: Nested, field: Field) -> Nested:
    def check(value: Any, path: Any, unknown: list[str]) -> Any:
        if type(value) is not list:
            raise _wrong(value, go_name(field.type, Shape.LIST))
        for index, item in enumerate(value):
            value[index] = one({} if item is None else item, (path, index), unknown)
        return value

    return check


def _map_of(one: Nested, field: Field) -> Nested:
    def check(value: Any, path: Any, unknown: list[str]) -> Any:
        if type(value) is not dict:
            raise _wrong(value, go_name(field.type, Shape.MAP))
        for key, item in value.items():
            value[key] = one({} if item is None else item, (path, key), unknown)
        return value

    return check


def _plain_list(one: Scalar, field: Field) -> Scalar:
    if field.type == "any":
        return _only(list, go_name(field.type, Shape.LIST))

    def check(value: Any) -> Any:
        if type(value) is not list:
            raise _wrong(value, go_name(field.type, Shape.LIST))
        return [one("" if item is None and field.type == "string" else item) for item in value]

    return check


def _plain_map(one: Scalar, field: Field) -> Scalar:
    if field.type == "any":
        return _only(dict, go_name(field.type, Shape.MAP))

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(value, go_name(field.type, Shape.MAP))
        for key, item in value.items():
            if item is not None:
                value[key] = one(item)
            elif field.type in {"string", "byte"}:
                value[key] = ""
        return value

    return check


def _only(kind: type, go_type: str) -> Scalar:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(value, go_type)
        return value

    return check


def _integer(name: str) -> Scalar:
    limit = 2**31 if name == "int32" else _INT64

    def check(value: Any) -> Any:
        if type(value) is not int or not -limit <= value < limit:
            raise _wrong(value, name)
        return value

    return check


def _double(value: Any) -> Any:
    if type(value) is not float and type(value) is not int:
        raise _wrong(value, "float64")
    return value


def _bytes(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "[]uint8")
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        joined = value.replace("\r", "").replace("\n", "")
        try:
            base64.b64decode(joined, validate=True)
        except (binascii.Error, ValueError):
            raise Mismatch(f"illegal base64 data at input byte {_bad_byte(joined)}") from None
        return joined
    return value


def _bad_byte(text: str) -> int:
    found = re.search(r"[^A-Za-z0-9+/]", text)
    return found.start() if found else len(text) // 4 * 4


def _quantity(value: Any) -> Any:
    if type(value) is not str and (type(value) is not int and type(value) is not float):
        raise _wrong(value, "resource.Quantity")
    text = value if type(value) is str else str(value)
    try:
        return quantity.canonical("!" if _HUGE_EXPONENT.search(text) else text)
    except ValueError as wrong:
        raise Mismatch(str(wrong)) from None


def _int_or_string(value: Any) -> Any:
    if type(value) is str:
        return value
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise _wrong(value, "int32")
    return value


def instant(value: Any) -> datetime:
    """A moment from RFC 3339 text, in UTC."""
    if type(value) is not str:
        raise _wrong(value, "string")
    if _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Mismatch(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"')


def _time(value: Any) -> Any:
    return instant(value).strftime("%4Y-%m-%dT%H:%M:%SZ")


def _micro_time(value: Any) -> Any:
    return instant(value).strftime("%4Y-%m-%dT%H:%M:%S.%fZ")


def _anything(value: Any) -> Any:
    """Any JSON, but no deeper than can be written: orjson writes 254 levels, and the rest of the object is around it."""
    if type(value) is dict or type(value) is list:
        wrapped = value
        for _ in range(_AROUND):
            wrapped = [wrapped]
        try:
            orjson.dumps(wrapped)
        except TypeError:
            raise Mismatch("exceeded max depth") from None
    return value


_SCALARS: Final[dict[str, Scalar]] = {
    "string": _only(str, "string"),
    "bool": _only(bool, "bool"),
    "int32": _integer("int32"),
    "int64": _integer("int64"),
    "double": _double,
    "byte": _bytes,
    "any": _anything,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": _quantity,
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": _time,
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": _micro_time,
}


def _scalar(name: str) -> Scalar | None:
    if name.startswith("[]"):
        inner = _SCALARS[name[2:]]
        return _plain_list(inner, Field(name[2:], Shape.LIST))
    return _SCALARS.get(name)
