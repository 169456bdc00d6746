"""The overlay's values: leases (what the nodes say of themselves), what one tunnel should be, what the kernel has, the actions.

A tunnel is the way of one family (or, with one WireGuard device for both, of two) to the other nodes: mostly a device with all
that hangs on it, for host-gw just routes. `Wanted` and `Seen` are of one tunnel and have one shape, whatever the backend, so
that one plan compares them.

Our device is named by role, never by index: an index dies with its device, and a plan that makes it anew goes on to fill the
new one. So `device` is 0 in what lies on it, and an index only in what lies elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from linux.iptables.rules import Family

ROUTE_PROTOCOL = 87
"""By this number we know our routes on any device; rtnetlink's and the routing daemons' registries leave it free."""
DEVICE_ALIAS = "wherry overlay"
"""By this alias we know our devices under any name."""
METRIC = {Family.V4: 0, Family.V6: 1024}
"""What the kernel makes of a route that is written without a metric, and reports."""
OURS = 0
"""In place of an index: our own device (or none, where a route of its kind has none)."""
LOOPBACK = 1
"""The index of `lo` in every network namespace."""

Address = IPv4Address | IPv6Address
Range = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface


def host(address: Address) -> Interface:
    """The address alone: /32 or /128."""
    return IPv4Interface((address, 32)) if isinstance(address, IPv4Address) else IPv6Interface((address, 128))


class NotYet(Exception):
    """Nothing can be wished for yet. The message says what is missing and who provides it; its coming wakes us."""


class Backend(StrEnum):
    """As annotations and etcd's leases name it."""

    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    WIREGUARD = "wireguard"


@dataclass(frozen=True, slots=True)
class Vtep:
    """A VXLAN device as its peers know it; the MAC in lower case."""

    vni: int
    mac: str


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A WireGuard device as its peers know it; base64."""

    key: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's claim in one family: the pods of `subnet` are behind the host `public_ip`, reached as `backend` does. `since`
    (seconds; only compared) orders rival claims."""

    node: str
    subnet: Range
    public_ip: Address
    backend: Backend
    data: Vtep | PublicKey | None = None
    since: float = 0.0

    @property
    def family(self) -> Family:
        return Family(self.subnet.version)

    @property
    def gateway(self) -> Address:
        """The address of the node's own device: the .0 of its subnet, which no pod gets."""
        return self.subnet.network_address


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that carries the overlay, with the address (of one family) and the MTU that it has now."""

    index: int
    name: str
    address: Address
    mtu: int


@dataclass(frozen=True, slots=True)
class Here:
    """What is known of this machine, in one family. `direct`: of the peers' public IPs those that a link of ours reaches
    without a router, and the index of its interface; asked for where the backend needs it. `elsewhere`: the addresses in the
    network of the pods that other interfaces have, and how people name those. `private_key` (base64) is WireGuard's.
    `blackhole`: no packet for our own pods leaves this node, not even while they are not there."""

    underlay: Underlay
    direct: Mapping[Address, int] = field(default_factory=dict)
    elsewhere: Mapping[Address, str] = field(default_factory=dict)
    private_key: str = field(default="", repr=False)
    blackhole: bool = False


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Where the kernel is looked at: our device's name (empty for host-gw), the families, and the names of all our
    tunnels' devices, so that none is a stray to another."""

    name: str
    families: tuple[Family, ...]
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VxlanDevice:
    """`underlay` is the index of the interface that carries it, `local` the address its packets come from."""

    name: str
    vni: int
    port: int
    underlay: int
    local: Address
    mtu: int
    mac: str
    learning: bool = False
    gbp: bool = False

    def same_tunnel(self, other: "Device") -> bool:
        """Whether one can become the other without being made anew."""
        return isinstance(other, VxlanDevice) and self == replace(other, name=self.name, mtu=self.mtu, mac=self.mac)


@dataclass(frozen=True, slots=True)
class WireGuardDevice:
    """Keys are base64."""

    name: str
    port: int
    mtu: int
    private_key: str = field(repr=False)

    def same_tunnel(self, other: "Device") -> bool:
        """Port, MTU and key are set on a device that is there."""
        return isinstance(other, WireGuardDevice)


