"""One network of our nodes and of flannel's: node2 is programmed by hand, exactly as stock flanneld writes it."""

import itertools
from collections.abc import Iterator

import pytest

from tests.node import transfers
from tests.node.flanneld import Flanneld, written
from tests.node.overlay_world import DUAL, OverlayNode, World, until
from tests.node.pinger import train
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

CONF = {**DUAL, "Backend": {"Type": "vxlan", "MTU": 1480}}
"""flannel takes 50 bytes off for IPv6 too, where VXLAN needs 70: without room below 1500 its pods' largest packets are lost,
whoever runs on the other side."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """node1 and node3 are ours, node2 is flannel's; each has come to know the others."""
    made = World(tmp_path_factory.mktemp("overlay"), conf=CONF)
    try:
        one, two, three = made.nodes
        for ours in (one, three):
            ours.start("--ip-masq")
        for ours in (one, three):
            ours.ready()
        until(lambda: all("public-ip" in written(ours) for ours in (one, three)), "their leases", 20)
        Flanneld(two).start(masquerade=True)
        for node in made.nodes:
            node.fit_pods()
        yield made
    finally:
        made.close()


def talk(world: World) -> None:
    for version in world.versions:
        for here, there in itertools.permutations(world.nodes, 2):
            ends = here.pod.path, there.pod.path, there.pod_of(version)
            until(lambda a=here, b=there, v=version: a.reaches(b, version=v), f"{here.name} -> {there.name}", 20)  # type: ignore[misc]
            assert transfers.tcp(*ends) == here.pod_of(version), f"{here.name} -> {there.name}"
            # Pods of both kinds of node have different MTUs, and IPv6 fragments nothing on the way: one datagram would pay.
            assert transfers.udp(*ends, size=4000 if version == 4 else 1200) == here.pod_of(version), (
                f"{here.name} -> {there.name}"
            )
            assert here.reaches(there, size=1410 - 48, version=version)


def test_packets_both_ways_between_flannels_node_and_ours(world: World) -> None:
    talk(world)


def settled(node: OverlayNode) -> bool:
    """Nothing of flanneld's is left to be replaced."""
    return not any(" proto boot " in route for found in node.both().values() for route in found["routes"])


def left_behind(node: OverlayNode) -> None:
    """A peer that went while flanneld was down: flanneld never removes its entries (flannel's #2554)."""
    run = node.space.run
    run("ip", "neigh", "add", "10.244.99.0", "lladdr", "02:99:99:99:99:99", "dev", "flannel.1", "nud", "permanent")
    run("bridge", "fdb", "add", "02:99:99:99:99:99", "dev", "flannel.1", "dst", "10.200.0.99", "self", "permanent")
    route = ("10.244.99.0/24", "via", "10.244.99.0", "dev", "flannel.1", "onlink", "proto", "static")
    run("ip", "route", "add", *route)


def test_ours_takes_a_node_over_from_flanneld_and_gives_it_back(world: World) -> None:
    """Neither change of hands is noticed by a pod: the device, its MAC and its addresses stay, routes are replaced."""
    one, two, _ = world.nodes
    for version in world.versions:
        assert one.reaches(two, version=version)
    notes, rules = written(two), two.rules()
    device = two.space.run("ip", "-o", "link", "show", "flannel.1").split(":")[0]
    left_behind(two)
    with train(one.pod.path, two.pod_address) as pings:
        two.start("--ip-masq")
        two.ready()
        until(lambda: settled(two), "flanneld's routes are replaced", 20, lambda: f"{two.both()}\n{two.text()}")
    assert pings.lost == 0, f"{pings.lost} of {len(pings.sent)} lost while ours took over"
    assert "10.244.99.0" not in str(two.kernel())
    assert "02:99:99:99:99:99" not in str(two.kernel())
    assert written(two) == notes
    assert two.kernel()["device"].alias == "wherry overlay"
    until(lambda: [plain(rule) for rule in two.rules()] == [plain(rule) for rule in rules], "flanneld's rules", 10)
    talk(world)
    with train(one.pod.path, two.pod_address) as pings:
        assert two.stop() == 0
        Flanneld(two).start(masquerade=False)
    assert pings.lost == 0, f"{pings.lost} of {len(pings.sent)} lost while flanneld took over"
    assert two.space.run("ip", "-o", "link", "show", "flannel.1").split(":")[0] == device, "the device was reused"
    assert written(two) == notes
    talk(world)


def plain(rule: str) -> str:
    """Without our stamp, and however the matches are ordered."""
    words = rule.split('"')
    return " ".join(sorted(words[0].split() + words[-1].split()))


def test_a_restart_of_ours_is_invisible_to_flannels_node(world: World) -> None:
    one, two, _ = world.nodes
    until(lambda: two.reaches(one), "packets")
    before = one.both()
    with train(two.pod.path, one.pod_address, gap=0.005) as pings:
        one.stop(9)
        one.start("--ip-masq")
        one.ready()
    assert pings.lost == 0, f"{pings.lost} of {len(pings.sent)} lost"
    assert one.both() == before
