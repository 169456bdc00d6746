"""What the plan's actions mean to people: words for the log, object names for metrics, and which of them mend drift.

Drift is what somebody else has done to what was right. A pass that finds it can be told from one that carries out a new
wish by comparing with what was wanted in the last complete pass. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface

from overlay import plan
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
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Route,
    StrayRoute,
    Wanted,
)

_SHOWN = 5
OBJECTS = ("device", "address", "neighbour", "fdb", "route")

Dropped = IPv4Interface | Neighbour | Fdb | Route | StrayRoute


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
        case PutRoute() | DropRoute() | DropStrayRoute():
            return "route"


def words(action: Action) -> str:
    """What an action does, for the log."""
    match action:
        case DeleteLink(_, name):
            return f"delete device {name}"
        case CreateDevice(device):
            return f"create device {device.name} ({device.mac}, MTU {device.mtu}, from {device.local})"
        case AdjustDevice(device):
            return f"set device {device.name} up with MAC {device.mac} and MTU {device.mtu}"
        case AddAddress(address):
            return f"add address {address}/32"
        case RemoveAddress(interface):
            return f"remove address {interface}"
        case PutNeighbour(neighbour):
            return f"set neighbour {neighbour.address} to {neighbour.mac}"
        case PutFdb(entry):
            return f"set FDB entry {entry.mac} to {entry.remote}"
        case PutRoute(route):
            return f"set route {route.destination} via {route.gateway}"
        case DropRoute(route):
            return f"delete route {route.destination} via {route.gateway}"
        case DropStrayRoute(stray):
            return f"delete route {stray.destination} of ours on interface {stray.index}"
        case DropFdb(entry):
            return f"delete FDB entry {entry.mac} to {entry.remote}"
        case DropNeighbour(neighbour):
            return f"delete neighbour {neighbour.address}"


def summary(steps: Sequence[Action]) -> list[str]:
    """The steps in words; of many steps of one kind the first few, and how many more."""
    lines: list[str] = []
    counts: Counter[type[Action]] = Counter()
    for step in steps:
        counts[type(step)] += 1
        if counts[type(step)] <= _SHOWN:
            lines.append(words(step))
    for kind, count in counts.items():
        if count > _SHOWN:
            last = next(step for step in reversed(steps) if type(step) is kind)
            lines.append(f"... and {count - _SHOWN} more of the kind, the last: {words(last)}")
    return lines


def mended(steps: Iterable[Action], before: Wanted | None) -> list[Action]:
    """Those steps that mend what was right after the last complete pass, for which `before` was wanted. What the wish
    itself has changed since, and what a start finds, is no drift; a device made anew counts once."""
    if before is None:
        return []
    known = [value for each in plan.entries(before.peers) for value in each]
    right: set[object] = {before.device, before.address, *known}
    keys = {_key(value) for value in known} | {("address", before.address)}
    found: list[Action] = []
    for step in steps:
        put, dropped = _put(step), _dropped(step)
        if isinstance(step, AdjustDevice) and any(isinstance(one, CreateDevice) for one in found):
            continue
        if (put is not None and put in right) or (dropped is not None and _key(dropped) not in keys):
            found.append(step)
    return found


def _put(action: Action) -> object | None:
    match action:
        case CreateDevice(value) | AdjustDevice(value):
            return value
        case AddAddress(address):
            return address
        case PutNeighbour(neighbour):
            return neighbour
        case PutFdb(entry):
            return entry
        case PutRoute(route):
            return route
        case _:
            return None


def _dropped(action: Action) -> Dropped | None:
    match action:
        case RemoveAddress(interface):
            return interface
        case DropNeighbour(neighbour):
            return neighbour
        case DropFdb(entry):
            return entry
        case DropRoute(route):
            return route
        case DropStrayRoute(stray):
            return stray
        case _:
            return None


def _key(value: object) -> tuple[object, ...]:
    """What there can be one of: the same key with another value is the same object, changed."""
    match value:
        case IPv4Interface():
            return "address", value.ip
        case Neighbour():
            return "neighbour", value.address
        case Fdb():
            return "fdb", value.mac
        case Route():
            return "route", value.destination, value.gateway, value.metric
        case _:
            return "stray", value
