"""What is wanted, read from the informers, and what of this node shapes the rules.

The quirks of EndpointSlices are upstream's: an absent `ready` or `serving` is true, only the first address counts, a port
without a number is skipped, and where two slices name the same address (a slice being split, an address being reused) a
terminating entry never hides another.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kube import core, discovery, labels
from linux.iptables.rules import Family
from proxy.endpoints import Candidate, usable
from proxy.model import Address, Endpoint, Network, Protocol, Reach, ServicePort

DEFAULT_AFFINITY_SECONDS = 10800
SERVICES_SELECTOR = f"!{labels.SERVICE_PROXY_NAME}"
SLICES_SELECTOR = f"!{labels.HEADLESS},!{labels.SERVICE_PROXY_NAME}"

_LIBERAL = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")

log = logging.getLogger(__name__)


class Services:
    """Service ports as of the objects given; what was made of an object is kept until the object changes."""

    def __init__(self, node: str, family: Family = Family.V4) -> None:
        self._node = node
        self._family = family
        self._made: dict[str, tuple[core.Service, tuple[discovery.EndpointSlice, ...], tuple[ServicePort, ...]]] = {}

    def ports(
        self, services: Iterable[core.Service], slices: Iterable[discovery.EndpointSlice]
    ) -> tuple[ServicePort, ...]:
        behind = self._by_service(slices)
        made = {}
        for service in services:
            key = service.metadata.key
            mine = tuple(sorted(behind.get(key, ()), key=lambda piece: piece.metadata.name))
            known = self._made.get(key)
            if known is None or known[0] is not service or not _same(known[1], mine):
                known = service, mine, tuple(service_ports(service, mine, self._node, self._family))
            made[key] = known
        self._made = made
        return tuple(port for known in made.values() for port in known[2])

    def _by_service(self, slices: Iterable[discovery.EndpointSlice]) -> Mapping[str, list[discovery.EndpointSlice]]:
        behind: dict[str, list[discovery.EndpointSlice]] = {}
        wanted = f"IPv{self._family}"
        for piece in slices:
            service = piece.metadata.labels.get(labels.SERVICE_NAME)
            if service and piece.address_type == wanted:
                behind.setdefault(f"{piece.metadata.namespace}/{service}", []).append(piece)
        return behind


def service_ports(
    service: core.Service, slices: Sequence[discovery.EndpointSlice], node: str, family: Family
) -> list[ServicePort]:
    """The ports of one Service in one family; none for headless and ExternalName Services."""
    spec = service.spec
    cluster_ip = _cluster_ip(spec, family)
    if cluster_ip is None or spec.type == "ExternalName":
        return []
    affinity = None
    if spec.session_affinity == "ClientIP":
        config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
        affinity = (config.timeout_seconds if config else None) or DEFAULT_AFFINITY_SECONDS
    key = service.metadata.key
    internal, external = Reach(spec.internal_traffic_policy), Reach(spec.external_traffic_policy)
    made = []
    for port in spec.ports:
        node_port = port.node_port if spec.type in ("NodePort", "LoadBalancer") else 0
        behind = candidates(slices, port.name, port.protocol, node)
        made.append(
            ServicePort(
                name=f"{key}:{port.name}" if port.name else key,
                protocol=Protocol(port.protocol.lower()),
                cluster_ip=cluster_ip,
                port=port.port,
                node_port=node_port,
                affinity_seconds=affinity,
                internal=internal,
                external=external,
                endpoints=usable(behind, internal=internal, external=external, externally_reachable=node_port != 0),
                ready_here=len({one.endpoint.ip for one in behind if one.endpoint.local and one.ready}),
            )
        )
    return made


def candidates(
    slices: Sequence[discovery.EndpointSlice], port_name: str, protocol: str, node: str
) -> tuple[Candidate, ...]:
    """The endpoints behind one port, in the order of their text."""
    found: dict[str, Candidate] = {}
    for piece in slices:
        numbers = [
            port.port
            for port in piece.ports or ()
            if (port.name or "") == port_name and port.protocol == protocol and port.port
        ]
        for number in numbers:
            for entry in piece.endpoints or ():
                ip = address(entry.addresses[0]) if entry.addresses else None
                if ip is None:
                    continue
                endpoint = Endpoint(ip, number, local=entry.node_name == node)
                if endpoint.text not in found or not entry.terminating:
                    found[endpoint.text] = Candidate(endpoint, entry.ready, entry.serving, entry.terminating)
    return tuple(found[text] for text in sorted(found))


def address(text: str) -> Address | None:
    """An IP address; IPv4 with leading zeros is read as decimal, as Kubernetes always did. None, and a line in the log,
    for what is not an address: one bad object must not stop the others."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        parts = text.split(".")
        if len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts):
            return ipaddress.IPv4Address(".".join(str(int(part)) for part in parts))
    log.warning("%r is not an IP address; skipped", text)
    return None


def node_port_addresses(
    networks: Sequence[Network], local: Iterable[Address], family: Family
) -> tuple[Address, ...] | None:
    """The local addresses in `networks`, which NodePorts are served on; None means all."""
    mine = [network for network in networks if network.version == family]
    if not networks or any(network.prefixlen == 0 for network in mine):
        return None
    return tuple(
        sorted(
            {ip for ip in local if ip.version == family and not ip.is_loopback and any(ip in net for net in mine)},
            key=int,
        )
    )


def local_addresses() -> list[Address]:
    """Every address of this network namespace."""
    import psutil

    found = []
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            try:
                found.append(ipaddress.ip_address(entry.address.split("%")[0]))
            except ValueError:
                continue  # a link-layer address
    return found


def conntrack_is_liberal() -> bool:
    """Conntrack takes TCP segments outside its window for valid, so INVALID says nothing worth dropping."""
    try:
        return _LIBERAL.read_text().strip() == "1"
    except OSError:
        return False  # conntrack is not loaded yet; its default is strict


def _same(left: Sequence[object], right: Sequence[object]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _cluster_ip(spec: core.ServiceSpec, family: Family) -> Address | None:
    for text in spec.cluster_ips or (spec.cluster_ip,):
        if text and text != "None" and (ip := address(text)) is not None and ip.version == family:
            return ip
    return None
