"""The values of this room: what a Service port is to a packet, and the node it is seen from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Self

import msgspec

from linux.iptables.rules import Family

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_PORT = 65535


class Protocol(enum.StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Reach(enum.Enum):
    """A traffic policy: all endpoints of the cluster, or only those on this node."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address and port that packets may be sent to: `packed` as the kernel has them, the port in network order behind the
    address; `text` as DNAT and chain names spell them, `ip:port`. `local`: it runs on this node. There are tens of thousands
    of these, so nothing else is kept."""

    packed: bytes
    text: str
    local: bool = False

    @classmethod
    def at(cls, ip: Address, port: int, *, local: bool = False) -> Self:
        host = f"[{ip}]" if ip.version == 6 else str(ip)
        return cls(ip.packed + port.to_bytes(2, "big"), f"{host}:{port}", local)

    @property
    def address(self) -> bytes:
        return self.packed[:-2]

    @property
    def ip(self) -> Address:
        return IPv4Address(self.address) if len(self.packed) == 6 else IPv6Address(self.address)

    @property
    def port(self) -> int:
        return int.from_bytes(self.packed[-2:], "big")


@dataclass(frozen=True, slots=True)
class Usable:
    """The endpoints a packet may be sent to, in the order of their text: `cluster` where the traffic policy is Cluster,
    `local` where it is Local. `any`: the cluster has a usable one somewhere.

    `serving`, for UDP only: all that still answer, ready or not, near or far: a flow may stay where it is as long as its
    endpoint is one of these."""

    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    any: bool = False
    serving: tuple[Endpoint, ...] = ()

    @property
    def all(self) -> tuple[Endpoint, ...]:
        if not self.local or self.local is self.cluster:
            return self.cluster
        merged = {endpoint.text: endpoint for endpoint in (*self.cluster, *self.local)}
        return tuple(merged[text] for text in sorted(merged))


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service in one family, with the endpoints that were chosen for this node (`proxy.endpoints`).

    `name` is upstream's service port name: `namespace/name:port`, without `:port` where the port has no name.
    `node_port` is 0 without a NodePort, `health_check_node_port` without a health check. `load_balancer_ips` are those that
    traffic arrives with (ipMode VIP); with `source_ranges` only those sources may use them. `affinity_seconds` is None
    without ClientIP affinity. `ready_here`: on how many addresses of this node the Service (any port of it) has a ready
    endpoint, for the health check; 0 without a health check.
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
class PodNetwork:
    """Pods of this node send from addresses in `cidr` (detectLocalMode ClusterCIDR and NodeCIDR)."""

    cidr: Network


@dataclass(frozen=True, slots=True)
class PodBridge:
    """Packets of this node's pods arrive through the bridge of this name (BridgeInterface)."""

    name: str


@dataclass(frozen=True, slots=True)
class PodInterfaces:
    """Packets of this node's pods arrive through interfaces whose names begin so (InterfaceNamePrefix)."""

    prefix: str


IfLocal = PodNetwork | PodBridge | PodInterfaces


@dataclass(frozen=True, slots=True)
class Policy:
    """What of the node's configuration and kernel shapes the rules.

    `masquerade_bit` is the bit of the packet mark that asks for SNAT. `pods` tells this node's pods from others: None means
    unknown, and then nobody is taken for a pod. `node_port_addresses` is None where NodePorts are served on every local
    address but loopback, else exactly these; `localhost_node_ports`: on loopback too (IPv4 only). `node_ip` is the node's
    own address, which a load balancer's source ranges may admit. `drop_invalid` is off where conntrack is liberal about
    TCP windows. `service_cidrs`: what cluster IPs are allocated from, empty where the API does not tell.
    """

    family: Family = Family.V4
    masquerade_bit: int = 14
    masquerade_all: bool = False
    random_fully: bool = True
    pods: IfLocal | None = None
    node_port_addresses: tuple[Address, ...] | None = None
    localhost_node_ports: bool = False
    node_ip: Address | None = None
    drop_invalid: bool = True
    service_cidrs: tuple[Network, ...] = ()

    @property
    def mark(self) -> str:
        return f"{1 << self.masquerade_bit:#010x}"
