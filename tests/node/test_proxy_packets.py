"""Real packets through real rules: who answers, whom they saw, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from linux import netns as kernel_netns
from linux.iptables import backend
from linux.iptables.restore import Iptables
from linux.iptables.rules import Family
from proxy.iptables import plan
from proxy.iptables.apply import Rules
from proxy.model import Endpoint, Policy, Protocol, Reach, ServicePort, Usable
from tests.node.service_world import NODE, OUTSIDER, PORT, REMOTE_POD, Make, World, built
from tests.requirements import requires

CLUSTER_IP, NODE_PORT = "10.96.0.10", 30080
HERE, HERE_TOO = "10.244.0.2", "10.244.0.3"
POLICY = Policy(cluster_cidr=IPv4Network("10.244.0.0/16"))


@pytest.fixture(params=["nft", "legacy"])
def flavor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> backend.Flavor:
    requires("netns", f"iptables-{request.param}-restore")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return backend.Flavor(request.param)


@pytest.fixture
def world(netns: Make, flavor: backend.Flavor) -> Iterator[World]:
    with built(netns) as made:
        yield made


def service(*ips: str, protocol: Protocol = Protocol.TCP, name: str = "shop/web:http", **fields: object) -> ServicePort:
    ends = tuple(Endpoint(IPv4Address(ip), PORT, local=ip.startswith("10.244.0.")) for ip in sorted(ips))
    made = ServicePort(
        name, protocol, IPv4Address(CLUSTER_IP), 80, node_port=NODE_PORT, endpoints=Usable(ends, (), bool(ends))
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def write(world: World, flavor: backend.Flavor, *services: ServicePort, policy: Policy = POLICY) -> None:
    async def applied() -> None:
        packets = Iptables(await backend.named(Family.V4, flavor))
        await Rules(packets).apply(plan.tree(services, policy))

    with kernel_netns.enter(world.node.path):
        asyncio.run(applied())


def test_a_cluster_ip_spreads_over_all_endpoints_and_keeps_the_pods_address(
    world: World, flavor: backend.Flavor
) -> None:
    write(world, flavor, service(HERE, HERE_TOO, REMOTE_POD))
    hits = world.ask(HERE, CLUSTER_IP, 80, times=150)
    # itself only through masquerade, the others with its own address
    assert set(hits) == {f"{HERE} {NODE}", f"{HERE_TOO} {HERE}", f"{REMOTE_POD} {HERE}"}
    assert min(hits.values()) > 20, hits


def test_who_is_no_pod_is_masqueraded(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service(HERE))
    assert world.ask(NODE, CLUSTER_IP, 80) == {f"{HERE} {NODE}": 1}
    assert world.ask(OUTSIDER, CLUSTER_IP, 80) == {f"{HERE} {NODE}": 1}
    assert world.ask(REMOTE_POD, CLUSTER_IP, 80) == {f"{HERE} {REMOTE_POD}": 1}


def test_node_ports(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service(HERE, REMOTE_POD))
    for source in (OUTSIDER, NODE, HERE_TOO):
        hits = world.ask(source, NODE, NODE_PORT, times=30)
        assert set(hits) == {f"{HERE} {NODE}", f"{REMOTE_POD} {NODE}"}, source


def test_external_policy_local_keeps_the_outsiders_address(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service(HERE, REMOTE_POD, external=Reach.LOCAL))
    assert world.ask(OUTSIDER, NODE, NODE_PORT, times=20) == {f"{HERE} {OUTSIDER}": 20}
    assert set(world.ask(HERE_TOO, NODE, NODE_PORT, times=30)) == {f"{HERE} {HERE_TOO}", f"{REMOTE_POD} {HERE_TOO}"}
    assert set(world.ask(NODE, NODE, NODE_PORT, times=30)) == {f"{HERE} {NODE}", f"{REMOTE_POD} {NODE}"}
    write(world, flavor, service(REMOTE_POD, external=Reach.LOCAL))
    assert world.ask(OUTSIDER, NODE, NODE_PORT) == {"silence": 1}


def test_internal_policy_local(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service(HERE, REMOTE_POD, internal=Reach.LOCAL))
    assert world.ask(HERE_TOO, CLUSTER_IP, 80, times=20) == {f"{HERE} {HERE_TOO}": 20}
    write(world, flavor, service(REMOTE_POD, internal=Reach.LOCAL))
    assert world.ask(HERE_TOO, CLUSTER_IP, 80) == {"silence": 1}


def test_without_endpoints_it_is_refused_at_once(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service())
    for source, to in (
        (HERE, (CLUSTER_IP, 80)),
        (OUTSIDER, (CLUSTER_IP, 80)),
        (NODE, (CLUSTER_IP, 80)),
        (OUTSIDER, (NODE, NODE_PORT)),
        (HERE, (NODE, NODE_PORT)),
        (NODE, (NODE, NODE_PORT)),
    ):
        assert world.ask(source, *to) == {"refused": 1}, (source, to)
    write(world, flavor, service(HERE_TOO))
    assert world.ask(HERE, CLUSTER_IP, 80) == {f"{HERE_TOO} {HERE}": 1}


def test_udp_and_tcp_of_one_service(world: World, flavor: backend.Flavor) -> None:
    udp = service(REMOTE_POD, name="shop/web:dns", protocol=Protocol.UDP)
    write(world, flavor, service(HERE), udp)
    assert world.ask(HERE_TOO, CLUSTER_IP, 80, protocol="udp", times=3) == {f"{REMOTE_POD} {HERE_TOO}": 3}
    assert world.ask(HERE_TOO, CLUSTER_IP, 80, times=3) == {f"{HERE} {HERE_TOO}": 3}
    assert world.ask(OUTSIDER, NODE, NODE_PORT, protocol="udp") == {f"{REMOTE_POD} {NODE}": 1}


def test_affinity_sticks_per_client_and_survives_a_rewrite(world: World, flavor: backend.Flavor) -> None:
    write(world, flavor, service(HERE, HERE_TOO, REMOTE_POD, affinity_seconds=60))
    first = world.ask(OUTSIDER, CLUSTER_IP, 80, times=20)
    assert len(first) == 1
    write(world, flavor, service(HERE, HERE_TOO, REMOTE_POD, affinity_seconds=61))
    assert set(world.ask(OUTSIDER, CLUSTER_IP, 80, times=20)) == set(first)


def test_node_port_addresses(world: World, flavor: backend.Flavor) -> None:
    world.node.run("ip", "address", "add", "192.168.0.2/24", "dev", "eth0")
    write(world, flavor, service(HERE), policy=replace(POLICY, node_port_addresses=(IPv4Address("192.168.0.2"),)))
    assert world.ask(OUTSIDER, "192.168.0.2", NODE_PORT) == {f"{HERE} {NODE}": 1}
    assert world.ask(OUTSIDER, NODE, NODE_PORT) == {"refused": 1}
