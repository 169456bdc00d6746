"""The kernel's little machine for nf_tables rules: what one expression does to a packet and to sixteen registers of 4 bytes.

Registers 1 to 4 are 16 bytes wide and lie over 8 to 23, which are 4 bytes wide; register 0 takes verdicts. An expression
either goes on, breaks (the rule does not match), or decides. Where it throws dice (numgen, hash) there is one outcome for
each number. What is not known here raises `Unknown`: meeting it would be a guess.

Numbers from the packet are in the network's order, those of the kernel itself (marks, states, numgen, fib) in the machine's.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from linux.nftables.elements import ACCEPT, BREAK, CONTINUE, Verdict, unpacked_data
from linux.nftables.expressions import Expression, unpacked, unpacked_one
from linux.nftables.ruleset import SetContent
from linux.nftables.wire import as_number
from linux.packets import Node, Packet, Unknown, Walk
from linux.wire import as_text

REJECTED = 100  # not a verdict of the kernel's: `reject` answers the sender, then drops
_BREAK, _GO_ON, _ACCEPT = Verdict(BREAK), Verdict(CONTINUE), Verdict(ACCEPT)
_NATIVE = struct.Struct("=I")
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_ROUTE_TYPES = {"UNSPEC": 0, "UNICAST": 1, "LOCAL": 2, "BROADCAST": 3, "MULTICAST": 5}  # RTN_*
_SNAT, _DNAT = 1 << 4, 1 << 5  # IPS_SRC_NAT, IPS_DST_NAT
_SYN = 0x02

# They count, tell or remember, and always go on.
_PASSING = frozenset(["counter", "log", "last", "dup", "flow_offload"])
_LIMITING_OBJECTS = {2: "quota", 4: "limit", 5: "connlimit"}  # NFT_OBJECT_*


@dataclass(slots=True)
class State:
    """Never changed once made (but not frozen: there are too many). A packet in the middle of a rule. `said` is the
    comment of the last element that was found; `share` is how likely this is among what the rule's own dice made of
    it."""

    walk: Walk
    registers: bytes = bytes(64)
    said: str = ""
    share: float = 1.0

    def load(self, register: int, size: int) -> bytes:
        start = _offset(register)
        return self.registers[start : start + size]

    def with_walk(self, walk: Walk) -> State:
        return State(walk, self.registers, self.said, self.share)

    def storing(self, register: int, value: bytes) -> State:
        start = _offset(register)
        padded = value + bytes(-len(value) % 4)
        registers = self.registers[:start] + padded + self.registers[start + len(padded) :]
        return State(self.walk, registers, self.said, self.share)


Outcome = tuple[Verdict, State]
"""CONTINUE: on to the next expression; BREAK: on to the next rule; else it is decided."""


def step(expression: Expression, state: State, sets: Mapping[str, SetContent], node: Node) -> Iterator[Outcome]:
    """Every outcome of one expression. Raises Unknown."""
    found = expression.attributes
    match expression.name:
        case "immediate":
            data = unpacked_data(found[2])
            if isinstance(data, Verdict):
                yield data, state
            else:
                yield _GO_ON, state.storing(as_number(found[1]), data)
        case "payload" | "meta" | "ct" | "fib":
            yield _GO_ON, _loaded(expression, state, node)
        case "cmp" | "range":
            yield (_GO_ON if _holds(expression, state) else _BREAK), state
        case "bitwise" | "byteorder":
            yield _GO_ON, _computed(expression, state)
        case "lookup":
            yield _looked_up(found, state, sets)
        case "numgen" | "hash":
            modulus, offset = _dice(expression)
            rolled = State(state.walk, state.registers, state.said, state.share / modulus)
            for number in range(modulus):
                yield _GO_ON, rolled.storing(as_number(found[_DREG[expression.name]]), _NATIVE.pack(number + offset))
        case "nat" | "masq" | "redir":
            yield _ACCEPT, state.with_walk(_translated(expression, state))
        case "reject":
            yield Verdict(REJECTED), state
        case "limit" | "quota" | "connlimit" | "dynset" | "objref":
            yield (_BREAK if _limited(expression, sets) else _GO_ON), state
        case name if name in _PASSING:
            yield _GO_ON, state
        case name:
            raise Unknown(f"expression {name} is not known here")


_DREG = {"numgen": 1, "hash": 2}


def _offset(register: int) -> int:
    return (register - 1) * 16 if register < 8 else (register - 8) * 4


def _loaded(expression: Expression, state: State, node: Node) -> State:
    found = expression.attributes
    match expression.name:
        case "payload" if 1 in found:
            header = _header(state.walk.packet, as_number(found[2]))
            offset, length = as_number(found[3]), as_number(found[4])
            if offset + length > len(header):
                raise Unknown(f"payload at {offset}, {length} bytes: beyond the headers that are known here")
            return state.storing(as_number(found[1]), header[offset : offset + length])
        case "meta" if 3 in found:
            if as_number(found[2]) != _META_MARK:
                return state  # nftrace, priority and such
            return state.with_walk(state.walk.marked(_NATIVE.unpack(state.load(as_number(found[3]), 4))[0]))
        case "meta":
            return state.storing(as_number(found[1]), _meta(as_number(found[2]), state.walk.packet))
        case "ct" if 4 in found:
            return state  # the connection's mark, label, zone: nobody has asked for them yet
        case "ct":
            reply = as_number(found.get(3)) == 1
            return state.storing(as_number(found[1]), _connection(as_number(found[2]), state.walk, reply=reply))
        case "fib":
            return state.storing(as_number(found[1]), _routed(as_number(found[2]), as_number(found[3]), state, node))
        case name:
            raise Unknown(f"expression {name} writes into the packet, which is not known here")


def _header(packet: Packet, base: int) -> bytes:
    protocol = _PROTOCOLS.get(packet.protocol, 255)
    source, destination = packet.source.packed, packet.destination.packed
    match base:
        case 1 if packet.source.version == 4:
            return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 60, 0, 0x4000, 64, protocol, 0, source, destination)
        case 1:
            return struct.pack(">IHBB16s16s", 6 << 28, 40, protocol, 64, source, destination)
        case 2 if packet.protocol == "tcp":
            return struct.pack(">HHIIBBHHH", packet.source_port, packet.port, 1, 0, 0xA0, _SYN, 64240, 0, 0)
        case 2:
            return struct.pack(">HHI", packet.source_port, packet.port, 0)
        case _:
            raise Unknown(f"payload of header {base} is not known here")


_META_MARK = 3
_IIF, _OIF, _LOOPBACK_INDEX = 4, 5, 1


def _meta(key: int, packet: Packet) -> bytes:
    version = packet.source.version
    if key in (_IIF, _OIF):
        name = packet.out_interface if key == _OIF else "" if packet.local else packet.in_interface
        if name not in ("lo", ""):
            raise Unknown(f"meta key {key}: the index of interface {name} is not known here")
        return _NATIVE.pack(_LOOPBACK_INDEX if name else 0)
    match key:
        case 3:
            return _NATIVE.pack(packet.mark)
        case 6:
            return _name("" if packet.local else packet.in_interface)
        case 7:
            return _name(packet.out_interface)
        case 1:
            return b"\x08\x00" if version == 4 else b"\x86\xdd"
        case 15:
            return bytes([2 if version == 4 else 10])
        case 16:
            return bytes([_PROTOCOLS.get(packet.protocol, 255)])
        case 19:
            return b"\0"  # to this host
        case _:
            raise Unknown(f"meta key {key} is not known here")


def _name(interface: str) -> bytes:
    return interface.encode()[:15].ljust(16, b"\0")


def _connection(key: int, walk: Walk, *, reply: bool) -> bytes:
    """Keys are NFT_CT_*: the connection as conntrack has it at this moment; `original` is as it was sent."""
    sent, now = walk.original, walk.packet
    match key:
        case 0:
            return _NATIVE.pack(_STATES[now.state])
        case 1:
            return b"\0"
        case 2:
            return _NATIVE.pack((_DNAT if walk.rewritten else 0) | (_SNAT if walk.masqueraded else 0))
        case 3:
            return bytes(4)
        case 8 | 19 | 21:
            return (now.destination if reply else sent.source).packed
        case 9 | 20 | 22:
            return (now.source if reply else sent.destination).packed
        case 10:
            return bytes([_PROTOCOLS.get(now.protocol, 255)])
        case 11:
            return (now.port if reply else sent.source_port).to_bytes(2, "big")
        case 12:
            return (sent.source_port if reply else sent.port).to_bytes(2, "big")
        case _:
            raise Unknown(f"ct key {key} is not known here")


_FIB_SOURCE, _FIB_PRESENT, _FIB_TYPE = 1 << 0, 1 << 5, 3


def _routed(result: int, flags: int, state: State, node: Node) -> bytes:
    packet = state.walk.packet
    if result == _FIB_TYPE:
        address = packet.source if flags & _FIB_SOURCE else packet.destination
        return _NATIVE.pack(_ROUTE_TYPES[node.kind(address)])
    if flags & _FIB_PRESENT:
        return b"\x01"  # there is a route
    raise Unknown("fib: the interface of a route is not known here")


_COMPARISONS = {
    0: bytes.__eq__,
    1: bytes.__ne__,
    2: bytes.__lt__,
    3: bytes.__le__,
    4: bytes.__gt__,
    5: bytes.__ge__,
}


def _holds(expression: Expression, state: State) -> bool:
    found = expression.attributes
    first = unpacked_data(found[3])
    assert isinstance(first, bytes)
    value = state.load(as_number(found[1]), len(first))
    if expression.name == "cmp":
        return bool(_COMPARISONS[as_number(found[2])](value, first))
    last = unpacked_data(found[4])
    assert isinstance(last, bytes)
    return (first <= value <= last) != bool(as_number(found[2]))


def _computed(expression: Expression, state: State) -> State:
    found = expression.attributes
    source, target, length = (
        as_number(found[1]),
        as_number(found[2]),
        as_number(found[4 if expression.name == "byteorder" else 3]),
    )
    value = state.load(source, length)
    if expression.name == "byteorder":
        size = as_number(found[5])
        swapped = b"".join(value[at : at + size][::-1] for at in range(0, length, size))
        return state.storing(target, swapped if sys.byteorder == "little" else value)
    operation = as_number(found.get(6))
    if operation == 0:
        mask, flip = unpacked_data(found[4]), unpacked_data(found[5])
        assert isinstance(mask, bytes)
        assert isinstance(flip, bytes)
        return state.storing(target, bytes(each & one ^ two for each, one, two in zip(value, mask, flip, strict=True)))
    shift = unpacked_data(found[7])
    assert isinstance(shift, bytes)
    bits = _NATIVE.unpack(shift)[0]
    number = int.from_bytes(value, "big")
    number = number << bits if operation == 1 else number >> bits
    return state.storing(target, (number & ((1 << 8 * length) - 1)).to_bytes(length, "big"))


def _looked_up(found: Mapping[int, bytes], state: State, sets: Mapping[str, SetContent]) -> Outcome:
    name = as_text(found[1])
    content = sets.get(name)
    if content is None:
        raise Unknown(f"lookup in {name}, which is not there")
    hit = content.find(state.load(as_number(found[2]), content.about.key_length))
    if as_number(found.get(5)) & 1:
        return (_BREAK if hit else _GO_ON), state
    if hit is None:
        return _BREAK, state
    _reject_limited(content)
    element = hit.element
    after = State(state.walk, state.registers, element.comment or state.said, state.share)
    if 3 not in found:
        return _GO_ON, after
    if isinstance(element.data, Verdict):
        return element.data, after
    return _GO_ON, after.storing(as_number(found[3]), element.data or b"")


def _limited(expression: Expression, sets: Mapping[str, SetContent]) -> bool:
    """Does the rule end here? A limit is met by the first packet in a while and the first connection of its client, so
    below it; a quota stands where it stands. `over` turns each around."""
    found = expression.attributes
    match expression.name:
        case "dynset":
            return _limits_clients(found, sets)
        case "objref":
            kind = _LIMITING_OBJECTS.get(as_number(found.get(1)))
            if kind or 1 not in found:
                what = f"{kind} {as_text(found.get(2))}" if kind else f"the object in map {as_text(found.get(4))}"
                raise Unknown(f"{what}: where it stands is not known here")
            return False
        case "connlimit":
            used_up, flags = as_number(found.get(1)) < 1, 2
        case "quota":
            used_up, flags = as_number(found.get(4)) >= as_number(found.get(1)), 2
        case "limit":
            used_up, flags = False, 5
        case _:
            return False
    return used_up != bool(as_number(found.get(flags)) & 1)


def _limits_clients(found: Mapping[int, bytes], sets: Mapping[str, SetContent]) -> bool:
    """`update @clients { ip saddr limit rate over 10/second }`: what is within the element decides."""
    one, several = found.get(7), found.get(10, b"")
    inner = (unpacked_one(one),) if one else unpacked(several)
    if not inner:
        _reject_limited(sets.get(as_text(found[1])))
    inverted = as_number(found.get(9)) & 1  # the rule goes on only where the set is full
    return bool(inverted) or any(_limited(each, sets) for each in inner)


def _reject_limited(content: SetContent | None) -> None:
    """Raises Unknown for a set whose elements may end the rule: where each of them stands is not read."""
    if content is not None and content.about.limits:
        raise Unknown(f"set {content.about.name}: the limits of its elements are not known here")


def _dice(expression: Expression) -> tuple[int, int]:
    """(modulus, offset) of numgen and hash."""
    found = expression.attributes
    modulus, offset = (2, 4) if expression.name == "numgen" else (4, 6)
    return as_number(found.get(modulus)) or 1, as_number(found.get(offset))


def _translated(expression: Expression, state: State) -> Walk:
    found, walk = expression.attributes, state.walk
    if expression.name == "masq" or (expression.name == "nat" and as_number(found[1]) == 0):
        return walk._replace(masqueraded=True)
    if expression.name == "redir":
        if not walk.packet.local:
            raise Unknown("redirect sends it to an address of the interface it came through, which is not known here")
        loopback = ip_address("127.0.0.1" if walk.packet.source.version == 4 else "::1")
        return walk.sent_to(loopback, _one_port(found, 1, 2, state))
    destination: IPv4Address | IPv6Address = walk.packet.destination
    if 3 in found:
        size = len(destination.packed)
        first = state.load(as_number(found[3]), size)
        if 4 in found and state.load(as_number(found[4]), size) != first:
            raise Unknown("dnat to a range of addresses is not known here")
        destination = ip_address(first)
    return walk.sent_to(destination, _one_port(found, 5, 6, state))


def _one_port(found: Mapping[int, bytes], low: int, high: int, state: State) -> int:
    if low not in found:
        return state.walk.packet.port
    first = state.load(as_number(found[low]), 2)
    if high in found and state.load(as_number(found[high]), 2) != first:
        raise Unknown("nat to a range of ports is not known here")
    return int.from_bytes(first, "big")
