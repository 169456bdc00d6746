"""Real packets across three nodes, whatever carries them: every pair, both protocols, full size, the source address kept."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.node import transfers
from tests.node.overlay_world import DUAL, OUTSIDE, VXLAN, OverlayNode, World, until
from tests.node.pinger import ping
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

UNDERLAY = 1500


@dataclasses.dataclass(frozen=True)
class Way:
    """A net-conf.json, and what it makes of the underlay's MTU: `told` to plugins, and what the way from node1 to node2
    would take."""

    name: str
    conf: dict[str, Any]
    told: int
    path: dict[int, int]
    far: tuple[int, ...] = ()
    policy: str = "DROP"
    """Of iptables' FORWARD, which dockerd sets so. No table of nft's can accept what another one drops."""

    def __str__(self) -> str:
        return self.name


def with_backend(conf: dict[str, Any], **backend: object) -> dict[str, Any]:
    return {**conf, "Backend": backend}


WAYS = [
    # An IPv6 underlay takes 20 bytes more; plugins are told one MTU, the least.
    Way("vxlan", DUAL, 1430, {4: 1450, 6: 1430}),
    Way("vxlan-IPv4", VXLAN, 1450, {4: 1450}),
    # node3 is behind a router: only it is reached through the tunnel.
    Way(
        "vxlan-DirectRouting",
        with_backend(DUAL, Type="vxlan", DirectRouting=True),
        1430,
        {4: 1500, 6: 1500},
        far=(3,),
    ),
    Way("host-gw", with_backend(DUAL, Type="host-gw"), 1500, {4: 1500, 6: 1500}),
    Way("vxlan-nft", {**DUAL, "EnableNFTables": True}, 1430, {4: 1450, 6: 1430}, policy="ACCEPT"),
]


@pytest.fixture(scope="module", params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def world(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"), conf=way.conf, far=way.far)
    try:
        for node in made.nodes:
            for tool in ("iptables", "ip6tables"):
                node.space.run(tool, "-P", "FORWARD", way.policy)
        yield made.start_daemons("--ip-masq")
    finally:
        made.close()


def pairs(world: World) -> Iterator[tuple[int, OverlayNode, OverlayNode]]:
    for version in world.versions:
        for here, there in itertools.permutations(world.nodes, 2):
            yield version, here, there


def test_tcp_and_udp_between_all_pods_with_their_own_addresses(world: World) -> None:
    for version, here, there in pairs(world):
        ends = here.pod.path, there.pod.path, there.pod_of(version)
        assert transfers.tcp(*ends, size=1 << 17) == here.pod_of(version), f"{here.name} -> {there.name}"
        assert transfers.udp(*ends) == here.pod_of(version), f"{here.name} -> {there.name}"
        # 9,000 bytes in one datagram: fragments cross too.
        assert transfers.udp(*ends, size=9000) == here.pod_of(version), f"{here.name} -> {there.name}"


def fragments(node: OverlayNode) -> int:
    """How many the node has made: packets whole inside a tunnel may travel in pieces outside."""
    tables = [line.split() for line in node.space.run("cat", "/proc/net/snmp", "/proc/net/snmp6").splitlines()]
    names, values = (line for line in tables if line[0] == "Ip:")
    four = int(values[names.index("FragCreates")])
    return four + next(int(line[1]) for line in tables if line[0] == "Ip6FragCreates")


def test_the_mtu_passes_whole_and_one_byte_more_does_not(world: World, way: Way) -> None:
    for version, here, there in pairs(world):
        pieces = fragments(here), fragments(there)
        headers = 28 if version == 4 else 48
        assert here.reaches(there, size=way.told - headers, version=version), f"{here.name} -> {there.name}"
        assert not here.reaches(there, size=way.told - headers + 1, version=version), f"{here.name} -> {there.name}"
        assert (fragments(here), fragments(there)) == pieces
        assert here.subnet_env()["FLANNEL_MTU"] == str(way.told)


def test_a_pod_whose_mtu_is_too_large_is_told_the_paths(world: World, way: Way) -> None:
    one, two = world.nodes[:2]
    for version in world.versions:
        one.space.run("ip", "link", "set", "pod0", "mtu", "1600")
        one.pod.run("ip", "link", "set", "eth0", "mtu", "1600")
        try:
            found = transfers.path_mtu(one.pod.path, two.pod.path, two.pod_of(version), 1590)
            assert found == way.path[version]
            assert transfers.tcp(one.pod.path, two.pod.path, two.pod_of(version)) == one.pod_of(version)
        finally:
            one.pod.run("ip", "route", "flush", "cache")
            one.fit_pods()


def test_nodes_and_pods_reach_each_other(world: World, way: Way) -> None:
    """A node speaks to remote pods with an address that they can answer; pods reach nodes at their own address."""
    for version, here, there in pairs(world):
        seen = transfers.tcp(here.space.path, there.pod.path, there.pod_of(version), size=1 << 12)
        own = {f"10.244.{here.number}.0", here.address, f"fd10:244:0:{here.number}::", here.address6}
        assert seen in own, f"{here.name} -> {there.name}'s pod came from {seen}"
        node = there.address if version == 4 else there.address6
        transfers.tcp(here.pod.path, there.space.path, node, size=1 << 12)


def test_the_world_sees_the_nodes_address(world: World) -> None:
    for version in world.versions:
        for node in world.nodes:
            own = node.address if version == 4 else node.address6
            until(lambda n=node, v=version: ping(n.pod.path, OUTSIDE[v]), f"{node.name}'s way out")  # type: ignore[misc]
            assert transfers.tcp(node.pod.path, world.internet.path, OUTSIDE[version], size=1 << 12) == own
            assert transfers.udp(node.pod.path, world.internet.path, OUTSIDE[version]) == own


def test_it_is_this_way_and_no_other(world: World, way: Way) -> None:
    one, two, three = world.nodes
    four = one.kernel()
    tunnelled = {"host-gw": [], "vxlan-DirectRouting": [three]}.get(way.name, [two, three])
    direct = [node for node in (two, three) if node not in tunnelled]
    assert [entry.split()[1] for entry in sorted(four["fdb"], key=lambda entry: entry.split()[1])] == [
        node.address for node in tunnelled
    ]
    assert len(four["routes"]) == len(tunnelled)
    assert four["elsewhere"] == [f"10.244.{n.number}.0/24 via {n.address} proto 87 dev eth0" for n in direct]
    assert (four["device"] is None) == (way.name == "host-gw")
    assert any("FLANNEL-POSTRTG" in rule for rule in one.rules()) == (way.name != "vxlan-nft")
