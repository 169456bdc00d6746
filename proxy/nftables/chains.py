"""The program: chains and rules as values, made of nf_tables' own expressions. Pure.

A field of a concatenation is loaded into the register after the one before; an address fills one register or, in IPv6, four.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import NamedTuple

from linux.iptables.rules import Family
from linux.nftables import expressions as do
from linux.nftables.elements import DROP, GOTO, JUMP, LONGEST_COMMENT, RETURN
from linux.nftables.expressions import Comparison, Ct, Header, Meta
from linux.nftables.objects import Hook
from proxy.model import Network, PodBridge, PodInterfaces, PodNetwork, Policy
from proxy.nftables.layout import (
    AFFINITY,
    AFFINITY_LOCAL,
    AFFINITY_RECORD,
    CLUSTER_IPS_CHECK,
    FIREWALL_CHECK,
    MASQUERADING,
    NODEPORT_ENDPOINTS_CHECK,
    REJECT,
    SERVICE_ENDPOINTS_CHECK,
    SERVICES,
    Map,
    socket_family,
    width,
)

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)  # NF_INET_*
_DSTNAT, _FILTER, _SRCNAT = -100, 0, 100
_NEW, _INVALID, _DNATED = 8, 1, 1 << 5  # ct state bits; IPS_DST_NAT
_STAMP = re.compile(r"\bwherry:([0-9a-f]{12})\b")
_SOURCE = 8  # the first of the sixteen registers
_NAME_LENGTH = 16  # of an interface's name
_THROWS = 16


@dataclass(frozen=True, slots=True)
class Rule:
    expressions: tuple[bytes, ...]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """`stamp` is a hash of all of it; it goes into the comment of each rule."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None
    stamp: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(repr((self.name, self.hook)).encode())
        for rule in self.rules:
            digest.update(b"".join(rule.expressions) + rule.comment.encode() + b"\n")
        object.__setattr__(self, "stamp", digest.hexdigest()[:12])

    def comments(self) -> list[str]:
        """The rules' comments as they are written."""
        stamp = f"wherry:{self.stamp}"
        room = LONGEST_COMMENT - len(stamp) - 2
        return [f"{rule.comment[:room]}; {stamp}" if rule.comment else stamp for rule in self.rules]


def stamp_of(comment: str | None) -> str:
    """The stamp in a rule's comment; empty if there is none."""
    found = _STAMP.search(comment or "")
    return found[1] if found else ""


# --- pieces of rules ---------------------------------------------------------------------------------------------


def source(family: Family, register: int = _SOURCE) -> bytes:
    offset, size = (12, 4) if family is Family.V4 else (8, 16)
    return do.payload(Header.NETWORK, offset, size, register)


def destination(family: Family, register: int = _SOURCE) -> bytes:
    offset, size = (16, 4) if family is Family.V4 else (24, 16)
    return do.payload(Header.NETWORK, offset, size, register)


def protocol_and_port(register: int) -> tuple[bytes, ...]:
    return do.meta(Meta.L4PROTO, register), do.payload(Header.TRANSPORT, 2, 2, register + 1)


def name(family: Family, register: int = _SOURCE) -> tuple[bytes, ...]:
    """address . protocol . port, as the packet says."""
    return destination(family, register), *protocol_and_port(register + width(family))


def marked(mark: int) -> tuple[bytes, ...]:
    """Set the bit, keep the others."""
    return (
        do.meta(Meta.MARK, _SOURCE),
        do.bitwise(_SOURCE, _SOURCE, native(0xFFFFFFFF ^ mark), native(mark)),
        do.set_meta(Meta.MARK, _SOURCE),
    )


def within(load: bytes, network: Network, *, inside: bool = True) -> tuple[bytes, ...]:
    how = Comparison.EQUAL if inside else Comparison.UNEQUAL
    address = network.network_address.packed
    if network.prefixlen == network.max_prefixlen:
        return load, do.compare(_SOURCE, how, address)
    mask = do.bitwise(_SOURCE, _SOURCE, network.netmask.packed, bytes(len(address)))
    return load, mask, do.compare(_SOURCE, how, address)


