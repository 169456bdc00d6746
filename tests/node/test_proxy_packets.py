"""Real packets through real rules: who answers, whom they saw, and what is refused; each mode, both families.

Every mode and family has one world for all tests, and its writer goes from one test's Services to the next one's: what a test
sees is also what an update leaves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from linux.iptables.rules import Family
from proxy.model import Endpoint, PodNetwork, Policy, Protocol, Reach, ServicePort, Usable
from tests.conftest import named_netns
from tests.node import packet_cases
from tests.node.rule_writers import Mode, Writer, writing
from tests.node.service_world import (
    HERE,
    HERE_TOO,
    LOCAL_PODS,
    NODE,
    OTHER_NODE,
    OTHER_POD,
    OUTSIDER,
    POD,
    POD_RANGE,
    PORT,
    STRANGER,
    THERE,
    THERE_TOO,
    Site,
    built,
)
from tests.unit.proxy import cases

CLUSTER_IP, EXTERNAL_IP, NODE_PORT = "172.30.200.41", "203.0.114.201", 31000
CLIENTS = (OUTSIDER, STRANGER, OTHER_NODE, OTHER_POD, NODE, POD)
TWINS = {(Mode.IPTABLES_LEGACY, Family.V6), (Mode.NFTABLES_FALLBACK, Family.V6)}
"""Of which only the table is tried in a short run: their other halves do the rest."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("--soak") or metafunc.function is test_every_flow_of_the_table
    chosen = [(mode, family) for mode in Mode for family in Family if whole or (mode, family) not in TWINS]
    ids = [f"{mode}-{family}" for mode, family in chosen]
    metafunc.parametrize("rules", chosen, ids=ids, indirect=True, scope="module")


class Rules:
    """A site, and somebody who writes its rules."""

    def __init__(self, site: Site, writer: Writer) -> None:
        self.at, self.flow, self.ask, self.ask_all = site.at, site.flow, site.ask, site.ask_all
        self.site = site
        self.node = site.world.node
        self.family = site.family
        self.writer = writer

    def write(self, *services: ServicePort, **policy: object) -> None:
        made = Policy(family=Family(self.family), pods=PodNetwork(ip_network(self.at(POD_RANGE))))
        self.writer.write(services, replace(made, **policy))  # type: ignore[arg-type]

    def service(
        self, *ips: str, protocol: Protocol = Protocol.TCP, name: str = "shop/web:http", **fields: object
    ) -> ServicePort:
        """With `internal` or `external` Local only those here are used."""
        ends = tuple(Endpoint.at(ip_address(self.at(ip)), PORT, local=ip in (*LOCAL_PODS, NODE)) for ip in sorted(ips))
        made = ServicePort(name, protocol, ip_address(self.at(CLUSTER_IP)), 80, node_port=NODE_PORT)
        made = replace(made, **fields)  # type: ignore[arg-type]
        is_local = Reach.LOCAL in (made.internal, made.external)
        here = tuple(end for end in ends if end.local) if is_local else ()
        return replace(made, endpoints=Usable(ends, here, bool(ends)))

    def names(self, source: str, destination: str, port: int, times: int = 20, **more: Any) -> set[str]:
        return set(named(self.ask(source, destination, port, times=times, **more)))


def named(answers: Counter[str]) -> Counter[str]:
    """Who answered, whomever they saw."""
    found: Counter[str] = Counter()
    for answer, times in answers.items():
        found[answer.split(" ")[0].removesuffix(f":{PORT}")] += times
    return found


@pytest.fixture(scope="module")
def rules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rules]:
    mode, family = request.param
    mode.required(family)
    lock = tmp_path_factory.mktemp("lock") / "xtables.lock"
    with (
        pytest.MonkeyPatch.context() as patch,
        named_netns() as netns,
        built(netns) as world,
    ):
        patch.setenv("XTABLES_LOCKFILE", str(lock))
        with writing(world.node, mode, family) as writer:
            yield Rules(Site(world, family), writer)


