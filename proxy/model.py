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
    """One address and port that packets may be sent to. `local`: it runs on this node. `text` is `ip:port`, as DNAT and
    chain names spell it."""

    ip: Address
    port: int
    local: bool = False
    text: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        object.__setattr__(self, "text", f"{host}:{self.port}")


@dataclass(frozen=True, slots=True)
class Usable:
    """The endpoints a packet may be sent to, in the order of their text: `cluster` where the traffic policy is Cluster,
    `local` where it is Local. `any`: the cluster has a usable one somewhere."""

    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    any: bool = False

    @property
    def all(self) -> tuple[Endpoint, ...]:
        merged = {endpoint.text: endpoint for endpoint in (*self.cluster, *self.local)}
        return tuple(merged[text] for text in sorted(merged))


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service in one family, with the endpoints that were chosen for this node (`proxy.endpoints`).

    `name` is upstream's service port name: `namespace/name:port`, without `:port` where the port has no name.
    `node_port` is 0 without a NodePort, `health_check_node_port` without a health check. `load_balancer_ips` are those that
    traffic arrives with (ipMode VIP); with `source_ranges` only those sources may use them. `affinity_seconds` is None
    without ClientIP affinity. `ready_here`: how many ready endpoints run on this node, for the health check.
    """

    name: str
    protocol: Protocol
    cluster_ip: Address
    port: int
    node_port: int = 0
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    affinity_seconds: int | None = None
    internal: Reach = Reach.CLUSTER
    external: Reach = Reach.CLUSTER
    health_check_node_port: int = 0
    endpoints: Usable = Usable()
    ready_here: int = 0

    @property
    def externally_reachable(self) -> bool:
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)


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
