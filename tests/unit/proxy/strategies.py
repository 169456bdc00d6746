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

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        """What a tracker makes that knows nothing but how things are now."""
        other = Cluster(self.family)
        other.do(Move(self.zone))
        other.do(Relist(tuple(self.services.values()), tuple(self.slices.values())))
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


@st.composite
def services(draw: st.DrawFn, *, odd: bool = False) -> Service:
    number = draw(st.integers(0, len(SERVICES) - 1))
    kind = draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer", "NodePort", "LoadBalancer", "ExternalName")))
    local = st.sampled_from(("Cluster", "Cluster", "Local"))
    spec: dict[str, Any] = {
        "type": kind,
        "ports": draw(_service_ports(number, published=kind in ("NodePort", "LoadBalancer"), odd=odd)),
        "internalTrafficPolicy": draw(local),
        "externalTrafficPolicy": draw(local),
        "sessionAffinity": draw(st.sampled_from(("None", "None", "ClientIP"))),
    }
    if kind != "ExternalName":
        ips = [f"10.96.0.{10 + number}", f"fd00:96::{10 + number}"]
        spec["clusterIPs"] = draw(st.sampled_from((ips, ips[::-1], ips[:1], ips[1:])))
        spec["clusterIP"] = spec["clusterIPs"][0]
        spec["externalIPs"] = draw(_some("203.0.113.5", "203.0.113.6", "fd00:113::5"))
    if spec["sessionAffinity"] == "ClientIP" and draw(st.booleans()):
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": draw(st.sampled_from((1, 60, 86400)))}}
    ingress: list[dict[str, Any]] = []
    if kind == "LoadBalancer":
        spec["loadBalancerSourceRanges"] = draw(_some(" 192.0.2.0/24 ", "198.51.100.0/25", "0.0.0.0/0", "fd00:2::/64"))
        ingress = [
            {"ip": ip, **({"ipMode": mode} if mode else {})}
            for ip in draw(_some("198.18.0.1", "198.18.0.2", "fd00:18::1"))
            for mode in [draw(st.sampled_from((None, "VIP", "VIP", "Proxy")))]
        ]
        if spec["externalTrafficPolicy"] == "Local":
            spec["healthCheckNodePort"] = 31000 + number
    if odd:
        spec |= draw(st.sampled_from(_ODD_SPECS))
    body = {
        "metadata": {"name": SERVICES[number], "namespace": NAMESPACE, "uid": draw(st.sampled_from(("1", "2")))},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    return msgspec.convert(body, Service)


@st.composite
def slices(draw: st.DrawFn, *, odd: bool = False) -> EndpointSlice:
    owner = draw(st.sampled_from(SERVICES))
    name = (
        f"{draw(st.sampled_from(SERVICES)) if draw(st.integers(0, 5)) == 0 else owner}-{draw(st.sampled_from(_SLICES))}"
    )
    family = draw(st.sampled_from((Family.V4, Family.V4, Family.V6)))
    hinted = draw(st.sampled_from((False, False, True)))
    entries = [_entry(draw, family, host, hinted=hinted) for host in draw(st.lists(st.integers(1, 8), max_size=4))]
    if odd and draw(st.booleans()):
        entries.append(draw(st.sampled_from(_ODD_ENTRIES)))
    chosen = draw(st.lists(st.sampled_from(_PORTS), max_size=3, unique=True))
    ports: list[dict[str, Any]] = [
        {
            "name": name,
            "protocol": protocol,
            "port": draw(st.sampled_from((8000, 8000, 9000)) if number == 80 else st.just(number)),
        }
        for name, protocol, number in chosen
    ]
    if odd and draw(st.booleans()):
        ports.append(draw(st.sampled_from(_ODD_PORTS)))
    body = {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {labels.SERVICE_NAME: owner} if draw(st.integers(0, 9)) else {},
        },
        "addressType": f"IPv{family:d}",
        "endpoints": entries or draw(st.sampled_from(([], None))),
        "ports": ports,
    }
    return msgspec.convert(body, EndpointSlice)


def _entry(draw: st.DrawFn, family: Family, host: int, *, hinted: bool) -> dict[str, Any]:
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
        "nodeName": draw(st.sampled_from(_NODES)),
        "conditions": draw(st.sampled_from(states)),
    }
    if hinted:
        entry["hints"] = {
            "forZones": [{"name": zone} for zone in draw(_some(*_ZONES))],
            "forNodes": [{"name": node} for node in draw(_some(*_NODES))],
        }
    return entry


@st.composite
def _service_ports(draw: st.DrawFn, number: int, *, published: bool, odd: bool) -> list[dict[str, Any]]:
    chosen = draw(st.lists(st.sampled_from(_PORTS[1:]), min_size=1, max_size=3, unique=True))
    if len(chosen) == 1 and draw(st.booleans()):
        chosen = [_PORTS[0]]
    made: list[dict[str, Any]] = []
    for name, protocol, port in chosen:
        one: dict[str, Any] = {"name": name, "protocol": protocol, "port": port}
        if published and draw(st.integers(0, 3)):
            one["nodePort"] = 30000 + 10 * number + _PORTS.index((name, protocol, port))
        made.append(one)
    if odd and draw(st.booleans()):
        made.insert(0, draw(st.sampled_from(_ODD_PORTS)))
    return made


def _some(*given: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(given), max_size=len(given), unique=True)


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
