"""From API objects to service ports, with upstream's quirks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from kube.core import Node, Service
from kube.discovery import EndpointSlice
from linux.iptables.rules import Family
from proxy.health import Health, node_is_eligible
from proxy.model import Protocol, Reach, ServicePort
from proxy.observe import Services, address, candidates, node_port_addresses

SPEC: dict[str, Any] = {
    "clusterIP": "10.96.0.10",
    "clusterIPs": ["10.96.0.10"],
    "type": "NodePort",
    "ports": [
        {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080, "targetPort": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ],
}


def a_service(**spec: Any) -> Service:
    return msgspec.convert({"metadata": {"name": "web", "namespace": "shop"}, "spec": SPEC | spec}, Service)


def a_slice(
    name: str, *endpoints: dict[str, Any], ports: list[dict[str, Any]] | None = None, **more: Any
) -> EndpointSlice:
    body = {
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
    }
    return msgspec.convert(body | more, EndpointSlice)


def end(ip: str, node: str = "node1", **conditions: bool) -> dict[str, Any]:
    return {"addresses": [ip], "nodeName": node, "conditions": conditions}


def seen(service: Service, *slices: EndpointSlice, node: str = "node1") -> tuple[ServicePort, ...]:
    return Services(node).ports([service], slices)


def test_ports_addresses_and_policies() -> None:
    http, dns = seen(
        a_service(externalTrafficPolicy="Local", sessionAffinity="ClientIP"),
        a_slice("b", end("10.244.1.9", "node2")),
        a_slice("a", end("10.244.0.9")),
    )
    assert (http.name, http.protocol, http.port, http.node_port) == ("shop/web:http", Protocol.TCP, 80, 30080)
    assert (http.affinity_seconds, http.external, http.internal) == (10800, Reach.LOCAL, Reach.CLUSTER)
    assert [(each.text, each.local) for each in http.endpoints.all] == [
        ("10.244.0.9:8080", True),
        ("10.244.1.9:8080", False),
    ]
    assert (dns.protocol, dns.endpoints.all) == (Protocol.UDP, ())


def test_unnamed_ports_have_plain_names() -> None:
    ports = [{"port": 80, "protocol": "TCP"}]
    (port,) = seen(a_service(ports=ports), a_slice("a", end("10.244.0.9"), ports=[{"port": 8080, "protocol": "TCP"}]))
    assert port.name == "shop/web"
    assert len(port.endpoints.all) == 1


def test_services_that_are_not_ours() -> None:
    assert seen(a_service(clusterIP="None", clusterIPs=["None"])) == ()
    assert seen(a_service(type="ExternalName", clusterIP="", clusterIPs=[])) == ()
    assert seen(a_service(clusterIP="fd00::1", clusterIPs=["fd00::1"])) == ()


def test_dual_stack_takes_its_own_family() -> None:
    (port, _) = seen(a_service(clusterIP="fd00::1", clusterIPs=["fd00::1", "10.96.0.11"]))
    assert port.cluster_ip == IPv4Address("10.96.0.11")


def test_absent_conditions_and_odd_entries() -> None:
    pieces = [
        a_slice(
            "a",
            end("10.244.0.1"),
            end("10.244.0.2", ready=False),
            end("10.244.0.3", ready=False, serving=True, terminating=True),
            {"addresses": []},
            end("nonsense"),
            end("10.244.000.004"),
        ),
        a_slice("b", end("10.244.0.9"), ports=[{"name": "http", "protocol": "TCP"}]),
    ]
    found = candidates(pieces, "http", "TCP", "node1")
    states = {str(each.endpoint.ip): (each.ready, each.serving, each.terminating) for each in found}
    assert states == {
        "10.244.0.1": (True, True, False),
        "10.244.0.2": (False, True, False),
        "10.244.0.3": (False, True, True),
        "10.244.0.4": (True, True, False),
    }


def test_a_terminating_entry_never_hides_another() -> None:
    live, dying = end("10.244.0.1"), end("10.244.0.1", ready=False, terminating=True)
    for first, second in ((live, dying), (dying, live)):
        found = candidates([a_slice("a", first), a_slice("b", second)], "http", "TCP", "node1")
        assert [each.ready for each in found] == [True]


def test_what_was_made_of_an_object_is_kept_until_it_changes() -> None:
    services = Services("node1")
    service, piece = a_service(), a_slice("a", end("10.244.0.1"))
    first = services.ports([service], [piece])
    assert all(a is b for a, b in zip(first, services.ports([service], [piece]), strict=True))
    changed = services.ports([service], [a_slice("a", end("10.244.0.2"))])
    assert changed[0].endpoints != first[0].endpoints


def test_addresses() -> None:
    assert address("172.30.0.041") == IPv4Address("172.30.0.41")
    assert address("172.30.0.256") is None
    assert address("") is None


def test_node_port_addresses() -> None:
    local = [IPv4Address("127.0.0.1"), IPv4Address("192.168.0.1"), IPv4Address("10.0.0.1")]
    assert node_port_addresses([], local, Family.V4) is None
    assert node_port_addresses([IPv4Network("0.0.0.0/0")], local, Family.V4) is None
    assert node_port_addresses([IPv4Network("192.168.0.0/16")], local, Family.V4) == (IPv4Address("192.168.0.1"),)
    assert node_port_addresses([IPv4Network("172.16.0.0/12")], local, Family.V4) == ()


def test_health_is_about_changes_that_wait() -> None:
    health = Health(period=30, now=1000)
    assert health.report(1001, "IPv4", eligible=True)[0] == 200
    assert health.report(1060, "IPv4", eligible=True)[0] == 503
    waiting = health.taken()
    health.updated(1061)
    assert health.report(2000, "IPv4", eligible=True)[0] == 200
    assert health.report(2000, "IPv4", eligible=False)[0] == 503
    assert health.report(2000, "IPv4", eligible=None)[0] == 200
    health.queued(2000)
    health.queued(2050)
    assert health.report(2060, "IPv4", eligible=None)[0] == 503
    taken = health.taken()
    health.queued(2062)
    health.failed(taken)
    status, body = health.report(2063, "IPv4", eligible=True)
    assert (status, body["nodeEligible"], body["healthy"], body["status"]["IPv4"]["healthy"]) == (
        503,
        True,
        False,
        False,
    )
    assert waiting == 1000


def test_nodes_that_should_get_nothing_new() -> None:
    def node(**parts: Any) -> Node:
        return msgspec.convert({"metadata": {"name": "n"}} | parts, Node)

    assert node_is_eligible(node())
    assert not node_is_eligible(None)
    assert not node_is_eligible(node(metadata={"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert not node_is_eligible(
        node(spec={"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]})
    )
