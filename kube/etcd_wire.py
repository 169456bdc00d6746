"""etcd v3's messages, as far as this client speaks them: from values to protobuf bytes and back.

Names and field numbers are those of etcd's rpc.proto and kv.proto. Protobuf is a list of tagged fields; a message that says
little is quickly written by hand, and neither a code generator nor the protobuf library is needed. A field is `number << 3 |
type`, where type 0 is a varint and type 2 a length followed by that many bytes. Fields that have their zero value are left
out; fields we do not know are skipped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

EVERYTHING = (b"\0", b"\0")
"""Key and range end that mean every key there is."""


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative int64s are written as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def blob(field: int, value: bytes) -> bytes:
    """A bytes, string or message field, present even when empty (an empty message says something)."""
    return b"".join((_varint(field << 3 | 2), _varint(len(value)), value))


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of everything in a message. Raises ValueError for what is not protobuf."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _read(data, position)
        match tag & 7:
            case 0:
                value, position = _read(data, position)
                yield tag >> 3, value
            case 2:
                length, position = _read(data, position)
                if position + length > end:
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, data[position : position + length]
                position += length
            case 1:
                position += 8
            case 5:
                position += 4
            case other:
                raise ValueError(f"unknown wire type {other}")


def _read(data: bytes, position: int) -> tuple[int, int]:
    try:
        value = data[position]
        position += 1
        if value < 0x80:
            return value, position
        value, shift = value & 0x7F, 7
        while True:
            piece = data[position]
            position += 1
            value |= (piece & 0x7F) << shift
            if piece < 0x80:
                return value, position
            shift += 7
    except IndexError:
        raise ValueError("a number is cut off") from None


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where a number belongs")  # noqa: TRY004 - whoever sent it is wrong, not our caller
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes belong")  # noqa: TRY004
    return value


# Requests


def range_request(
    key: bytes,
    end: bytes = b"",
    *,
    limit: int = 0,
    revision: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
) -> bytes:
    parts = [blob(1, key), blob(2, end) if end else b"", number(3, limit), number(4, revision)]
    return b"".join((*parts, number(8, keys_only), number(9, count_only)))


def put_request(key: bytes, value: bytes, lease: int = 0) -> bytes:
    return b"".join((blob(1, key), blob(2, value), number(3, lease)))


def delete_request(key: bytes, end: bytes = b"") -> bytes:
    return blob(1, key) + (blob(2, end) if end else b"")


def range_op(request: bytes) -> bytes:
    return blob(1, request)


def put_op(request: bytes) -> bytes:
    return blob(2, request)


def delete_op(request: bytes) -> bytes:
    return blob(3, request)


def mod_revision_is(key: bytes, revision: int) -> bytes:
    """A comparison; revision 0 = the key does not exist. The oneof's member is written even when it is zero."""
    return b"".join((number(2, 2), blob(3, key), b"\x30", _varint(revision)))


def version_is(key: bytes, version: int) -> bytes:
    return b"".join((blob(3, key), b"\x20", _varint(version)))


def txn_request(compare: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes] = ()) -> bytes:
    parts = [blob(1, one) for one in compare]
    parts += [blob(2, one) for one in success]
    parts += [blob(3, one) for one in failure]
    return b"".join(parts)


def watch_create(start_revision: int, key: bytes = EVERYTHING[0], end: bytes = EVERYTHING[1]) -> bytes:
    """With `fragment`, so that no answer outgrows gRPC's limit."""
    create = b"".join((blob(1, key), blob(2, end), number(3, start_revision), number(8, 1)))
    return blob(1, create)


def compaction_request(revision: int) -> bytes:
    return number(1, revision)


def lease_grant_request(ttl: int) -> bytes:
    return number(1, ttl)


def lease_request(lease: int) -> bytes:
    """Of LeaseRevoke, LeaseKeepAlive and LeaseTimeToLive alike."""
    return number(1, lease)


def authenticate_request(name: str, password: str) -> bytes:
    return blob(1, name.encode()) + blob(2, password.encode())


# Answers


