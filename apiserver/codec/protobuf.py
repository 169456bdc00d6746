r"""Kubernetes' protobuf bodies, read by table.

Go clients since 1.32 send `application/vnd.kubernetes.protobuf` and do not retry on 415, so we read it; we never write it.

    body      = "k8s\0" + Unknown
    Unknown   = {1: TypeMeta {1: apiVersion, 2: kind}, 2: raw, 3: contentEncoding, 4: contentType}
    raw       = the object, a message whose fields the schema table knows by number

A message becomes the JSON object that Go's encoder would have written: fields without a pointer vanish when empty,
pointers keep their zeros (`replicas: 0`), inlined messages are lifted into their parent, and a dozen messages that are
scalars in JSON (Quantity, Time, IntOrString, ...) become those scalars.

Encoding: https://protobuf.dev/programming-guides/encoding/ (varints, 64-bit, length-delimited, 32-bit).
"""

import base64
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import orjson

from apiserver import schema
from apiserver.schema import GVK, WireField

MAGIC: Final = b"k8s\x00"
_META: Final = "k8s.io.apimachinery.pkg.apis.meta.v1."
_JSON: Final = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DEPTH: Final = 100

Special = Callable[[dict[int, Any]], Any]
Reader = Callable[[Any, int], Any]  # (what stands on the wire, depth) -> JSON value


class Malformed(ValueError):
    """The bytes are not the message they claim to be."""


def decode(body: bytes, default: GVK | None) -> tuple[GVK, dict[str, Any]]:
    """The object in an enveloped body, with kind and apiVersion; `default` names the kind when the envelope does not."""
    if not body.startswith(MAGIC):
        raise Malformed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    envelope = _fields(body[len(MAGIC) :])
    meta = _fields(_bytes(envelope, 1))
    gvk = GVK.of({"apiVersion": _text(meta, 1), "kind": _text(meta, 2)})
    if not gvk.kind and default is not None:
        gvk = default
    raw = _bytes(envelope, 2)
    if _text(envelope, 4) == "application/json":
        obj = orjson.loads(raw)
        return gvk, {"apiVersion": gvk.api_version, "kind": gvk.kind} | obj
    name = message_name(gvk)
    if name is None:
        raise Malformed(f'no kind "{gvk.kind}" is registered for version "{gvk.api_version}"')
    obj = {"apiVersion": gvk.api_version, "kind": gvk.kind}
    _read(name, raw, obj, 0)
    return gvk, obj


def message_name(gvk: GVK) -> str | None:
    name = schema.type_name(gvk)
    if name is None:
        return None
    wire = name.replace("io.k8s.", "k8s.io.", 1).replace("-", "_")
    return wire if wire in schema.messages() else None


