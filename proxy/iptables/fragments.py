"""What one Service port contributes to the rules, as text. Pure; `plan` has what all share.

    KUBE-SVC / KUBE-SVL   1. -> KUBE-MARK-MASQ for clients that are not pods (the chain that cluster IPs lead to)
                          2. with ClientIP affinity: back to the endpoint this client had
                          3. a fair die: endpoint i of n is taken with probability 1/(n-i), the last one always
    KUBE-SEP              1. -> KUBE-MARK-MASQ when the endpoint itself is the client (hairpin)
                          2. DNAT
    KUBE-EXT, Cluster     1. -> KUBE-MARK-MASQ      2. -> KUBE-SVC
    KUBE-EXT, Local       1. pods -> KUBE-SVC       2. this node -> KUBE-MARK-MASQ, KUBE-SVC
                          3. the rest -> KUBE-SVL with the source address kept
    KUBE-FW               1. each source range -> KUBE-EXT
                          2. the load balancer's own addresses -> KUBE-EXT when a range holds this node (it may use them as
                             source); the rest falls out without DNAT, and filter KUBE-PROXY-FIREWALL drops it

and lines in the chains that all Services share (`Shared`). Rules, comments and their order are upstream's
(pkg/proxy/iptables/proxier.go, syncProxyRules). It is text from the start because there may be 200,000 rules: objects for
them would cost more than the kernel's work.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from linux.iptables.rules import Family, Mark, Rendered, Table
from proxy.iptables import chains
from proxy.model import Address, Endpoint, PodBridge, PodInterfaces, PodNetwork, Policy, Protocol, Reach, ServicePort

# The names of upstream's counters; rules use them where the kernel has them.
INVALID_DROPPED = "ct_state_invalid_dropped_pkts"
LOCALHOST_ACCEPTED = "localhost_nps_accepted_pkts"
COUNTERS = (INVALID_DROPPED, LOCALHOST_ACCEPTED)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9./:_-]*")


class Shared(enum.IntEnum):
    """The chains that hold lines of all Services; the numbers index `Fragment.lines`. A cluster IP belongs to its own
    Service even where another one names it as an external IP (CVE-2020-8554): hence two places in nat KUBE-SERVICES."""

    FILTER_SERVICES = 0
    FILTER_EXTERNAL = 1
    FILTER_NODEPORTS = 2
    FILTER_FIREWALL = 3
    NAT_NODEPORTS = 4
    NAT_SERVICES = 5
    NAT_EXTERNAL = 6  # in KUBE-SERVICES too, behind the cluster IPs of all Services

    @property
    def table(self) -> Table:
        return Table.NAT if self >= Shared.NAT_NODEPORTS else Table.FILTER

    @property
    def chain(self) -> str:
        return _SHARED_NAMES[self]


_SHARED_NAMES = (
    chains.SERVICES,
    chains.EXTERNAL_SERVICES,
    chains.NODEPORTS,
    chains.PROXY_FIREWALL,
    chains.NODEPORTS,
    chains.SERVICES,
    chains.SERVICES,
)
NOTHING = ("",) * len(Shared)


@dataclass(frozen=True, slots=True)
class Style:
    """What of the node shapes every fragment. `large`: rules of endpoints carry no comments beyond our stamps, as upstream
    does it for more than 1,000 endpoints: a comment is half of such a rule. `accounted`: the kernel's nfacct counters that
    are there."""

    policy: Policy
    large: bool = False
    accounted: frozenset[str] = frozenset()
    pods: str = field(init=False)
    others: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pods", _pods(self.policy))
        object.__setattr__(self, "others", f"! {self.pods}" if self.pods else "")

    def reject(self, service: ServicePort) -> str:
        """An ICMPv6 error does not end a connection attempt in Linux before its first retransmission, a second later."""
        if self.policy.family is Family.V6 and service.protocol is Protocol.TCP:
            return "REJECT --reject-with tcp-reset"
        return "REJECT"


def _pods(policy: Policy) -> str:
    """The match for a pod of this node as source; nothing where nobody can tell."""
    match policy.pods:
        case PodNetwork(cidr):
            return f"-s {cidr}"
        case PodBridge(name):
            return f"-i {name}"
        case PodInterfaces(prefix):
            return f"-i {prefix}+"
        case None:
            return ""


class Fragment(NamedTuple):
    """`chains`, all in nat, refer only to chains before them and to KUBE-MARK-MASQ. `lines`, indexed by Shared, go into the
    chains that all Services share."""

    chains: tuple[Rendered, ...]
    lines: tuple[str, ...]


class Unfit(Exception):
    """A Service port that cannot be put into rules."""


class _Names(NamedTuple):
    svc: str
    svl: str
    ext: str
    fw: str


def fragment(service: ServicePort, style: Style) -> Fragment:
    """Raises Unfit."""
    if _NAME.fullmatch(service.name) is None:
        raise Unfit(f"{service.name!r} is no name that Kubernetes allows: it would not be safe in a rule")
    hashed = chains.hashed(service.name + service.protocol)
    names = _Names(*(f"KUBE-{kind}-{hashed}" for kind in ("SVC", "SVL", "EXT", "FW")))
    usable = service.endpoints
    internal = bool(usable.cluster if service.internal is Reach.CLUSTER else usable.local)
    external = bool(usable.cluster if service.external is Reach.CLUSTER else usable.local)
    return Fragment(
        chains=tuple(_chains(service, names, style, external=external)) if usable.any else (),
        lines=_Lines(service, names, style, internal=internal, external=external).all,
    )


class _Lines:
    """A Service port's lines in the shared chains, gathered. Nobody anywhere: refuse at once. Somebody elsewhere but Local
    asked for: drop, as a load balancer expects; the short cut of pods and of this node, in KUBE-EXT, has had its turn in nat
    by then."""

    def __init__(self, service: ServicePort, names: _Names, style: Style, *, internal: bool, external: bool) -> None:
        self._service = service
        self._names = names
        self._any = service.endpoints.any
        self._match = f"-m {service.protocol} -p {service.protocol}"
        self._verdict = "DROP" if self._any else style.reject(service)
        self._why = f"{service.name} has no {'local ' if self._any else ''}endpoints"
        self._lines = [*NOTHING]
        self._cluster_ip(internal=internal)
        self._external_ips(external=external)
        self._load_balancer_ips(external=external)
        if service.node_port:
            self._node_port(style, external=external)
        if port := service.health_check_node_port:
            spec = f"-m tcp -p tcp --dport {port} -j ACCEPT"
            self._add(Shared.FILTER_NODEPORTS, f"{service.name} health check node port", spec)

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def _add(self, where: Shared, about: str, spec: str) -> None:
        self._lines[where] += f'-A {where.chain} -m comment --comment "{about}" {spec}\n'

    def _to(self, address: Address) -> str:
        return f"{self._match} -d {address} --dport {self._service.port}"

    def _cluster_ip(self, *, internal: bool) -> None:
        service, to = self._service, self._to(self._service.cluster_ip)
        if internal:
            target = self._names.svc if service.internal is Reach.CLUSTER else self._names.svl
            self._add(Shared.NAT_SERVICES, f"{service.name} cluster IP", f"{to} -j {target}")
        else:
            self._add(Shared.FILTER_SERVICES, self._why, f"{to} -j {self._verdict}")

    def _external_ips(self, *, external: bool) -> None:
        for address in self._service.external_ips:
            to = self._to(address)
            if self._any:
                self._add(Shared.NAT_EXTERNAL, f"{self._service.name} external IP", f"{to} -j {self._names.ext}")
            if not external:
                self._add(Shared.FILTER_EXTERNAL, self._why, f"{to} -j {self._verdict}")

    def _load_balancer_ips(self, *, external: bool) -> None:
        name, names = self._service.name, self._names
        guarded = self._any and bool(self._service.source_ranges)
        for address in self._service.load_balancer_ips:
            to = self._to(address)
            if self._any:
                target = names.fw if guarded else names.ext
                self._add(Shared.NAT_EXTERNAL, f"{name} loadbalancer IP", f"{to} -j {target}")
            if guarded:
                self._add(Shared.FILTER_FIREWALL, f"{name} traffic not accepted by {names.fw}", f"{to} -j DROP")
            if not external:
                self._add(Shared.FILTER_EXTERNAL, self._why, f"{to} -j {self._verdict}")

    def _node_port(self, style: Style, *, external: bool) -> None:
        service, port = self._service, f"--dport {self._service.node_port}"
        if self._any:
            to = f"-j {self._names.ext}"
            if style.policy.localhost_node_ports and LOCALHOST_ACCEPTED in style.accounted:
                counted = f"-d 127.0.0.0/8 {port} -m nfacct --nfacct-name {LOCALHOST_ACCEPTED}"
                self._add(Shared.NAT_NODEPORTS, service.name, f"{self._match} {counted} {to}")
            self._add(Shared.NAT_NODEPORTS, service.name, f"{self._match} {port} {to}")
        if not external:
            spec = f"-m addrtype --dst-type LOCAL {self._match} {port} -j {self._verdict}"
            self._add(Shared.FILTER_EXTERNAL, self._why, spec)


def _chains(service: ServicePort, names: _Names, style: Style, *, external: bool) -> Iterator[Rendered]:
    """Endpoints first: a chain stands before those that lead to it, so that any cut between two is safe."""
    usable = service.endpoints
    to = _EndpointNames(service, style)
    for endpoint in usable.all if usable.local else usable.cluster:
        yield to.rendered(endpoint)
    internal = names.svc if service.internal is Reach.CLUSTER else names.svl
    for name, members in ((names.svc, usable.cluster), (names.svl, usable.local)):
        if members:
            rules = [*_masquerade(service, style)] if name == internal else []
            rules += _affinity(service, members, to.names, style)
            rules += _die(service, members, to.names, style)
            yield _rendered(name, rules)
    if service.externally_reachable:
        yield _rendered(names.ext, [*_external(service, names, style, external=external)])
    if service.load_balancer_ips and service.source_ranges:
        yield _rendered(names.fw, [*_firewall(service, names, style)])


_Rule = tuple[str, str]  # comment, the rest


def _masquerade(service: ServicePort, style: Style) -> Iterator[_Rule]:
    match = f"-m {service.protocol} -p {service.protocol} -d {service.cluster_ip} --dport {service.port}"
    if style.policy.masquerade_all:
        yield f"{service.name} cluster IP", f"{match} -j {chains.MARK_MASQ}"
    elif style.others:
        yield f"{service.name} cluster IP", f"{match} {style.others} -j {chains.MARK_MASQ}"


def _affinity(
    service: ServicePort, members: Sequence[Endpoint], names: Mapping[str, str], style: Style
) -> Iterator[_Rule]:
    if service.affinity_seconds is None:
        return
    for endpoint in members:
        name = names[endpoint.text]
        recent = f"-m recent --name {name} --rcheck --seconds {service.affinity_seconds} --reap"
        yield "" if style.large else f"{service.name} -> {endpoint.text}", f"{recent} -j {name}"


def _die(service: ServicePort, members: Sequence[Endpoint], names: Mapping[str, str], style: Style) -> Iterator[_Rule]:
    left = len(members)
    for endpoint in members:
        odds = f"-m statistic --mode random --probability {1 / left:0.10f} " if left > 1 else ""
        about = "" if style.large else f"{service.name} -> {endpoint.text}"
        yield about, f"{odds}-j {names[endpoint.text]}"
        left -= 1


def _external(service: ServicePort, names: _Names, style: Style, *, external: bool) -> Iterator[_Rule]:
    if service.external is Reach.CLUSTER:
        yield f"masquerade traffic for {service.name} external destinations", f"-j {chains.MARK_MASQ}"
        yield "", f"-j {names.svc}"
        return
    if service.endpoints.cluster:
        if style.pods:
            yield f"pod traffic for {service.name} external destinations", f"{style.pods} -j {names.svc}"
        here = "-m addrtype --src-type LOCAL"
        yield f"masquerade LOCAL traffic for {service.name} external destinations", f"{here} -j {chains.MARK_MASQ}"
        yield f"route LOCAL traffic for {service.name} external destinations", f"{here} -j {names.svc}"
    if external:
        yield "", f"-j {names.svl}"


def _firewall(service: ServicePort, names: _Names, style: Style) -> Iterator[_Rule]:
    about = f"{service.name} loadbalancer IP"
    for network in service.source_ranges:
        yield about, f"-s {network} -j {names.ext}"
    node = style.policy.node_ip
    if node is not None and any(node in network for network in service.source_ranges):
        for address in service.load_balancer_ips:
            yield about, f"-s {address} -j {names.ext}"
    yield f"other traffic to {service.name} will be dropped by KUBE-PROXY-FIREWALL", ""


def _rendered(name: str, rules: Sequence[_Rule]) -> Rendered:
    texts = [f'-m comment --comment "{about}" {rest}'.rstrip() if about else rest for about, rest in rules]
    stamp = hashlib.blake2s("\n".join(texts).encode(), digest_size=6).hexdigest()
    about, rest = rules[0]
    texts[0] = f'-m comment --comment "{about}{" " if about else ""}wherry:{stamp}" {rest}'
    return Rendered(Table.NAT, name, "".join([f"-A {name} {text}\n" for text in texts]), Mark(stamp, len(texts)))


class _EndpointNames:
    """The KUBE-SEP chains of one Service port, which are nearly all chains there are. `names` by endpoint text.

    What such a chain says is decided by what its name hashes (service port, protocol, address) and by its wording. So its
    stamp needs no second hash: it is the rest of that SHA-256, mixed with a hash of the wording.
    """

    __slots__ = ("_about", "_hash", "_parts", "_salt", "names")

    def __init__(self, service: ServicePort, style: Style) -> None:
        self.names: dict[str, str] = {}
        self._hash = hashlib.sha256((service.name + service.protocol).encode())
        about = "" if style.large else f"{service.name} "
        remember = "" if service.affinity_seconds is None else "-m recent --name {name} --set "
        commented = "" if style.large else f'-m comment --comment "{service.name}" '
        protocol = service.protocol.value
        self._parts = (
            f'-m comment --comment "{about}wherry:',
            '" -s ',
            f" -j {chains.MARK_MASQ}\n-A ",
            f" {commented}",
            remember,
            f"-m {protocol} -p {protocol} -j DNAT --to-destination ",
        )
        self._salt = int.from_bytes(hashlib.blake2s("\n".join(self._parts).encode(), digest_size=6).digest(), "big")

    def rendered(self, endpoint: Endpoint) -> Rendered:
        text = endpoint.text
        hashing = self._hash.copy()
        hashing.update(text.encode())
        digest = hashing.digest()
        name = self.names[text] = f"KUBE-SEP-{chains.base32(digest)}"
        stamp = f"{int.from_bytes(digest[10:16], 'big') ^ self._salt:012x}"
        one, two, three, four, five, six = self._parts
        five = five and f"-m recent --name {name} --set "
        host = text[: text.rindex(":")].strip("[]")
        body = f"-A {name} {one}{stamp}{two}{host}{three}{name}{four}{five}{six}{text}\n"
        return Rendered(Table.NAT, name, body, Mark(stamp, 2))
