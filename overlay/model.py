"""The overlay's values: leases (what the nodes say of themselves), the device we want, what the kernel has, the actions.

Interfaces are named by role, never by index: an index dies with its device, and a plan that recreates the device goes on
to fill the new one. Only routes of ours that lie on other devices carry one (`StrayRoute`).
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

ROUTE_PROTOCOL = 87
"""By this number we know our routes on any device; rtnetlink's and the routing daemons' registries leave it free."""
DEVICE_ALIAS = "wherry overlay"
"""By this alias we know our device under any name."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's claim: pods of `subnet` are behind the VTEP `mac` on the host `public_ip`. `since` orders rival claims."""

    node: str
    subnet: IPv4Network
    public_ip: IPv4Address
    mac: str
    since: float = 0.0

    @property
    def gateway(self) -> IPv4Address:
        """The address of the peer's own VXLAN device: the .0 of its subnet, which no pod gets."""
        return self.subnet.network_address


@dataclass(frozen=True, slots=True)
class Device:
    """A VXLAN device, learning switched off. `underlay` is the index of the interface that carries it."""

    name: str
    vni: int
    port: int
    underlay: int
    local: IPv4Address
    mtu: int
    mac: str

    def same_tunnel(self, other: "Device") -> bool:
        """Whether one can become the other without being made anew."""
        return (self.vni, self.port, self.underlay, self.local) == (other.vni, other.port, other.underlay, other.local)


@dataclass(frozen=True, slots=True)
class Wanted:
    device: Device
    address: IPv4Address
    peers: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """ARP: the peer's gateway address has the peer's MAC."""

    address: IPv4Address
    mac: str


@dataclass(frozen=True, slots=True)
class Fdb:
    """Frames to this MAC go to this host. `plain` is false when the entry was given a port or VNI of its own."""

    mac: str
    remote: IPv4Address
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """A route on our device."""

    destination: IPv4Network
    gateway: IPv4Address | None
    onlink: bool = True
    protocol: int = ROUTE_PROTOCOL
    metric: int = 0


@dataclass(frozen=True, slots=True)
class StrayRoute:
    """A route of ours (by protocol) on a device that is not ours."""

    destination: IPv4Network
    gateway: IPv4Address | None
    index: int
    metric: int = 0


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """What bears our device's name. `device` is None when it is no plain VXLAN device; `marked`: it has our alias."""

    index: int
    device: Device | None
    up: bool
    marked: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """The kernel's state of what is ours; the last four are of our device alone. `strays` are devices with our alias
    under other names, as (index, name)."""

    device: SeenDevice | None = None
    strays: tuple[tuple[int, str], ...] = ()
    stray_routes: tuple[StrayRoute, ...] = ()
    addresses: frozenset[IPv4Interface] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[Fdb] = frozenset()
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
    """Give the device its MAC, MTU and alias and set it up. What is right already stays untouched."""

    device: Device


@dataclass(frozen=True, slots=True)
class AddAddress:
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class PutNeighbour:
    neighbour: Neighbour


@dataclass(frozen=True, slots=True)
class PutFdb:
    entry: Fdb


@dataclass(frozen=True, slots=True)
class PutRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class DropStrayRoute:
    route: StrayRoute


@dataclass(frozen=True, slots=True)
class DropFdb:
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
    | PutRoute
    | DropRoute
    | DropStrayRoute
    | DropFdb
    | DropNeighbour
)