def test_every_flow_of_the_table(rules: Rules) -> None:
    rules.node.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    mode = cases.Mode.NFTABLES if rules.writer.mode.startswith("nftables") else cases.Mode.IPTABLES
    unmet = []
    for settings, placed in packet_cases.groups(rules.site):
        rules.writer.write((port for one in placed for port in one.ports), placed[0].world.policy(settings))
        for one in placed:
            if any(flow.source == "vip" for flow in one.case.flows):
                rules.node.run("ip", "address", "add", str(one.world.addresses["balancer"]), "dev", "lo")
        unmet += packet_cases.unmet(rules.site, placed, mode)
    assert unmet == [], "\n" + "\n".join(unmet)


def test_the_endpoints_share_evenly(rules: Rules) -> None:
    ends = (HERE, HERE_TOO, THERE, THERE_TOO)
    rules.write(rules.service(*ends))
    hits = named(rules.ask(POD, CLUSTER_IP, 80, times=600))
    assert set(hits) == set(ends)
    assert min(hits.values()) > 90, hits  # of 150 each; six standard deviations


def test_a_service_takes_every_shape(rules: Rules) -> None:
    """Each is an update of the one before, and what the one before had is gone."""
    tcp, udp = rules.service(HERE), rules.service(THERE, protocol=Protocol.UDP, name="shop/web:dns")
    rules.write(tcp, udp)
    assert rules.names(OUTSIDER, NODE, NODE_PORT) == {HERE}
    assert rules.names(OUTSIDER, NODE, NODE_PORT, protocol="udp") == {THERE}
    rules.write(replace(tcp, node_port=0, external_ips=(ip_address(rules.at(EXTERNAL_IP)),)), udp)
    assert rules.names(OUTSIDER, NODE, NODE_PORT, 1) == {"refused"}
    assert rules.names(OUTSIDER, EXTERNAL_IP, 80) == {HERE}
    assert rules.names(OUTSIDER, NODE, NODE_PORT, protocol="udp") == {THERE}
    rules.write(replace(tcp, port=81, node_port=NODE_PORT + 1))
    assert rules.names(POD, CLUSTER_IP, 81) == rules.names(POD, NODE, NODE_PORT + 1) == {HERE}
    assert rules.names(POD, NODE, NODE_PORT, 1, protocol="udp") == {"refused"}
    rules.write(replace(tcp, port=81, protocol=Protocol.UDP, node_port=0))
    assert rules.names(POD, CLUSTER_IP, 81, protocol="udp") == {HERE}
    assert rules.names(POD, NODE, NODE_PORT + 1, 1) == {"refused"}
    assert HERE not in rules.names(POD, CLUSTER_IP, 81, 1, timeout=0.3)
    rules.write(rules.service(HERE, THERE, external=Reach.LOCAL))
    assert set(rules.ask(OUTSIDER, NODE, NODE_PORT, times=20)) == {f"{HERE}:8080 {OUTSIDER}"}
    rules.write(rules.service(HERE, THERE))
    assert rules.names(OUTSIDER, NODE, NODE_PORT) == {HERE, THERE}
    rules.write(rules.service())
    assert rules.names(POD, CLUSTER_IP, 80, 1) == rules.names(OUTSIDER, NODE, NODE_PORT, 1) == {"refused"}
    rules.write(rules.service(HERE_TOO))
    assert rules.names(POD, CLUSTER_IP, 80) == rules.names(OUTSIDER, NODE, NODE_PORT) == {HERE_TOO}
    rules.write()
    assert rules.names(OUTSIDER, NODE, NODE_PORT, 1) == {"refused"}


def test_clients_and_endpoints_on_the_host_network(rules: Rules) -> None:
    rules.write(rules.service(NODE, OTHER_NODE))
    assert rules.names(POD, CLUSTER_IP, 80) == {NODE, OTHER_NODE}
    assert rules.names(NODE, CLUSTER_IP, 80) == {NODE, OTHER_NODE}
    assert rules.names(OTHER_NODE, NODE, NODE_PORT) == {NODE, OTHER_NODE}
    rules.write(rules.service(NODE, OTHER_NODE, external=Reach.LOCAL))
    assert set(rules.ask(OUTSIDER, NODE, NODE_PORT, times=10)) == {f"{NODE}:8080 {OUTSIDER}"}