def pods(policy: Policy, *, inside: bool = True) -> tuple[bytes, ...] | None:
    """Whether a pod of this node sent it; None where nobody can tell."""
    how = Comparison.EQUAL if inside else Comparison.UNEQUAL
    match policy.pods:
        case None:
            return None
        case PodNetwork(cidr):
            return within(source(policy.family), cidr, inside=inside)
        case PodBridge(name):
            return do.meta(Meta.IIFNAME, 1), do.compare(1, how, name.encode().ljust(_NAME_LENGTH, b"\0"))
        case PodInterfaces(prefix):
            return do.meta(Meta.IIFNAME, 1), do.compare(1, how, prefix.encode()[:_NAME_LENGTH])


def from_this_node() -> tuple[bytes, ...]:
    return do.fib(do.FIB_SOURCE, _SOURCE), do.compare(_SOURCE, Comparison.EQUAL, native(do.RTN_LOCAL))


def to_node_port(policy: Policy) -> tuple[bytes, ...]:
    """An address of this node that serves NodePorts. Loopback never does: answers would have to leave it."""
    load = destination(policy.family)
    if policy.node_port_addresses is not None:
        return load, do.lookup(Map.NODEPORT_IPS.title, _SOURCE)
    local = do.fib(do.FIB_DESTINATION, _SOURCE), do.compare(_SOURCE, Comparison.EQUAL, native(do.RTN_LOCAL))
    size, first = (4, b"\x7f") if policy.family is Family.V4 else (16, bytes(15) + b"\x01")
    if policy.family is Family.V4:
        mask = do.bitwise(_SOURCE, _SOURCE, b"\xff\0\0\0", bytes(size))
        return *local, load, mask, do.compare(_SOURCE, Comparison.UNEQUAL, first.ljust(size, b"\0"))
    return *local, load, do.compare(_SOURCE, Comparison.UNEQUAL, first)


def verdict_of(family: Family, which: Map) -> tuple[bytes, ...]:
    return *name(family), do.lookup(which.title, _SOURCE, do.VERDICT_REGISTER)


def verdict_of_port(which: Map) -> tuple[bytes, ...]:
    return *protocol_and_port(_SOURCE), do.lookup(which.title, _SOURCE, do.VERDICT_REGISTER)


def state(bits: int) -> tuple[bytes, ...]:
    masked = do.bitwise(_SOURCE, _SOURCE, native(bits), native(0))
    return do.ct(Ct.STATE, _SOURCE), masked, do.compare(_SOURCE, Comparison.UNEQUAL, native(0))


