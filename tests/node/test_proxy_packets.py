"""Real packets through real rules: who answers, whom they saw, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from linux.iptables.rules import Family
from proxy.model import Endpoint, PodNetwork, Policy, Protocol, Reach, ServicePort, Usable
from tests.node.rule_writers import Mode, Writer, writing
from tests.node.service_world import (
    HERE,
    HERE_TOO,
    LOCAL_PODS,
    NODE,
    NODE_TOO,
    OTHER_POD,
    OUTSIDER,
    POD,
    POD_RANGE,
    PORT,
    THERE,
    Make,
    Site,
    built,
)

CLUSTER_IP, NODE_PORT = "172.30.0.41", 30080


class Rules:
    """A site, and somebody who writes its rules."""

    def __init__(self, site: Site, writer: Writer) -> None:
        self.at, self.flow, self.ask, self.ask_all = site.at, site.flow, site.ask, site.ask_all
        self.family = site.family
        self.writer = writer

    def policy(self, **fields: object) -> Policy:
        made = Policy(family=Family(self.family), pods=PodNetwork(ip_network(self.at(POD_RANGE))))
        return replace(made, **fields)  # type: ignore[arg-type]

    def write(self, *services: ServicePort, policy: Policy | None = None) -> None:
        self.writer.write(services, policy or self.policy())

    def service(
        self, *ips: str, protocol: Protocol = Protocol.TCP, name: str = "shop/web:http", **fields: object
    ) -> ServicePort:
        """With `internal` or `external` Local only those here are used."""
        ends = tuple(Endpoint(ip_address(self.at(ip)), PORT, local=ip in LOCAL_PODS) for ip in sorted(ips))
        made = ServicePort(name, protocol, ip_address(self.at(CLUSTER_IP)), 80, node_port=NODE_PORT)
        made = replace(made, **fields)  # type: ignore[arg-type]
        is_local = Reach.LOCAL in (made.internal, made.external)
        here = tuple(end for end in ends if end.local) if is_local else ()
        return replace(made, endpoints=Usable(ends, here, bool(ends)))


@pytest.fixture(params=[pytest.param((mode, family), id=f"{mode}-{family}") for mode in Mode for family in Family])
def rules(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, netns: Make
) -> Iterator[Rules]:
    mode, family = request.param
    mode.required(family)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with built(netns) as world, writing(world.node, mode, family) as writer:
        yield Rules(Site(world, family), writer)


def test_a_cluster_ip_spreads_over_all_endpoints_and_keeps_the_pods_address(rules: Rules) -> None:
    rules.write(rules.service(HERE, HERE_TOO, THERE))
    hits = rules.ask(HERE, CLUSTER_IP, 80, times=150)
    # itself only through masquerade, the others with its own address
    assert set(hits) == {f"{HERE}:8080 masq", f"{HERE_TOO}:8080 {HERE}", f"{THERE}:8080 {HERE}"}
    assert min(hits.values()) > 20, hits


def test_who_is_no_pod_is_masqueraded(rules: Rules) -> None:
    rules.write(rules.service(HERE))
    assert rules.ask(NODE, CLUSTER_IP, 80) == {f"{HERE}:8080 masq": 1}
    assert rules.ask(OUTSIDER, CLUSTER_IP, 80) == {f"{HERE}:8080 masq": 1}
    assert rules.ask(OTHER_POD, CLUSTER_IP, 80) == {f"{HERE}:8080 {OTHER_POD}": 1}


def test_node_ports(rules: Rules) -> None:
    rules.write(rules.service(HERE, THERE))
    for source in (OUTSIDER, NODE, HERE_TOO):
        hits = rules.ask(source, NODE, NODE_PORT, times=30)
        assert set(hits) == {f"{HERE}:8080 masq", f"{THERE}:8080 masq"}, source


def test_external_policy_local_keeps_the_outsiders_address(rules: Rules) -> None:
    rules.write(rules.service(HERE, THERE, external=Reach.LOCAL))
    assert rules.ask(OUTSIDER, NODE, NODE_PORT, times=20) == {f"{HERE}:8080 {OUTSIDER}": 20}
    hits = rules.ask(HERE_TOO, NODE, NODE_PORT, times=30)
    assert set(hits) == {f"{HERE}:8080 {HERE_TOO}", f"{THERE}:8080 {HERE_TOO}"}
    assert set(rules.ask(NODE, NODE, NODE_PORT, times=30)) == {f"{HERE}:8080 masq", f"{THERE}:8080 masq"}
    rules.write(rules.service(THERE, external=Reach.LOCAL))
    assert rules.ask(OUTSIDER, NODE, NODE_PORT) == {"silence": 1}


def test_internal_policy_local(rules: Rules) -> None:
    rules.write(rules.service(HERE, THERE, internal=Reach.LOCAL))
    assert rules.ask(HERE_TOO, CLUSTER_IP, 80, times=20) == {f"{HERE}:8080 {HERE_TOO}": 20}
    rules.write(rules.service(THERE, internal=Reach.LOCAL))
    assert rules.ask(HERE_TOO, CLUSTER_IP, 80) == {"silence": 1}


def test_without_endpoints_it_is_refused_at_once(rules: Rules) -> None:
    rules.write(rules.service())
    wanted = [(source, *to) for source in (POD, OUTSIDER, NODE) for to in ((CLUSTER_IP, 80), (NODE, NODE_PORT))]
    answers = rules.ask_all([rules.flow(*each) for each in wanted])
    assert [(each, *answer) for each, answer in zip(wanted, answers, strict=True)] == [
        (each, "refused") for each in wanted
    ]
    rules.write(rules.service(HERE_TOO))
    assert rules.ask(HERE, CLUSTER_IP, 80) == {f"{HERE_TOO}:8080 {HERE}": 1}


def test_udp_and_tcp_of_one_service(rules: Rules) -> None:
    udp = rules.service(THERE, name="shop/web:dns", protocol=Protocol.UDP)
    rules.write(rules.service(HERE), udp)
    assert rules.ask(HERE_TOO, CLUSTER_IP, 80, protocol="udp", times=3) == {f"{THERE}:8080 {HERE_TOO}": 3}
    assert rules.ask(HERE_TOO, CLUSTER_IP, 80, times=3) == {f"{HERE}:8080 {HERE_TOO}": 3}
    assert rules.ask(OUTSIDER, NODE, NODE_PORT, protocol="udp") == {f"{THERE}:8080 masq": 1}


def test_affinity_sticks_per_client_and_survives_a_rewrite(rules: Rules) -> None:
    rules.write(rules.service(HERE, HERE_TOO, THERE, affinity_seconds=60))
    first = rules.ask(OUTSIDER, CLUSTER_IP, 80, times=20)
    assert len(first) == 1
    rules.write(rules.service(HERE, HERE_TOO, THERE, affinity_seconds=61))
    assert set(rules.ask(OUTSIDER, CLUSTER_IP, 80, times=20)) == set(first)


def test_node_port_addresses(rules: Rules) -> None:
    only = (ip_address(rules.at(NODE_TOO)),)
    rules.write(rules.service(HERE), policy=rules.policy(node_port_addresses=only))
    assert rules.ask(OUTSIDER, NODE_TOO, NODE_PORT) == {f"{HERE}:8080 masq": 1}
    assert rules.ask(OUTSIDER, NODE, NODE_PORT) == {"refused": 1}
