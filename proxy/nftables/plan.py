"""What one Service contributes to the maps. Pure; `shadow` puts Services together.

The content of a map is a dict from the packed key to what the kernel is to hold there: the packed endpoint; for verdict maps
`Leads` (into a chain, or nowhere: drop; and whose it is); for sets None. Where several Services may want the same member of a
set, the number of those that do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from linux.iptables.rules import Family
from linux.nftables.elements import LONGEST_COMMENT
from linux.nftables.objects import Set
from proxy import model
from proxy.model import Address, Endpoint, Network, Policy, Reach, ServicePort
from proxy.nftables import chains, layout, names
from proxy.nftables.chains import Chain, Sticky, Way
from proxy.nftables.layout import AFFINITY, AFFINITY_LOCAL, REJECT, Map

_PROTOCOLS = {
    model.Protocol.TCP: b"\x06\0\0\0",
    model.Protocol.UDP: b"\x11\0\0\0",
    model.Protocol.SCTP: b"\x84\0\0\0",
}
_PORT = struct.Struct(">Hxx")
_SIDE = struct.Struct("=I")
_SIDES = tuple(_SIDE.pack(number) for number in range(64))


OWN, NAMED = "0", "1"  # claims, the better first


class Leads(NamedTuple):
    """What a verdict map says: `goto` a chain, or drop where it is empty. `about` is the Service port's name."""

    chain: str
    about: str


def leads(chain: str, port: ServicePort) -> Leads:
    """As the kernel will tell it."""
    return Leads(chain, port.name[:LONGEST_COMMENT])


Value = bytes | Leads | int | None


@dataclass(slots=True)
class Content:
    """`maps` by `Map`. `chains` that elements lead into, and how many Services `use` each; `sets` that belong to chains."""

    maps: tuple[dict[bytes, Value], ...] = field(default_factory=lambda: tuple({} for _ in Map))
    chains: dict[str, Chain] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)

    def use(self, chain: Chain) -> str:
        """The chain's name, for a verdict."""
        self.chains[chain.name] = chain
        self.uses[chain.name] = self.uses.get(chain.name, 0) + 1
        return chain.name


class Placed(NamedTuple):
    """A Service port, and its endpoints in the order of their numbers, packed: all, and those of this node. `sides` and
    `local_sides` have their dice."""

    port: ServicePort
    cluster: tuple[bytes, ...]
    local: tuple[bytes, ...]
    sides: int = 0
    local_sides: int = 0


class Destination(NamedTuple):
    """One name by which packets come for a Service port: `key` is address . protocol . port, or protocol . port where
    `by_port`. `inside` are the endpoints for whoever the traffic policy does not hold back."""

    key: bytes
    by_port: bool
    way: Way
    reach: Reach


class Layout(Protocol):
    """What a table consists of. `name` is its comment: a table with another one is replaced."""

    @property
    def name(self) -> str: ...

    def sets(self, family: Family) -> tuple[Set, ...]:
        """Those that are always there."""
        ...

    def fixed(self, policy: Policy) -> tuple[Chain, ...]:
        """Chains that depend on no Service, referees first."""
        ...

    def render(self, ports: Iterable[Placed], policy: Policy, owns: Callable[[bytes], bool], content: Content) -> None:
        """Add what these ports of one Service want, as far as the Service `owns` the keys."""
        ...


def side(number: int) -> bytes:
    """A number of the die as numgen gives it."""
    return _SIDES[number] if number < len(_SIDES) else _SIDE.pack(number)


def packed(endpoint: Endpoint) -> bytes:
    return endpoint.packed + b"\0\0"


def name_key(ip: Address, protocol: model.Protocol, port: int) -> bytes:
    return ip.packed + _PROTOCOLS[protocol] + _PORT.pack(port)


def port_key(protocol: model.Protocol, port: int) -> bytes:
    return _PROTOCOLS[protocol] + _PORT.pack(port)


