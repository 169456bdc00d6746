"""Elements of sets and maps, and their packing: the one path here that must be fast.

A key or a value is the raw content of registers: addresses and ports in network order, marks and numgen's numbers in the
machine's, interface names padded with zeros to 16; in a concatenation every field is padded to four bytes (`joined`). The
lengths around them depend only on the lengths within, so what surrounds a key and a value is computed once per pair of
lengths, and an element is five pieces of bytes put together.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from linux.nftables.wire import as_number, number32, number64
from linux.wire import HEAD, LONGEST, NESTED, as_text, attribute, attributes, nest, padding, spans, text

DROP, ACCEPT = 0, 1  # NF_DROP, NF_ACCEPT
CONTINUE, BREAK, JUMP, GOTO, RETURN = -1, -2, -3, -4, -5  # NFT_*

_LIST_ELEMENT = 1  # NFTA_LIST_ELEM
_KEY, _DATA, _FLAGS, _TIMEOUT, _EXPIRATION, _USERDATA, _EXPRESSION = 1, 2, 3, 4, 5, 6, 7  # NFTA_SET_ELEM_*
_KEY_END, _EXPRESSIONS = 10, 11
_VALUE, _VERDICT = 1, 2  # NFTA_DATA_*
_CODE, _CHAIN = 1, 2  # NFTA_VERDICT_*
_INTERVAL_END, _CATCH_ALL = 1, 2  # NFT_SET_ELEM_*
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_EXPRESSION_DATA = 2  # NFTA_EXPR_DATA
_COUNTER = text(1, "counter")  # NFTA_EXPR_NAME
_TWO_HEADS = struct.Struct("=HHHH")
_THREE_HEADS = struct.Struct("=HHHHHH")
_COUNTED = struct.Struct(">24xQ4xQ")  # expression, its name, data: bytes, packets
_COUNTER_SIZE = _COUNTED.size
_ROOM = LONGEST - 512  # of one message's list of elements


class Verdict(NamedTuple):
    """What becomes of a packet; `chain` belongs to JUMP and GOTO."""

    code: int
    chain: str = ""


class Element(NamedTuple):
    """`data` is None in sets, bytes or a Verdict in maps. `key_end` closes an interval of a concatenation (inclusive), and
    `interval_end` marks the key as the first after an interval of a single field. `timeout` and `expires` are milliseconds
    (None: the set's own; `expires` is how much is left, when read). `comment` is what `nft list` prints. `catch_all`: the
    element for everything that no other matches; its key is empty."""

    key: bytes
    data: bytes | Verdict | None = None
    timeout: int | None = None
    key_end: bytes | None = None
    comment: str | None = None
    expires: int | None = None
    interval_end: bool = False
    catch_all: bool = False


class Counted(NamedTuple):
    """An element as the kernel holds it, with its counter: (packets, bytes), None where the set counts nothing."""

    element: Element
    counter: tuple[int, int] | None


def joined(*fields: bytes) -> bytes:
    """A concatenation as the kernel wants it: each field padded to four bytes."""
    return b"".join(field + padding(len(field)) for field in fields)


def packed(element: Element) -> bytes:
    """The attribute of one element, padded."""
    if element[2:] != _PLAIN:
        return _fully_packed(element)
    key = element.key
    match element.data:
        case bytes() as data:
            before, between, after = _mapping_around(len(key), len(data))
            return before + key + between + data + after
        case None:
            before, after = _member_around(len(key))
            return before + key + after
        case Verdict():
            return _fully_packed(element)


_PLAIN = Element(b"")[2:]


@functools.lru_cache(maxsize=64)
def _mapping_around(key: int, data: int) -> tuple[bytes, bytes, bytes]:
    key_space, data_space = key + len(padding(key)), data + len(padding(data))
    whole = 4 + (8 + key_space) + (8 + data_space)
    before = HEAD.pack(whole, _LIST_ELEMENT | NESTED) + HEAD.pack(8 + key_space, _KEY | NESTED)
    between = padding(key) + HEAD.pack(8 + data_space, _DATA | NESTED) + HEAD.pack(4 + data, _VALUE)
    return before + HEAD.pack(4 + key, _VALUE), between, padding(data)


@functools.lru_cache(maxsize=64)
def _member_around(key: int) -> tuple[bytes, bytes]:
    space = key + len(padding(key))
    before = HEAD.pack(12 + space, _LIST_ELEMENT | NESTED) + HEAD.pack(8 + space, _KEY | NESTED)
    return before + HEAD.pack(4 + key, _VALUE), padding(key)


def _fully_packed(element: Element) -> bytes:
    parts = []
    flags = (_INTERVAL_END if element.interval_end else 0) | (_CATCH_ALL if element.catch_all else 0)
    if flags:
        parts.append(number32(_FLAGS, flags))
    if not element.catch_all:
        parts.append(nest(_KEY, attribute(_VALUE, element.key)))
    if element.key_end is not None:
        parts.append(nest(_KEY_END, attribute(_VALUE, element.key_end)))
    match element.data:
        case bytes() as value:
            parts.append(nest(_DATA, attribute(_VALUE, value)))
        case Verdict() as verdict:
            parts.append(packed_verdict(verdict))
        case None:
            pass
    if element.timeout is not None:
        parts.append(number64(_TIMEOUT, element.timeout))
    if element.expires is not None:
        parts.append(number64(_EXPIRATION, element.expires))
    if element.comment is not None:
        parts.append(attribute(_USERDATA, packed_comment(0, element.comment)))
    return nest(_LIST_ELEMENT, *parts)


@functools.lru_cache(maxsize=1024)
def packed_verdict(verdict: Verdict, number: int = _DATA) -> bytes:
    """The attribute (NFTA_SET_ELEM_DATA or whatever `number` is) that holds a verdict."""
    chain = text(_CHAIN, verdict.chain) if verdict.chain else b""
    return nest(number, nest(_VERDICT, number32(_CODE, verdict.code), chain))


LONGEST_COMMENT = 127


def packed_comment(kind: int, comment: str) -> bytes:
    """A comment as libnftnl keeps it in user data: (kind, length, text with its end). Longer than 128 bytes is cut: so
    does nft."""
    encoded = comment.encode()[:LONGEST_COMMENT] + b"\0"
    return bytes((kind, len(encoded))) + encoded


def chunks(elements: Iterable[Element]) -> Iterator[bytes]:
    """The elements as contents of element lists, each short enough for one message."""
    parts: list[bytes] = []
    size = 0
    for element in elements:
        part = packed(element)
        size += len(part)
        if size > _ROOM:
            yield b"".join(parts)
            parts, size = [], len(part)
        parts.append(part)
    if parts:
        yield b"".join(parts)


def pair_chunks(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """As `chunks`, for (key, value) pairs of which all keys and all values are of one length: five times as fast."""
    if not pairs:
        return
    key, value = pairs[0]
    before, between, after = _mapping_around(len(key), len(value))
    many = _ROOM // (len(before) + len(key) + len(between) + len(value) + len(after))
    for start in range(0, len(pairs), many):
        yield b"".join([before + key + between + value + after for key, value in pairs[start : start + many]])


def unpacked(data: bytes, start: int, end: int) -> Iterator[Counted]:
    """The elements in the content of an element list (NFTA_SET_ELEM_LIST_ELEMENTS)."""
    for _, first, last in spans(data, start, end):
        yield _element(data, first, last)


def unpacked_pairs(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """As `unpacked`, only (key, value), for maps of values. Where all elements look alike (none has a comment, all have a
    timeout or none) they are cut out by one pattern, and what follows the value is passed over. Any that look otherwise are
    read the long way."""
    if start == end:
        return
    # Lengths count their own heads of four bytes, so the key begins at 12 and the value 8 behind `between`.
    whole, _, key_nest, _, key, _ = _THREE_HEADS.unpack_from(data, start)
    between = start + 4 + ((key_nest + 3) & ~3)
    data_nest, _, value, _ = _TWO_HEADS.unpack_from(data, between)
    padded = (data_nest + 3) & ~3
    rest = whole - (between - start) - padded  # of the element, behind the value's attribute
    pattern = struct.Struct(f"12s{key - 4}s{between - start - key}s{value - 4}s{padded - value - 4 + max(rest, 0)}x")
    if pattern.size == whole and (end - start) % whole == 0:
        before, after = data[start : start + 12], data[start + 8 + key : between + 8]
        found = list(pattern.iter_unpack(memoryview(data)[start:end]))
        if all(one[0] == before and one[2] == after for one in found):
            yield from ((one[1], one[3]) for one in found)
            return
    for counted in unpacked(data, start, end):
        if isinstance(counted.element.data, bytes):
            yield counted.element.key, counted.element.data


def _element(data: bytes, start: int, end: int) -> Counted:
    """What every element has, key and value, comes first: read in two steps. The rest is rare, except counters."""
    key_nest, number, key_length, _ = _TWO_HEADS.unpack_from(data, start)
    if number & 0x3FFF != _KEY:
        return _any_element(data, start, end)
    key = data[start + 8 : start + 4 + key_length]
    start += (key_nest + 3) & ~3
    if start >= end:
        return Counted(Element(key), None)
    nested, number, length, kind = _TWO_HEADS.unpack_from(data, start)
    if number & 0x3FFF != _DATA:
        return _any_element(data, start, end, key)
    content = data[start + 8 : start + 4 + length]
    value = content if kind & 0x3FFF == _VALUE else _verdict(content)
    start += (nested + 3) & ~3
    if start >= end:
        return Counted(Element(key, value), None)
    if end - start == _COUNTER_SIZE and data.startswith(_COUNTER, start + 4):
        octets, packets = _COUNTED.unpack_from(data, start)
        return Counted(Element(key, value), (packets, octets))
    return _any_element(data, start, end, key, value)


def _any_element(data: bytes, start: int, end: int, key: bytes = b"", value: bytes | Verdict | None = None) -> Counted:
    counter = None
    rest: dict[str, object] = {}
    for number, first, last in spans(data, start, end):
        content = data[first:last]
        if number == _KEY:
            key = _only_value(content)
        elif number == _DATA:
            value = unpacked_data(content)
        elif number == _KEY_END:
            rest["key_end"] = _only_value(content)
        elif number == _FLAGS:
            flags = as_number(content)
            rest["interval_end"] = bool(flags & _INTERVAL_END)
            rest["catch_all"] = bool(flags & _CATCH_ALL)
        elif number == _TIMEOUT:
            rest["timeout"] = as_number(content)
        elif number == _EXPIRATION:
            rest["expires"] = as_number(content)
        elif number == _USERDATA:
            rest["comment"] = unpacked_comment(0, content)
        elif number == _EXPRESSION:
            counter = _counter(content)
        elif number == _EXPRESSIONS:
            found = (_counter(content[one:two]) for _, one, two in spans(content, 0, len(content)))
            counter = next((one for one in found if one), None)
    element = Element(key, value, **rest) if rest else Element(key, value)  # type: ignore[arg-type]
    return Counted(element, counter)


def _only_value(content: bytes) -> bytes:
    return content[4 : HEAD.unpack_from(content)[0]]


def unpacked_data(content: bytes) -> bytes | Verdict:
    """What NFTA_SET_ELEM_DATA or NFTA_IMMEDIATE_DATA holds."""
    length, number = HEAD.unpack_from(content)
    return content[4:length] if number & 0x3FFF == _VALUE else _verdict(content[4:length])


@functools.lru_cache(maxsize=1024)
def _verdict(content: bytes) -> Verdict:
    found = attributes(content)
    return Verdict(int.from_bytes(found[_CODE], "big", signed=True), as_text(found.get(_CHAIN)))


def unpacked_comment(kind: int, data: bytes) -> str | None:
    offset = 0
    while offset + 2 <= len(data):
        found, length = data[offset], data[offset + 1]
        if found == kind:
            return as_text(data[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return None


def _counter(data: bytes) -> tuple[int, int] | None:
    if _COUNTER not in data:
        return None
    content = attributes(attributes(data).get(_EXPRESSION_DATA, b""))
    return as_number(content.get(_PACKETS)), as_number(content.get(_BYTES))
