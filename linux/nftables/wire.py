"""How nfnetlink and nf_tables spell things: netlink's messages (`linux.wire`) with the four bytes of `struct nfgenmsg` before
the attributes. A nest ends at 65,535 bytes, so long lists go out in several messages; numbers inside attributes are in the
network's order. (include/uapi/linux/netfilter/nfnetlink.h, netfilter/nf_tables.h)
"""

from __future__ import annotations

import struct
from enum import IntEnum

from linux.wire import HEADER, attribute

NETLINK_NETFILTER = 12
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
GROUP = 7  # NFNLGRP_NFTABLES

BATCH_BEGIN, BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
BATCH_GENERATION = 1  # NFNL_BATCH_GENID
SIZE = HEADER.size + 4
_NUMBER = struct.Struct(">I")
_WIDE = struct.Struct(">Q")


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


def number32(number: int, value: int) -> bytes:
    return attribute(number, _NUMBER.pack(value & 0xFFFFFFFF))


def number64(number: int, value: int) -> bytes:
    return attribute(number, _WIDE.pack(value))


def as_number(data: bytes | None) -> int:
    """An unsigned number of any width in network order; 0 for an absent attribute."""
    return int.from_bytes(data or b"", "big")