def destinations(port: ServicePort) -> Iterator[Destination]:
    yield Destination(name_key(port.cluster_ip, port.protocol, port.port), False, Way.CLUSTER, port.internal)
    local = port.external is Reach.LOCAL
    for ip in (*port.external_ips, *port.load_balancer_ips):
        way = Way.EXTERNAL_ALL if local else Way.EXTERNAL
        yield Destination(name_key(ip, port.protocol, port.port), False, way, port.external)
    if port.node_port:
        way = Way.NODEPORT_ALL if local else Way.NODEPORT
        yield Destination(port_key(port.protocol, port.node_port), True, way, port.external)


def keys(ports: Iterable[ServicePort]) -> dict[bytes, str]:
    """Every key of services-by-ip (12 bytes, 24 in IPv6) and services-by-nodeport (8 bytes) that these ports ask for, and
    how good the claim is: a cluster IP is its Service's own, whoever else names it as an external IP."""
    found: dict[bytes, str] = {}
    for port in ports:
        for destination in destinations(port):
            if destination.way is Way.CLUSTER:
                found[destination.key] = OWN
            else:
                found.setdefault(destination.key, NAMED)
    return found


def placed(port: ServicePort, before: Placed | None) -> Placed:
    """Endpoints keep the numbers they had as far as possible: who goes is replaced by the last."""
    if before is None:
        before = Placed(port, (), ())
    cluster = numbered(tuple(map(packed, port.endpoints.cluster)), before.cluster)
    local = numbered(tuple(map(packed, port.endpoints.local)), before.local)
    return Placed(port, cluster, local, sides(len(cluster), before.sides), sides(len(local), before.local_sides))


def sides(endpoints: int, before: int = 0) -> int:
    """Of the die for so many: a power of two, no larger than twice what it takes, if possible the one it had."""
    if not endpoints:
        return 0
    least = 1 << (endpoints - 1).bit_length()
    return before if before == 2 * least else least


def numbered(wanted: tuple[bytes, ...], before: Sequence[bytes]) -> tuple[bytes, ...]:
    if not before or wanted == before:
        return wanted
    count = len(wanted)
    absent = dict.fromkeys(wanted)
    if len(absent) < count:  # an endpoint twice: it has two sides
        return wanted
    places: list[bytes | None] = [None] * count
    for place, endpoint in enumerate(before[:count]):
        if endpoint in absent:
            places[place] = endpoint
            del absent[endpoint]
    rest = iter(absent)
    return tuple(endpoint if endpoint is not None else next(rest) for endpoint in places)


class Flat:
    """The layout that `proxy.nftables.layout` describes."""

    name = layout.LAYOUT

    def sets(self, family: Family) -> tuple[Set, ...]:
        return layout.sets(family)

    def fixed(self, policy: Policy) -> tuple[Chain, ...]:
        return chains.fixed(policy)

    def render(self, ports: Iterable[Placed], policy: Policy, owns: Callable[[bytes], bool], content: Content) -> None:
        for each in ports:
            shared(each, policy, owns, content)
            for destination in destinations(each.port):
                if owns(destination.key) and not is_taken(destination, content):
                    _serve(destination, each, policy, content)
            for (title, key), endpoints in allowed([each]).items():
                if owns(key):
                    which = Map.AFFINITY_ENDPOINTS if title == AFFINITY else Map.AFFINITY_LOCAL_ENDPOINTS
                    content.maps[which].update(dict.fromkeys(key + endpoint for endpoint in endpoints))


def shared(placed_port: Placed, policy: Policy, owns: Callable[[bytes], bool], content: Content) -> None:
    """What is alike in all layouts: cluster IPs, hairpins, source ranges."""
    port = placed_port.port
    members = content.maps[Map.CLUSTER_IPS]
    cluster_ip = port.cluster_ip.packed
    members[cluster_ip] = _counted(members.get(cluster_ip))
    if port.endpoints.local:
        _hairpins(port.endpoints.local, content)
    if port.endpoints.cluster is not port.endpoints.local:
        _hairpins((end for end in port.endpoints.cluster if end.local), content)
    if port.source_ranges and port.load_balancer_ips:
        name = content.use(chains.firewall(admitted(port, policy), policy.family))
        for ip in port.load_balancer_ips:
            key = name_key(ip, port.protocol, port.port)
            if owns(key):
                content.maps[Map.FIREWALLED_BY_IP][key] = leads(name, port)


