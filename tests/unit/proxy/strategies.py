"""Random histories of a small cluster, for properties.

    @given(histories())
    def test(history):
        cluster = Cluster(Family.V4)
        for action in history:
            cluster.do(action)
            taken = cluster.take()          # or only now and then: changes coalesce

Cluster IPs and node ports are each Service's own, as the API allocates them; external IPs, load balancer IPs and endpoints
collide now and then, as they do. With `odd` the objects also hold what nobody should have written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import msgspec
from hypothesis import strategies as st

from kube import labels
from kube.core import Node
from kube.informer import Change
from linux.iptables.rules import Family
from proxy.model import ServicePort
from proxy.objects import EndpointSlice, Service
from proxy.observe import Taken, Tracker

NODE, ZONE = "node1", "zone1"
SERVICES = ("a", "b", "c", "d")
NAMESPACE = "ns"
_SLICES = ("x", "y", "z")
_NODES = (NODE, "node2", "node3")
_ZONES = (ZONE, "zone2")
_PORTS = (("", "TCP", 80), ("http", "TCP", 80), ("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("sigtran", "SCTP", 2905))


@dataclass(frozen=True, slots=True)
class Put:
    """An object is created or replaced."""

    new: Service | EndpointSlice


@dataclass(frozen=True, slots=True)
class Delete:
    kind: type[Service] | type[EndpointSlice]
    key: str


@dataclass(frozen=True, slots=True)
class Relist:
    """The informers were away: what there is now, whole."""

    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """This node's zone label."""

    zone: str


Action: TypeAlias = Put | Delete | Relist | Move


@dataclass(slots=True)
class Cluster:
    """What there is, and a tracker that was told of it as informers tell."""

    family: Family = Family.V4
    zone: str = ""
    services: dict[str, Service] = field(default_factory=dict)
    slices: dict[str, EndpointSlice] = field(default_factory=dict)
    tracker: Tracker = field(init=False)

    def __post_init__(self) -> None:
        self.tracker = Tracker(NODE, self.family)

    def do(self, action: Action) -> None:
        match action:
            case Put(new):
                if isinstance(new, Service):
                    self._service(new.metadata.key, new)
                else:
                    self._slice(new.metadata.key, new)
            case Delete(kind, key):
                (self._service if kind is Service else self._slice)(key, None)
            case Relist(services, slices):
                self._relist(services, slices)
            case Move(zone):
                self.zone = zone
                self.tracker.node_changed(a_node(zone))

    def take(self) -> Taken:
        return self.tracker.take()

    def fresh(self) -> Mapping[str, tuple[ServicePort, ...]]:
        """What a tracker makes that knows nothing but how things are now, and heard of it in another order."""
        other = Cluster(self.family)
        other.do(Move(self.zone))
        other.do(Relist(tuple(self.services.values()), tuple(self.slices.values())[::-1]))
        return other.take().services

    def _relist(self, services: tuple[Service, ...], slices: tuple[EndpointSlice, ...]) -> None:
        """As `Informer._list`: first what is gone, then what is new or another version."""
        ours = {each.metadata.key: each for each in services}
        theirs = {each.metadata.key: each for each in slices}
        for key in [key for key in self.services if key not in ours]:
            self._service(key, None)
        for key, service in ours.items():
            self._service(key, service)
        for key in [key for key in self.slices if key not in theirs]:
            self._slice(key, None)
        for key, piece in theirs.items():
            self._slice(key, piece)

    def _service(self, key: str, new: Service | None) -> None:
        old = self.services.pop(key, None)
        if new is not None:
            self.services[key] = new
        if old is not None or new is not None:
            self.tracker.service_changed(Change(key, old, new))

    def _slice(self, key: str, new: EndpointSlice | None) -> None:
        old = self.slices.pop(key, None)
        if new is not None:
            self.slices[key] = new
        if old is not None or new is not None:
            self.tracker.slice_changed(Change(key, old, new))


def a_node(zone: str) -> Node:
    labelled = {labels.ZONE: zone} if zone else {}
    return msgspec.convert({"metadata": {"name": NODE, "labels": labelled}}, Node)


