"""What to do, from what is wanted and what is there. Pure.

How a packet crosses. A pod on node A (10.244.1.0/24) sends to a pod on node B (10.244.2.0/24):

    route        10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink     A must reach "the router" 10.244.2.0
    neighbour    10.244.2.0 is at <MAC of B's flannel.1>               no ARP is asked: nobody could answer
    FDB entry    <MAC of B's flannel.1> is behind <B's public IP>      the frame travels to B in UDP

B's flannel.1 gets the frame, sees its own MAC, and B routes the packet to its pod bridge. So one entry of each kind per
peer is enough, whatever the number of pods: the network is routed between nodes, never bridged. Our own device carries
10.244.1.0/32: the source address of what the node itself sends to remote pods, and for B the way back. It is a /32 so
that no connected route appears. `onlink`, because no address of the device covers the gateway.

The order for a peer is neighbour, FDB, route: the route comes last, or the kernel would ask for the neighbour into the
void and remember the failure. Deletions come after all additions and in reverse, so a peer that has changed is never
without a way. A device that is made anew, moved to another MAC or set down has lost what hung on it, and the plan
counts it as lost.

Anything on our device that is not wanted goes, whoever put it there: the device is wholly ours. On other devices only
routes with our protocol number are ours. A plan that is cut short at any action and computed again reaches the same end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from overlay.model import (
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Device,
    DropFdb,
    DropNeighbour,
    DropRoute,
    DropStrayRoute,
    Fdb,
    Lease,
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Route,
    Seen,
    SeenDevice,
    Wanted,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Leases that can stand beside each other, and in words why the others cannot."""

    leases: tuple[Lease, ...]
    refused: dict[str, str]


def accepted(leases: Iterable[Lease], network: IPv4Network) -> Accepted:
    """Of leases that claim the same host, the same MAC or the same pods the oldest node's stands; rivals are refused."""
    standing: list[Lease] = []
    refused: dict[str, str] = {}
    hosts: dict[object, Lease] = {}
    for lease in sorted(leases, key=lambda one: (one.since, one.node)):
        words = _outside(lease, network) or _rivalry(lease, hosts, standing)
        if words:
            refused[lease.node] = words
            continue
        hosts[lease.public_ip] = hosts[lease.mac] = lease
        standing.append(lease)
    return Accepted(tuple(sorted(standing, key=lambda one: one.node)), refused)


def actions(wanted: Wanted, seen: Seen) -> Iterator[Action]:
    """The steps from `seen` to `wanted`, in order; none when they agree."""
    yield from (DeleteLink(index, name) for index, name in seen.strays)
    left = _surviving(wanted.device, seen)
    yield from _device(wanted.device, seen.device)
    yield from _addresses(wanted, left.addresses)
    yield from _entries(wanted.peers, left)
    yield from (DropStrayRoute(route) for route in seen.stray_routes)


def entries(peers: Iterable[Lease]) -> Iterator[tuple[Neighbour, Fdb, Route]]:
    """The three entries of each peer."""
    for peer in peers:
        yield (
            Neighbour(peer.gateway, peer.mac),
            Fdb(peer.mac, peer.public_ip),
            Route(peer.subnet, peer.gateway),
        )


def removals(seen: Seen) -> Iterator[Action]:
    """Everything of ours away: routes elsewhere, and the device, with which all that hangs on it goes."""
    yield from (DropStrayRoute(route) for route in seen.stray_routes)
    yield from (DeleteLink(index, name) for index, name in seen.strays)


def _outside(lease: Lease, network: IPv4Network) -> str | None:
    if lease.subnet.subnet_of(network):
        return None
    return (
        f"node {lease.node}: podCIDR {lease.subnet} lies outside the network {network}; "
        "make net-conf.json's Network and the controllers' --cluster-cidr agree"
    )


def _rivalry(lease: Lease, hosts: dict[object, Lease], standing: Iterable[Lease]) -> str | None:
    if rival := hosts.get(lease.public_ip):
        return (
            f"nodes {rival.node} and {lease.node} both announce the public IP {lease.public_ip}; {rival.node} is older and "
            f"stays. Give one of them another address (--public-ip or --iface), or delete the Node that is no more"
        )
    if rival := hosts.get(lease.mac):
        return (
            f"nodes {rival.node} and {lease.node} both announce the VTEP MAC {lease.mac}; {rival.node} is older and stays. "
            f"Delete the VXLAN device and the backend-data annotation of {lease.node}, whose disk was probably cloned"
        )
    if rival := next((other for other in standing if other.subnet.overlaps(lease.subnet)), None):
        return (
            f"nodes {rival.node} ({rival.subnet}) and {lease.node} ({lease.subnet}) have podCIDRs that overlap; "
            f"{rival.node} is older and stays. Delete the Node {lease.node} and let it register again"
        )
    return None


def _surviving(device: Device, seen: Seen) -> Seen:
    """What is still there after `_device` has done its work."""
    if seen.device is None or seen.device.device is None or not device.same_tunnel(seen.device.device):
        return Seen()
    moved = seen.device.device.mac != device.mac  # the kernel forgets a device's neighbours with its MAC
    return Seen(
        addresses=seen.addresses,
        neighbours=frozenset() if moved else seen.neighbours,
        fdb=seen.fdb,
        routes=seen.routes if seen.device.up else frozenset(),
    )


def _device(device: Device, seen: SeenDevice | None) -> Iterator[Action]:
    if seen is None or seen.device is None or not device.same_tunnel(seen.device):
        if seen is not None:
            yield DeleteLink(seen.index, device.name)
        yield CreateDevice(device)
        yield AdjustDevice(device)
    elif seen.device != device or not seen.up or not seen.marked:
        yield AdjustDevice(device)


def _addresses(wanted: Wanted, seen: frozenset[IPv4Interface]) -> Iterator[Action]:
    host = _host(wanted)
    if host not in seen:
        yield AddAddress(wanted.address)
    yield from (RemoveAddress(address) for address in sorted(seen - {host}))


def _host(wanted: Wanted) -> IPv4Interface:
    return IPv4Interface((wanted.address, 32))


def _entries(peers: Iterable[Lease], seen: Seen) -> Iterator[Action]:
    want = list(entries(peers))
    for neighbour, fdb, route in want:
        if neighbour not in seen.neighbours:
            yield PutNeighbour(neighbour)
        if fdb not in seen.fdb:
            yield PutFdb(fdb)
        if route not in seen.routes:
            yield PutRoute(route)
    wanted_routes = {route for _, _, route in want}
    # What had a wanted key was replaced in place just now; a route may have stood beside the right one.
    replaced = {(route.destination, route.metric) for route in wanted_routes - seen.routes}
    macs = {fdb.mac for _, fdb, _ in want}
    gateways = {neighbour.address for neighbour, _, _ in want}
    extra = _sorted(seen.routes - wanted_routes)
    yield from (DropRoute(route) for route in extra if (route.destination, route.metric) not in replaced)
    yield from (DropFdb(fdb) for fdb in sorted(seen.fdb, key=lambda one: (one.mac, one.remote)) if fdb.mac not in macs)
    others = (one for one in seen.neighbours if one.address not in gateways)
    yield from (DropNeighbour(neighbour) for neighbour in sorted(others, key=lambda one: one.address))


def _sorted(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (route.destination, route.metric, str(route.gateway)))
