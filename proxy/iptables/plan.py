"""From Services to the whole tree of chains. Pure.

A packet for a Service meets our rules twice. In nat its destination is rewritten (DNAT) and it may be marked; in filter
what nobody serves is refused; when it leaves, marked packets get this node's address (masquerade), so that answers come
back this way.

    nat     PREROUTING, OUTPUT --> KUBE-SERVICES --cluster IP--> KUBE-SVC-* --die--> KUBE-SEP-* --> DNAT
                                        |                         ^    ^                 |
                                        | (last rule)             |    |                 v hairpin
                                        v                         |    +--not a pod--> KUBE-MARK-MASQ (OR bit 14)
                                  KUBE-NODEPORTS --> KUBE-EXT-* --+                      ^
                                                          +------------------------------+
            POSTROUTING --> KUBE-POSTROUTING: no mark: return; clear the mark; MASQUERADE
    filter  INPUT, FORWARD          --> KUBE-EXTERNAL-SERVICES: REJECT or DROP node ports without endpoints
            FORWARD, OUTPUT         --> KUBE-SERVICES: REJECT or DROP cluster IPs without endpoints
            FORWARD                 --> KUBE-FORWARD: drop INVALID, accept what is marked or established
            INPUT                   --> KUBE-NODEPORTS;  INPUT, OUTPUT, FORWARD --> KUBE-PROXY-FIREWALL: empty until
                                        load balancers need them
    each    KUBE-PROXY-CANARY: empty; gone when somebody flushed the table behind our back

The tree comes as groups in writing order: what others refer to, then each Service by itself, then the two chains that
publish the Services, filter before nat. Each is one transaction or shares one, so no jump ever leads nowhere, and a
Service appears and disappears at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from linux.iptables.changes import Wanted
from linux.iptables.rules import Chain, Jump, Rule, Table
from proxy.iptables import chains
from proxy.iptables.fragments import Fragment, fragment
from proxy.model import Policy, ServicePort

_NEW = "-m conntrack --ctstate NEW"
_PORTALS = "kubernetes service portals"
_EXTERNAL_PORTALS = "kubernetes externally-visible service portals"
_FIREWALL = "kubernetes load balancer firewall"

# In the order in which kube-proxy inserts them. Each goes to the top, so a chain holds its jumps in reverse.
JUMPS: tuple[Jump, ...] = (
    Jump(Table.FILTER, "INPUT", Rule(f"{_NEW} -j {chains.EXTERNAL_SERVICES}", _EXTERNAL_PORTALS)),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.EXTERNAL_SERVICES}", _EXTERNAL_PORTALS)),
    Jump(Table.FILTER, "INPUT", Rule(f"-j {chains.NODEPORTS}", "kubernetes health check service ports")),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.SERVICES}", _PORTALS)),
    Jump(Table.FILTER, "OUTPUT", Rule(f"{_NEW} -j {chains.SERVICES}", _PORTALS)),
    Jump(Table.FILTER, "FORWARD", Rule(f"-j {chains.FORWARD}", "kubernetes forwarding rules")),
    Jump(Table.FILTER, "INPUT", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _FIREWALL)),
    Jump(Table.FILTER, "OUTPUT", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _FIREWALL)),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _FIREWALL)),
    Jump(Table.NAT, "OUTPUT", Rule(f"-j {chains.SERVICES}", _PORTALS)),
    Jump(Table.NAT, "PREROUTING", Rule(f"-j {chains.SERVICES}", _PORTALS)),
    Jump(Table.NAT, "POSTROUTING", Rule(f"-j {chains.POSTROUTING}", "kubernetes postrouting rules")),
)


@dataclass(slots=True)
class Fragments:
    """Fragments by service port, kept while their Service and the policy stay as they are: rendering and hashing is
    most of the work of a pass, and most Services do not change."""

    _kept: dict[tuple[str, str], tuple[ServicePort, Policy, Fragment]]

    def __init__(self) -> None:
        self._kept = {}

    def of(self, services: Iterable[ServicePort], policy: Policy) -> list[Fragment]:
        kept: dict[tuple[str, str], tuple[ServicePort, Policy, Fragment]] = {}
        for service in services:
            key = service.name, service.protocol.value
            known = self._kept.get(key)
            if known is None or known[0] != service or known[1] != policy:
                known = service, policy, fragment(service, policy)
            kept[key] = known
        self._kept = kept
        return [known[2] for known in kept.values()]


def tree(services: Sequence[ServicePort], policy: Policy, fragments: Fragments | None = None) -> Wanted:
    """Everything of ours that should be in the kernel. Services come out in the order of their names."""
    ordered = sorted(services, key=lambda service: (service.name, service.protocol.value))
    return joined((fragments or Fragments()).of(ordered, policy), policy)


def joined(parts: Sequence[Fragment], policy: Policy) -> Wanted:
    groups = [_foundation(policy), *(part.chains for part in parts if part.chains), _publication(parts, policy)]
    return Wanted(groups, JUMPS, chains.is_per_service)


def _foundation(policy: Policy) -> tuple[Chain, ...]:
    """What depends on no Service. The canaries come first: they are written when anything is."""
    mark = policy.mark
    masquerade = "-j MASQUERADE --random-fully" if policy.random_fully else "-j MASQUERADE"
    invalid = (Rule("-m conntrack --ctstate INVALID -j DROP"),) if policy.drop_invalid else ()
    return (
        Chain(Table.MANGLE, chains.CANARY),
        Chain(Table.FILTER, chains.CANARY),
        Chain(Table.FILTER, chains.NODEPORTS),
        Chain(Table.FILTER, chains.PROXY_FIREWALL),
        Chain(
            Table.FILTER,
            chains.FORWARD,
            (
                *invalid,
                Rule(f"-m mark --mark {mark}/{mark} -j ACCEPT", "kubernetes forwarding rules"),
                Rule("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "kubernetes forwarding conntrack rule"),
            ),
        ),
        Chain(Table.NAT, chains.CANARY),
        Chain(Table.NAT, chains.MARK_MASQ, (Rule(f"-j MARK --or-mark {mark}"),)),
        Chain(
            Table.NAT,
            chains.POSTROUTING,
            (
                Rule(f"-m mark ! --mark {mark}/{mark} -j RETURN"),
                # Cleared, so that a packet that passes here again (a tunnel's, a bridge's) is not masqueraded again.
                Rule(f"-j MARK --xor-mark {mark}"),
                Rule(masquerade, "kubernetes service traffic requiring SNAT"),
            ),
        ),
    )


def _publication(parts: Sequence[Fragment], policy: Policy) -> tuple[Chain, ...]:
    nat_services = [rule for part in parts for rule in part.nat_services]
    return (
        Chain(Table.FILTER, chains.SERVICES, tuple(rule for part in parts for rule in part.filter_services)),
        Chain(
            Table.FILTER,
            chains.EXTERNAL_SERVICES,
            tuple(rule for part in parts for rule in part.filter_external_services),
        ),
        Chain(Table.NAT, chains.NODEPORTS, tuple(rule for part in parts for rule in part.nat_node_ports)),
        Chain(Table.NAT, chains.SERVICES, (*nat_services, *_to_node_ports(policy))),
    )


def _to_node_ports(policy: Policy) -> tuple[Rule, ...]:
    """The end of nat KUBE-SERVICES: cluster IPs have had their turn."""
    about = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    if policy.node_port_addresses is None:
        local = f"-m addrtype --dst-type LOCAL ! -d {policy.family.loopback}"
        return (Rule(f"{local} -j {chains.NODEPORTS}", about),)
    return tuple(Rule(f"-d {address} -j {chains.NODEPORTS}", about) for address in policy.node_port_addresses)
