"""Rules as the kernel's little machine sees them: expressions that move bytes between registers and packet.

A register is 16 bytes wide (1..4) or 4 bytes wide (8..23); register 1 is 8, 9, 10 and 11 together, so a concatenation is
loaded field by field into neighbouring small registers and looked up from the first. A failed match ends the rule, the next
one begins with empty registers. Each function returns one packed expression for `Batch.add_rule`; `nft --debug=netlink`
prints the same words for any rule written in nft's language, and is the way to learn what a sentence of it becomes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from linux.nftables.elements import Verdict, packed_verdict
from linux.nftables.wire import number32, number64
from linux.wire import attribute, attributes, nest, spans, text

VERDICT_REGISTER = 0
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_LIST_ELEMENT = 1
_VALUE = 1  # NFTA_DATA_VALUE


class Header(IntEnum):
    """NFT_PAYLOAD_*"""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """NFT_META_*"""

    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    NFPROTO = 15
    L4PROTO = 16


class Ct(IntEnum):
    """NFT_CT_*"""

    STATE = 0
    DIRECTION = 1
    STATUS = 2
    MARK = 3
    SRC = 8
    DST = 9
    PROTOCOL = 10
    PROTO_SRC = 11
    PROTO_DST = 12
    SRC_IP = 19
    DST_IP = 20
    SRC_IP6 = 21
    DST_IP6 = 22


class Comparison(IntEnum):
    """NFT_CMP_*"""

    EQUAL = 0
    UNEQUAL = 1
    LESS = 2
    LESS_OR_EQUAL = 3
    GREATER = 4
    GREATER_OR_EQUAL = 5


class Reject(IntEnum):
    """NFT_REJECT_*; with ICMPX the code 1 is `port unreachable` in both families."""

    ICMP = 0
    TCP_RESET = 1
    ICMPX = 2


class Nat(IntEnum):
    """NFT_NAT_*"""

    SOURCE = 0
    DESTINATION = 1


ORIGINAL, REPLY = 0, 1  # IP_CT_DIR_*
RANDOM_FULLY = 1 << 4  # NF_NAT_RANGE_PROTO_RANDOM_FULLY
FIB_SOURCE, FIB_DESTINATION, FIB_INPUT = 1 << 0, 1 << 1, 1 << 3  # NFTA_FIB_F_*
FIB_TYPE = 3  # NFT_FIB_RESULT_ADDRTYPE
RTN_LOCAL = 2  # what FIB_TYPE answers for an address of this node, a u32 in the machine's order
PORT_UNREACHABLE = 1  # NFT_REJECT_ICMPX_PORT_UNREACH


class Expression(NamedTuple):
    """One expression as read: its name, and its attributes (nests as bytes) by their NFTA_<NAME>_* number."""

    name: str
    attributes: dict[int, bytes]


def expression(name: str, *parts: bytes) -> bytes:
    """Any expression, from its packed attributes."""
    data = nest(_DATA, *parts) if parts else b""
    return nest(_LIST_ELEMENT, text(_NAME, name), data)


def unpacked(data: bytes) -> tuple[Expression, ...]:
    """The expressions in the content of NFTA_RULE_EXPRESSIONS."""
    return tuple(unpacked_one(data[start:end]) for _, start, end in spans(data, 0, len(data)))


def unpacked_one(data: bytes) -> Expression:
    """What one list element holds."""
    parts = attributes(data)
    name = parts[_NAME].rstrip(b"\0").decode(errors="replace")
    return Expression(name, attributes(parts.get(_DATA, b"")))


def _data(number: int, value: bytes) -> bytes:
    return nest(number, attribute(_VALUE, value))


def payload(header: Header, offset: int, length: int, register: int) -> bytes:
    """Bytes of the packet into a register."""
    return expression("payload", number32(1, register), number32(2, header), number32(3, offset), number32(4, length))


def meta(key: Meta, register: int) -> bytes:
    return expression("meta", number32(1, register), number32(2, key))


def set_meta(key: Meta, register: int) -> bytes:
    return expression("meta", number32(3, register), number32(2, key))


def ct(key: Ct, register: int, direction: int | None = None) -> bytes:
    parts = [number32(1, register), number32(2, key)]
    if direction is not None:
        parts.append(attribute(3, bytes([direction])))
    return expression("ct", *parts)


def fib(flags: int, register: int, result: int = FIB_TYPE) -> bytes:
    return expression("fib", number32(1, register), number32(2, result), number32(3, flags))


def immediate(register: int, value: bytes) -> bytes:
    return expression("immediate", number32(1, register), _data(2, value))


def verdict(code: int, chain: str = "") -> bytes:
    return expression("immediate", number32(1, VERDICT_REGISTER), packed_verdict(Verdict(code, chain)))


def lookup(name: str, source: int, destination: int | None = None, *, invert: bool = False) -> bytes:
    """Is it in the set; with `destination` the map's value (VERDICT_REGISTER for verdict maps). The rule ends where
    nothing is found."""
    parts = [text(1, name), number32(2, source)]
    if destination is not None:
        parts.append(number32(3, destination))
    if invert:
        parts.append(number32(5, 1))
    return expression("lookup", *parts)


def bitwise(source: int, destination: int, mask: bytes, flip: bytes) -> bytes:
    """destination = source & mask ^ flip"""
    parts = (number32(1, source), number32(2, destination), number32(3, len(mask)), _data(4, mask), _data(5, flip))
    return expression("bitwise", *parts)


def compare(register: int, how: Comparison, value: bytes) -> bytes:
    return expression("cmp", number32(1, register), number32(2, how), _data(3, value))


def within(register: int, first: bytes, last: bytes, *, invert: bool = False) -> bytes:
    return expression("range", number32(1, register), number32(2, int(invert)), _data(3, first), _data(4, last))


def numgen(register: int, modulus: int, *, random: bool = True, offset: int = 0) -> bytes:
    """A number below `modulus`, a u32 in the machine's order."""
    return expression(
        "numgen", number32(1, register), number32(2, modulus), number32(3, int(random)), number32(4, offset)
    )


def nat(kind: Nat, family: int, address: int, port: int | None = None, flags: int = 0) -> bytes:
    """Rewrite to the address in one register and the port in another."""
    parts = [number32(1, kind), number32(2, family), number32(3, address)]
    if port is not None:
        parts.append(number32(5, port))
    if flags:
        parts.append(number32(7, flags))
    return expression("nat", *parts)


def masquerade(flags: int = 0) -> bytes:
    return expression("masq", *([number32(1, flags)] if flags else ()))


def reject(kind: Reject, code: int = 0) -> bytes:
    return expression("reject", number32(1, kind), attribute(2, bytes([code])))


def counter(packets: int = 0, octets: int = 0) -> bytes:
    return expression("counter", number64(1, octets), number64(2, packets))


def update(name: str, key: int, data: int | None = None, *, timeout: int | None = None, delete: bool = False) -> bytes:
    """Put the registers into a dynamic set or map; what is there is kept longer (`timeout` in milliseconds). With `delete`
    take the key out; a map wants `data` named even so."""
    parts = [text(1, name), number32(3, 2 if delete else 1), number32(4, key)]
    if data is not None:
        parts.append(number32(5, data))
    if timeout is not None:
        parts.append(number64(6, timeout))
    return expression("dynset", *parts)
