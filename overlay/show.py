"""`wherry overlay show`: what is wanted against what the kernel has, per peer. Pure.

The judgement is the daemon's own: a `Look` holds the wish, what is there, and the steps that would lead from the one to the
other. What no step is about is right; each step is told where it belongs: to a peer, to the tunnel's device, or to what
somebody has put beside them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from linux.iptables.rules import Family
from overlay import drift
from overlay.look import Look
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
    Lease,
    LocalAddress,
    Neighbour,
    PublicKey,
    PutFdb,
    PutNeighbour,
    PutPeer,
    PutRoute,
    Range,
    RemoveAddress,
    Route,
    Seen,
    SeenDevice,
    Tunnel,
    Vtep,
    VxlanDevice,
    Wanted,
    WireGuardDevice,
    WireGuardPeer,
    host,
)
from overlay.spans import Spans


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    STRANGE = "not wanted"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in the kernel. `words`: what it should be (or, where it is not wanted, is); `found`: what is there instead."""

    object: str
    words: str
    state: State = State.OK
    found: str = ""

    @property
    def ok(self) -> bool:
        return self.state is State.OK

    @property
    def told(self) -> str:
        """What is wrong, in short."""
        match self.state:
            case State.OK:
                return ""
            case State.STRANGE:
                return f"{self.object} not wanted: {self.words}"
            case State.MISSING | State.WRONG:
                return f"{self.object} {self.state}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node in one family. `by`: how it is reached; `refused`: why it is left out."""

    node: str
    lease: Lease | None
    by: str = ""
    entries: tuple[Entry, ...] = ()
    refused: str = ""

    @property
    def ok(self) -> bool:
        return not self.refused and all(entry.ok for entry in self.entries)

    @property
    def words(self) -> str:
        if self.refused:
            return f"left out: {self.refused}"
        return ", ".join(entry.told for entry in self.entries if not entry.ok) or "ok"


@dataclass(frozen=True, slots=True)
class Path:
    """One tunnel of this node. `trouble`: why it cannot be compared. `entries` are its device and addresses, and what is not
    wanted and belongs to no peer."""

    name: str
    families: tuple[Family, ...]
    own: tuple[Lease, ...] = ()
    mtu: int = 0
    entries: tuple[Entry, ...] = ()
    peers: tuple[Peer, ...] = ()
    trouble: str = ""

    @property
    def ok(self) -> bool:
        return not self.trouble and all(entry.ok for entry in self.entries) and all(peer.ok for peer in self.peers)


