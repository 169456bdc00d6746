"""A chain for each Service, as kube-proxy writes them: the layout for kernels that lack what the flat one needs. Pure.

Base chains, checks and maps are those of the flat layout (`layout`); what `services-by-ip` and `services-by-nodeport` lead to
differs. The names are upstream's:

    service-HASH-ns/svc/tcp/p80      1. with affinity, for each endpoint: client in its affinity set -> its chain
    local-HASH-...                   2. a fair die: endpoint i of n is taken with probability 1/(n-i); -> its chain or, without
                                        affinity, DNAT at once
    endpoint-HASH-...__10.0.0.2/80   remember the client in affinity-HASH-..., then DNAT (only Services with affinity)
    external-HASH-...                Cluster: mark for masquerading, -> service-HASH
                                     Local: pods -> service-HASH; this node: mark, -> service-HASH; others -> local-HASH
    firewall-HASH                    loadBalancerSourceRanges

Upstream throws its die with an anonymous map for each Service. Thousands of maps in one table make loading them quadratic
(13 s at 10,000 Services), so here the die is a comparison for each endpoint, as in iptables: no Service without affinity has
a set of its own.

It asks less of the kernel than the flat layout: no counters on elements, no lookups whose values are addresses, no maps that
rules write values into.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from linux.iptables.rules import Family
from linux.nftables import expressions as do
from linux.nftables.elements import GOTO, JUMP
from linux.nftables.objects import DYNAMIC, TIMEOUT, Set, Type
from proxy.model import Endpoint, Policy, Reach, ServicePort
from proxy.nftables import chains, layout, names
from proxy.nftables.chains import Chain, Rule, Way
from proxy.nftables.layout import AFFINITIES, AFFINITY_RECORD, Map, socket_family, width
from proxy.nftables.plan import Content, Destination, Placed, destinations, is_taken, leads, refuse, shared

_MOST_CLIENTS = 65535  # that an endpoint remembers
_SOURCE = 8  # the first register


class Fallback:
    """Satisfies plan.Layout."""

    @property
    def name(self) -> str:
        return "wherry-proxy fallback 1"

    def sets(self, family: Family) -> tuple[Set, ...]:
        """The first has the layout's name for its comment: kernels before 5.10 keep none of the table's."""
        first, *rest = (replace(one, counts=False) for one in layout.sets(family) if one.name not in AFFINITIES)
        return replace(first, comment=self.name), *rest

    def fixed(self, policy: Policy) -> tuple[Chain, ...]:
        record = do.verdict(JUMP, AFFINITY_RECORD)
        return tuple(
            Chain(chain.name, tuple(rule for rule in chain.rules if record not in rule.expressions), chain.hook)
            for chain in chains.fixed(policy)
            if chain.name != AFFINITY_RECORD
        )

    def render(self, ports: Iterable[Placed], policy: Policy, owns: Callable[[bytes], bool], content: Content) -> None:
        for placed in ports:
            shared(placed, policy, owns, content)
            port = placed.port
            wanted = [one for one in destinations(port) if owns(one.key) and not is_taken(one, content)]
            if port.endpoints.any and wanted:
                for chain in _chains(port, policy, content):
                    content.use(chain)
            for destination in wanted:
                _serve(destination, port, content)


def _serve(destination: Destination, port: ServicePort, content: Content) -> None:
    usable, internal = port.endpoints, destination.way is Way.CLUSTER
    held_back = internal and destination.reach is Reach.LOCAL
    kind = ("local" if held_back else "service") if internal else "external"
    served = usable.local if held_back else usable.cluster
    if served or (usable.any and not internal):
        which = Map.SERVICES_BY_NODEPORT if destination.by_port else Map.SERVICES_BY_IP
        content.maps[which][destination.key] = leads(f"{kind}-{names.base_name(port)}", port)
    refuse(destination, port, content)


def _chains(port: ServicePort, policy: Policy, content: Content) -> Iterator[Chain]:
    """Referees first."""
    base, usable, family = names.base_name(port), port.endpoints, policy.family
    if port.affinity_seconds is not None:
        for endpoint in usable.all:
            learnt = _affinity(port, endpoint, family)
            content.sets[learnt.name] = learnt
            learn = do.update(learnt.name, _SOURCE, timeout=port.affinity_seconds * 1000)
            remember = Rule((chains.source(family), learn), port.name)
            yield Chain(_named("endpoint", port, endpoint), (remember, Rule(_rewrite(endpoint, family), port.name)))
    for kind, members in (("service", usable.cluster), ("local", usable.local)):
        if members:
            yield Chain(f"{kind}-{base}", tuple(_die(port, members, family)))
    if port.externally_reachable:
        yield Chain(f"external-{base}", tuple(_external(port, base, policy)))


def _die(port: ServicePort, members: Sequence[Endpoint], family: Family) -> Iterator[Rule]:
    sticky = port.affinity_seconds is not None
    if sticky:
        for endpoint in members:
            known = chains.source(family), do.lookup(_named("affinity", port, endpoint), _SOURCE)
            yield Rule((*known, do.verdict(GOTO, _named("endpoint", port, endpoint))), port.name)
    for left, endpoint in zip(range(len(members), 0, -1), members, strict=True):
        taken = (do.verdict(GOTO, _named("endpoint", port, endpoint)),) if sticky else _rewrite(endpoint, family)
        yield Rule((*_odds(left), *taken), port.name)


def _external(port: ServicePort, base: str, policy: Policy) -> Iterator[Rule]:
    everyone = do.verdict(GOTO, f"service-{base}")
    mark = chains.marked(1 << policy.masquerade_bit)
    if port.external is Reach.CLUSTER:
        yield Rule(mark, "masquerade")
        if port.endpoints.cluster:
            yield Rule((everyone,))
        return
    if port.endpoints.cluster:
        pods, node = chains.pods(policy), chains.from_this_node()
        if pods is not None:
            yield Rule((*pods, everyone), "short-circuit pod traffic")
        yield Rule((*node, *mark), "masquerade local traffic")
        yield Rule((*node, everyone), "short-circuit local traffic")
    if port.endpoints.local:
        yield Rule((do.verdict(GOTO, f"local-{base}"),), "only endpoints of this node")


def _rewrite(endpoint: Endpoint, family: Family) -> tuple[bytes, ...]:
    return _address(family) + endpoint.address, _port(endpoint.port, family), _translate(family)


@functools.cache
def _address(family: Family) -> bytes:
    """What loads an address into a register, up to the address."""
    return do.immediate(_SOURCE, bytes(family.bits // 8))[: -(family.bits // 8)]


@functools.lru_cache(maxsize=1024)
def _port(port: int, family: Family) -> bytes:
    return do.immediate(_SOURCE + width(family), port.to_bytes(2, "big"))


@functools.cache
def _translate(family: Family) -> bytes:
    return do.nat(do.Nat.DESTINATION, socket_family(family), _SOURCE, _SOURCE + width(family))


@functools.lru_cache(maxsize=1024)
def _odds(left: int) -> tuple[bytes, ...]:
    """One in so many goes on."""
    if left == 1:
        return ()
    return do.numgen(_SOURCE, left), do.compare(_SOURCE, do.Comparison.EQUAL, bytes(4))


def _affinity(port: ServicePort, endpoint: Endpoint, family: Family) -> Set:
    return Set(
        _named("affinity", port, endpoint),
        family.bits // 8,
        Type.IPV4 if family is Family.V4 else Type.IPV6,
        flags=TIMEOUT | DYNAMIC,
        size=_MOST_CLIENTS,
    )


def _named(kind: str, port: ServicePort, endpoint: Endpoint) -> str:
    return f"{kind}-{names.endpoint_name(port, endpoint)}"
