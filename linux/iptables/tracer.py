"""Where a new packet would go, told from rules as text: ours before they are written, or what iptables-save printed.

A packet is followed through the hooks in the kernel's order. Where chance decides (`statistic`), both ways are followed,
so the answer is the set of all possible endings.

    from outside   nat PREROUTING -> filter FORWARD or INPUT (by the rewritten destination) -> nat POSTROUTING
    from the node  nat OUTPUT     -> filter OUTPUT                                          -> nat POSTROUTING

What remembers earlier packets does not match (`recent --rcheck`), because this is the first one. A match or target that is
not known here raises `Unknown`: a tracer must not guess.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from linux.iptables.rules import Snapshot, Table

Address = IPv4Address | IPv6Address

_MOST_STEPS = 10_000


class Unknown(Exception):
    """A rule says something that the tracer does not know."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `local` is whether the node itself sent it; `state` is conntrack's."""

    source: Address
    destination: Address
    port: int
    protocol: str = "tcp"
    local: bool = False
    mark: int = 0
    state: str = "NEW"
    in_interface: str = "eth0"
    out_interface: str = "eth0"


@dataclass(frozen=True, slots=True)
class Ending:
    """One way it may end. `verdict`: ACCEPT, DROP or REJECT; `rewritten`: DNAT chose the destination."""

    verdict: str
    destination: Address
    port: int
    rewritten: bool
    masqueraded: bool
    chains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Walk:
    packet: Packet
    rewritten: bool = False
    masqueraded: bool = False
    chains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    options: tuple[tuple[bool, str, tuple[str, ...]], ...]  # (inverted, option, its words)
    target: str
    arguments: Mapping[str, str]


def trace(snapshot: Snapshot, packet: Packet, node_addresses: frozenset[Address]) -> frozenset[Ending]:
    """Every way `packet` may end on a node that has `node_addresses` (loopback is the node's in any case)."""
    tracer = _Tracer(snapshot, node_addresses)
    endings = set()
    for verdict, walk in tracer.nat(_Walk(packet), "OUTPUT" if packet.local else "PREROUTING"):
        if verdict == "ACCEPT":
            endings |= set(tracer.rest(walk))
        else:
            endings.add(_ending(verdict, walk))
    return frozenset(endings)


