"""A protobuf writer for tests: the inverse of the decoder, for messages made of strings, numbers, maps and messages.

It writes as Go does: fields without a pointer are always on the wire, pointers only when set.
"""

from typing import Any

from apiserver import schema
from apiserver.codec.protobuf import _SPECIALS, MAGIC, message_name
from apiserver.schema import GVK


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(obj: dict[str, Any]) -> bytes:
    gvk = GVK.of(obj)
    name = message_name(gvk)
    assert name is not None
    meta = chunk(1, gvk.api_version.encode()) + chunk(2, gvk.kind.encode())
    return MAGIC + chunk(1, meta) + chunk(2, message(name, obj)) + chunk(3, b"") + chunk(4, b"")


def message(name: str, obj: dict[str, Any]) -> bytes:
    out = bytearray()
    for number, field in sorted(schema.messages()[name].items()):
        if "i" in field.flags:
            out += chunk(number, message(field.type, obj))
        elif field.name in obj:
            values = obj[field.name]
            if field.flags[0] == "m":
                for key, value in values.items():
                    out += chunk(number, chunk(1, key.encode()) + one(2, field.type, value))
            else:
                for value in values if field.flags[0] == "r" else [values]:
                    out += one(number, field.type, value)
        elif field.flags[0] == "o" and "p" not in field.flags:
            out += one(number, field.type, {"string": "", "bool": False, "int32": 0, "int64": 0}.get(field.type, {}))
    return bytes(out)


def one(number: int, kind: str, value: Any) -> bytes:
    match kind.rsplit(".", 1)[-1], value:
        case "string", _:
            return chunk(number, value.encode())
        case "bool" | "int32" | "int64", _:
            return varint(number << 3) + varint(int(value))
        case "Quantity", str():
            return chunk(number, chunk(1, value.encode()))
        case "IntOrString", int():
            return chunk(number, varint(1 << 3) + varint(0) + varint(2 << 3) + varint(value))
        case "IntOrString", str():
            return chunk(number, varint(1 << 3) + varint(1) + chunk(3, value.encode()))
        case _, dict():
            return chunk(number, b"" if kind in _SPECIALS else message(kind, value))
        case _:
            raise AssertionError((kind, value))