Device = VxlanDevice | WireGuardDevice


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this machine, with its prefix length."""

    interface: Interface
    device: int = OURS

    @property
    def leads_nowhere(self) -> bool:
        """Whether it is one address on loopback, which no network is behind: whoever loses it is cut off from nothing."""
        return self.device == LOOPBACK and self.interface.network.prefixlen == self.interface.max_prefixlen


@dataclass(frozen=True, slots=True)
class Neighbour:
    """ARP or ND on our device: the peer's gateway address has the peer's MAC."""

    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class Fdb:
    """On our device: frames to this MAC go to this host. `plain` is false when the entry was given a port, a VNI or an
    interface of its own."""

    mac: str
    remote: Address
    plain: bool = True


class RouteKind(StrEnum):
    UNICAST = "unicast"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"
    PROHIBIT = "prohibit"
    THROW = "throw"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `onlink`: the gateway is a neighbour although no address covers it. `plain` is false for
    what we never write: several next hops (the first is given), a next-hop object, an encapsulation, metrics, a source."""

    destination: Range
    gateway: Address | None
    device: int = OURS
    onlink: bool = False
    protocol: int = ROUTE_PROTOCOL
    metric: int = 0
    kind: RouteKind = RouteKind.UNICAST
    plain: bool = True


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """`keepalive` in seconds, 0: none. `answered`, of what the kernel has: there was a handshake within the last three
    minutes, so that the endpoint is right wherever it is (WireGuard follows a peer that moves)."""

    key: str
    endpoint: tuple[Address, int] | None
    allowed: frozenset[Range]
    psk: str = field(default="", repr=False)
    keepalive: int = 0
    answered: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The whole wish of one tunnel. An empty one asks for nothing of ours to be there. `subnets` are the peers': no other
    way of this machine may lie in them, and no address on loopback."""

    device: Device | None = None
    addresses: tuple[LocalAddress, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[Fdb, ...] = ()
    peers: tuple[WireGuardPeer, ...] = ()
    routes: tuple[Route, ...] = ()
    subnets: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """What bears our device's name. `device` is None when it is of another kind, or a VXLAN device with options that ours
    never has (a group, l2miss, ...); `marked`: it has our alias."""

    index: int
    device: Device | None
    up: bool
    marked: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """The kernel's state as far as it may concern one tunnel, of its families alone.

    `strays` are devices with our alias under names that no tunnel of ours has, as (index, name). `addresses` are all but
    link-local ones: those of our device (`device` 0) and those elsewhere that lie in the network of the pods. `neighbours`
    and `fdb` are our device's permanent ones. `routes` are those of the main table that lie on our device (link-local and
    multicast aside), have our protocol, or lead into the network of the pods.
    """

    device: SeenDevice | None = None
    strays: tuple[tuple[int, str], ...] = ()
    addresses: frozenset[LocalAddress] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[Fdb] = frozenset()
    peers: frozenset[WireGuardPeer] = frozenset()
    routes: frozenset[Route] = frozenset()


@dataclass(frozen=True, slots=True)
class DeleteLink:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CreateDevice:
    device: Device


@dataclass(frozen=True, slots=True)
class AdjustDevice:
    """Give our device its MAC, MTU, alias (WireGuard: key and port) and set it up. What is right already stays untouched."""

    device: Device


@dataclass(frozen=True, slots=True)
class AddAddress:
    address: LocalAddress


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: LocalAddress


@dataclass(frozen=True, slots=True)
class PutNeighbour:
    neighbour: Neighbour


@dataclass(frozen=True, slots=True)
class PutFdb:
    entry: Fdb


@dataclass(frozen=True, slots=True)
class PutPeer:
    """Set the peer with exactly these allowed addresses."""

    peer: WireGuardPeer


@dataclass(frozen=True, slots=True)
class PutRoute:
    """In the place of the first one with the same destination and metric."""

    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class DropPeer:
    peer: WireGuardPeer


@dataclass(frozen=True, slots=True)
class DropFdb:
    """All hosts of the entry's MAC."""

    entry: Fdb


@dataclass(frozen=True, slots=True)
class DropNeighbour:
    neighbour: Neighbour


Action = (
    DeleteLink
    | CreateDevice
    | AdjustDevice
    | AddAddress
    | RemoveAddress
    | PutNeighbour
    | PutFdb
    | PutPeer
    | PutRoute
    | DropRoute
    | DropPeer
    | DropFdb
    | DropNeighbour
)
"""Each is harmless when it has been done already, and dropping what is not there is done."""