@dataclass(frozen=True, slots=True)
class Header:
    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class KeyValue:
    """`lease` is 0 for a key that stays until it is deleted."""

    key: bytes
    value: bytes
    mod_revision: int
    version: int
    lease: int
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int


@dataclass(frozen=True, slots=True)
class TxnAnswer:
    """`ranges`: what the ranges among the operations carried out found, in order."""

    header: Header
    succeeded: bool
    ranges: tuple[RangeAnswer, ...]


@dataclass(frozen=True, slots=True)
class Event:
    deleted: bool
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """`compact_revision` is not 0 when the watch asked for a past that is gone; `fragment`: more of the same follows."""

    header: Header
    created: bool
    canceled: bool
    compact_revision: int
    reason: str
    fragment: bool
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    header: Header
    version: str
    size: int
    leader: int


def header(data: bytes) -> Header:
    found = {field: _int(value) for field, value in fields(data)}
    return Header(found.get(1, 0), found.get(2, 0), found.get(3, 0))


def key_value(data: bytes) -> KeyValue:
    found = dict(fields(data))
    return KeyValue(
        _bytes(found.get(1, b"")),
        _bytes(found.get(5, b"")),
        _int(found.get(3, 0)),
        _int(found.get(4, 0)),
        _int(found.get(6, 0)),
        _int(found.get(2, 0)),
    )


def range_answer(data: bytes) -> RangeAnswer:
    head, kvs, more, count = Header(), list[KeyValue](), False, 0
    for field, value in fields(data):
        match field:
            case 1:
                head = header(_bytes(value))
            case 2:
                kvs.append(key_value(_bytes(value)))
            case 3:
                more = bool(value)
            case 4:
                count = _int(value)
            case _:
                pass
    return RangeAnswer(head, tuple(kvs), more, count)


def txn_answer(data: bytes) -> TxnAnswer:
    head, succeeded, ranges = Header(), False, list[RangeAnswer]()
    for field, value in fields(data):
        match field:
            case 1:
                head = header(_bytes(value))
            case 2:
                succeeded = bool(value)
            case 3:
                ranges += [range_answer(_bytes(inner)) for kind, inner in fields(_bytes(value)) if kind == 1]
            case _:
                pass
    return TxnAnswer(head, succeeded, tuple(ranges))


def _event(data: bytes) -> Event:
    found = dict(fields(data))
    return Event(bool(found.get(1, 0)), key_value(_bytes(found.get(2, b""))))


def watch_answer(data: bytes) -> WatchAnswer:
    head, events, flags, reason = Header(), list[Event](), dict[int, int](), ""
    for field, value in fields(data):
        match field:
            case 1:
                head = header(_bytes(value))
            case 6:
                reason = _bytes(value).decode(errors="replace")
            case 11:
                events.append(_event(_bytes(value)))
            case _:
                flags[field] = _int(value)
    return WatchAnswer(
        head,
        bool(flags.get(3)),
        bool(flags.get(4)),
        flags.get(5, 0),
        reason,
        bool(flags.get(7)),
        tuple(events),
    )


def lease_answer(data: bytes) -> tuple[int, int]:
    """(lease id, seconds) of LeaseGrant, LeaseKeepAlive and LeaseTimeToLive; a lease that is gone has none left (<= 0)."""
    found = dict(fields(data))
    return _int(found.get(2, 0)), _int(found.get(3, 0))


def token_answer(data: bytes) -> str:
    return _bytes(dict(fields(data)).get(2, b"")).decode(errors="replace")


def status_answer(data: bytes) -> StatusAnswer:
    found = dict(fields(data))
    return StatusAnswer(
        header(_bytes(found.get(1, b""))),
        _bytes(found.get(2, b"")).decode(errors="replace"),
        _int(found.get(3, 0)),
        _int(found.get(4, 0)),
    )


def alarms_answer(data: bytes) -> list[str]:
    members = [dict(fields(_bytes(value))) for field, value in fields(data) if field == 2]
    names = {1: "NOSPACE", 2: "CORRUPT"}
    return [names.get(_int(member.get(2, 0)), "unknown") for member in members]
