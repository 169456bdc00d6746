"""From one Service and its slices to the ports of one family. Pure; upstream: pkg/proxy/serviceport.go.

What is not in this family is left to the other. What is wrong in itself (an address that is none, a protocol nobody knows)
is left out and told; everything else of the object, and all other objects, work. `Skipped.reason`:

    InvalidClusterIP InvalidExternalIP InvalidLoadBalancerIP      not an IP address
    InvalidSourceRange                                            not a CIDR: whom it was to admit is kept out
    UnsupportedProtocol InvalidPort DuplicatePort                 this port of the Service
    InvalidEndpointAddress InvalidEndpointPort                    (`proxy.slices`)

Two families read the same object; so that its author is told once, the family that an address looks like tells of the
address, and the family of the first cluster IP of everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from linux.iptables.rules import Family
from proxy import objects
from proxy.addresses import address, family_of, network
from proxy.endpoints import Place, usable
from proxy.model import MAX_PORT, Address, Network, Protocol, Reach, ServicePort
from proxy.slices import Behind, Skipped

DEFAULT_AFFINITY_SECONDS = 10800
MAX_AFFINITY_SECONDS = 86400

_CLUSTER, _LOCAL, _UDP = (
    Reach.CLUSTER,
    Reach.LOCAL,
    Protocol.UDP,
)  # asked of the class, a member costs as much as a call
_PROTOCOLS = {protocol.value.upper(): protocol for protocol in Protocol}
_NOBODY: dict[Family, Network] = {Family.V4: IPv4Network("0.0.0.0/32"), Family.V6: IPv6Network("::/128")}


class Made(NamedTuple):
    """`skipped`: what was left out of the object, told to its author."""

    ports: tuple[ServicePort, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def service_ports(
    service: objects.Service, slices: Sequence[objects.EndpointSlice], place: Place, family: Family
) -> Made:
    """The ports of one Service in one family; none for headless and ExternalName Services, and none yet for one that no
    cluster IP was allocated to. `slices`: this Service's of this family, in a stable order."""
    spec = service.spec
    if spec.type == "ExternalName":
        return Made()
    reading = _Reading(spec, family)
    cluster_ip = reading.cluster_ip()
    if cluster_ip is None:
        return Made((), tuple(reading.skipped))
    behind = Behind(slices, family, place, reading.skipped)
    balancers = reading.load_balancer_ips(service.status)
    externals = reading.addresses(spec.external_ips, "spec.externalIPs", "InvalidExternalIP")
    ranges = reading.source_ranges()
    published = spec.type in ("NodePort", "LoadBalancer")
    outward = spec.external_traffic_policy == "Local" and (published or spec.external_ips)
    external = _LOCAL if outward else _CLUSTER
    internal = _LOCAL if spec.internal_traffic_policy == "Local" else _CLUSTER
    health = reading.health_check() if spec.type == "LoadBalancer" and outward else 0
    ready_here = behind.ready_here() if health else 0
    affinity = _affinity(spec)
    key = service.metadata.key
    made: list[ServicePort] = []
    for port, protocol in reading.ports():
        node_port = port.node_port if published else 0
        made.append(
            ServicePort(
                name=f"{key}:{port.name}" if port.name else key,
                protocol=protocol,
                cluster_ip=cluster_ip,
                port=port.port,
                node_port=node_port,
                external_ips=externals,
                load_balancer_ips=balancers,
                source_ranges=ranges,
                affinity_seconds=affinity,
                internal=internal,
                external=external,
                health_check_node_port=health,
                endpoints=usable(
                    behind.candidates(port.name, port.protocol),
                    internal=internal,
                    external=external,
                    externally_reachable=bool(node_port or externals or balancers),
                    place=place,
                    flows_stay=protocol is _UDP,
                ),
                ready_here=ready_here,
            )
        )
    return Made(tuple(made), tuple(reading.skipped))


def _affinity(spec: objects.ServiceSpec) -> int | None:
    if spec.session_affinity != "ClientIP":
        return None
    config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    seconds = (config.timeout_seconds if config else None) or DEFAULT_AFFINITY_SECONDS
    return seconds if 0 < seconds <= MAX_AFFINITY_SECONDS else DEFAULT_AFFINITY_SECONDS