def test_two_services_may_claim_one_external_address(rules: Rules) -> None:
    shared = (ip_address(rules.at(EXTERNAL_IP)),)
    first = rules.service(HERE, name="a/first:http", external_ips=shared, node_port=0)
    other = rules.service(THERE, name="b/other:http", external_ips=shared, node_port=0)
    other = replace(other, cluster_ip=ip_address(rules.at("172.30.200.42")))
    rules.write(first, other)
    assert rules.names(POD, "172.30.200.42", 80) == {THERE}
    assert rules.names(POD, CLUSTER_IP, 80) == {HERE}
    assert rules.names(OUTSIDER, EXTERNAL_IP, 80) in ({HERE}, {THERE})
    rules.write(other)
    assert rules.names(OUTSIDER, EXTERNAL_IP, 80) == {THERE}


def stuck(rules: Rules, clients: Sequence[str], times: int = 6) -> dict[str, str]:
    """The endpoint of each client, which must be one."""
    answers = rules.ask_all([rules.flow(client, CLUSTER_IP, 80, times=times) for client in clients])
    found = {}
    for client, answer in zip(clients, answers, strict=True):
        assert len(named(answer)) == 1, (client, answer)
        (found[client],) = named(answer)
    return found


def test_affinity_holds_through_updates_and_ends_with_its_endpoint_or_its_time(rules: Rules) -> None:
    ends = (HERE, HERE_TOO, THERE)
    rules.write(rules.service(*ends, affinity_seconds=60))
    # One after the other first: who asks several times at once has no place yet.
    at_first = {client: next(iter(rules.names(client, CLUSTER_IP, 80, 1))) for client in CLIENTS}
    assert stuck(rules, CLIENTS) == at_first
    assert rules.names(OUTSIDER, NODE, NODE_PORT) == {at_first[OUTSIDER]}
    rules.write(rules.service(*ends, THERE_TOO, affinity_seconds=90))
    assert stuck(rules, CLIENTS) == at_first
    gone = at_first[OUTSIDER]
    rules.write(rules.service(*(end for end in (*ends, THERE_TOO) if end != gone), affinity_seconds=90))
    for client in CLIENTS:
        assert len(rules.names(client, CLUSTER_IP, 80, 1)) == 1
    after = stuck(rules, CLIENTS)
    assert gone not in after.values()
    assert {client: end for client, end in after.items() if at_first[client] != gone} == {
        client: end for client, end in at_first.items() if end != gone
    }


def test_affinity_is_switched_on_and_off_and_forgets_in_time(rules: Rules) -> None:
    ends = (HERE, HERE_TOO, THERE, THERE_TOO)
    rules.write(rules.service(*ends))
    assert rules.names(OUTSIDER, CLUSTER_IP, 80, 60) == set(ends)
    rules.write(rules.service(*ends, affinity_seconds=1))
    before = {client: next(iter(rules.names(client, CLUSTER_IP, 80, 1))) for client in CLIENTS}
    assert stuck(rules, CLIENTS, 3) == before
    time.sleep(1.3)  # the silence that is being tried
    after = {client: next(iter(rules.names(client, CLUSTER_IP, 80, 1))) for client in CLIENTS}
    assert after != before  # alike once in 4,000
    rules.write(rules.service(*ends))
    assert rules.names(OUTSIDER, CLUSTER_IP, 80, 60) == set(ends)


def test_nothing_of_it_stays(rules: Rules) -> None:
    """The last one: what was written is forgotten, and then there is nothing to forget."""
    rules.write(rules.service(HERE, THERE, affinity_seconds=60))
    assert rules.writer.forget() > 0
    assert rules.writer.forget() == 0
    left = [line for line in listing(rules) if "KUBE-" in line or "kube-proxy" in line]
    assert [line for line in left if "KUBE-FIREWALL" not in line] == []


def listing(rules: Rules) -> list[str]:
    stem = Family(rules.family).command
    commands = [[f"{stem}-{flavor}-save"] for flavor in ("nft", "legacy")] + [["nft", "list", "ruleset"]]
    return [line for argv in commands for line in rules.node.run(*argv).splitlines()]