def histories(*, longest: int = 12, odd: bool = False) -> st.SearchStrategy[list[Action]]:
    some_services = st.lists(services(odd=odd), max_size=3, unique_by=lambda each: each.metadata.name).map(tuple)
    some_slices = st.lists(slices(odd=odd), max_size=4, unique_by=lambda each: each.metadata.name).map(tuple)
    action = st.one_of(
        services(odd=odd).map(Put),
        slices(odd=odd).map(Put),
        slices(odd=odd).map(Put),
        st.sampled_from(SERVICES).map(lambda name: Delete(Service, f"{NAMESPACE}/{name}")),
        st.tuples(st.sampled_from(SERVICES), st.sampled_from(_SLICES)).map(
            lambda pair: Delete(EndpointSlice, f"{NAMESPACE}/{pair[0]}-{pair[1]}")
        ),
        st.builds(Relist, some_services, some_slices),
        st.sampled_from(("", *_ZONES)).map(Move),
    )
    begin = st.builds(Relist, some_services, some_slices)
    return st.builds(lambda first, rest: [first, *rest], begin, st.lists(action, max_size=longest))


def services(*, odd: bool = False) -> st.SearchStrategy[Service]:
    return st.sampled_from(_pool(_service, odd))


def slices(*, odd: bool = False) -> st.SearchStrategy[EndpointSlice]:
    return st.sampled_from(_pool(_slice, odd))


@functools.cache
def _pool(make: Callable[[Random, bool], dict[str, Any]], odd: bool) -> list[Any]:
    """Objects to choose from, made once: drawing each field of each object anew takes fifty times as long. The simplest come
    first, so that failures shrink to them."""
    kind = Service if make is _service else EndpointSlice
    rng = Random(1)
    bodies = sorted((make(rng, odd) for _ in range(400)), key=lambda body: len(str(body)))
    return [msgspec.convert(body, kind) for body in bodies]


