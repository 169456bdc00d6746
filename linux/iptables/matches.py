"""A rule of iptables-save's as values, and whether it matches a connection's first packet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from linux.iptables.rules import comment_of
from linux.packets import Address, Node, Packet, Unknown, Walk

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "132": "sctp"}


@dataclass(frozen=True, slots=True)
class Option:
    inverted: bool
    name: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(("!", self.name, *self.words) if self.inverted else (self.name, *self.words))


@dataclass(frozen=True, slots=True)
class Rule:
    """`options` are the matches in order, `target` is empty where the rule only counts, `arguments` are the target's."""

    options: tuple[Option, ...]
    target: str
    goto: bool
    arguments: Mapping[str, str]
    comment: str


# Options of matches that say how, not whether.
_SILENT = frozenset(
    [
        "--comment",
        "--mode",
        "--name",
        "--seconds",
        "--hitcount",
        "--reap",
        "--mask",
        "--rsource",
        "--rdest",
        "--packet",
        "--nfacct-name",
        "--limit",
        "--limit-burst",
        "--hashlimit-upto",
        "--hashlimit-burst",
        "--hashlimit-mode",
        "--hashlimit-name",
        "--hashlimit-htable-expire",
        "--hashlimit-srcmask",
        "--hashlimit-dstmask",
        "--limit-iface-in",
        "--limit-iface-out",
    ]
)


@lru_cache(maxsize=1 << 17)
def parsed(text: str) -> Rule:
    words = [word[1:-1].replace('\\"', '"') if word[:1] == '"' else word for word in _WORD.findall(text)]
    options: list[Option] = []
    arguments: dict[str, str] = {}
    target, module, goto, inverted, position = "", "", False, False, 0
    while position < len(words):
        word, end = words[position], position + 1
        if word == "--comment":
            position += 2
            continue
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
            target, goto = values[0], word == "-g"
        elif word == "-m":
            module = values[0]
        elif word not in _SILENT:
            options.append(Option(inverted, "--connmark" if (module, word) == ("connmark", "--mark") else word, values))
        inverted = False
    return Rule(tuple(options), target, goto, arguments, comment_of(text))


def matches(rule: Rule, walk: Walk, node: Node) -> float:
    """How likely the rule matches: 0, 1, or between them where chance decides. Raises Unknown, but not where another match
    of the rule already says no."""
    likely, unknown = 1.0, ""
    for option in rule.options:
        chance = _chance(option)
        if chance is not None:
            likely *= (1.0 - chance) if option.inverted else chance
            continue
        try:
            if _matches(option, walk, node) == option.inverted:
                return 0.0
        except Unknown as error:
            unknown = str(error)
    if unknown:
        raise Unknown(unknown)
    return likely


def _chance(option: Option) -> float | None:
    match option.name:
        case "--probability":
            return float(option.words[0])
        case "--every":
            return 1.0 / int(option.words[0])
        case _:
            return None


def _matches(option: Option, walk: Walk, node: Node) -> bool:
    packet, words = walk.packet, option.words
    match option.name:
        case "-s" | "--source":
            return packet.source in network(words[0])
        case "-d" | "--destination":
            return packet.destination in network(words[0])
        case "--src-range":
            return _in_range(packet.source, words[0])
        case "--dst-range":
            return _in_range(packet.destination, words[0])
        case "-p":
            return _PROTOCOLS.get(words[0], words[0]) in (packet.protocol, "all", "0")
        case "-i":
            # In OUTPUT there is no such interface: it matches no name, and so does match its inversion.
            return not packet.local and _interface(words[0], packet.in_interface)
        case "-o":
            return _interface(words[0], packet.out_interface)
        case "--src-type":
            return node.kind(packet.source) in words[0].split(",")
        case "--dst-type":
            return node.kind(packet.destination) in words[0].split(",")
        case "--mark":
            value, mask = masked(words[0])
            return packet.mark & mask == value
        case "--rcheck" | "--update" | "-f":
            return False  # nobody has been here before, and it is whole
        case "--set":
            return True  # `recent`: it remembers, and goes on
        case _:
            return _of_transport(option, packet) if option.name in _TRANSPORT else _of_connection(option, walk)


_TRANSPORT = frozenset(
    ["--dport", "--sport", "--dports", "--sports", "--ports", "--syn", "--tcp-flags", "--icmp-type", "--icmpv6-type"]
)


def _of_transport(option: Option, packet: Packet) -> bool:
    words = option.words
    match option.name:
        case "--dport" | "--dports":
            return _among(packet.port, words[0])
        case "--sport" | "--sports":
            return _among(packet.source_port, words[0])
        case "--ports":
            return _among(packet.port, words[0]) or _among(packet.source_port, words[0])
        case "--syn":
            return packet.protocol == "tcp" and packet.state == "NEW"
        case "--tcp-flags" if packet.state == "NEW":
            looked_at, wanted = (set(word.split(",")) - {"NONE"} for word in words[:2])
            return packet.protocol == "tcp" and wanted == ({"SYN"} if looked_at & {"SYN", "ALL"} else set())
        case "--icmp-type" | "--icmpv6-type":
            return False  # connections of ports only
        case _:
            raise Unknown(f"match {option} is not known here")


def _of_connection(option: Option, walk: Walk) -> bool:
    packet, words = walk.packet, option.words
    match option.name:
        case "--ctstate" | "--state":
            states = {packet.state}
            states |= {"DNAT"} if walk.rewritten else set()
            states |= {"SNAT"} if walk.masqueraded else set()
            return not states.isdisjoint(words[0].split(","))
        case "--ctorigdst":
            return walk.original.destination in network(words[0])
        case "--ctorigsrc":
            return walk.original.source in network(words[0])
        case "--ctorigdstport":
            return _among(walk.original.port, words[0])
        case "--ctproto":
            return _PROTOCOLS.get(words[0], words[0]) == packet.protocol
        case "--connmark":
            return masked(words[0])[0] == 0  # a new connection has none
        case "--ctdir":
            return words[0] == "ORIGINAL"
        case "--pkt-type":
            return words[0] == "unicast"
        case _:
            raise Unknown(f"match {option} is not known here")


@lru_cache(maxsize=1 << 16)
def network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


def masked(text: str) -> tuple[int, int]:
    """`value/mask`, the mask all ones where it is not said."""
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF


def _in_range(address: Address, text: str) -> bool:
    low, _, high = text.partition("-")
    first, last = ip_address(low), ip_address(high or low)
    return address.version == first.version and int(first) <= int(address) <= int(last)


def _among(port: int, text: str) -> bool:
    """`80`, `80:90`, `80,443,8000:8080`."""
    for part in text.split(","):
        low, sign, high = part.partition(":")
        if int(low or 0) <= port <= int(high or (65535 if sign else low)):
            return True
    return False


def _interface(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