def is_taken(destination: Destination, content: Content) -> bool:
    """Another port of the same Service has it."""
    if destination.by_port:
        served, unserved = content.maps[Map.SERVICES_BY_NODEPORT], content.maps[Map.UNSERVED_BY_NODEPORT]
    else:
        served, unserved = content.maps[Map.SERVICES_BY_IP], content.maps[Map.UNSERVED_BY_IP]
    return destination.key in served or destination.key in unserved


def refuse(destination: Destination, port: ServicePort, content: Content) -> None:
    """Reject or drop where nobody serves this destination."""
    ends = port.endpoints
    which = Map.UNSERVED_BY_NODEPORT if destination.by_port else Map.UNSERVED_BY_IP
    if not ends.any:
        content.maps[which][destination.key] = leads(REJECT, port)
    elif not (ends.local if destination.reach is Reach.LOCAL else ends.cluster):
        content.maps[which][destination.key] = leads("", port)


def _serve(destination: Destination, placed_port: Placed, policy: Policy, content: Content) -> None:
    port, cluster, local, dice, local_dice = placed_port
    key, by_port, way, reach = destination
    everyone, only_local = cluster, False
    if way is Way.CLUSTER and reach is Reach.LOCAL:
        everyone, dice, only_local = local, local_dice, True
    sticky = None if port.affinity_seconds is None else _sticky(port)
    if everyone:
        _fill(content.maps[way.endpoints], key, everyone)
        name = content.use(chains.die(way, dice, policy, sticky and sticky._replace(only_local=only_local)))
        content.maps[Map.SERVICES_BY_NODEPORT if by_port else Map.SERVICES_BY_IP][key] = leads(name, port)
        if sticky is not None and port.affinity_seconds is not None:
            which = Map.AFFINITY_NODEPORTS if by_port else Map.AFFINITY_SERVICES
            remember = chains.remember(sticky, port.affinity_seconds, policy, reaches_local=bool(port.endpoints.local))
            content.maps[which][key] = leads(content.use(remember), port)
    if reach is Reach.LOCAL and way is not Way.CLUSTER and local:
        outside = Way.NODEPORT_LOCAL if by_port else Way.EXTERNAL_LOCAL
        _fill(content.maps[outside.endpoints], key, local)
        name = content.use(chains.die(outside, local_dice, policy, sticky and sticky._replace(only_local=True)))
        content.maps[Map.NODEPORT_LOCAL if by_port else Map.EXTERNAL_LOCAL][key] = leads(name, port)
    refuse(destination, port, content)


def _sticky(port: ServicePort) -> Sticky:
    return Sticky(names.base_name(port), name_key(port.cluster_ip, port.protocol, port.port))


def _fill(numbers: dict[bytes, Value], key: bytes, endpoints: Sequence[bytes]) -> None:
    for number, endpoint in enumerate(endpoints):
        numbers[key + side(number)] = endpoint


def _hairpins(endpoints: Iterable[Endpoint], content: Content) -> None:
    members = content.maps[Map.HAIRPIN]
    for endpoint in endpoints:
        pair = endpoint.address * 2
        members[pair] = _counted(members.get(pair))


def _counted(before: Value) -> int:
    return (before if isinstance(before, int) else 0) + 1


def admitted(port: ServicePort, policy: Policy) -> tuple[Network, ...]:
    """Whom loadBalancerSourceRanges lets in. A node that is let in may also come with the balancer's own address, which
    some balancers give to the node."""
    ranges = port.source_ranges
    node = policy.node_ip
    if node is None or not any(node in network for network in ranges):
        return ranges
    return (*ranges, *(type(ranges[0])(f"{ip}/{ip.max_prefixlen}") for ip in port.load_balancer_ips))


def allowed(ports: Iterable[Placed]) -> dict[tuple[str, bytes], frozenset[bytes]]:
    """Which endpoints the clients of Service ports with affinity may be kept on, by @affinity's name and the port's key."""
    found: dict[tuple[str, bytes], frozenset[bytes]] = {}
    for each in ports:
        if each.port.affinity_seconds is not None:
            key = name_key(each.port.cluster_ip, each.port.protocol, each.port.port)
            found[AFFINITY, key] = frozenset(each.cluster)
            found[AFFINITY_LOCAL, key] = frozenset(each.local)
    return found
