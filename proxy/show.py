"""`wherry proxy show`: what is wanted against what the kernel does, per Service port.

The kernel is not compared rule by rule: for each address and port that a Service should have, a packet is traced through the
rules that are there, and the endpoints where it may end are compared with those that the API wants. So the answer is true in
every mode, also over stock kube-proxy's rules, and a rule of somebody else that drops the packet counts against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from linux.iptables.rules import Family
from linux.packets import Address, Base, Ending, Node, Packet, follow
from proxy.kernel_rules import At, Entrance, KernelRules
from proxy.model import Endpoint, Network, Reach, ServicePort
from proxy.wanted import Wanted, destinations

_STRANGER = {Family.V4: ip_address("192.0.2.1"), Family.V6: ip_address("2001:db8::1")}  # documentation's: nobody's

_NOWHERE = "wherry-show"  # where no route leads to the sender: a name that no interface has


@dataclass(frozen=True, slots=True)
class Place:
    """One address and port of a Service port. `wanted` and `seen` are endpoints as `ip:port`; where there are none,
    `verdict` says what becomes of a packet (`refused`, `dropped`, `passed`), and `should` what was wanted of it. `whose`:
    the other Service port that has it, where several claim it: it says nothing of this one then."""

    what: str
    at: At
    wanted: frozenset[str]
    seen: frozenset[str]
    should: str
    verdict: str
    packets: int | None
    octets: int | None
    whose: str = ""

    @property
    def missing(self) -> frozenset[str]:
        return self.wanted - self.seen

    @property
    def stale(self) -> frozenset[str]:
        return self.seen - self.wanted

    @property
    def in_sync(self) -> bool:
        return bool(self.whose) or (not self.missing and not self.stale and self.should == self.verdict)

    @property
    def words(self) -> str:
        """What is wrong; empty where nothing is."""
        said = []
        if self.missing:
            said.append(f"{len(self.missing)} missing")
        if self.stale:
            said.append(f"{len(self.stale)} stale")
        if not said and self.should != self.verdict:
            said.append(f"{self.verdict}, should be {self.should}")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Shown:
    """One Service port with all of its places. `port` is None for what only the kernel knows."""

    name: str
    family: Family
    places: tuple[Place, ...]
    port: ServicePort | None = None

    @property
    def in_sync(self) -> bool:
        return self.port is not None and all(place.in_sync for place in self.places)

    @property
    def packets(self) -> int | None:
        counted = [place.packets for place in self.places if place.packets is not None]
        return sum(counted) if counted else None

    @property
    def octets(self) -> int | None:
        counted = [place.octets for place in self.places if place.octets is not None]
        return sum(counted) if counted else None

    @property
    def words(self) -> str:
        if self.port is None:
            return "stale: no such Service"
        wrong = dict.fromkeys(place.words for place in self.places if not place.in_sync)
        lost = dict.fromkeys(place.whose for place in self.places if place.whose)
        return "; ".join(wrong) or (f"in sync, one place is of {', '.join(lost)}" if lost else "in sync")


@dataclass(frozen=True, slots=True)
class Report:
    """Of one node. `compared`: the API was asked, so that `in_sync` means something."""

    node: str
    modes: tuple[str, ...]
    shown: tuple[Shown, ...]
    compared: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def in_sync(self) -> bool:
        return not self.compared or all(each.in_sync for each in self.shown)


@dataclass(slots=True)
class View:
    """One family's rules and node, ready to be asked about many packets. `node_ports_on`: addresses of the node of which
    at least one serves NodePorts; empty where none does. `pods`: the range that the proxy takes for pods' own, where it
    knows them by one."""

    rules: KernelRules
    node: Node
    node_ports_on: tuple[Address, ...]
    pods: Network | None = None
    bases: list[Base] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bases = self.rules.bases(self.node)

    def outside(self, address: Address) -> bool:
        """Neither a pod nor the node: nobody for whom rules make an exception."""
        return not self.node.holds(address) and not (self.pods is not None and address in self.pods)

    def trace(self, at: At, source: Address) -> frozenset[Ending]:
        """Of a packet that comes in where the node would answer it."""
        found: frozenset[Ending] = frozenset()
        arrives = (self.node.device(source) if self.node.device else "") or _NOWHERE
        for address in [at.address] if at.address else self.node_ports_on:
            packet = Packet(source, address, at.port, at.protocol, in_interface=arrives)
            found = follow(self.bases, packet, self.node)
            if any(ending.rewritten or ending.verdict != "ACCEPT" for ending in found):
                break
        return found


def compared(wanted: Wanted, views: Sequence[View], only: str = "") -> list[Shown]:
    """Every Service port that is wanted, and those that only the kernel has. `only`: `namespace/name`, one Service."""
    found: list[Shown] = []
    for view in views:
        family = view.rules.family
        entrances = _by_place(view.rules.entrances())
        mine: set[At] = set()
        owners = wanted.names(family)
        for port in wanted.ports(family):
            places = destinations(port)
            mine.update(places)
            if not only or _of(port.name, only):
                found.append(Shown(port.name, family, tuple(_places(port, places, view, entrances, owners)), port))
        found += _unknown(view, {at: each for at, each in entrances.items() if at not in mine}, only)
    return sorted(found, key=lambda each: (each.name, each.family))


def seen(views: Sequence[View], only: str = "") -> list[Shown]:
    """What the kernel alone tells."""
    found: list[Shown] = []
    for view in views:
        found += _unknown(view, _by_place(view.rules.entrances()), only)
    return sorted(found, key=lambda each: (each.name, each.family))


def _of(name: str, service: str) -> bool:
    return service in (name, name.partition(":")[0])


def _by_place(entrances: Iterable[Entrance]) -> dict[At, Entrance]:
    """Several rules for one address and port become one, with their counts added."""
    found: dict[At, Entrance] = {}
    for each in entrances:
        before = found.get(each.at, Entrance(each.at, ""))
        counts = _sum(before.packets, each.packets), _sum(before.octets, each.octets)
        found[each.at] = Entrance(each.at, before.name or each.name, *counts)
    return found


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _places(
    port: ServicePort, places: Sequence[At], view: View, entrances: Mapping[At, Entrance], owners: Mapping[At, str]
) -> Iterator[Place]:
    for at in places:
        if at.address is None and not view.node_ports_on:
            continue
        what = _what(port, at)
        if owners[at] != port.name:
            yield Place(what, at, frozenset(), frozenset(), "", "", None, None, owners[at])
            continue
        source = _source(port, what, view)
        should = _should(port, what, view.outside(source))
        ends, verdict = _ended(view.trace(at, source))
        entrance = entrances.get(at)
        wanted = frozenset(end.text for end in should)
        yield Place(
            what,
            at,
            wanted,
            ends,
            "" if wanted else "refused" if not port.endpoints.any else "dropped",
            "" if ends else verdict,
            entrance.packets if entrance else None,
            entrance.octets if entrance else None,
        )


def _what(port: ServicePort, at: At) -> str:
    if at.address is None:
        return "node port"
    if at.address == port.cluster_ip:
        return "cluster IP"
    return "external IP" if at.address in port.external_ips else "load balancer IP"


def _should(port: ServicePort, what: str, outside: bool) -> tuple[Endpoint, ...]:
    """The endpoints that the sender should meet: `externalTrafficPolicy` is for those from outside."""
    reach = port.internal if what == "cluster IP" else port.external if outside else Reach.CLUSTER
    return port.endpoints.local if reach is Reach.LOCAL else port.endpoints.cluster


def _source(port: ServicePort, what: str, view: View) -> Address:
    """An address that nobody has, but one that the load balancer's source ranges admit: one from outside, if they do."""
    stranger = _STRANGER[view.rules.family]
    if what != "load balancer IP" or not port.source_ranges:
        return stranger
    admitted = [stranger] if any(stranger in each for each in port.source_ranges) else []
    admitted += [each[number] for each in port.source_ranges for number in (0, -1)]
    return next(filter(view.outside, admitted), admitted[0])


