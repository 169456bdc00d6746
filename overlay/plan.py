"""What to do, from what is wanted and what is there; one diff for all backends. Pure.

The order for a peer is FDB entry, neighbour, route: what is new is whole before anything points to it. The route comes last,
or the kernel would ask for the neighbour into the void and remember the failure. Deletions come after all additions and in
reverse, so a peer that has changed is never without a way. A device that is made anew, moved to another MAC or set down has
lost what hung on it, and the plan counts it as lost.

Anything on our device that is not wanted goes, whoever put it there: the device is wholly ours. Elsewhere ours are

    routes with our protocol number
    routes that rival ours: into a peer's subnet or for the same destination, where they win by length or metric
    addresses that are our device's too, and those on loopback that lie in a peer's subnet: packets for it would end here

and devices with our alias that none of our tunnels has. Any other interface's address is its way to a network of its own, and
stays; a peer in whose subnet it lies is left out (`overlay.wish`). A route that the kernel keeps beside an address of our
device comes and goes with it. A plan that is cut short at any action and computed again reaches the same end.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from overlay.model import (
    OURS,
    ROUTE_PROTOCOL,
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Device,
    DropFdb,
    DropNeighbour,
    DropPeer,
    DropRoute,
    Fdb,
    LocalAddress,
    PutFdb,
    PutNeighbour,
    PutPeer,
    PutRoute,
    Range,
    RemoveAddress,
    Route,
    RouteKind,
    Seen,
    SeenDevice,
    VxlanDevice,
    Wanted,
    WireGuardPeer,
)
from overlay.spans import Spans

_KERNEL = 2  # RTPROT_KERNEL: the kernel's own, for an address


def actions(wanted: Wanted, seen: Seen) -> Iterator[Action]:
    """The steps from `seen` to `wanted`, in order; none when they agree."""
    anew = _must_be_made(wanted.device, seen.device)
    strays = [DeleteLink(index, name) for index, name in seen.strays]
    if wanted.device is not None:  # one of them may be ours by another name: the kernel allows no second one of its VNI
        yield from strays
    left = _surviving(wanted.device, seen, anew=anew)
    if wanted.device is not None:
        yield from _device(wanted.device, seen.device)
    wrong = _wrong_addresses(wanted, left.addresses)
    yield from _addresses(wanted, left.addresses, wrong)
    drop_routes = list(_route_drops(wanted, left, wrong))
    yield from _fdb_puts(wanted.fdb, left.fdb)
    yield from (PutNeighbour(one) for one in wanted.neighbours if one not in left.neighbours)
    peers = {peer.key: peer for peer in left.peers}
    yield from (PutPeer(peer) for peer in wanted.peers if not _right(peer, peers.get(peer.key)))
    yield from (PutRoute(route) for route in wanted.routes if route not in left.routes)
    yield from drop_routes
    keys = {peer.key for peer in wanted.peers}
    yield from (DropPeer(peer) for peer in sorted(left.peers, key=lambda one: one.key) if peer.key not in keys)
    yield from _fdb_drops(wanted.fdb, left.fdb)
    held = {neighbour.address for neighbour in wanted.neighbours}
    others = (one for one in left.neighbours if one.address not in held)
    yield from (DropNeighbour(one) for one in sorted(others, key=lambda one: one.address))
    if wanted.device is None:  # until now packets may have gone through them
        yield from strays


def _must_be_made(device: Device | None, seen: SeenDevice | None) -> bool:
    if device is None:
        return False
    return seen is None or seen.device is None or not device.same_tunnel(seen.device)


def _surviving(device: Device | None, seen: Seen, *, anew: bool) -> Seen:
    """What is still there after the devices are dealt with. A stray takes what hangs on it with it, now or later."""
    strays = {index for index, _ in seen.strays}
    addresses = frozenset(one for one in seen.addresses if one.device not in strays) if strays else seen.addresses
    routes = frozenset(one for one in seen.routes if one.device not in strays) if strays else seen.routes
    if anew or device is None or seen.device is None:
        return Seen(
            addresses=frozenset(one for one in addresses if one.device != OURS),
            routes=frozenset(one for one in routes if not _hangs_on_ours(one)),
        )
    moved = (
        isinstance(device, VxlanDevice)
        and isinstance(seen.device.device, VxlanDevice)
        and device.mac != seen.device.device.mac
    )  # the kernel forgets a device's neighbours with its MAC
    return Seen(
        addresses=addresses,
        neighbours=frozenset() if moved else seen.neighbours,
        fdb=seen.fdb,
        peers=seen.peers,
        routes=routes if seen.device.up else frozenset(one for one in routes if not _hangs_on_ours(one)),
    )


def _hangs_on_ours(route: Route) -> bool:
    return route.device == OURS and route.kind is RouteKind.UNICAST


def _device(device: Device, seen: SeenDevice | None) -> Iterator[Action]:
    if _must_be_made(device, seen):
        if seen is not None:
            yield DeleteLink(seen.index, device.name)
        yield CreateDevice(device)
        yield AdjustDevice(device)
    elif seen is None or seen.device != device or not seen.up or not seen.marked:
        yield AdjustDevice(device)


def _wrong_addresses(wanted: Wanted, seen: frozenset[LocalAddress]) -> list[LocalAddress]:
    own = {address.interface.ip for address in wanted.addresses}
    peers = Spans((subnet, True) for subnet in wanted.subnets)
    wrong = [
        one
        for one in seen - frozenset(wanted.addresses)
        if one.device == OURS or one.interface.ip in own or (one.leads_nowhere and peers.at(one.interface.ip))
    ]
    wrong.sort(
        key=lambda one: (one.device, one.interface.version, int(one.interface.ip), one.interface.network.prefixlen)
    )
    return wrong


def _addresses(wanted: Wanted, seen: frozenset[LocalAddress], wrong: Iterable[LocalAddress]) -> Iterator[Action]:
    """IPv6 allows an address only once on a device, whatever its length, so that one goes before ours comes. IPv4 takes all
    routes and neighbours from a device with its last address, so ours comes before any goes."""
    own = {address.interface.ip for address in wanted.addresses if address.interface.version == 6}
    in_the_way = [one for one in wrong if one.device == OURS and one.interface.ip in own]
    yield from (RemoveAddress(one) for one in in_the_way)
    yield from (AddAddress(address) for address in wanted.addresses if address not in seen)
    yield from (RemoveAddress(one) for one in wrong if one not in in_the_way)


def _fdb_puts(wanted: Iterable[Fdb], seen: frozenset[Fdb]) -> Iterator[Action]:
    hosts = Counter(entry.mac for entry in seen)
    for entry in wanted:
        if hosts[entry.mac] > 1:  # a replacement finds its host among them and leaves the others
            yield DropFdb(entry)
            yield PutFdb(entry)
        elif entry not in seen:
            yield PutFdb(entry)


def _fdb_drops(wanted: Iterable[Fdb], seen: frozenset[Fdb]) -> Iterator[Action]:
    held = {entry.mac for entry in wanted}
    others = {entry.mac: entry for entry in seen if entry.mac not in held}
    yield from (DropFdb(others[mac]) for mac in sorted(others))


def _right(peer: WireGuardPeer, seen: WireGuardPeer | None) -> bool:
    """An endpoint that has answered lately is right, wherever it is: WireGuard follows a peer that moves."""
    if seen is None or not seen.answered:
        return peer == seen
    return (peer.allowed, peer.psk, peer.keepalive) == (seen.allowed, seen.psk, seen.keepalive)


def _route_drops(wanted: Wanted, left: Seen, wrong: Iterable[LocalAddress]) -> Iterator[DropRoute]:
    """Routes that are not wanted, but for one that a wanted route takes the place of, and for the kernel's own beside our
    addresses and beside those that go."""
    want = frozenset(wanted.routes)
    ours = {route.destination: route for route in want}
    peers = Spans((subnet, True) for subnet in wanted.subnets)
    beside = Counter((route.destination, route.metric) for route in left.routes)
    replaced = {key for route in want - left.routes if beside[key := (route.destination, route.metric)] == 1}
    shadows = {(one.device, one.interface.network) for one in (*wrong, *wanted.addresses)}
    extra = []
    for route in left.routes - want:
        if (route.destination, route.metric) in replaced:
            continue
        if route.protocol == _KERNEL and (route.device, route.destination) in shadows:
            continue
        if _hangs_on_ours(route) or route.protocol == ROUTE_PROTOCOL or _rivals(route, ours, peers):
            extra.append(route)
    yield from (DropRoute(route) for route in sorted(extra, key=_place))


def _rivals(route: Route, ours: Mapping[Range, Route], peers: Spans[bool]) -> bool:
    """Whether a route of somebody else wins against ours. Of our own pods only what drops them does: their bridge's route
    is meant to win."""
    same = ours.get(route.destination)
    if same is None:
        return peers.holding(route.destination) is not None
    if route.metric > same.metric:
        return False
    return same.kind is RouteKind.UNICAST or route.kind is not RouteKind.UNICAST


def _place(route: Route) -> tuple[int, int, int, int, int, str]:
    network = route.destination
    return (
        network.version,
        int(network.network_address),
        network.prefixlen,
        route.metric,
        route.device,
        str(route.gateway),
    )
