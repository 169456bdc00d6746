"""From one Service and its slices to ports: upstream's quirks, both families, and what nobody should have written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from linux.iptables.rules import Family
from proxy.addresses import address, network, spelt
from proxy.endpoints import Place
from proxy.model import Protocol, Reach, ServicePort
from proxy.objects import EndpointSlice, Service
from proxy.services import Made, service_ports

SPEC: dict[str, Any] = {
    "clusterIP": "10.96.0.10",
    "clusterIPs": ["10.96.0.10", "fd00::10"],
    "type": "NodePort",
    "ports": [
        {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080, "targetPort": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ],
}
HTTP = {"name": "http", "port": 8080, "protocol": "TCP"}


def a_service(status: dict[str, Any] | None = None, /, **spec: Any) -> Service:
    body = {"metadata": {"name": "web", "namespace": "shop"}, "spec": SPEC | spec, "status": status or {}}
    return msgspec.convert(body, Service)


def a_slice(name: str, *endpoints: dict[str, Any], ports: Any = (HTTP,), kind: str = "IPv4") -> EndpointSlice:
    body = {
        "metadata": {"name": name, "namespace": "shop"},
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": ports if ports is None else list(ports),
    }
    return msgspec.convert(body, EndpointSlice)


def end(ip: str, node: str = "node1", **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [ip], "nodeName": node, "conditions": conditions}


def made(service: Service, *slices: EndpointSlice, family: Family = Family.V4) -> Made:
    return service_ports(service, slices, Place("node1"), family)


def first(service: Service, *slices: EndpointSlice, family: Family = Family.V4) -> ServicePort:
    found = made(service, *slices, family=family)
    assert not found.skipped
    return found.ports[0]


def ends(port: ServicePort) -> list[str]:
    return [each.text for each in port.endpoints.all]


def reasons(found: Made) -> list[str]:
    return [each.reason for each in found.skipped]


def test_ports_addresses_and_policies() -> None:
    http, dns = made(
        a_service(externalTrafficPolicy="Local", sessionAffinity="ClientIP"),
        a_slice("a", end("10.244.0.9")),
        a_slice("b", end("10.244.1.9", "node2")),
    ).ports
    assert (http.name, http.protocol, http.port, http.node_port) == ("shop/web:http", Protocol.TCP, 80, 30080)
    assert (http.affinity_seconds, http.external, http.internal) == (10800, Reach.LOCAL, Reach.CLUSTER)
    assert [(each.text, each.local) for each in http.endpoints.all] == [
        ("10.244.0.9:8080", True),
        ("10.244.1.9:8080", False),
    ]
    assert (dns.protocol, dns.endpoints.all) == (Protocol.UDP, ())


def test_who_may_go_on_serving_udp_flows() -> None:
    ports = [HTTP, {"name": "dns", "port": 5353, "protocol": "UDP"}]
    piece = a_slice(
        "a", end("10.244.0.1"), end("10.244.0.2", ready=False), end("10.244.0.3", serving=False), ports=ports
    )
    http, dns = made(a_service(), piece).ports
    assert [each.text for each in dns.endpoints.serving] == ["10.244.0.1:5353", "10.244.0.2:5353"]
    assert http.endpoints.serving == ()


def test_unnamed_ports_have_plain_names() -> None:
    service = a_service(ports=[{"port": 80, "protocol": "TCP"}])
    for unnamed in ({"port": 8080, "protocol": "TCP"}, {"name": "", "port": 8080}):
        port = first(service, a_slice("a", end("10.244.0.9"), ports=[unnamed]))
        assert (port.name, ends(port)) == ("shop/web", ["10.244.0.9:8080"])


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"type": "ExternalName", "clusterIP": "", "clusterIPs": []},
        {"type": "ExternalName"},
        {"clusterIP": "", "clusterIPs": []},
        {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]},
        {"ports": []},
    ],
)
def test_services_that_are_not_ours_or_not_yet(spec: dict[str, Any]) -> None:
    assert made(a_service(**spec), a_slice("a", end("10.244.0.9"))) == Made()


def test_each_family_takes_its_own() -> None:
    service = a_service(
        {"loadBalancer": {"ingress": [{"ip": "198.18.0.1"}, {"ip": "fd00:18::1"}]}},
        type="LoadBalancer",
        externalIPs=["fd00:113::5", "203.0.113.5"],
        loadBalancerSourceRanges=["192.0.2.0/24", "fd00:2::/64"],
    )
    four = first(service, a_slice("a", end("10.244.0.9")))
    six = first(service, a_slice("a", end("fd01::9"), kind="IPv6"), family=Family.V6)
    for port, index in ((four, 0), (six, 1)):
        assert port.cluster_ip == ip_address(("10.96.0.10", "fd00::10")[index])
        assert port.external_ips == (ip_address(("203.0.113.5", "fd00:113::5")[index]),)
        assert port.load_balancer_ips == (ip_address(("198.18.0.1", "fd00:18::1")[index]),)
        assert port.source_ranges == (ip_network(("192.0.2.0/24", "fd00:2::/64")[index]),)
        assert ends(port) == [("10.244.0.9:8080", "[fd01::9]:8080")[index]]


def test_external_addresses_make_it_reachable_without_a_node_port() -> None:
    plain = {"type": "ClusterIP", "externalTrafficPolicy": "Local", "ports": SPEC["ports"][:1]}
    assert first(a_service(**plain)).external is Reach.CLUSTER
    port = first(
        a_service(**plain, externalIPs=["203.0.113.5"]), a_slice("a", end("10.244.0.9"), end("10.244.1.9", "n"))
    )
    assert (port.node_port, port.externally_reachable, port.external) == (0, True, Reach.LOCAL)
    assert [each.text for each in port.endpoints.local] == ["10.244.0.9:8080"]


@pytest.mark.parametrize(("mode", "used"), [(None, True), ("VIP", True), ("Proxy", False)])
def test_load_balancers_that_keep_the_address(mode: str | None, used: bool) -> None:
    ingress = {"ip": "198.18.0.1"} | ({"ipMode": mode} if mode else {})
    status = {"loadBalancer": {"ingress": [ingress, {"hostname": "lb.example"}]}}
    assert bool(first(a_service(status, type="LoadBalancer")).load_balancer_ips) is used


@pytest.mark.parametrize(
    ("written", "found", "told"),
    [
        ([" 192.0.2.0/24 ", "192.0.2.0/24"], ["192.0.2.0/24"], 0),
        (["192.0.2.7/24"], ["192.0.2.0/24"], 0),
        (["192.0.2.0/24", "0.0.0.0/0"], [], 0),
        (["192.0.2.0/24", "banana"], ["192.0.2.0/24"], 1),
        (["192.0.2.0/33", "192.0.2.1", "192.0.2.0/-1", "/8"], ["0.0.0.0/32"], 4),
        (["banana"], ["0.0.0.0/32"], 1),  # the author wanted to keep somebody out: nobody is let in
        (["fd00::/64"], [], 0),
        (["fd00::/64", "banana"], ["0.0.0.0/32"], 1),
        (["fd00::/64", "fd00::xyz/64"], [], 0),
        (["fd00::xyz/64"], ["0.0.0.0/32"], 0),
        (["  "], [], 0),
    ],
)
def test_source_ranges(written: list[str], found: list[str], told: int) -> None:
    seen = made(a_service(type="LoadBalancer", loadBalancerSourceRanges=written))
    assert [str(each) for each in seen.ports[0].source_ranges] == found
    assert reasons(seen) == ["InvalidSourceRange"] * told


def test_a_health_check_wants_a_load_balancer_and_local() -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}
    piece = a_slice(
        "a", end("10.244.0.1"), end("10.244.0.2", ready=False, terminating=True), end("10.244.1.1", "node2")
    )
    dns = a_slice("b", end("10.244.0.1"), end("10.244.0.7"), ports=[{"name": "dns", "port": 53, "protocol": "UDP"}])
    ports = made(a_service(**spec), piece, dns).ports
    assert {(port.health_check_node_port, port.ready_here) for port in ports} == {(31000, 2)}
    for other in ({"type": "NodePort"}, {"externalTrafficPolicy": "Cluster"}):
        port = first(a_service(**spec | other), piece)
        assert (port.health_check_node_port, port.ready_here) == (0, 0)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({}, 10800),
        ({"clientIP": {}}, 10800),
        ({"clientIP": {"timeoutSeconds": 7}}, 7),
        ({"clientIP": {"timeoutSeconds": -1}}, 10800),
    ],
)
def test_affinity(config: dict[str, Any], seconds: int) -> None:
    assert first(a_service(sessionAffinity="ClientIP", sessionAffinityConfig=config)).affinity_seconds == seconds
    assert first(a_service(sessionAffinityConfig=config)).affinity_seconds is None


def test_unknown_policies_are_upstreams_defaults() -> None:
    port = first(a_service(internalTrafficPolicy="Nearby", externalTrafficPolicy=""))
    assert (port.internal, port.external) == (Reach.CLUSTER, Reach.CLUSTER)


def test_absent_conditions_and_odd_entries() -> None:
    found = made(
        a_service(),
        a_slice(
            "a",
            end("10.244.0.1", ready=None, serving=None, terminating=None),
            end("10.244.0.2", ready=False),
            {"addresses": []},
            {},
            end("nonsense"),
            end("fd01::1"),
            end("10.244.000.004"),
        ),
        a_slice("b", end("10.244.0.9"), ports=[{"name": "http", "protocol": "TCP"}, {"name": "http", "port": 0}]),
        a_slice("c", end("10.244.0.9"), ports=None),
        a_slice("d", end("10.244.0.5"), ports=[HTTP | {"port": 65536}]),
    )
    assert ends(found.ports[0]) == ["10.244.0.1:8080", "10.244.0.4:8080"]
    assert reasons(found) == ["InvalidEndpointAddress", "InvalidEndpointAddress", "InvalidEndpointPort"]
    assert "nonsense" in found.skipped[0].message
    assert "EndpointSlice a" in found.skipped[0].message


def test_a_terminating_entry_never_hides_another() -> None:
    live, dying = end("10.244.0.1"), end("10.244.0.1", ready=False, serving=True, terminating=True)
    for one, two in ((live, dying), (dying, live)):
        for slices in ([a_slice("a", one), a_slice("b", two)], [a_slice("a", one, two)]):
            port = first(a_service(), *slices, a_slice("c", end("10.244.0.2")))
            assert [each.text for each in port.endpoints.cluster] == ["10.244.0.1:8080", "10.244.0.2:8080"]


def test_one_name_may_have_another_number_in_each_slice() -> None:
    port = first(
        a_service(), a_slice("a", end("10.244.0.1")), a_slice("b", end("10.244.0.2"), ports=[HTTP | {"port": 9090}])
    )
    assert ends(port) == ["10.244.0.1:8080", "10.244.0.2:9090"]


def test_ports_are_found_by_name_and_protocol() -> None:
    piece = a_slice("a", end("10.244.0.1"), ports=[HTTP | {"protocol": "UDP"}, HTTP | {"name": "other"}])
    assert ends(first(a_service(), piece)) == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"name": "x", "port": 81, "protocol": "GARBAGE"}, "UnsupportedProtocol"),
        ({"name": "x", "port": 0, "protocol": "TCP"}, "InvalidPort"),
        ({"name": "x", "port": 70000, "protocol": "TCP"}, "InvalidPort"),
        ({"name": "x", "port": 81, "nodePort": -3, "protocol": "TCP"}, "InvalidPort"),
        ({"name": "http", "port": 81, "protocol": "TCP"}, "DuplicatePort"),
        ({"name": "x", "port": 80, "protocol": "TCP"}, "DuplicatePort"),
    ],
)
def test_a_bad_port_does_not_stop_the_others(bad: dict[str, Any], reason: str) -> None:
    service = a_service(ports=[SPEC["ports"][0], bad, SPEC["ports"][1]])
    found = made(service, a_slice("a", end("10.244.0.1")))
    assert [port.name for port in found.ports] == ["shop/web:http", "shop/web:dns"]
    assert ends(found.ports[0]) == ["10.244.0.1:8080"]
    assert reasons(found) == [reason]
    assert found.skipped[0].message.startswith("spec.ports: port ")
    six = made(service, family=Family.V6)
    assert (len(six.ports), six.skipped) == (2, ())  # its author is told once


def test_bad_addresses_do_not_stop_the_others() -> None:
    found = made(
        a_service(
            {"loadBalancer": {"ingress": [{"ip": "lb"}, {"ip": "198.18.0.1"}]}},
            type="LoadBalancer",
            clusterIPs=["10.96.0.999", "10.96.0.010"],
            externalIPs=["203.0.113.5", "banana", "203.0.113.005", "::ffff:203.0.113.6"],
        )
    )
    port = found.ports[0]
    assert (str(port.cluster_ip), [str(ip) for ip in port.load_balancer_ips]) == ("10.96.0.10", ["198.18.0.1"])
    assert [str(ip) for ip in port.external_ips] == ["203.0.113.5", "203.0.113.6"]
    assert sorted(reasons(found)) == ["InvalidClusterIP", "InvalidExternalIP", "InvalidLoadBalancerIP"]
    assert reasons(made(a_service(clusterIPs=["10.96.0.999"]))) == ["InvalidClusterIP"]


def test_a_thousand_ports_and_five_thousand_endpoints() -> None:
    names = [f"p{number}" for number in range(1000)]
    service = a_service(ports=[{"name": name, "port": 1000 + at, "protocol": "TCP"} for at, name in enumerate(names)])
    ports = [{"name": name, "port": 8000 + at, "protocol": "TCP"} for at, name in enumerate(names)]
    found = made(service, a_slice("a", end("10.244.0.1"), end("10.244.0.2"), ports=ports)).ports
    assert (len(found), ends(found[999])) == (1000, ["10.244.0.1:8999", "10.244.0.2:8999"])
    many = [a_slice(f"s{at}", *(end(f"10.{at}.{host // 250}.{host % 250}") for host in range(1000))) for at in range(5)]
    assert len(ends(first(a_service(), *many))) == 5000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("172.30.0.41", "172.30.0.41"),
        ("172.30.0.041", "172.30.0.41"),
        ("172.030.000.0000041", "172.30.0.41"),
        ("fd00::1", "fd00::1"),
        ("FD00:0:0::0001", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        *(
            (bad, None)
            for bad in ("172.30.0.256", "", "1.2.3", "1.2.3.4.5", "banana", "1.2.3.x", "1.2.3.²", "fd00::1%eth0")
        ),
        *(
            (bad, None)
            for bad in (
                "1.2.3.0000000000999",
                "1.2.3.4\0",
                "fd00::\0",
                "10.0.0.1 ",
                "0x7f.1.1.1",
                "1.2.3.99999999999999999999",
            )
        ),
    ],
)
def test_addresses(text: str, found: str | None) -> None:
    assert address(text) == (ip_address(found) if found else None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 10.1.2.3/8\n", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("fd00::5/64", "fd00::/64"),
        *(
            (bad, None)
            for bad in ("10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "fd00::/129", "/8", "10.0.0.0/255.0.0.0")
        ),
    ],
)
def test_networks(text: str, found: str | None) -> None:
    assert network(text) == (ip_network(found) if found else None)


@given(st.ip_addresses())
def test_every_address_is_spelt_as_everybody_spells_it(ip: IPv4Address | IPv6Address) -> None:
    seen = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
    for text in (str(ip), ip.exploded, ip.exploded.upper()):
        assert spelt(text) == (seen.packed, str(seen))


@given(st.text(alphabet="0123456789.:abcdef/x% ", max_size=40))
@example("1.2.3." + "9" * 5000)
@example("1.2.3.0000000000999")
def test_nothing_that_is_written_as_an_address_is_a_fault(text: str) -> None:
    found = spelt(text)
    assert found is None or spelt(found[1]) == found
    network(text)