@dataclass(slots=True)
class _Reading:
    """One Service being read for one family, and what of it had to be skipped."""

    spec: objects.ServiceSpec
    family: Family
    skipped: list[Skipped] = field(default_factory=list)

    def cluster_ip(self) -> Address | None:
        given = [text for text in self.spec.cluster_ips or (self.spec.cluster_ip,) if text and text != "None"]
        found = self.addresses(given, "spec.clusterIPs", "InvalidClusterIP")
        return found[0] if found else None

    def load_balancer_ips(self, status: objects.ServiceStatus) -> tuple[Address, ...]:
        """Those that traffic arrives with; with ipMode Proxy it arrives with the node's own."""
        ingress = status.load_balancer.ingress
        if not ingress:
            return ()
        given = [entry.ip for entry in ingress if entry.ip and entry.ip_mode in (None, "", "VIP")]
        return self.addresses(given, "status.loadBalancer.ingress", "InvalidLoadBalancerIP")

    def addresses(self, texts: Sequence[str] | None, where: str, reason: str) -> tuple[Address, ...]:
        """Those of this family, each once."""
        if not texts:
            return ()
        found: list[Address] = []
        for text in texts:
            ip = address(text)
            if ip is None:
                if family_of(text) is self.family:
                    self.skipped.append(Skipped(reason, f"{where}: {text!r} is not an IP address; it is not served"))
            elif ip.version == self.family and ip not in found:
                found.append(ip)
        return tuple(found)

    def source_ranges(self) -> tuple[Network, ...]:
        """Empty where everybody is admitted: no range of this family is given, or one that holds every address. What cannot be
        read admits nobody; if nothing else is given, then nobody at all is admitted, because the author wanted to keep
        somebody out."""
        if not self.spec.load_balancer_source_ranges:
            return ()
        given = [text for text in self.spec.load_balancer_source_ranges if text.strip()]
        ranges = [network(text) for text in given]
        bad = [
            text for text, found in zip(given, ranges, strict=True) if found is None and family_of(text) is self.family
        ]
        for text in bad:
            words = f"spec.loadBalancerSourceRanges: {text!r} is not a CIDR; nobody is admitted by it"
            self.skipped.append(Skipped("InvalidSourceRange", f"{words} (write it like 203.0.113.0/24)"))
        mine = dict.fromkeys(found for found in ranges if found is not None and found.version == self.family)
        if any(found.prefixlen == 0 for found in mine):
            return ()
        if not mine and (bad or (given and not any(ranges))):
            return (_NOBODY[self.family],)
        return tuple(mine)

    def ports(self) -> list[tuple[objects.ServicePort, Protocol]]:
        good: dict[tuple[str, Protocol], objects.ServicePort] = {}
        numbers: set[tuple[int, Protocol]] = set()
        for port in self.spec.ports or ():
            protocol = _PROTOCOLS.get(port.protocol)
            name = repr(port.name) if port.name else str(port.port)
            if protocol is None:
                known = ", ".join(_PROTOCOLS)
                self._leave(f"port {name}: {port.protocol!r} is not one of {known}", "UnsupportedProtocol")
            elif not 1 <= port.port <= MAX_PORT or not 0 <= port.node_port <= MAX_PORT:
                given = f"port {port.port}, nodePort {port.node_port}"
                self._leave(f"port {name}: {given}: ports are 1 to {MAX_PORT}", "InvalidPort")
            elif (port.name, protocol) in good or (port.port, protocol) in numbers:
                self._leave(f"port {name}/{port.protocol} comes twice; the first is served", "DuplicatePort")
            else:
                good[port.name, protocol] = port
                numbers.add((port.port, protocol))
        return [(port, protocol) for (_, protocol), port in good.items()]

    def health_check(self) -> int:
        number = self.spec.health_check_node_port
        if 0 <= number <= MAX_PORT:
            return number
        self._tell(
            "InvalidPort", f"spec.healthCheckNodePort: {number}: ports are 1 to {MAX_PORT}; nothing answers there"
        )
        return 0

    def _leave(self, words: str, reason: str) -> None:
        self._tell(reason, f"spec.ports: {words}; this port is not served")

    def _tell(self, reason: str, message: str) -> None:
        first = next(iter(self.spec.cluster_ips or ()), self.spec.cluster_ip)
        if family_of(first) is self.family:
            self.skipped.append(Skipped(reason, message))
