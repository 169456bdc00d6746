"""How nfnetlink spells things: a 16-byte header, the four bytes of `struct nfgenmsg`, then attributes.

An attribute is (length, type, bytes) padded to four; a nest is an attribute made of attributes. Lengths are 16 bits, so a
nest ends at 65,535 bytes and long lists go out in several messages. Header and attribute heads are in the machine's order,
numbers inside attributes in the network's. (include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/nf_tables.h)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

NETLINK_NETFILTER = 12
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
GROUP = 7  # NFNLGRP_NFTABLES

REQUEST, ACK, DUMP, CREATE, EXCLUSIVE, APPEND = 0x1, 0x4, 0x300, 0x400, 0x200, 0x800  # NLM_F_*
DUMP_INTERRUPTED, CAPPED, HAS_TEXT = 0x10, 0x100, 0x200  # NLM_F_DUMP_INTR, _CAPPED, _ACK_TLVS
ERROR, DONE = 2, 3  # NLMSG_*
BATCH_BEGIN, BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
BATCH_GENERATION = 1  # NFNL_BATCH_GENID
NESTED = 0x8000
LONGEST = 0xFFFF

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
HEAD = struct.Struct("=HH")  # an attribute's
ERRNO = struct.Struct("=i")
SIZE = HEADER.size + 4
_NUMBER = struct.Struct(">I")
_WIDE = struct.Struct(">Q")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(IntEnum):
    """NFT_MSG_*"""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWGEN = 15
    GETGEN = 16


def message(kind: int, flags: int, sequence: int, family: int, body: bytes, resource: int = 0) -> bytes:
    """One datagram's worth. `resource` is the subsystem in batch marks, otherwise 0. Bodies are attributes, so padded."""
    head = HEADER.pack(SIZE + len(body), kind, flags, sequence, 0)
    return head + bytes((family, 0, resource >> 8, resource & 0xFF)) + body


def ours(kind: Message) -> int:
    """The header's type of an nf_tables message."""
    return SUBSYSTEM << 8 | kind


def padding(length: int) -> bytes:
    return _PADDING[length & 3]


def attribute(number: int, data: bytes) -> bytes:
    size = len(data)
    if size > LONGEST - HEAD.size:
        raise ValueError(f"attribute {number & ~NESTED}: {size} bytes do not fit into one netlink attribute")
    return HEAD.pack(HEAD.size + size, number) + data + _PADDING[size & 3]


def nest(number: int, *parts: bytes) -> bytes:
    return attribute(number | NESTED, b"".join(parts))


def text(number: int, value: str) -> bytes:
    return attribute(number, value.encode() + b"\0")


def number32(number: int, value: int) -> bytes:
    return attribute(number, _NUMBER.pack(value & 0xFFFFFFFF))


def number64(number: int, value: int) -> bytes:
    return attribute(number, _WIDE.pack(value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """By number, nests as their bytes; of several with one number the last."""
    return {number: data[start:end] for number, start, end in spans(data, offset, len(data))}


def spans(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, byte after the last) of each attribute's content, in their order."""
    unpack = HEAD.unpack_from
    while offset + 4 <= end:
        length, number = unpack(data, offset)
        if length < 4 or offset + length > end:
            return
        yield number & 0x3FFF, offset + 4, offset + length
        offset += (length + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(type, flags, sequence, port, first byte after the header, byte after the last) of each message in a datagram."""
    offset, end = 0, len(data)
    while offset + HEADER.size <= end:
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > end:
            return
        yield kind, flags, sequence, port, offset + HEADER.size, offset + length
        offset += (length + 3) & ~3


def as_text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")


def as_number(data: bytes | None) -> int:
    """An unsigned number of any width in network order; 0 for an absent attribute."""
    return int.from_bytes(data or b"", "big")