def native(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


# --- chains that are always there --------------------------------------------------------------------------------


def fixed(policy: Policy) -> tuple[Chain, ...]:
    """What depends on no Service, referees first."""
    return (*_checks(policy), _record(policy), _services(policy), _masquerading(policy), *_bases(policy))


def _bases(policy: Policy) -> tuple[Chain, ...]:
    new = state(_NEW)

    def jump(to: str) -> Rule:
        return Rule((do.verdict(JUMP, to),))

    def check(to: str) -> Rule:
        return Rule((*new, do.verdict(JUMP, to)))

    invalid = (
        (Rule((*state(_INVALID), do.verdict(DROP)), "their NAT is unknown, so the receiver would reset them"),)
        if policy.drop_invalid
        else ()
    )
    services, clusters = check(SERVICE_ENDPOINTS_CHECK), check(CLUSTER_IPS_CHECK)
    record = check(AFFINITY_RECORD)
    early = _DSTNAT - 10
    return (
        Chain("filter-prerouting-pre-dnat", (check(FIREWALL_CHECK),), Hook("filter", _PREROUTING, early)),
        Chain("filter-output-pre-dnat", (check(FIREWALL_CHECK),), Hook("filter", _OUTPUT, early)),
        Chain("filter-input", (check(NODEPORT_ENDPOINTS_CHECK), services, record), Hook("filter", _INPUT, _FILTER)),
        Chain("filter-forward", (*invalid, services, clusters, record), Hook("filter", _FORWARD, _FILTER)),
        Chain("filter-output", (services, clusters, record), Hook("filter", _OUTPUT, _FILTER)),
        Chain("nat-prerouting", (jump(SERVICES),), Hook("nat", _PREROUTING, _DSTNAT)),
        Chain("nat-output", (jump(SERVICES),), Hook("nat", _OUTPUT, _DSTNAT)),
        Chain("nat-postrouting", (jump(MASQUERADING),), Hook("nat", _POSTROUTING, _SRCNAT)),
    )


def _checks(policy: Policy) -> tuple[Chain, ...]:
    family = policy.family
    clusters = (destination(family), do.lookup(Map.CLUSTER_IPS.title, _SOURCE), do.verdict(GOTO, REJECT))
    unallocated = (
        Rule((*within(destination(family), cidr), do.verdict(DROP)), "no Service has this address")
        for cidr in policy.service_cidrs
        if cidr.version == family
    )
    return (
        Chain(REJECT, _refusals(family)),
        Chain(FIREWALL_CHECK, (Rule(verdict_of(family, Map.FIREWALLED_BY_IP)),)),
        Chain(SERVICE_ENDPOINTS_CHECK, (Rule(verdict_of(family, Map.UNSERVED_BY_IP)),)),
        Chain(
            NODEPORT_ENDPOINTS_CHECK,
            (Rule((*to_node_port(policy), *verdict_of_port(Map.UNSERVED_BY_NODEPORT))),),
        ),
        Chain(CLUSTER_IPS_CHECK, (Rule(clusters, "no Service has this port"), *unallocated)),
    )


def _refusals(family: Family) -> tuple[Rule, ...]:
    """Over IPv6 an ICMP error refuses a TCP connection only after a second (the SYN has to be sent again): a reset does at
    once."""
    unreachable = Rule((do.reject(do.Reject.ICMP, 3 if family is Family.V4 else 4),))  # port unreachable
    if family is Family.V4:
        return (unreachable,)
    tcp = (do.meta(Meta.L4PROTO, _SOURCE), do.compare(_SOURCE, Comparison.EQUAL, b"\x06"))
    return Rule((*tcp, do.reject(do.Reject.TCP_RESET))), unreachable


def _services(policy: Policy) -> Chain:
    family = policy.family
    mark = 1 << policy.masquerade_bit
    others = () if policy.masquerade_all else pods(policy, inside=False)
    rules = []
    if others is not None:
        to_cluster_ip = (destination(family), do.lookup(Map.CLUSTER_IPS.title, _SOURCE))
        who = "all" if policy.masquerade_all else "who is not a pod"
        rules.append(Rule((*others, *to_cluster_ip, *marked(mark)), f"masquerade {who} to cluster IPs"))
    rules.append(Rule(verdict_of(family, Map.SERVICES_BY_IP)))
    rules.append(Rule((*to_node_port(policy), *verdict_of_port(Map.SERVICES_BY_NODEPORT))))
    return Chain(SERVICES, tuple(rules))


def _masquerading(policy: Policy) -> Chain:
    """The bit is cleared, so that a packet that comes by again (in a tunnel, say) is not masqueraded twice."""
    mark = 1 << policy.masquerade_bit
    masquerade = do.masquerade(do.RANDOM_FULLY if policy.random_fully else 0)
    asked = (do.meta(Meta.MARK, _SOURCE), do.bitwise(_SOURCE, _SOURCE, native(mark), native(0)))
    unmarked = (*asked, do.compare(_SOURCE, Comparison.EQUAL, native(0)))
    meets_itself = (
        source(policy.family),
        destination(policy.family, _SOURCE + width(policy.family)),
        do.lookup(Map.HAIRPIN.title, _SOURCE),
        do.ct(Ct.STATUS, _SOURCE),
        do.bitwise(_SOURCE, _SOURCE, native(_DNATED), native(0)),
        do.compare(_SOURCE, Comparison.UNEQUAL, native(0)),
    )
    clear = (
        do.meta(Meta.MARK, _SOURCE),
        do.bitwise(_SOURCE, _SOURCE, native(0xFFFFFFFF ^ mark), native(0)),
        do.set_meta(Meta.MARK, _SOURCE),
    )
    return Chain(
        MASQUERADING,
        (
            Rule((*unmarked, *meets_itself, masquerade), "an endpoint that meets itself"),
            Rule((*unmarked, do.verdict(RETURN))),
            Rule(clear),
            Rule((masquerade,)),
        ),
    )


# --- chains that Services ask for --------------------------------------------------------------------------------


class Way(Enum):
    """By which name a packet came, and which endpoints it may reach (`layout`)."""

    CLUSTER = "cluster"
    EXTERNAL = "external"
    EXTERNAL_ALL = "external-all"
    EXTERNAL_LOCAL = "external-local"
    NODEPORT = "nodeport"
    NODEPORT_ALL = "nodeport-all"
    NODEPORT_LOCAL = "nodeport-local"

    @property
    def endpoints(self) -> Map:
        match self:
            case Way.CLUSTER | Way.EXTERNAL | Way.EXTERNAL_ALL:
                return Map.ENDPOINTS
            case Way.EXTERNAL_LOCAL:
                return Map.LOCAL_ENDPOINTS
            case Way.NODEPORT | Way.NODEPORT_ALL:
                return Map.NODEPORT_ENDPOINTS
            case Way.NODEPORT_LOCAL:
                return Map.NODEPORT_LOCAL_ENDPOINTS


class Sticky(NamedTuple):
    """A Service port with affinity: its name in chains, and the packed cluster IP . protocol . port by which @affinity knows
    it. `only_local`: here only endpoints of this node will do."""

    name: str
    key: bytes
    only_local: bool = False


@functools.lru_cache(maxsize=4096)
def die(way: Way, sides: int, policy: Policy, sticky: Sticky | None = None) -> Chain:
    """The chain that throws a die of so many sides, a power of two; having asked first where a Service is `sticky`."""
    chosen = _chosen(way, sides, policy, sticky)
    mark = marked(1 << policy.masquerade_bit)
    match way:
        case Way.EXTERNAL | Way.NODEPORT:
            rules = [Rule(mark), *chosen]
        case Way.EXTERNAL_ALL | Way.NODEPORT_ALL:
            node, local = from_this_node(), pods(policy)
            rules = [_before(local, rule, "pods") for rule in chosen] if local is not None else []
            rules.append(Rule((*node, *mark)))
            rules.extend(_before(node, rule, "this node") for rule in chosen)
            if way is Way.EXTERNAL_ALL:
                rules.append(Rule(verdict_of(policy.family, Map.EXTERNAL_LOCAL), "others"))
            else:
                rules.append(Rule(verdict_of_port(Map.NODEPORT_LOCAL), "others"))
        case _:
            rules = list(chosen)
    name = f"{way.value}-{sides}"
    return Chain(f"{name}-{sticky.name}" if sticky else name, tuple(rules))


def _before(match: tuple[bytes, ...], rule: Rule, who: str) -> Rule:
    return Rule((*match, *rule.expressions), f"{who}, {rule.comment}" if rule.comment else who)


def _chosen(way: Way, sides: int, policy: Policy, sticky: Sticky | None) -> tuple[Rule, ...]:
    """The rules that rewrite the destination."""
    family = policy.family
    wide = width(family)
    by_port = way.endpoints in (Map.NODEPORT_ENDPOINTS, Map.NODEPORT_LOCAL_ENDPOINTS)
    load = protocol_and_port(_SOURCE) if by_port else name(family)
    side = _SOURCE + len(load) + (0 if by_port else wide - 1)
    answer = side + 1
    go = do.nat(do.Nat.DESTINATION, socket_family(family), answer, answer + wide)
    thrown = [
        Rule((*load, do.numgen(side, number), do.lookup(way.endpoints.title, _SOURCE, answer), go))
        for number in _throws(sides)
    ]
    if sticky is None:
        return tuple(thrown)
    behind = _SOURCE + 2 * wide + 2
    last = AFFINITY_LOCAL if sticky.only_local else AFFINITY
    # The packet itself says the key where it came by the cluster IP: `nft list` prints that better than constants.
    key = name(family, _SOURCE + wide) if way is Way.CLUSTER else _constant(sticky, family)
    asked = (source(family), *key, do.lookup(last, _SOURCE, behind))
    again = Rule(
        (*asked, do.nat(do.Nat.DESTINATION, socket_family(family), behind, behind + wide)), "where it went last"
    )
    return again, *thrown


def _throws(sides: int) -> Iterator[int]:
    """The sides of one die after the other: whatever number of endpoints there is, one hits."""
    if sides > 1:
        yield from (sides for _ in range(_THROWS - 1))
    while sides:
        yield sides
        sides //= 2


def _record(policy: Policy) -> Chain:
    """Who was sent somewhere by a Service with affinity, by the destination that the connection had at first."""
    wide = width(policy.family)
    before = original(policy.family, _SOURCE)
    return Chain(
        AFFINITY_RECORD,
        (
            Rule((*before, do.lookup(Map.AFFINITY_SERVICES.title, _SOURCE, do.VERDICT_REGISTER))),
            Rule(
                (
                    do.ct(Ct.STATUS, _SOURCE),
                    do.bitwise(_SOURCE, _SOURCE, native(_DNATED), native(0)),
                    do.compare(_SOURCE, Comparison.UNEQUAL, native(0)),
                    *original(policy.family, _SOURCE)[1:],
                    do.lookup(Map.AFFINITY_NODEPORTS.title, _SOURCE + wide, do.VERDICT_REGISTER),
                )
            ),
        ),
    )


def remember(sticky: Sticky, seconds: int, policy: Policy, *, reaches_local: bool) -> Chain:
    """Write down which endpoint a client has; also among those of this node if it is one, where `reaches_local`."""
    family = policy.family
    wide = width(family)
    key = _SOURCE + wide
    behind = key + wide + 2
    # As the client sent it: what comes back over loopback has been masqueraded by now.
    client = do.ct(Ct.SRC_IP if family is Family.V4 else Ct.SRC_IP6, _SOURCE, do.ORIGINAL)
    seen = (client, *_constant(sticky, family))
    given = (destination(family, behind), do.payload(Header.TRANSPORT, 2, 2, behind + wide))

    def written(title: str, endpoints: Map) -> tuple[bytes, ...]:
        return do.lookup(endpoints.title, key), do.update(title, _SOURCE, behind, timeout=seconds * 1000)

    rules = [Rule((*seen, *given, *written(AFFINITY, Map.AFFINITY_ENDPOINTS)))]
    if reaches_local:
        local = written(AFFINITY_LOCAL, Map.AFFINITY_LOCAL_ENDPOINTS)
        rules.append(Rule((*seen, *given, *local), "an endpoint of this node"))
    return Chain(f"affinity-{sticky.name}", tuple(rules))


def _constant(sticky: Sticky, family: Family) -> tuple[bytes, ...]:
    """The Service port's cluster IP . protocol . port behind the client's address."""
    wide = width(family)
    size, key, first = family.bits // 8, sticky.key, _SOURCE + wide
    return (
        do.immediate(first, key[:size]),
        do.immediate(first + wide, key[size : size + 1]),
        do.immediate(first + wide + 1, key[size + 4 : size + 6]),
    )


def original(family: Family, register: int) -> tuple[bytes, ...]:
    """address . protocol . port that the connection was made to."""
    address = do.ct(Ct.DST_IP if family is Family.V4 else Ct.DST_IP6, register, do.ORIGINAL)
    after = register + width(family)
    return address, do.ct(Ct.PROTOCOL, after, do.ORIGINAL), do.ct(Ct.PROTO_DST, after + 1, do.ORIGINAL)


@functools.lru_cache(maxsize=256)
def firewall(ranges: tuple[Network, ...], family: Family) -> Chain:
    """Only these sources pass. Named by its content: Services with the same ranges share the chain."""
    v4 = [network for network in ranges if isinstance(network, IPv4Network)]
    v6 = [network for network in ranges if isinstance(network, IPv6Network)]
    merged: list[Network] = [*sorted(collapse_addresses(v4)), *sorted(collapse_addresses(v6))]
    digest = hashlib.sha256(" ".join(map(str, merged)).encode()).hexdigest()[:8]
    passing = [Rule((*within(source(family), network), do.verdict(RETURN))) for network in merged]
    return Chain(f"firewall-{digest}", (*passing, Rule((do.verdict(DROP),), "loadBalancerSourceRanges")))