def _service(rng: Random, odd: bool) -> dict[str, Any]:
    number = rng.randrange(len(SERVICES))
    kind = rng.choice(("ClusterIP", "NodePort", "LoadBalancer", "NodePort", "LoadBalancer", "ExternalName"))
    policies = ("Cluster", "Cluster", "Local")
    spec: dict[str, Any] = {
        "type": kind,
        "ports": _service_ports(rng, number, published=kind in ("NodePort", "LoadBalancer"), odd=odd),
        "internalTrafficPolicy": rng.choice(policies),
        "externalTrafficPolicy": rng.choice(policies),
        "sessionAffinity": rng.choice(("None", "None", "ClientIP")),
    }
    if kind != "ExternalName":
        ips = [f"10.96.0.{10 + number}", f"fd00:96::{10 + number}"]
        spec["clusterIPs"] = rng.choice((ips, ips[::-1], ips[:1], ips[1:]))
        spec["clusterIP"] = spec["clusterIPs"][0]
        spec["externalIPs"] = _some(rng, "203.0.113.5", "203.0.113.6", "fd00:113::5")
    if spec["sessionAffinity"] == "ClientIP" and rng.random() < 0.5:
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": rng.choice((1, 60, 86400))}}
    ingress: list[dict[str, Any]] = []
    if kind == "LoadBalancer":
        ranges = " 192.0.2.0/24 ", "198.51.100.0/25", "0.0.0.0/0", "fd00:2::/64"
        spec["loadBalancerSourceRanges"] = _some(rng, *ranges)
        for ip in _some(rng, "198.18.0.1", "198.18.0.2", "fd00:18::1"):
            mode = rng.choice(({}, {"ipMode": "VIP"}, {"ipMode": "VIP"}, {"ipMode": "Proxy"}))
            ingress.append({"ip": ip, **mode})
        if spec["externalTrafficPolicy"] == "Local":
            spec["healthCheckNodePort"] = 31000 + number
    if odd:
        spec |= rng.choice(_ODD_SPECS)
    return {
        "metadata": {"name": SERVICES[number], "namespace": NAMESPACE, "uid": rng.choice(("1", "2"))},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def _slice(rng: Random, odd: bool) -> dict[str, Any]:
    owner = rng.choice(SERVICES)
    named = owner if rng.random() < 0.8 else rng.choice(SERVICES)
    family = rng.choice((Family.V4, Family.V4, Family.V6))
    hinted = rng.random() < 0.3
    hosts = [rng.randint(1, 8) for _ in range(rng.randint(0, 4))]
    entries = [_entry(rng, family, host, hinted=hinted) for host in hosts]
    if odd and rng.random() < 0.5:
        entries.append(rng.choice(_ODD_ENTRIES))
    ports: list[dict[str, Any]] = [
        {"name": name, "protocol": protocol, "port": rng.choice((8000, 8000, 9000)) if number == 80 else number}
        for name, protocol, number in rng.sample(_PORTS, rng.randint(0, 3))
    ]
    if odd and rng.random() < 0.5:
        ports.append(rng.choice(_ODD_PORTS))
    return {
        "metadata": {
            "name": f"{named}-{rng.choice(_SLICES)}",
            "namespace": NAMESPACE,
            "labels": {labels.SERVICE_NAME: owner} if rng.random() < 0.9 else {},
        },
        "addressType": f"IPv{family:d}",
        "endpoints": entries or (None if rng.random() < 0.5 else []),
        "ports": ports,
    }


def _entry(rng: Random, family: Family, host: int, *, hinted: bool) -> dict[str, Any]:
    states: tuple[dict[str, bool], ...] = (
        {},
        {"ready": True, "serving": True, "terminating": False},
        {"ready": True},
        {"ready": False, "serving": False},
        {"ready": False, "serving": True, "terminating": True},
        {"ready": False, "serving": False, "terminating": True},
    )
    entry: dict[str, Any] = {
        "addresses": [f"10.244.0.{host}" if family is Family.V4 else f"fd01::{host}"],
        "nodeName": rng.choice(_NODES),
        "conditions": rng.choice(states),
    }
    if hinted:
        entry["hints"] = {
            "forZones": [{"name": zone} for zone in _some(rng, *_ZONES)],
            "forNodes": [{"name": node} for node in _some(rng, *_NODES)],
        }
    return entry


def _service_ports(rng: Random, number: int, *, published: bool, odd: bool) -> list[dict[str, Any]]:
    chosen = rng.sample(_PORTS[1:], rng.randint(1, 3))
    if len(chosen) == 1 and rng.random() < 0.5:
        chosen = [_PORTS[0]]
    made: list[dict[str, Any]] = []
    for name, protocol, port in chosen:
        one: dict[str, Any] = {"name": name, "protocol": protocol, "port": port}
        if published and rng.random() < 0.75:
            one["nodePort"] = 30000 + 10 * number + _PORTS.index((name, protocol, port))
        made.append(one)
    if odd and rng.random() < 0.5:
        made.insert(0, rng.choice(_ODD_PORTS))
    return made


def _some(rng: Random, *given: str) -> list[str]:
    return rng.sample(given, rng.randint(0, len(given)))


_ODD_SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"clusterIPs": [], "clusterIP": ""},
    {"clusterIPs": ["None"], "clusterIP": "None"},
    {"clusterIPs": ["10.96.0.999"], "clusterIP": "10.96.0.999"},
    {"externalIPs": ["203.0.113.5", "203.0.113.5", "banana", "203.0.113.005", "::ffff:203.0.113.5"]},
    {"loadBalancerSourceRanges": ["banana"]},
    {"loadBalancerSourceRanges": ["192.0.2.7/24", "192.0.2.0/33", "  "]},
    {"internalTrafficPolicy": "Nearby", "externalTrafficPolicy": ""},
    {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10**9}}},
    {"ports": []},
    {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": -5},
)
_ODD_ENTRIES: tuple[dict[str, Any], ...] = (
    {},
    {"addresses": []},
    {"addresses": ["banana"]},
    {"addresses": ["10.244.000.003"]},
    {"addresses": ["10.244.0.3", "10.244.0.4"], "nodeName": NODE},
    {"addresses": ["fd01::3"]},
)
_ODD_PORTS: tuple[dict[str, Any], ...] = (
    {"name": "http", "protocol": "GARBAGE", "port": 80},
    {"name": "http", "protocol": "TCP", "port": 0},
    {"name": "http", "protocol": "TCP", "port": 70000},
    {"name": "dns", "protocol": "UDP"},
    {"name": "http", "protocol": "TCP", "port": 80},
)