def _ended(endings: Iterable[Ending]) -> tuple[frozenset[str], str]:
    """(the endpoints, what becomes of it where there are none)."""
    ends: set[str] = set()
    verdicts: set[str] = set()
    for ending in endings:
        if ending.verdict != "ACCEPT":
            verdicts.add({"REJECT": "refused", "DROP": "dropped"}[ending.verdict])
        elif ending.rewritten:
            ends.add(spelt(ending.destination, ending.port))
        else:
            verdicts.add("passed")
    return frozenset(ends), " or ".join(sorted(verdicts))


def spelt(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _unknown(view: View, entrances: Mapping[At, Entrance], only: str) -> Iterator[Shown]:
    """What only the kernel has, gathered by name."""
    by_name: dict[str, list[Place]] = {}
    for at, entrance in entrances.items():
        if only and not _of(entrance.name, only):
            continue
        ends, verdict = _ended(view.trace(at, _STRANGER[view.rules.family]))
        what = "node port" if at.address is None else "address"
        place = Place(what, at, frozenset(), ends, "", "" if ends else verdict, entrance.packets, entrance.octets)
        by_name.setdefault(entrance.name or "(no name)", []).append(place)
    for name, places in by_name.items():
        yield Shown(name, view.rules.family, tuple(places))


def document(report: Report) -> dict[str, Any]:
    """For -o json."""
    return {
        "node": report.node,
        "modes": list(report.modes),
        "compared": report.compared,
        "inSync": report.in_sync if report.compared else None,
        "services": [
            {
                "name": each.name,
                "family": f"IPv{each.family:d}",
                "inSync": each.in_sync if report.compared else None,
                "state": each.words if report.compared else None,
                "packets": each.packets,
                "bytes": each.octets,
                "places": [_place_document(place) for place in each.places],
            }
            for each in report.shown
        ],
        "notes": list(report.notes),
    }


def _place_document(place: Place) -> dict[str, Any]:
    return {
        "kind": place.what,
        "address": str(place.at.address) if place.at.address else None,
        "protocol": place.at.protocol,
        "port": place.at.port,
        "wanted": sorted(place.wanted),
        "kernel": sorted(place.seen),
        "missing": sorted(place.missing),
        "stale": sorted(place.stale),
        "verdict": place.verdict or None,
        "anotherService": place.whose or None,
        "packets": place.packets,
        "bytes": place.octets,
    }
