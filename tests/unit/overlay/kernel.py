"""A kernel that holds one tunnel: it refuses what the real one refuses, and forgets what the real one forgets."""

from dataclasses import replace

from overlay.model import (
    OURS,
    Action,
    AddAddress,
    Address,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    DropFdb,
    DropNeighbour,
    DropPeer,
    DropRoute,
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
    WireGuardPeer,
)

INDEX = 99
"""Of a device that is made."""


class Refused(Exception):
    pass


def after(seen: Seen, action: Action) -> Seen:
    """The kernel's state once it has carried out one action."""
    match action:
        case DeleteLink(index, _):
            return _without_link(seen, index)
        case CreateDevice(device):
            if seen.device or seen.strays:
                raise Refused("EEXIST: a device with this name or VNI is there")
            return replace(seen, device=SeenDevice(INDEX, device, up=False, marked=False))
        case AdjustDevice(device):
            assert seen.device, "ENODEV"
            assert seen.device.device, "an odd device cannot become ours"
            assert device.same_tunnel(seen.device.device)
            before = seen.device.device
            moved = isinstance(device, VxlanDevice) and isinstance(before, VxlanDevice) and device.mac != before.mac
            shadows = set() if seen.device.up else {_shadow(one) for one in seen.addresses if _connects(one, OURS)}
            return replace(
                seen,
                device=SeenDevice(seen.device.index, device, up=True, marked=True),
                neighbours=frozenset() if moved else seen.neighbours,
                routes=seen.routes | shadows,
            )
        case AddAddress(address):
            return _with_address(seen, address)
        case RemoveAddress(address):
            return _without_address(seen, address)
        case PutRoute(route):
            return _with_route(seen, route)
        case DropRoute(route):
            return replace(seen, routes=seen.routes - set(sorted(_matches(seen, route), key=str)[:1]))
        case _:
            return _entry(seen, action)


def _entry(seen: Seen, action: Action) -> Seen:
    if seen.device is None:
        raise Refused(f"ENODEV: {action}")
    match action:
        case PutNeighbour(one):
            others = {each for each in seen.neighbours if each.address != one.address}
            return replace(seen, neighbours=frozenset(others | {one}))
        case DropNeighbour(one):
            return replace(seen, neighbours=frozenset(each for each in seen.neighbours if each.address != one.address))
        case PutFdb(entry):
            there = sorted((one for one in seen.fdb if one.mac == entry.mac), key=str)
            return seen if entry in there else replace(seen, fdb=seen.fdb - set(there[:1]) | {entry})
        case DropFdb(entry):
            return replace(seen, fdb=frozenset(one for one in seen.fdb if one.mac != entry.mac))
        case PutPeer(peer):
            others_left = {_less(each, peer.allowed) for each in seen.peers if each.key != peer.key}
            return replace(seen, peers=frozenset(others_left | {peer}))
        case DropPeer(peer):
            return replace(seen, peers=frozenset(each for each in seen.peers if each.key != peer.key))
        case _:
            raise AssertionError(action)


def _less(peer: WireGuardPeer, taken: frozenset[Range]) -> WireGuardPeer:
    """An allowed address has one peer: who asks last, gets it."""
    return replace(peer, allowed=peer.allowed - taken)


def _without_link(seen: Seen, index: int) -> Seen:
    ours = bool(seen.device and seen.device.index == index)
    lies = {OURS} if ours else {index}
    left = replace(
        seen,
        strays=tuple(one for one in seen.strays if one[0] != index),
        addresses=frozenset(one for one in seen.addresses if one.device not in lies),
        routes=frozenset(one for one in seen.routes if one.device not in lies or one.kind is not RouteKind.UNICAST),
    )
    return replace(left, device=None, neighbours=frozenset(), fdb=frozenset(), peers=frozenset()) if ours else left


def _shadow(address: LocalAddress) -> Route:
    """The route that the kernel keeps beside an address, IPv4's with the address as its source. Beside a /32 it keeps none."""
    network, four = address.interface.network, address.interface.version == 4
    return Route(network, None, address.device, protocol=2, metric=0 if four else 256, plain=not four)


def shadowed(address: LocalAddress) -> bool:
    return address.interface.version == 6 or address.interface.network.prefixlen < 32


def _connects(address: LocalAddress, device: int) -> bool:
    """Whether the device, once it is up, has a route beside the address; we add IPv6 addresses without one."""
    return address.device == device and address.interface.version == 4 and shadowed(address)


def _without_address(seen: Seen, address: LocalAddress) -> Seen:
    """With its last IPv4 address a device loses its routes and neighbours."""
    if address not in seen.addresses:
        return seen
    left = replace(seen, addresses=seen.addresses - {address}, routes=seen.routes - {_shadow(address)})
    if address.interface.version == 6 or any(one.device == address.device for one in left.addresses):
        return left
    if address.device != OURS:
        return left  # other devices have more addresses than we see
    routes = frozenset(one for one in left.routes if one.device != OURS or one.kind is not RouteKind.UNICAST)
    return replace(left, routes=routes, neighbours=frozenset())