class _Tracer:
    def __init__(self, snapshot: Snapshot, node_addresses: frozenset[Address]) -> None:
        self._snapshot = snapshot
        self._node = node_addresses
        self._steps = 0

    def nat(self, walk: _Walk, hook: str) -> Iterator[tuple[str, _Walk]]:
        for verdict, after in self._chain(Table.NAT, hook, walk):
            yield ("ACCEPT" if verdict in ("", "RETURN") else verdict), after

    def rest(self, walk: _Walk) -> Iterator[Ending]:
        """Filter and, for what is not for the node itself, postrouting."""
        here = self._is_local(walk.packet.destination)
        hook = "OUTPUT" if walk.packet.local else "INPUT" if here else "FORWARD"
        for verdict, after in self._chain(Table.FILTER, hook, walk):
            if verdict not in ("", "RETURN", "ACCEPT"):
                yield _ending(verdict, after)
            elif hook == "INPUT":
                yield _ending("ACCEPT", after)
            else:
                yield from (_ending(ending, last) for ending, last in self.nat(after, "POSTROUTING"))

    def _is_local(self, address: Address) -> bool:
        return address.is_loopback or address in self._node

    def _chain(self, table: Table, name: str, walk: _Walk) -> Iterator[tuple[str, _Walk]]:
        """(verdict, walk) pairs; an empty verdict is the end of the chain."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Unknown(f"more than {_MOST_STEPS} chains on the way: rules in a circle?")
        ours = replace(walk, chains=(*walk.chains, f"{table}/{name}"))
        pending = [ours]
        for text in self._snapshot.lines(table, name):
            rule = _parsed(text)
            going_on: list[_Walk] = []
            for each in pending:
                certain, matches = self._matches(rule, each.packet)
                if not matches or not certain:
                    going_on.append(each)
                if not matches:
                    continue
                for verdict, after in self._target(table, rule, each):
                    if verdict == "":
                        going_on.append(after)
                    else:
                        yield verdict, after
            pending = going_on
        for each in pending:
            yield "", each

    def _target(self, table: Table, rule: _Rule, walk: _Walk) -> Iterator[tuple[str, _Walk]]:
        match rule.target:
            case "":
                yield "", walk
            case "ACCEPT" | "DROP" | "REJECT":
                yield rule.target, walk
            case "RETURN":
                yield "RETURN", walk
            case "MARK":
                yield "", replace(walk, packet=replace(walk.packet, mark=_marked(walk.packet.mark, rule.arguments)))
            case "MASQUERADE":
                yield "ACCEPT", replace(walk, masqueraded=True)
            case "DNAT":
                address, port = _endpoint(rule.arguments["--to-destination"], walk.packet.port)
                yield (
                    "ACCEPT",
                    replace(walk, rewritten=True, packet=replace(walk.packet, destination=address, port=port)),
                )
            case chain:
                if chain not in self._snapshot.tables.get(table, {}):
                    raise Unknown(f"table {table}: target {chain} is neither a chain there nor known here")
                for verdict, after in self._chain(table, chain, walk):
                    yield ("" if verdict == "RETURN" else verdict), after

    def _matches(self, rule: _Rule, packet: Packet) -> tuple[bool, bool]:
        """(whether that is certain, whether it matches)."""
        certain = True
        for inverted, option, words in rule.options:
            if option == "--probability":
                certain = False
                continue
            if self._match(option, words, packet) == inverted:
                return True, False
        return certain, True

    def _match(self, option: str, words: tuple[str, ...], packet: Packet) -> bool:
        match option:
            case "-s":
                return packet.source in ip_network(words[0], strict=False)
            case "-d":
                return packet.destination in ip_network(words[0], strict=False)
            case "-p":
                return words[0] in (packet.protocol, "all")
            case "--dport":
                low, _, high = words[0].partition(":")
                return int(low) <= packet.port <= int(high or low)
            case "-i":
                return not packet.local and _interface(words[0], packet.in_interface)
            case "-o":
                return _interface(words[0], packet.out_interface)
            case "--src-type" if words == ("LOCAL",):
                return self._is_local(packet.source)
            case "--dst-type" if words == ("LOCAL",):
                return self._is_local(packet.destination)
            case "--mark":
                value, _, mask = words[0].partition("/")
                return packet.mark & int(mask or "0xffffffff", 0) == int(value, 0)
            case "--ctstate":
                return packet.state in words[0].split(",")
            case "--rcheck" | "--update":
                return False
            case _:
                raise Unknown(f"match {option} {' '.join(words)} is not known here")


# Options of matches that say how, not whether.
_SILENT = frozenset(
    ["--comment", "--mode", "--name", "--seconds", "--reap", "--set", "--mask", "--rsource", "--every", "--packet"]
)


@lru_cache(maxsize=65536)
def _parsed(text: str) -> _Rule:
    words = shlex.split(text)
    options: list[tuple[bool, str, tuple[str, ...]]] = []
    target, arguments, inverted = "", {}, False
    position = 0
    while position < len(words):
        word = words[position]
        end = position + 1
        while end < len(words) and not words[end].startswith("-") and words[end] != "!":
            end += 1
        values = tuple(words[position + 1 : end])
        position = end
        if word == "!":
            inverted = True
            continue
        if target:
            arguments[word] = " ".join(values)
        elif word in ("-j", "-g"):
            target = values[0]
        elif word == "-m" or word in _SILENT:
            pass
        else:
            options.append((inverted, word, values))
        inverted = False
    return _Rule(tuple(options), target, arguments)


def _marked(mark: int, arguments: Mapping[str, str]) -> int:
    for option, words in arguments.items():
        value, _, mask = words.partition("/")
        number = int(value, 0)
        match option:
            case "--or-mark":
                return mark | number
            case "--xor-mark":
                return mark ^ number
            case "--and-mark":
                return mark & number
            case "--set-mark" | "--set-xmark":
                bits = int(mask, 0) if mask else 0xFFFFFFFF
                if option == "--set-mark":
                    bits |= number
                return (mark & ~bits) ^ number
            case _:
                raise Unknown(f"MARK {option} is not known here")
    return mark


def _endpoint(text: str, port: int) -> tuple[Address, int]:
    host, sign, number = text.rpartition(":")
    if not sign or (host.count(":") > 1 and not host.startswith("[")):
        return ip_address(text.strip("[]")), port
    return ip_address(host.strip("[]")), int(number)


def _interface(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _ending(verdict: str, walk: _Walk) -> Ending:
    packet = walk.packet
    return Ending(verdict, packet.destination, packet.port, walk.rewritten, walk.masqueraded, walk.chains)