def _bytes(fields: dict[int, Any], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise Malformed(f"proto: wrong wireType for field {number} of the envelope")
    return value


def _text(fields: dict[int, Any], number: int) -> str:
    return _string(_bytes(fields, number))


def _string(raw: Any) -> str:
    if not isinstance(raw, bytes):
        raise Malformed("proto: wrong wireType for a string")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("proto: string field contains invalid UTF-8") from None


def _fields(data: bytes) -> dict[int, Any]:
    """The last value of every field: for messages read by number (envelope, specials)."""
    return dict(_scan(data))


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise Malformed("unexpected EOF")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            raise Malformed("proto: integer overflow")


def _scan(data: bytes) -> list[tuple[int, Any]]:
    """(field number, raw value): an int for varints and fixed widths, bytes for length-delimited fields."""
    found: list[tuple[int, Any]] = []
    position, end = 0, len(data)
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = _varint(data, position - 1)
        value: Any
        match key & 7:
            case 2:
                size = data[position] if position < end else 0x80  # nearly every length fits in one byte
                position += 1
                if size >= 0x80:
                    size, position = _varint(data, position - 1)
                if position + size > end:
                    raise Malformed("unexpected EOF")
                value = data[position : position + size]
                position += size
            case 0:
                value, position = _varint(data, position)
            case 1 | 5 as wire:
                size = 8 if wire == 1 else 4
                if position + size > end:
                    raise Malformed("unexpected EOF")
                value = int.from_bytes(data[position : position + size], "little")
                position += size
            case wire:
                raise Malformed(f"proto: illegal wireType {wire}")
        found.append((key >> 3, value))
    return found


def _read(name: str, data: bytes, into: dict[str, Any], depth: int) -> None:
    """Decode a message into a JSON object; unknown field numbers are skipped, as protobuf promises."""
    if depth > _DEPTH:
        raise Malformed("proto: message nested too deeply")
    table = _message(name)
    for number, raw in _scan(data):
        found = table.get(number)
        if found is None:
            continue
        key, read, shape, kind, inline, omit = found
        if inline:
            _read(kind, _message_bytes(raw), into, depth + 1)
        elif shape == "o":
            value = read(raw, depth)
            if value is None or (omit and not value and not isinstance(value, dict)):
                continue
            into[key] = value
        elif shape == "r":
            _append(into.setdefault(key, []), kind, read, raw, depth)
        else:
            entry = _fields(_message_bytes(raw))
            empty: Any = 0 if kind in _INTEGERS else b""
            into.setdefault(key, {})[_string(entry.get(1, b""))] = read(entry.get(2, empty), depth)


def _append(values: list[Any], kind: str, read: Reader, raw: Any, depth: int) -> None:
    if kind in _INTEGERS and isinstance(raw, bytes):  # packed
        position = 0
        while position < len(raw):
            number, position = _varint(raw, position)
            values.append(read(number, depth))
    else:
        values.append(read(raw, depth))


@cache
def _message(name: str) -> dict[int, tuple[str, Reader, str, str, bool, bool]]:
    """Field number -> (JSON name, what reads it, shape, type, inlined, vanishes when empty)."""

    def row(field: WireField) -> tuple[str, Reader, str, str, bool, bool]:
        omit = "e" in field.flags and "p" not in field.flags
        return field.name, _reader(field.type), field.flags[0], field.type, "i" in field.flags, omit

    return {number: row(field) for number, field in schema.messages()[name].items()}


@cache
def _reader(kind: str) -> Reader:
    """What makes a value of that type from what stands on the wire; a message is looked up when the first one comes."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    special = _SPECIALS.get(kind)
    if special is not None:
        return lambda raw, _: special(_fields(_message_bytes(raw)))
    if kind.endswith((".ExtraValue", ".Verbs")):
        return lambda raw, _: [_string(one) for number, one in _scan(_message_bytes(raw)) if number == 1]

    def read(raw: Any, depth: int) -> Any:
        inner: dict[str, Any] = {}
        _read(kind, _message_bytes(raw), inner, depth + 1)
        return inner

    return (lambda raw, depth: _union(kind, read(raw, depth))) if ".JSONSchemaPropsOr" in kind else read


def _integer(raw: Any, _: int) -> int:
    if not isinstance(raw, int):
        raise Malformed("proto: wrong wireType for an integer")
    return raw - 2**64 if raw >= 2**63 else raw


def _double(raw: Any, _: int) -> float:
    if not isinstance(raw, int):
        raise Malformed("proto: wrong wireType for a double")
    value: float = struct.unpack("<d", raw.to_bytes(8, "little"))[0]
    return value


def _message_bytes(raw: Any) -> bytes:
    if not isinstance(raw, bytes):
        raise Malformed("proto: wrong wireType for a message")
    return raw


def _union(kind: str, inner: dict[str, Any]) -> Any:
    """JSON schemas hold a few either-or values that protobuf spells as messages."""
    match kind.rsplit(".", 1)[1]:
        case "JSONSchemaPropsOrBool":
            return inner.get("schema", inner.get("allows", False))
        case "JSONSchemaPropsOrArray":
            return inner.get("schema", inner.get("jSONSchemas", []))
        case "JSONSchemaPropsOrStringArray":
            return inner.get("schema", inner.get("property", []))
        case _:
            return inner


def _signed(value: Any) -> int:
    number = int(value)
    return number - 2**64 if number >= 2**63 else number


def _moment(fields: dict[int, Any]) -> datetime | None:
    if not fields:
        return None
    try:
        return _EPOCH + timedelta(seconds=_signed(fields.get(1, 0)), microseconds=_signed(fields.get(2, 0)) // 1000)
    except OverflowError:
        raise Malformed("proto: time out of range") from None


def _time(fields: dict[int, Any]) -> str | None:
    moment = _moment(fields)
    return None if moment is None else moment.strftime("%4Y-%m-%dT%H:%M:%SZ")


def _micro_time(fields: dict[int, Any]) -> str | None:
    moment = _moment(fields)
    return None if moment is None else moment.strftime("%4Y-%m-%dT%H:%M:%S.%fZ")


def _int_or_string(fields: dict[int, Any]) -> int | str:
    return _string(fields.get(3, b"")) if fields.get(1, 0) == 1 else _signed(fields.get(2, 0))


def _duration(fields: dict[int, Any]) -> str:
    """Go's time.Duration.String: `1h0m0s`, `1.5s`, `300ms`."""
    nanoseconds = _signed(fields.get(1, 0))
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if 0 < rest < size * 1000 and size < 10**9:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, seconds = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{prefix}{_decimal(seconds, 10**9)}s"


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    return f"{whole}.{str(rest + size)[1:].rstrip('0')}" if rest else str(whole)


def _embedded(fields: dict[int, Any]) -> Any:
    """RawExtension, FieldsV1 and JSON carry a document of their own: JSON text, or an enveloped object."""
    raw = _bytes(fields, 1)
    if not raw:
        return None
    if raw.startswith(MAGIC):
        return decode(raw, None)[1]
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as wrong:
        raise Malformed(f"embedded JSON: {wrong}") from None


_PLAIN: Final[dict[str, Reader]] = {
    "string": lambda raw, _: _string(raw),
    "bytes": lambda raw, _: base64.b64encode(_message_bytes(raw)).decode(),
    "bool": lambda raw, _: bool(raw),
    "int32": _integer,
    "int64": _integer,
    "double": _double,
}
_INTEGERS: Final = frozenset({"int32", "int64", "bool"})
_SPECIALS: Final[dict[str, Special]] = {
    "k8s.io.apimachinery.pkg.api.resource.Quantity": lambda fields: _text(fields, 1) or "0",
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    _META + "Time": _time,
    _META + "MicroTime": _micro_time,
    _META + "Duration": _duration,
    _META + "FieldsV1": _embedded,
    "k8s.io.apimachinery.pkg.runtime.RawExtension": _embedded,
    _JSON: _embedded,
}
