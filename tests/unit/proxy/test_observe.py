"""The tracker: changes in any order, and what is told of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from kube.core import Node
from kube.informer import Change
from linux.iptables.rules import Family
from proxy.objects import EndpointSlice, Service
from proxy.observe import Taken, Tracker

STARTED = datetime.fromisoformat("2026-01-01T12:00:00Z").timestamp()
CAUSE = "endpoints.kubernetes.io/last-change-trigger-time"


def a_service(name: str = "web", **spec: Any) -> Service:
    plain = {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": plain | spec}, Service)


def a_slice(
    name: str, *ips: str, service: str = "web", cause: str = "", kind: str = "IPv4", **endpoint: Any
) -> EndpointSlice:
    body = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service} if service else {},
            "annotations": {CAUSE: cause} if cause else {},
        },
        "addressType": kind,
        "endpoints": [{"addresses": [ip]} | endpoint for ip in ips],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
    return msgspec.convert(body, EndpointSlice)


class Cluster:
    """Objects by key, changed as informers tell of changes."""

    def __init__(self, family: Family = Family.V4) -> None:
        self.tracker = Tracker("node1", family, STARTED)
        self._services: dict[str, Service] = {}
        self._slices: dict[str, EndpointSlice] = {}

    def service(self, new: Service | None, name: str = "web") -> Cluster:
        key = f"shop/{name}"
        change = Change(key, self._services.pop(key, None), new)
        if new is not None:
            self._services[key] = new
        self.tracker.service_changed(change)
        return self

    def slice(self, name: str, new: EndpointSlice | None) -> Cluster:
        key = f"shop/{name}"
        change = Change(key, self._slices.pop(key, None), new)
        if new is not None:
            self._slices[key] = new
        self.tracker.slice_changed(change)
        return self

    def take(self) -> tuple[dict[str, list[str]], list[str]]:
        """Endpoints by Service, and what changed."""
        taken = self.tracker.take()
        return ends(taken), sorted(taken.changed)


def ends(taken: Taken) -> dict[str, list[str]]:
    return {key: [end.text for port in ports for end in port.endpoints.all] for key, ports in taken.services.items()}


def test_a_service_and_its_slices_in_any_order() -> None:
    service, one, two = a_service(), a_slice("a", "10.0.0.1"), a_slice("b", "10.0.0.2")
    whole = {"shop/web": ["10.0.0.1:8080", "10.0.0.2:8080"]}
    assert Cluster().service(service).slice("a", one).slice("b", two).take() == (whole, ["shop/web"])
    cluster = Cluster().slice("b", two).slice("a", one)
    assert cluster.take() == ({}, [])
    assert cluster.service(service).take() == (whole, ["shop/web"])
    assert cluster.take() == (whole, [])
    assert cluster.slice("a", None).take() == ({"shop/web": ["10.0.0.2:8080"]}, ["shop/web"])
    assert cluster.service(None).take() == ({}, ["shop/web"])
    assert cluster.slice("b", None).take() == ({}, [])


def test_there_and_back_again_is_no_change() -> None:
    cluster = Cluster().service(a_service()).slice("a", a_slice("a", "10.0.0.1"))
    cluster.take()
    cluster.slice("a", a_slice("a", "10.0.0.2")).slice("a", a_slice("a", "10.0.0.1"))
    assert cluster.take()[1] == []
    cluster.service(None).service(a_service())  # deleted and made again
    assert cluster.take()[1] == []
    cluster.service(None, "new").service(a_service("new"), "new").service(None, "new")
    assert cluster.take()[1] == []


def test_what_says_nothing_new_is_no_change() -> None:
    cluster = Cluster().service(a_service()).slice("a", a_slice("a", "10.0.0.1"))
    cluster.take()
    assert cluster.slice("a", a_slice("a", "10.0.0.1", cause="2026-01-01T12:00:05Z")).take()[1] == []
    assert cluster.service(a_service(selector={"app": "other"})).take()[1] == []


def test_a_slice_moves_to_another_service() -> None:
    cluster = Cluster().service(a_service()).service(a_service("new"), "new").slice("a", a_slice("a", "10.0.0.1"))
    cluster.take()
    cluster.slice("a", a_slice("a", "10.0.0.1", service="new"))
    assert cluster.take() == ({"shop/web": [], "shop/new": ["10.0.0.1:8080"]}, ["shop/new", "shop/web"])
    cluster.slice("a", a_slice("a", "10.0.0.1", service=""))
    assert cluster.take() == ({"shop/web": [], "shop/new": []}, ["shop/new"])


def test_a_slice_moves_from_one_slice_to_another() -> None:
    """What the slice controller does when it packs slices anew: never a moment without the endpoint."""
    cluster = Cluster().service(a_service()).slice("a", a_slice("a", "10.0.0.1", "10.0.0.2"))
    cluster.take()
    cluster.slice("b", a_slice("b", "10.0.0.2"))
    assert cluster.take()[1] == []
    cluster.slice("a", a_slice("a", "10.0.0.1"))
    assert cluster.take()[1] == []


def test_which_of_two_slices_came_first_does_not_matter() -> None:
    """Both name one address: node2 has given it away, and its slice does not say so yet."""
    slices = {"a": a_slice("a", "10.0.0.1", nodeName="node1"), "b": a_slice("b", "10.0.0.1", nodeName="node2")}
    outcomes = set()
    for order in ("ab", "ba"):
        cluster = Cluster().service(a_service())
        for name in order:
            cluster.slice(name, slices[name])
        (port,) = cluster.tracker.take().services["shop/web"]
        outcomes.add(tuple(end.local for end in port.endpoints.all))
    assert len(outcomes) == 1


def test_types_change_both_ways() -> None:
    cluster = Cluster().service(a_service()).slice("a", a_slice("a", "10.0.0.1"))
    cluster.take()
    assert cluster.service(a_service(type="ExternalName", clusterIP="")).take() == ({}, ["shop/web"])
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]
    assert cluster.service(a_service(type="NodePort", ports=ports)).take()[1] == ["shop/web"]
    (port,) = cluster.tracker.services["shop/web"]
    assert (port.node_port, [end.text for end in port.endpoints.all]) == (30080, ["10.0.0.1:8080"])
    assert cluster.service(a_service(ports=ports)).take()[1] == ["shop/web"]
    assert cluster.tracker.services["shop/web"][0].node_port == 0


def test_each_family_tracks_its_own() -> None:
    dual = a_service(clusterIPs=["10.96.0.10", "fd00::10"])
    for family, own, others in ((Family.V4, "10.0.0.1:8080", "b"), (Family.V6, "[fd01::1]:8080", "a")):
        cluster = Cluster(family).service(dual)
        cluster.slice("a", a_slice("a", "10.0.0.1")).slice("b", a_slice("b", "fd01::1", kind="IPv6"))
        assert cluster.take() == ({"shop/web": [own]}, ["shop/web"])
        assert cluster.slice(others, None).take()[1] == []


def test_a_nodes_zone_is_read_anew() -> None:
    def node(**labels: str) -> Node:
        return msgspec.convert({"metadata": {"name": "node1", "labels": labels}}, Node)

    cluster = Cluster().service(a_service()).service(a_service("plain"), "plain")
    cluster.slice("p", a_slice("p", "10.0.9.1", service="plain"))
    for zone in ("a", "b"):
        cluster.slice(zone, a_slice(zone, f"10.0.0.{ord(zone) - 96}", hints={"forZones": [{"name": zone}]}))
    assert cluster.take()[0]["shop/web"] == ["10.0.0.1:8080", "10.0.0.2:8080"]
    cluster.tracker.node_changed(node(**{"topology.kubernetes.io/zone": "b"}))
    assert cluster.take() == ({"shop/web": ["10.0.0.2:8080"], "shop/plain": ["10.0.9.1:8080"]}, ["shop/web"])
    cluster.tracker.node_changed(node())
    assert cluster.take()[1] == ["shop/web"]
    cluster.tracker.node_changed(None)
    assert cluster.take()[1] == []


def test_causes_are_told_once_and_only_of_our_time() -> None:
    cluster = Cluster().service(a_service())
    cluster.slice("a", a_slice("a", "10.0.0.1", cause="2026-01-01T11:59:59Z"))
    assert cluster.tracker.take().triggered == ()
    for seconds, ip in ((7, "10.0.0.2"), (5, "10.0.0.3"), (9, "10.0.0.4")):
        cluster.slice("a", a_slice("a", ip, cause=f"2026-01-01T12:00:{seconds:02}.5Z"))
    assert cluster.tracker.take().triggered == (STARTED + 5.5,)
    cluster.slice("a", a_slice("a", "10.0.0.5", cause="2026-01-01T12:00:09.5Z"))  # nothing new caused this
    assert cluster.tracker.take().triggered == ()
    cluster.slice("a", a_slice("a", "10.0.0.6", cause="lately"))
    assert cluster.tracker.take().triggered == ()
    cluster.slice("a", a_slice("a", "10.0.0.7", cause="2026-01-01T12:00:20Z")).slice("a", None)
    assert cluster.tracker.take().triggered == ()


def test_what_was_skipped_is_told_once_a_change() -> None:
    def told() -> list[tuple[str, str]]:
        return [(service.metadata.name, each.reason) for service, each in cluster.tracker.take().skipped]

    cluster = Cluster().service(a_service()).service(a_service("other"), "other")
    cluster.slice("a", a_slice("a", "10.0.0.1", "nonsense"))
    assert told() == [("web", "InvalidEndpointAddress")]
    cluster.slice("b", a_slice("b", "10.0.0.2"))
    assert told() == []
    cluster.service(a_service(externalIPs=["10.1.1.1.1"]))
    assert told() == [("web", "InvalidExternalIP")]
    cluster.slice("a", a_slice("a", "10.0.0.1"))
    assert told() == []
    cluster.slice("a", a_slice("a", "10.0.0.1", "nonsense"))
    assert told() == [("web", "InvalidEndpointAddress")]
    cluster.service(None).service(a_service())
    assert told() == []
    cluster.service(None)
    assert told() == []
    cluster.service(a_service())  # another one of the same name
    assert told() == [("web", "InvalidEndpointAddress")]


@pytest.mark.parametrize("family", Family)
def test_a_bad_address_is_told_by_the_family_it_looks_like(family: Family) -> None:
    cluster = Cluster(family).service(
        a_service(clusterIPs=["10.96.0.10", "fd00::10"], externalIPs=["10.1.1.300", "fd00::xyz"])
    )
    (told,) = cluster.tracker.take().skipped
    assert ("fd00::xyz" if family is Family.V6 else "10.1.1.300") in told[1].message
