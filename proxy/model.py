"""The values of this room: what a Service port is to a packet, and the node it is seen from."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from linux.iptables.rules import Family

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Protocol(enum.StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Reach(enum.Enum):
    """A traffic policy: all endpoints of the cluster, or only those on this node."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port behind a Service port. `local`: it runs on this node. `text` is `ip:port`, as DNAT and chain
    names spell it."""

    ip: Address
    port: int
    local: bool = False
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    text: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        object.__setattr__(self, "text", f"{host}:{self.port}")


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service in one family, with every endpoint the slices name, in the order of their text.

    `name` is upstream's service port name: `namespace/name:port`, without `:port` where the port has no name.
    `affinity_seconds` is None without ClientIP affinity. `node_port` is 0 without a NodePort.
    """

    name: str
    protocol: Protocol
    cluster_ip: Address
    port: int
    node_port: int = 0
    affinity_seconds: int | None = None
    internal: Reach = Reach.CLUSTER
    external: Reach = Reach.CLUSTER
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def externally_reachable(self) -> bool:
        return self.node_port != 0

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Even with a Local external policy pods and the node itself may use every endpoint."""
        return self.externally_reachable or self.internal is Reach.CLUSTER

    @property
    def uses_local_endpoints(self) -> bool:
        return self.internal is Reach.LOCAL or (self.externally_reachable and self.external is Reach.LOCAL)


@dataclass(frozen=True, slots=True)
class Policy:
    """What of the node's configuration and kernel shapes the rules.

    `masquerade_bit` is the bit of the packet mark that asks for SNAT. `cluster_cidr` tells pods from others: None means
    unknown, and then nobody is taken for a pod. `node_port_addresses` is None where NodePorts are served on every local
    address but loopback, else exactly these. `drop_invalid` is off where conntrack is liberal about TCP windows.
    """

    family: Family = Family.V4
    masquerade_bit: int = 14
    masquerade_all: bool = False
    random_fully: bool = True
    cluster_cidr: Network | None = None
    node_port_addresses: tuple[Address, ...] | None = None
    drop_invalid: bool = True

    @property
    def mark(self) -> str:
        return f"{1 << self.masquerade_bit:#010x}"


@dataclass(frozen=True, slots=True)
class Usable:
    """The endpoints a packet may be sent to, by policy, and whether the cluster has any at all."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    any: bool

    @property
    def all(self) -> tuple[Endpoint, ...]:
        merged = {endpoint.text: endpoint for endpoint in (*self.cluster, *self.local)}
        return tuple(merged[text] for text in sorted(merged))


def usable(service: ServicePort) -> Usable:
    """Upstream's CategorizeEndpoints: ready endpoints; where there are none, those that still serve while they
    terminate; decided separately for the whole cluster and for this node."""
    everyone = service.endpoints if service.uses_cluster_endpoints else ()
    cluster = _best(everyone)
    if not service.uses_local_endpoints:
        return Usable(cluster, (), bool(cluster))
    local = _best(tuple(endpoint for endpoint in service.endpoints if endpoint.local))
    return Usable(cluster, local, bool(_best(service.endpoints)))


def _best(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    return ready or tuple(endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating)
