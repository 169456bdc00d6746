"""What one Service port contributes to the rules. Pure; `plan` joins the fragments.

KUBE-SVC / KUBE-SVL   1. -> KUBE-MARK-MASQ for clients that are not pods (the chain that cluster IPs lead to)
                      2. with ClientIP affinity: back to the endpoint this client had
                      3. a fair die: endpoint i of n is taken with probability 1/(n-i), the last one always
KUBE-SEP              1. -> KUBE-MARK-MASQ when the endpoint itself is the client (hairpin)
                      2. DNAT
KUBE-EXT, Cluster     1. -> KUBE-MARK-MASQ      2. -> KUBE-SVC
KUBE-EXT, Local       1. pods -> KUBE-SVC       2. this node -> KUBE-MARK-MASQ, KUBE-SVC
                      3. the rest -> KUBE-SVL with the source address kept
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from linux.iptables.rules import Chain, Rule, Table
from proxy.iptables import chains
from proxy.model import Endpoint, PodNetwork, Policy, Reach, ServicePort, Usable

_NO_ENDPOINTS = "has no endpoints"
_NO_LOCAL_ENDPOINTS = "has no local endpoints"


@dataclass(frozen=True, slots=True)
class Fragment:
    """`chains` refer only to each other and to KUBE-MARK-MASQ; the rules go into the chain each field is named for.

    `internal_without_local`, `external_without_local`: a Local policy leaves traffic nowhere to go on this node.
    """

    chains: tuple[Chain, ...]
    nat_services: tuple[Rule, ...]
    nat_node_ports: tuple[Rule, ...]
    filter_services: tuple[Rule, ...]
    filter_external_services: tuple[Rule, ...]
    internal_without_local: bool
    external_without_local: bool


def fragment(service: ServicePort, policy: Policy) -> Fragment:
    endpoints = service.endpoints
    mine: list[Chain] = []
    nat_services: list[Rule] = []
    nat_node_ports: list[Rule] = []
    if endpoints.any:
        mine = list(_chains(service, endpoints, policy))
        if _reachable(service.internal, endpoints):
            nat_services.append(_rule(service, f"{_cluster_ip(service)} -j {_internal_chain(service)}", "cluster IP"))
        if service.node_port:
            nat_node_ports.append(_rule(service, f"{_node_port(service)} -j {chains.external_chain(service)}"))
    internal_without_local = endpoints.any and not _reachable(service.internal, endpoints)
    external_without_local = (
        service.externally_reachable and endpoints.any and not _reachable(service.external, endpoints)
    )
    return Fragment(
        chains=tuple(mine),
        nat_services=tuple(nat_services),
        nat_node_ports=tuple(nat_node_ports),
        filter_services=_verdict(service, _cluster_ip(service), endpoints.any, internal_without_local),
        filter_external_services=_verdict(
            service, f"-m addrtype --dst-type LOCAL {_node_port(service)}", endpoints.any, external_without_local
        )
        if service.node_port
        else (),
        internal_without_local=internal_without_local,
        external_without_local=external_without_local,
    )


def _reachable(reach: Reach, endpoints: Usable) -> bool:
    return bool(endpoints.cluster if reach is Reach.CLUSTER else endpoints.local)


def _verdict(service: ServicePort, match: str, has_any: bool, without_local: bool) -> tuple[Rule, ...]:
    """Nobody anywhere: refuse at once. Somebody elsewhere but Local asked for: drop, as a load balancer expects."""
    if not has_any:
        return (_rule(service, f"{match} -j REJECT", _NO_ENDPOINTS),)
    return (_rule(service, f"{match} -j DROP", _NO_LOCAL_ENDPOINTS),) if without_local else ()


def _chains(service: ServicePort, endpoints: Usable, policy: Policy) -> Iterator[Chain]:
    for endpoint in endpoints.all:
        yield _endpoint(service, endpoint)
    internal = _internal_chain(service)
    for name, members in (
        (chains.cluster_chain(service), endpoints.cluster),
        (chains.local_chain(service), endpoints.local),
    ):
        if members:
            guard = _masquerade(service, policy) if name == internal else ()
            yield Chain(Table.NAT, name, (*guard, *_affinity(service, members), *_die(service, members)))
    if service.externally_reachable:
        yield Chain(Table.NAT, chains.external_chain(service), tuple(_external(service, endpoints, policy)))


def _masquerade(service: ServicePort, policy: Policy) -> tuple[Rule, ...]:
    to = _cluster_ip(service)
    if policy.masquerade_all:
        return (_rule(service, f"{to} -j {chains.MARK_MASQ}", "cluster IP"),)
    if isinstance(policy.pods, PodNetwork):
        return (_rule(service, f"{to} ! -s {policy.pods.cidr} -j {chains.MARK_MASQ}", "cluster IP"),)
    return ()


def _affinity(service: ServicePort, members: tuple[Endpoint, ...]) -> Iterator[Rule]:
    if service.affinity_seconds is None:
        return
    for endpoint in members:
        name = chains.endpoint_chain(service, endpoint)
        recent = f"-m recent --name {name} --rcheck --seconds {service.affinity_seconds} --reap"
        yield _rule(service, f"{recent} -j {name}", f"-> {endpoint.text}")


def _die(service: ServicePort, members: tuple[Endpoint, ...]) -> Iterator[Rule]:
    left = len(members)
    for endpoint in members:
        odds = f"-m statistic --mode random --probability {1 / left:0.10f} " if left > 1 else ""
        yield _rule(service, f"{odds}-j {chains.endpoint_chain(service, endpoint)}", f"-> {endpoint.text}")
        left -= 1


def _endpoint(service: ServicePort, endpoint: Endpoint) -> Chain:
    name = chains.endpoint_chain(service, endpoint)
    remember = "" if service.affinity_seconds is None else f"-m recent --name {name} --set "
    protocol = f"-m {service.protocol} -p {service.protocol}"
    return Chain(
        Table.NAT,
        name,
        (
            _rule(service, f"-s {endpoint.ip} -j {chains.MARK_MASQ}"),
            _rule(service, f"{remember}{protocol} -j DNAT --to-destination {endpoint.text}"),
        ),
    )


def _external(service: ServicePort, endpoints: Usable, policy: Policy) -> Iterator[Rule]:
    cluster = chains.cluster_chain(service)
    if service.external is Reach.CLUSTER:
        yield Rule(f"-j {chains.MARK_MASQ}", f"masquerade traffic for {service.name} external destinations")
        yield Rule(f"-j {cluster}")
        return
    if endpoints.cluster:
        if isinstance(policy.pods, PodNetwork):
            yield Rule(
                f"-s {policy.pods.cidr} -j {cluster}", f"pod traffic for {service.name} external destinations"
            )
        here = "-m addrtype --src-type LOCAL"
        yield Rule(
            f"{here} -j {chains.MARK_MASQ}", f"masquerade LOCAL traffic for {service.name} external destinations"
        )
        yield Rule(f"{here} -j {cluster}", f"route LOCAL traffic for {service.name} external destinations")
    if endpoints.local:
        yield Rule(f"-j {chains.local_chain(service)}")


def _internal_chain(service: ServicePort) -> str:
    return chains.cluster_chain(service) if service.internal is Reach.CLUSTER else chains.local_chain(service)


def _cluster_ip(service: ServicePort) -> str:
    return f"-m {service.protocol} -p {service.protocol} -d {service.cluster_ip} --dport {service.port}"


def _node_port(service: ServicePort) -> str:
    return f"-m {service.protocol} -p {service.protocol} --dport {service.node_port}"


def _rule(service: ServicePort, spec: str, about: str = "") -> Rule:
    return Rule(spec, f"{service.name} {about}".strip())
