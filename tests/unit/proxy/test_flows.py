"""Where packets go: kube-proxy's own matrices, asked of the tracer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from proxy.model import Policy, Protocol, Reach
from tests.unit.proxy.flows import (
    CLUSTER_IP,
    HERE,
    LOCAL_END,
    LOOPBACK,
    NODE,
    NODE_PORT,
    OTHER_NODE,
    OUTSIDER,
    POD,
    POLICY,
    PORT,
    REMOTE_END,
    THERE,
    endpoint,
    flow,
    kernel,
    service,
)

L, R = f"{LOCAL_END}:8080", f"{REMOTE_END}:8080"
ALL, ALL_MASQ = f"{L}, {R}", f"{L} masq, {R} masq"
IP, NP = (CLUSTER_IP, PORT), (NODE, NODE_PORT)
ALIEN = OUTSIDER

PLAIN = service(HERE, THERE)
EXTERNAL_LOCAL = service(HERE, THERE, external=Reach.LOCAL)
INTERNAL_LOCAL = service(HERE, THERE, internal=Reach.LOCAL)
NO_DETECTOR = replace(POLICY, pods=None)
MASQUERADE_ALL = replace(POLICY, masquerade_all=True)

# (policy, source, destination) -> plain, externalTrafficPolicy Local, internalTrafficPolicy Local
MATRIX = [
    (POLICY, POD, IP, ALL, ALL, L),
    (POLICY, POD, NP, ALL_MASQ, ALL, ALL_MASQ),
    (POLICY, NODE, IP, ALL_MASQ, ALL_MASQ, f"{L} masq"),
    (POLICY, NODE, NP, ALL_MASQ, ALL_MASQ, ALL_MASQ),
    (POLICY, LOOPBACK, (LOOPBACK, NODE_PORT), "pass", "pass", "pass"),
    (POLICY, ALIEN, IP, ALL_MASQ, ALL_MASQ, f"{L} masq"),
    (POLICY, ALIEN, NP, ALL_MASQ, L, ALL_MASQ),
    (POLICY, OTHER_NODE, NP, ALL_MASQ, L, ALL_MASQ),
    (NO_DETECTOR, POD, IP, ALL, ALL, L),
    (NO_DETECTOR, ALIEN, IP, ALL, ALL, L),
    (NO_DETECTOR, POD, NP, ALL_MASQ, L, ALL_MASQ),
    (NO_DETECTOR, NODE, NP, ALL_MASQ, ALL_MASQ, ALL_MASQ),
    (MASQUERADE_ALL, POD, IP, ALL_MASQ, ALL_MASQ, f"{L} masq"),
    (MASQUERADE_ALL, POD, NP, ALL_MASQ, ALL, ALL_MASQ),
]


@pytest.mark.parametrize(("policy", "source", "to", "plain", "external_local", "internal_local"), MATRIX)
def test_the_masquerade_matrix(
    policy: Policy, source: str, to: tuple[str, int], plain: str, external_local: str, internal_local: str
) -> None:
    for subject, expected in ((PLAIN, plain), (EXTERNAL_LOCAL, external_local), (INTERNAL_LOCAL, internal_local)):
        assert flow(kernel([subject], policy), source, *to) == expected


@pytest.mark.parametrize("source", [POD, NODE, OUTSIDER])
@pytest.mark.parametrize("reach", list(Reach))
def test_without_any_endpoint_everything_is_refused(source: str, reach: Reach) -> None:
    snapshot = kernel([service(internal=reach, external=reach)])
    assert flow(snapshot, source, *IP) == "REJECT"
    assert flow(snapshot, source, *NP) == "REJECT"  # the node's own on its way in, over loopback


def test_local_policies_without_local_endpoints_drop_only_what_they_govern() -> None:
    external = kernel([service(THERE, external=Reach.LOCAL)])
    assert flow(external, OUTSIDER, *NP) == "DROP"
    assert flow(external, POD, *NP) == R
    assert flow(external, NODE, *NP) == f"{R} masq"
    assert flow(external, POD, *IP) == R
    internal = kernel([service(THERE, internal=Reach.LOCAL)])
    assert flow(internal, POD, *IP) == "DROP"
    assert flow(internal, OUTSIDER, *NP) == f"{R} masq"


def test_an_endpoint_that_calls_its_own_service_is_masqueraded() -> None:
    snapshot = kernel([PLAIN])
    assert flow(snapshot, LOCAL_END, *IP) == f"{L} masq, {R}"


def test_only_the_services_own_port_and_protocol() -> None:
    dns = [
        service(endpoint(LOCAL_END, port=53 + index), name=f"ns/dns:{each}", protocol=each, node_port=0)
        for index, each in enumerate(Protocol)
    ]
    snapshot = kernel(dns)
    for index, each in enumerate(Protocol):
        assert flow(snapshot, POD, CLUSTER_IP, PORT, each) == f"{LOCAL_END}:{53 + index}"
    assert flow(snapshot, POD, CLUSTER_IP, PORT + 1) == "pass"
    assert flow(snapshot, OUTSIDER, NODE, NODE_PORT) == "pass"


READY, UNREADY, DRAINING, DEAD = "ready", "unready", "draining", "dead"


@pytest.mark.parametrize(
    ("here", "there", "cluster", "local"),
    [
        (READY, READY, ALL, L),
        (DRAINING, READY, R, L),
        (READY, DRAINING, L, L),
        (DRAINING, DRAINING, ALL, L),
        (UNREADY, READY, R, "DROP"),
        (DEAD, READY, R, "DROP"),
        (DEAD, DRAINING, R, "DROP"),
        (UNREADY, DRAINING, R, "DROP"),
        (UNREADY, DEAD, "REJECT", "REJECT"),
        (DEAD, DEAD, "REJECT", "REJECT"),
    ],
)
def test_terminating_endpoints_serve_only_when_nobody_else_can(here: str, there: str, cluster: str, local: str) -> None:
    ends = endpoint(LOCAL_END, local=True, state=here), endpoint(REMOTE_END, state=there)
    assert flow(kernel([service(*ends)]), POD, *IP) == cluster
    assert flow(kernel([service(*ends, internal=Reach.LOCAL)]), POD, *IP) == local
    assert flow(kernel([service(*ends, external=Reach.LOCAL)]), OUTSIDER, *NP) == local


def test_node_ports_only_on_the_addresses_asked_for() -> None:
    snapshot = kernel([PLAIN], replace(POLICY, node_port_addresses=(IPv4Address(NODE),)))
    assert flow(snapshot, OUTSIDER, NODE, NODE_PORT) == ALL_MASQ
    assert flow(snapshot, OUTSIDER, "10.180.0.1", NODE_PORT) == "pass"
    assert flow(kernel([PLAIN], replace(POLICY, node_port_addresses=())), OUTSIDER, NODE, NODE_PORT) == "pass"


def test_affinity_remembers_and_still_spreads_new_clients() -> None:
    snapshot = kernel([service(HERE, THERE, affinity=900)])
    assert flow(snapshot, POD, *IP) == ALL


def test_a_new_masquerade_bit_moves_every_mark() -> None:
    snapshot = kernel([PLAIN], replace(POLICY, masquerade_bit=20))
    assert flow(snapshot, OUTSIDER, *IP) == ALL_MASQ
    assert flow(snapshot, POD, *IP) == ALL
