"""How netlink spells things: messages of a 16-byte header and a body, bodies of a fixed structure and attributes.

A header is (length, type, flags, sequence, port). An attribute is (length, type, bytes) padded to four; a nest is an
attribute made of attributes. Lengths are 16 bits, so a nest ends at 65,535 bytes. Headers are in the machine's order; what
numbers inside attributes are is each family's own affair (nf_tables: the network's, rtnetlink: the machine's).
(include/uapi/linux/netlink.h)

The CNI plugin starts a process per pod and imports this: `struct` and nothing else.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300  # NLM_F_*
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
DUMP_INTERRUPTED, CAPPED, HAS_TEXT = 0x10, 0x100, 0x200  # NLM_F_DUMP_INTR, _CAPPED, _ACK_TLVS
ERROR, DONE = 2, 3  # NLMSG_*
SOL_NETLINK, OPTION_CAP_ACK, OPTION_EXT_ACK, OPTION_STRICT_CHECK = 270, 10, 11, 12
ACK_TEXT, ACK_OFFSET = 1, 2  # NLMSGERR_ATTR_MSG, _OFFS
NESTED = 0x8000
LONGEST = 0xFFFF

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
HEAD = struct.Struct("=HH")  # an attribute's
ERRNO = struct.Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def padding(length: int) -> bytes:
    return _PADDING[length & 3]


def attribute(number: int, data: bytes) -> bytes:
    size = len(data)
    if size > LONGEST - 4:
        raise ValueError(f"attribute {number & ~NESTED}: {size} bytes do not fit into one netlink attribute")
    return HEAD.pack(4 + size, number) + data + _PADDING[size & 3]


def nest(number: int, *parts: bytes) -> bytes:
    return attribute(number | NESTED, b"".join(parts))


def text(number: int, value: str) -> bytes:
    return attribute(number, value.encode() + b"\0")


def as_text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")


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
    while offset + 16 <= end:
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, sequence, port, offset + 16, offset + length
        offset += (length + 3) & ~3