@dataclass(frozen=True, slots=True)
class Report:
    """Of this node. `others` are nodes whose claims cannot be read; `beside` what there is beside the tunnels: rules,
    subnet.env, ..."""

    node: str
    backend: str
    registry: str
    paths: tuple[Path, ...]
    beside: tuple[Entry, ...] = ()
    others: tuple[Peer, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        parts: tuple[Iterable[Path | Peer | Entry], ...] = (self.paths, self.others, self.beside)
        return all(one.ok for part in parts for one in part)

    @property
    def peers(self) -> tuple[Peer, ...]:
        found = [peer for path in self.paths for peer in path.peers] + list(self.others)
        return tuple(sorted(found, key=lambda one: (one.node, one.lease.family if one.lease else 0)))


def narrowed(report: Report, node: str) -> Report:
    """The same of one node alone; of all where `node` is empty."""
    if not node:
        return report
    others = tuple(peer for peer in report.others if peer.node == node)
    mine = node == report.node
    paths = tuple(
        replace(
            one,
            own=one.own if mine else (),
            entries=one.entries if mine else (),
            trouble=one.trouble if mine else "",
            peers=tuple(peer for peer in one.peers if peer.node == node),
        )
        for one in report.paths
    )
    return replace(report, paths=paths, others=others, beside=report.beside if mine else ())


def path(tunnel: Tunnel, look: Look, names: Mapping[int, str]) -> Path:
    """What one tunnel is against what it should be; `names` are those of the interfaces, by index."""
    wanted = look.wish.wanted
    words = _Words(look.seen, names)
    whose = Spans((lease.subnet, lease) for lease in look.wish.peers)
    strange: dict[Lease | None, list[Entry]] = {}
    for step in look.steps:
        if entry := words.strange(step, wanted):
            span = _span(step)
            strange.setdefault(whose.holding(span) if span else None, []).append(entry)
    wrong = frozenset(map(_put, look.steps))
    parts = _Parts(wanted)
    peers = [
        Peer(
            lease.node,
            lease,
            _by(lease, parts),
            (*(words.entry(value, wrong) for value in parts.of(lease)), *strange.get(lease, ())),
        )
        for lease in look.wish.peers
    ]
    left_out = [Peer(node, None, refused=reason) for node, reason in look.wish.refused.items()]
    entries = [
        *_device(wanted.device, look.seen.device, look.steps),
        *(_address(value, wrong) for value in wanted.addresses),
        *(words.entry(route, wrong) for route in parts.general),
        *strange.get(None, ()),
    ]
    return Path(
        tunnel.name,
        tunnel.families,
        tuple(look.own.values()),
        look.wish.mtu,
        tuple(entries),
        (*peers, *left_out),
    )


class _Parts:
    """A wish by peer. `general` is what belongs to none: WireGuard's one route, the blackhole."""

    def __init__(self, wanted: Wanted) -> None:
        self._neighbours = {one.address: one for one in wanted.neighbours}
        self._fdb = {one.mac: one for one in wanted.fdb}
        self._routes = {one.destination: one for one in wanted.routes}
        self._peers = {one.key: one for one in wanted.peers}
        subnets = set(wanted.subnets)
        self.general = [one for one in wanted.routes if one.destination not in subnets]

    def of(self, lease: Lease) -> Iterator[Neighbour | Fdb | Route | WireGuardPeer]:
        if lease.gateway in self._neighbours:
            neighbour = self._neighbours[lease.gateway]
            yield from (self._fdb[neighbour.mac], neighbour)
        if isinstance(lease.data, PublicKey):
            yield self._peers[lease.data.key]
        if lease.subnet in self._routes:
            yield self._routes[lease.subnet]

    def tunnelled(self, lease: Lease) -> bool:
        return lease.gateway in self._neighbours


def _by(lease: Lease, parts: _Parts) -> str:
    match lease.data:
        case Vtep(_, mac):
            return f"vxlan {mac}" if parts.tunnelled(lease) else "direct"
        case PublicKey(key):
            return f"wireguard {key}"
        case None:
            return "host-gw"


def _put(step: Action) -> object:
    match step:
        case AddAddress(value) | PutNeighbour(value) | PutFdb(value) | PutPeer(value) | PutRoute(value):
            return value
        case _:
            return None


class _Words:
    """How things are said; what is there instead of what is wanted is looked for in `seen`."""

    def __init__(self, seen: Seen, names: Mapping[int, str]) -> None:
        self._seen, self._names = seen, names

    def entry(self, value: Neighbour | Fdb | Route | WireGuardPeer, wrong: frozenset[object]) -> Entry:
        object_, words, there = self._about(value)
        if value not in wrong:
            return Entry(object_, words)
        found = "; ".join(sorted(there))
        return Entry(object_, words, State.WRONG if found else State.MISSING, found)

    def _about(self, value: Neighbour | Fdb | Route | WireGuardPeer) -> tuple[str, str, list[str]]:
        """(kind, words, what has its place in the kernel)."""
        seen = self._seen
        match value:
            case Neighbour(address, mac):
                macs = [one.mac for one in seen.neighbours if one.address == address]
                return "neighbour", f"{address} at {mac}", [f"at {one}" for one in macs]
            case Fdb(mac, remote):
                remotes = [one for one in seen.fdb if one.mac == mac]
                odd = [f"to {one.remote}{'' if one.plain else ', on a port or VNI of its own'}" for one in remotes]
                return "fdb", f"{mac} to {remote}", odd
            case WireGuardPeer(key=key):
                keys = [one for one in seen.peers if one.key == key]
                return "peer", drift.peer_words(value), [_wireguard(one) for one in keys]
            case Route(destination=destination, metric=metric):
                ways = [one for one in seen.routes if (one.destination, one.metric) == (destination, metric)]
                return "route", drift.route_words(value, self._names), [self._way(one) for one in ways]

    def strange(self, step: Action, wanted: Wanted) -> Entry | None:
        """What a step takes away, unless something of ours takes its place."""
        match step:
            case RemoveAddress(address):
                where = "" if address.device == OURS else f" on {drift.interface_words(address.device, self._names)}"
                return Entry("address", f"{address.interface}{where}", State.STRANGE)
            case DropRoute(route):
                return Entry("route", self._way(route), State.STRANGE)
            case DropNeighbour(neighbour):
                return Entry("neighbour", f"{neighbour.address} at {neighbour.mac}", State.STRANGE)
            case DropFdb(entry) if entry not in wanted.fdb:
                return Entry("fdb", f"{entry.mac} to {entry.remote}", State.STRANGE)
            case DropPeer(peer):
                return Entry("peer", drift.peer_words(peer), State.STRANGE)
            case _:
                return None

    def _way(self, route: Route) -> str:
        return f"{drift.route_words(route, self._names)} proto {route.protocol}"


def _wireguard(peer: WireGuardPeer) -> str:
    return f"{drift.peer_words(peer)} for {', '.join(sorted(map(str, peer.allowed))) or 'nothing'}"


def _address(value: LocalAddress, wrong: frozenset[object]) -> Entry:
    return Entry("address", str(value.interface), State.MISSING if value in wrong else State.OK)


def _span(step: Action) -> Range | None:
    match step:
        case RemoveAddress(address):
            return host(address.interface.ip).network
        case DropRoute(route):
            return route.destination
        case _:
            return None


def _device(device: Device | None, seen: SeenDevice | None, steps: Sequence[Action]) -> Iterator[Entry]:
    made = any(isinstance(step, CreateDevice) for step in steps)
    adjusted = any(isinstance(step, AdjustDevice) for step in steps)
    if device is not None:
        words = drift.device_words(device)
        if seen is None:
            yield Entry("device", words, State.MISSING)
        elif made or adjusted:
            yield Entry("device", words, State.WRONG, "; ".join(_differences(device, seen)))
        else:
            yield Entry("device", words)
    for step in steps:
        if isinstance(step, DeleteLink) and (device is None or step.name != device.name):
            yield Entry("device", f"{step.name}, interface {step.index}, which has our alias", State.STRANGE)


def _differences(device: Device, seen: SeenDevice) -> Iterator[str]:
    match device, seen.device:
        case VxlanDevice(), VxlanDevice() as other:
            names = ("vni", "port", "underlay", "local", "mtu", "mac", "learning", "gbp")
            yield from (
                f"{name} {getattr(other, name)}" for name in names if getattr(device, name) != getattr(other, name)
            )
        case WireGuardDevice(), WireGuardDevice() as other:
            yield from (
                f"{name} {getattr(other, name)}"
                for name in ("port", "mtu")
                if getattr(device, name) != getattr(other, name)
            )
            if device.private_key != other.private_key:
                yield "another key"
        case _:
            yield "a device of another kind, or with other options"
    if not seen.up:
        yield "down"
    if not seen.marked:
        yield "without our alias"


def _differing(device: Device, other: Device, *names: str) -> Iterator[str]:
    for name in names:
        if getattr(device, name) != getattr(other, name):
            yield f"{name} {getattr(other, name)}"


def document(report: Report) -> dict[str, Any]:
    """For -o json."""
    return {
        "node": report.node,
        "backend": report.backend,
        "registry": report.registry,
        "ok": report.ok,
        "tunnels": [
            {
                "device": one.name or None,
                "families": [f"IPv{family:d}" for family in one.families],
                "ok": one.ok,
                "trouble": one.trouble or None,
                "mtu": one.mtu or None,
                "subnets": [str(lease.subnet) for lease in one.own],
                "publicIPs": [str(lease.public_ip) for lease in one.own],
                "entries": list(map(_entry_document, one.entries)),
            }
            for one in report.paths
        ],
        "peers": [
            {
                "node": peer.node,
                "family": f"IPv{peer.lease.family:d}" if peer.lease else None,
                "subnet": str(peer.lease.subnet) if peer.lease else None,
                "publicIP": str(peer.lease.public_ip) if peer.lease else None,
                "by": peer.by or None,
                "ok": peer.ok,
                "refused": peer.refused or None,
                "entries": list(map(_entry_document, peer.entries)),
            }
            for peer in report.peers
        ],
        "beside": list(map(_entry_document, report.beside)),
        "notes": list(report.notes),
    }


def _entry_document(entry: Entry) -> Mapping[str, Any]:
    return {"object": entry.object, "state": str(entry.state), "wanted": entry.words, "found": entry.found or None}
