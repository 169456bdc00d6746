"""What the plan's actions mean to people: words for the log, object names for metrics, and which of them mend drift.

Drift is what somebody else has done to what was right. A pass that finds it can be told from one that carries out a new
wish by comparing with what was wanted in the last complete pass. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from overlay.model import (
    OURS,
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
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutPeer,
    PutRoute,
    RemoveAddress,
    Route,
    RouteKind,
    VxlanDevice,
    Wanted,
    WireGuardDevice,
    WireGuardPeer,
)

_SHOWN = 5
OBJECTS = ("device", "address", "neighbour", "fdb", "peer", "route")

Hanging = LocalAddress | Neighbour | Fdb | WireGuardPeer | Route


def object_of(action: Action) -> str:
    """Which kind of object an action is about, as metrics name it."""
    match action:
        case DeleteLink() | CreateDevice() | AdjustDevice():
            return "device"
        case AddAddress() | RemoveAddress():
            return "address"
        case PutNeighbour() | DropNeighbour():
            return "neighbour"
        case PutFdb() | DropFdb():
            return "fdb"
        case PutPeer() | DropPeer():
            return "peer"
        case PutRoute() | DropRoute():
            return "route"


def words(action: Action) -> str:
    """What an action does, for the log."""
    match action:
        case DeleteLink(_, name):
            return f"delete device {name}"
        case CreateDevice(device):
            return f"create device {device_words(device)}"
        case AdjustDevice(device):
            return f"set up device {device_words(device)}"
        case AddAddress(address):
            return f"add address {_address(address)}"
        case RemoveAddress(address):
            return f"remove address {_address(address)}"
        case PutNeighbour(neighbour):
            return f"set neighbour {neighbour.address} to {neighbour.mac}"
        case DropNeighbour(neighbour):
            return f"delete neighbour {neighbour.address} at {neighbour.mac}"
        case PutFdb(entry):
            return f"set FDB entry {entry.mac} to {entry.remote}"
        case DropFdb(entry):
            return f"delete FDB entry {entry.mac} to {entry.remote}"
        case PutPeer(peer):
            return f"set peer {peer_words(peer)}"
        case DropPeer(peer):
            return f"delete peer {peer_words(peer)}"
        case PutRoute(route):
            return f"set route {route_words(route)}"
        case DropRoute(route):
            return f"delete route {route_words(route)}"


def device_words(device: Device) -> str:
    match device:
        case VxlanDevice():
            return f"{device.name} ({device.mac}, MTU {device.mtu}, from {device.local})"
        case WireGuardDevice():
            return f"{device.name} (UDP port {device.port}, MTU {device.mtu})"


def _address(address: LocalAddress) -> str:
    elsewhere = "" if address.device == OURS else f" of {interface_words(address.device)}"
    return f"{address.interface}{elsewhere}"


def interface_words(index: int, names: Mapping[int, str] = MappingProxyType({})) -> str:
    return names.get(index, f"interface {index}")


def peer_words(peer: WireGuardPeer) -> str:
    if peer.endpoint is None:
        return peer.key
    address, port = peer.endpoint
    return f"{peer.key} at {f'[{address}]' if address.version == 6 else address}:{port}"


def route_words(route: Route, names: Mapping[int, str] = MappingProxyType({})) -> str:
    """As `ip route` shows it; our own device is not named. `names` are those of interfaces, by index."""
    kind = "" if route.kind is RouteKind.UNICAST else f"{route.kind} "
    via = f" via {route.gateway}" if route.gateway else ""
    device = "" if route.device == OURS else f" on {interface_words(route.device, names)}"
    return f"{kind}{route.destination}{via}{device}"


def summary(steps: Iterable[Action]) -> list[str]:
    """The steps in words; of many steps of one kind the first few, and how many more."""
    lines: list[str] = []
    counts: Counter[type[Action]] = Counter()
    last: dict[type[Action], Action] = {}
    for step in steps:
        kind = type(step)
        counts[kind] += 1
        last[kind] = step
        if counts[kind] <= _SHOWN:
            lines.append(words(step))
    for kind, count in counts.items():
        if count > _SHOWN:
            lines.append(f"... and {count - _SHOWN} more of the kind, the last: {words(last[kind])}")
    return lines


def mended(steps: Sequence[Action], before: Wanted | None) -> list[Action]:
    """Those steps that mend what was right after the last complete pass, for which `before` was wanted. What the wish
    itself has changed since, and what a start finds, is no drift; nor is what a device loses that the wish has changed. A
    device made anew counts once."""
    if before is None:
        return []
    right: set[object] = set(_hanging(before))
    keys = {_key(value) for value in _hanging(before)}
    made = any(isinstance(step, CreateDevice) for step in steps)
    changed = any(isinstance(step, CreateDevice | AdjustDevice) and step.device != before.device for step in steps)

    def drifted(step: Action) -> bool:
        match step:
            case CreateDevice():
                return not changed
            case DeleteLink() | AdjustDevice():
                return not changed and not made
            case AddAddress(value) | PutNeighbour(value) | PutFdb(value) | PutPeer(value) | PutRoute(value):
                return value in right and not (changed and _is_ours(value))
            case RemoveAddress(value) | DropNeighbour(value) | DropFdb(value) | DropPeer(value) | DropRoute(value):
                return _key(value) not in keys

    return [step for step in steps if drifted(step)]


def _hanging(wanted: Wanted) -> Iterator[Hanging]:
    yield from wanted.addresses
    yield from wanted.neighbours
    yield from wanted.fdb
    yield from wanted.peers
    yield from wanted.routes


def _is_ours(value: Hanging) -> bool:
    """Whether it hangs on our device."""
    match value:
        case LocalAddress(device=device) | Route(device=device):
            return device == OURS
        case Neighbour() | Fdb() | WireGuardPeer():
            return True


def _key(value: Hanging) -> tuple[object, ...]:
    """What there can be one of: the same key with another value is the same object, changed."""
    match value:
        case LocalAddress():
            return "address", value.interface.ip, value.device
        case Neighbour():
            return "neighbour", value.address
        case Fdb():
            return "fdb", value.mac
        case WireGuardPeer():
            return "peer", value.key
        case Route():
            return "route", value.destination, value.gateway, value.device, value.metric, value.kind
