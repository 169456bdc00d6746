"""A kernel that holds one node's overlay: it refuses what the real one refuses, and forgets what the real one forgets."""

from dataclasses import replace
from ipaddress import IPv4Interface

from overlay.model import (
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    DropFdb,
    DropNeighbour,
    DropRoute,
    DropStrayRoute,
    Fdb,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Seen,
    SeenDevice,
)


class Refused(Exception):
    pass


def after(seen: Seen, action: Action) -> Seen:
    """The kernel's state once it has carried out one action."""
    match action:
        case DeleteLink(index, _):
            if seen.device and seen.device.index == index:
                return Seen(strays=seen.strays, stray_routes=seen.stray_routes)
            return replace(seen, strays=tuple(one for one in seen.strays if one[0] != index))
        case CreateDevice(device):
            if seen.device or seen.strays:
                raise Refused("EEXIST: a device with this name or VNI is there")
            return replace(seen, device=SeenDevice(99, device, up=False, marked=False))
        case DropStrayRoute(route):
            return replace(seen, stray_routes=tuple(one for one in seen.stray_routes if one != route))
    if seen.device is None:
        raise Refused(f"ENODEV: {action}")
    match action:
        case AdjustDevice(device):
            assert seen.device.device
            assert device.same_tunnel(seen.device.device)
            moved = seen.device.device.mac != device.mac
            return replace(
                seen,
                device=SeenDevice(seen.device.index, device, up=True, marked=True),
                neighbours=frozenset() if moved else seen.neighbours,
            )
        case AddAddress(address):
            return replace(seen, addresses=seen.addresses | {IPv4Interface((address, 32))})
        case RemoveAddress(interface):
            return replace(seen, addresses=seen.addresses - {interface})
        case PutNeighbour(one):
            others = {each for each in seen.neighbours if each.address != one.address}
            return replace(seen, neighbours=frozenset(others | {one}))
        case PutFdb(entry):
            return replace(seen, fdb=frozenset({each for each in seen.fdb if each.mac != entry.mac} | {entry}))
        case PutRoute(route):
            if not seen.device.up:
                raise Refused("ENETDOWN")
            mac = next((one.mac for one in seen.neighbours if one.address == route.gateway), None)
            assert mac, "a route before its neighbour: the kernel would ask for it into the void"
            assert any(entry.mac == mac for entry in seen.fdb), "a route before its FDB entry"
            key = route.destination, route.metric
            rivals = sorted((one for one in seen.routes if (one.destination, one.metric) == key), key=str)
            return replace(seen, routes=(seen.routes - set(rivals[:1])) | {route})
        case DropRoute(route):
            return replace(seen, routes=seen.routes - {route})
        case DropFdb(Fdb(mac=mac)):
            return replace(seen, fdb=frozenset(one for one in seen.fdb if one.mac != mac))
        case DropNeighbour(one):
            return replace(seen, neighbours=frozenset(each for each in seen.neighbours if each.address != one.address))
    raise AssertionError(action)


def settled(seen: Seen) -> Seen:
    """What a kernel can hold: nothing hangs on a device that is not there, no routes lie on one that is down."""
    if seen.device is None:
        return Seen(strays=seen.strays, stray_routes=seen.stray_routes)
    return seen if seen.device.up else replace(seen, routes=frozenset())