def _with_address(seen: Seen, address: LocalAddress) -> Seen:
    if seen.device is None and address.device == OURS:
        raise Refused(f"ENODEV: {address}")
    if address in seen.addresses:
        return seen
    if address.interface.version == 6:
        for other in seen.addresses:
            same = other.device == address.device and other.interface.ip == address.interface.ip
            if same and other != address:
                return seen  # it is there, of another length: the kernel leaves it at that, and we take that for done
    up = address.device != OURS or (seen.device is not None and seen.device.up)
    shadow = {_shadow(address)} if up and _connects(address, address.device) else set()
    return replace(seen, addresses=seen.addresses | {address}, routes=seen.routes | shadow)


def _with_route(seen: Seen, route: Route) -> Seen:
    if route.kind is RouteKind.UNICAST:
        if any(one.interface.ip == route.gateway for one in seen.addresses):
            raise Refused(f"EINVAL: the gateway of {route} is this machine")
        if route.device == OURS:
            if seen.device is None or not seen.device.up:
                raise Refused("ENETDOWN")
            if route.gateway:
                assert _remote(seen, route.gateway), "a route before its entries: the kernel would ask into the void"
    rivals = [one for one in seen.routes if (one.destination, one.metric) == (route.destination, route.metric)]
    return replace(seen, routes=seen.routes - set(sorted(rivals, key=str)[:1]) | {route})


def _remote(seen: Seen, gateway: Address) -> Address | None:
    mac = next((one.mac for one in seen.neighbours if one.address == gateway), None)
    return next((entry.remote for entry in sorted(seen.fdb, key=str) if entry.mac == mac), None)


def _matches(seen: Seen, route: Route) -> list[Route]:
    """The kernel does not look at all of a route to find the one to delete, and of a route that is not plain we tell less."""

    def key(one: Route) -> tuple[object, ...]:
        return one.destination, one.metric, one.device, one.protocol, one.kind, one.gateway if route.plain else None

    return [one for one in seen.routes if key(one) == key(route)]


def settled(seen: Seen) -> Seen:
    """What a kernel can hold: nothing hangs on a device that is not there, no routes lie on one that is down, an IPv6
    address is on a device once, and equal IPv6 routes through gateways are one route with several next hops."""
    index = seen.device.index if seen.device else None
    strays = tuple(one for one in seen.strays if one[0] != index)
    seen = replace(seen, strays=strays, addresses=_distinct(seen.addresses), routes=_merged(seen.routes))
    shadows = {_shadow(one) for one in seen.addresses if shadowed(one)}
    seen = replace(seen, routes=seen.routes | shadows)
    if seen.device and seen.device.up:
        return seen
    routes = frozenset(one for one in seen.routes if one.device != OURS or one.kind is not RouteKind.UNICAST)
    if seen.device:
        return replace(seen, routes=routes)
    addresses = frozenset(one for one in seen.addresses if one.device != OURS)
    return Seen(strays=strays, addresses=addresses, routes=routes)


def _distinct(addresses: frozenset[LocalAddress]) -> frozenset[LocalAddress]:
    found: dict[object, LocalAddress] = {}
    for one in sorted(addresses, key=str):
        ip = one.interface.ip if one.interface.version == 6 else one.interface
        found.setdefault((one.device, ip), one)
    return frozenset(found.values())


def _merged(routes: frozenset[Route]) -> frozenset[Route]:
    found: dict[object, Route] = {}
    for one in sorted(routes, key=str):
        key: object = one
        if one.gateway and one.destination.version == 6 and one.kind is RouteKind.UNICAST:
            key = one.destination, one.metric
        found[key] = replace(one, plain=False) if key in found else one
    return frozenset(found.values())


def way(seen: Seen, subnet: Range) -> Address | str | None:
    """Which host (or, over WireGuard, which peer) a packet to the subnet goes to; None: nowhere."""
    found = [
        one for one in seen.routes if subnet.version == one.destination.version and _inside(subnet, one.destination)
    ]
    best = min(found, key=lambda one: (-one.destination.prefixlen, one.metric, str(one)), default=None)
    if best is None or best.kind is not RouteKind.UNICAST:
        return None
    if best.device != OURS:
        return best.gateway
    if best.gateway:
        return _remote(seen, best.gateway)
    return next((peer.key for peer in seen.peers if subnet in peer.allowed), None)


def _inside(subnet: Range, other: Range) -> bool:
    return subnet.network_address in other and subnet.prefixlen >= other.prefixlen
