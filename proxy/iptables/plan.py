"""What all Services share: the fixed chains, the jumps to them, and the chains that publish the Services. Pure.

A packet for a Service meets our rules twice. In nat its destination is rewritten (DNAT) and it may be marked; in filter
what nobody serves is refused; when it leaves, marked packets get this node's address (masquerade), so that answers come
back this way.

    nat     PREROUTING, OUTPUT --> KUBE-SERVICES --cluster IP--> KUBE-SVC-* --die--> KUBE-SEP-* --> DNAT
                                    |    |                        ^    ^                 |
                                    |    | external and load      |    |                 v hairpin
                        (last rule) |    | balancer IPs           |    +--not a pod--> KUBE-MARK-MASQ (OR bit 14)
                                    |    +--> [KUBE-FW-*] --> KUBE-EXT-* ----------------^
                                    v                             ^
                                  KUBE-NODEPORTS -----------------+
            POSTROUTING --> KUBE-POSTROUTING: no mark: return; clear the mark; MASQUERADE
    filter  INPUT, FORWARD          --> KUBE-EXTERNAL-SERVICES: REJECT or DROP what comes from outside and has no endpoints
            FORWARD, OUTPUT         --> KUBE-SERVICES: REJECT or DROP cluster IPs without endpoints
            FORWARD                 --> KUBE-FORWARD: drop INVALID, accept what is marked or established
            INPUT                   --> KUBE-NODEPORTS: accept health check node ports
            INPUT, OUTPUT, FORWARD  --> KUBE-PROXY-FIREWALL: drop what no source range of a load balancer let through
            INPUT, OUTPUT           --> KUBE-FIREWALL, with localhost NodePorts: nobody else may talk to 127/8 (CVE-2020-8558)
    each    KUBE-PROXY-CANARY: empty; gone when somebody flushed the table behind our back

KUBE-FIREWALL is the kubelet's as well: its rule is one that either may have put there, so it is looked for, never stamped,
and never taken away.
"""

from __future__ import annotations

from collections.abc import Iterator

from linux.iptables.rules import Chain, Family, Jump, Position, Rule, Table
from proxy.iptables import chains
from proxy.iptables.fragments import INVALID_DROPPED, Style

_NEW = "-m conntrack --ctstate NEW"
_PORTALS = "kubernetes service portals"
_EXTERNAL_PORTALS = "kubernetes externally-visible service portals"
_LOAD_BALANCER = "kubernetes load balancer firewall"

# In the order in which kube-proxy inserts them. Each goes to the top, so a chain holds its jumps in reverse.
JUMPS: tuple[Jump, ...] = (
    Jump(Table.FILTER, "INPUT", Rule(f"{_NEW} -j {chains.EXTERNAL_SERVICES}", _EXTERNAL_PORTALS)),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.EXTERNAL_SERVICES}", _EXTERNAL_PORTALS)),
    Jump(Table.FILTER, "INPUT", Rule(f"-j {chains.NODEPORTS}", "kubernetes health check service ports")),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.SERVICES}", _PORTALS)),
    Jump(Table.FILTER, "OUTPUT", Rule(f"{_NEW} -j {chains.SERVICES}", _PORTALS)),
    Jump(Table.FILTER, "FORWARD", Rule(f"-j {chains.FORWARD}", "kubernetes forwarding rules")),
    Jump(Table.FILTER, "INPUT", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _LOAD_BALANCER)),
    Jump(Table.FILTER, "OUTPUT", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _LOAD_BALANCER)),
    Jump(Table.FILTER, "FORWARD", Rule(f"{_NEW} -j {chains.PROXY_FIREWALL}", _LOAD_BALANCER)),
    Jump(Table.NAT, "OUTPUT", Rule(f"-j {chains.SERVICES}", _PORTALS)),
    Jump(Table.NAT, "PREROUTING", Rule(f"-j {chains.SERVICES}", _PORTALS)),
    Jump(Table.NAT, "POSTROUTING", Rule(f"-j {chains.POSTROUTING}", "kubernetes postrouting rules")),
)

_MARTIANS = Jump(
    Table.FILTER,
    chains.FIREWALL,
    Rule(
        "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        "block incoming localnet connections",
    ),
    Position.LAST,
)
_LOCALHOST_JUMPS = (
    _MARTIANS,
    Jump(Table.FILTER, "INPUT", Rule(f"-j {chains.FIREWALL}")),
    Jump(Table.FILTER, "OUTPUT", Rule(f"-j {chains.FIREWALL}")),
)

# Every chain of others' (or shared with others) that a comparison must see the rules of.
SHOWN = frozenset(jump.chain for jump in (*JUMPS, *_LOCALHOST_JUMPS))


def localhost_node_ports(style: Style) -> bool:
    """The kernel routes 127/8 to where a NodePort leads only in IPv4."""
    return style.policy.localhost_node_ports and style.policy.family is Family.V4


def jumps(style: Style) -> tuple[Jump, ...]:
    return (*JUMPS, *_LOCALHOST_JUMPS) if localhost_node_ports(style) else JUMPS


def foundation(style: Style, *, random_fully: bool = True) -> tuple[Chain, ...]:
    """What depends on no Service. The canaries come first: they are written when anything is."""
    policy = style.policy
    mark = policy.mark
    masquerade = "-j MASQUERADE --random-fully" if policy.random_fully and random_fully else "-j MASQUERADE"
    counted = f"-m nfacct --nfacct-name {INVALID_DROPPED} " if INVALID_DROPPED in style.accounted else ""
    invalid = (Rule(f"-m conntrack --ctstate INVALID {counted}-j DROP"),) if policy.drop_invalid else ()
    return (
        Chain(Table.MANGLE, chains.CANARY),
        Chain(Table.FILTER, chains.CANARY),
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


def to_node_ports(style: Style) -> str:
    """The end of nat KUBE-SERVICES: all addresses of Services have had their turn."""
    about = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    return "".join(
        f'-A {chains.SERVICES} -m comment --comment "{about}" {match} -j {chains.NODEPORTS}\n'
        for match in _node_port_matches(style)
    )


def _node_port_matches(style: Style) -> Iterator[str]:
    policy = style.policy
    if policy.node_port_addresses is None:
        spared = "" if localhost_node_ports(style) else f" ! -d {policy.family.loopback}"
        yield f"-m addrtype --dst-type LOCAL{spared}"
        return
    for address in policy.node_port_addresses:
        if not address.is_loopback or localhost_node_ports(style):
            yield f"-d {address}"
