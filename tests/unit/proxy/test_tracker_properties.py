"""Whatever happens in whatever order: the tracker ends where a fresh one begins, and names every Service that differs."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from linux.iptables.rules import Family
from proxy.endpoints import Place
from proxy.model import MAX_PORT, ServicePort
from proxy.objects import EndpointSlice, Service
from proxy.services import service_ports
from tests.unit.proxy.strategies import Action, Cluster, histories

HISTORIES = st.one_of(histories(), histories(odd=True))


@settings(max_examples=80, deadline=None)
@given(HISTORIES, st.sampled_from(Family), st.sets(st.integers(0, 12)))
def test_what_is_kept_is_what_a_fresh_start_finds(history: list[Action], family: Family, pauses: set[int]) -> None:
    cluster = Cluster(family)
    before: dict[str, tuple[ServicePort, ...]] = {}
    for step, action in enumerate(history):
        cluster.do(action)
        if step in pauses or step == len(history) - 1:
            taken = cluster.take()
            now = dict(taken.services)
            assert now == cluster.fresh()
            assert taken.changed == {key for key in before | now if before.get(key) != now.get(key)}
            before = now
    assert not cluster.take().changed


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.sampled_from(Family))
def test_what_backends_may_rely_on(history: list[Action], family: Family) -> None:
    cluster = Cluster(family)
    for action in history:
        cluster.do(action)
    for key, ports in cluster.take().services.items():
        assert ports
        assert len({(port.name, port.protocol) for port in ports}) == len(ports)
        assert len({(port.port, port.protocol) for port in ports}) == len(ports)
        for port in ports:
            assert port.name.partition(":")[0] == key
            assert {ip.version for ip in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)} == {family}
            assert {net.version for net in port.source_ranges} <= {family}
            ends = port.endpoints
            for members in (ends.cluster, ends.local, ends.serving, ends.all):
                texts = [end.text for end in members]
                assert texts == sorted(set(texts))
            assert all(end.local for end in ends.local)
            assert ends.any or not ends.all


ANYTHING = st.one_of(
    st.sampled_from(["", "None", "10.96.0.10", "fd00::10", "Local", "ClientIP", "NodePort", "TCP", "a"]), st.text()
)
NUMBER = st.integers(-(2**63), 2**63 - 1)


def _objects(*names: str, texts: tuple[str, ...] = (), numbers: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """JSON objects with some of these fields: lists of texts, texts, numbers."""
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(names, st.none() | st.lists(ANYTHING, max_size=3))
    fields |= dict.fromkeys(texts, ANYTHING) | dict.fromkeys(numbers, NUMBER)
    return st.fixed_dictionaries({}, optional=fields)


PORTS = st.none() | st.lists(_objects(texts=("name", "protocol"), numbers=("port", "nodePort")), max_size=3)
SPEC = st.tuples(
    _objects(
        "clusterIPs",
        "externalIPs",
        "loadBalancerSourceRanges",
        texts=("clusterIP", "type", "sessionAffinity", "externalTrafficPolicy", "internalTrafficPolicy"),
        numbers=("healthCheckNodePort",),
    ),
    PORTS,
    st.none() | st.lists(_objects(texts=("ip", "ipMode")), max_size=3),
    NUMBER,
)
ENTRIES = st.none() | st.lists(_objects("addresses", texts=("nodeName",)), max_size=3)


@settings(max_examples=80, deadline=None)
@given(SPEC, st.lists(st.tuples(ENTRIES, PORTS), max_size=2), st.sampled_from(Family))
def test_no_object_ends_a_pass(spec: Any, slices: list[tuple[Any, Any]], family: Family) -> None:
    """Whatever decodes at all is made something of, or skipped in words."""
    fields, ports, ingress, seconds = spec
    affinity = {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    body = {"spec": {**fields, **affinity, "ports": ports}, "status": {"loadBalancer": {"ingress": ingress}}}
    service = msgspec.convert({"metadata": {"name": "a", "namespace": "ns"}, **body}, Service)
    pieces = [
        msgspec.convert({"addressType": f"IPv{family:d}", "endpoints": entries, "ports": numbers}, EndpointSlice)
        for entries, numbers in slices
    ]
    made = service_ports(service, pieces, Place("node1"), family)
    assert all(each.reason and each.message for each in made.skipped)
    assert all(1 <= port.port <= MAX_PORT and 0 <= port.node_port <= MAX_PORT for port in made.ports)
    assert all(0 <= port.health_check_node_port <= MAX_PORT for port in made.ports)
    assert all(1 <= end.port <= MAX_PORT for port in made.ports for end in port.endpoints.all)
