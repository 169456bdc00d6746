"""Damages that only some ways of carrying packets know: routes through the underlay itself, nftables' own rules.

routed   host-gw and nftables: no device of ours, every route leads over eth0 and dies with it
direct   vxlan with DirectRouting: node2 is a neighbour and needs no tunnel, node3 is behind a router
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube.resources import NODES
from tests.node.overlay_world import DUAL, OverlayNode, World, until, until_equal
from tests.node.pinger import train
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables", "nft")

PROMISE, TRIES, LATE = 1.0, 3, 15.0


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    conf = {**DUAL, "EnableNFTables": True, "Backend": {"Type": "host-gw"}}
    made = World(tmp_path_factory.mktemp("routed"), nodes=2, conf=conf)
    try:
        yield made.start_daemons("--ip-masq")
    finally:
        made.close()


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    conf = {**DUAL, "Backend": {"Type": "vxlan", "DirectRouting": True}}
    made = World(tmp_path_factory.mktemp("direct"), conf=conf, far=(3,))
    try:
        yield made.start_daemons()
    finally:
        made.close()


def heals(node: OverlayNode, other: OverlayNode, version: int, name: str, do: Callable[[], None]) -> None:
    """As in the table of damages: the state comes back, the drift is counted and said, pods notice a second at most."""
    right: dict[str, Any] = {**node.both(), "rules": node.rules()}
    silences: list[float] = []
    while not silences or (silences[-1] > PROMISE and len(silences) < TRIES):
        counted, logged = node.drift(name), len(node.text())
        with train(node.pod.path, other.pod_of(version), patience=0.1) as pings:
            until(lambda: len(pings.answered) > 1, "packets before the damage", evidence=node.text)
            began = time.monotonic()
            do()
            until_equal(lambda: {**node.both(), "rules": node.rules()}, right, "repair", LATE, node.text)
            until(lambda: node.drift(name) > counted, f"a repaired {name} is counted", LATE, node.text)  # noqa: B023
            mended = time.monotonic()
            until(lambda: any(moment > mended for moment in pings.answered), "packets afterwards", LATE)  # noqa: B023
        assert "drift repaired: " in node.text()[logged:]
        silences.append(pings.silence(began))
    assert min(silences) <= PROMISE, silences


ROUTED = {
    "a link that flaps": ("route", "ip link set eth0 down; ip link set eth0 up"),
    "a route deleted": ("route", "ip route del 10.244.2.0/24"),
    "a route to nowhere": ("route", "ip route replace blackhole 10.244.2.0/24"),
    "a route through the wrong gateway": ("route", "ip route replace 10.244.2.0/24 via 10.200.0.1"),
    "a narrower route": ("route", "ip route add unreachable 10.244.2.2/32"),
    "an IPv6 route deleted": ("route", "ip -6 route del fd10:244:0:2::/64"),
    "IPv6's better route": ("route", "ip -6 route add fd10:244:0:2::/64 via fd00:200::1 dev eth0 metric 1"),
    "a device where there is to be none": (
        "device",
        "ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0; ip link set flannel.1 alias 'wherry overlay'",
    ),
    "a table deleted": ("rules", "nft delete table ip flannel-ipv4"),
    "a chain flushed": ("rules", "nft flush chain ip flannel-ipv4 postrtg"),
    "IPv6's table deleted": ("rules", "nft delete table ip6 flannel-ipv6"),
    "a rule inserted": ("rules", "nft insert rule ip flannel-ipv4 postrtg masquerade"),
    "the whole ruleset flushed": ("rules", "nft flush ruleset"),
}


@pytest.mark.parametrize("damage", ROUTED)
def test_routes_and_nftables_rules_heal(routed: World, damage: str) -> None:
    one, two = routed.nodes
    name, script = ROUTED[damage]

    def do() -> None:
        one.space.run("sh", "-c", script)
        one.configure()  # what flaps has lost the way out, which is not ours to give

    heals(one, two, 6 if "IPv6" in damage else 4, name, do)


def test_a_host_gw_peer_behind_a_router_is_refused_in_words(routed: World) -> None:
    one = routed.nodes[0]
    before = one.both()
    notes = {
        "kube_subnet_manager": "true",
        "backend_type": "host-gw",
        "backend_data": "null",
        "backend_v6_data": "null",
    }
    far = routed.node_object("node77", "10.244.77.0/24", **notes, public_ip="10.201.0.77", public_ipv6="fd00:201::77")
    routed.api(lambda client: client.create(NODES, far))
    try:
        until(lambda: "node77" in one.text() and "10.201.0.77" in one.text(), "words", 20, one.text)
        assert one.both() == before
    finally:
        routed.delete_node("node77")


DIRECT = {
    "a direct route deleted": ("route", "ip route del 10.244.2.0/24"),
    "a direct route into the tunnel": ("route", "ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"),
    "a link that flaps": ("route", "ip link set eth0 down; ip link set eth0 up"),
    "an FDB entry that nobody needs": (
        "fdb",
        "bridge fdb add 02:99:99:99:99:99 dev flannel.1 dst 10.200.0.12 self permanent",
    ),
    "the tunnel deleted": ("device", "ip link del flannel.1"),
    "IPv6's direct route deleted": ("route", "ip -6 route del fd10:244:0:2::/64"),
}


@pytest.mark.parametrize("damage", DIRECT)
def test_direct_and_tunnelled_peers_heal(direct: World, damage: str) -> None:
    one, two, three = direct.nodes
    name, script = DIRECT[damage]

    def do() -> None:
        one.space.run("sh", "-c", script)
        one.configure()

    heals(one, three if damage == "the tunnel deleted" else two, 6 if "IPv6" in damage else 4, name, do)
    assert one.reaches(two)
    assert one.reaches(three)


def test_a_peer_that_moves_behind_a_router_is_reached_through_the_tunnel(direct: World) -> None:
    """node1's own prefix shrinks: node2 is a neighbour no more, and becomes one again."""
    one, two = direct.nodes[:2]
    before = one.both()
    one.space.run("sh", "-c", "ip addr del 10.200.0.11/24 dev eth0; ip addr add 10.200.0.11/32 dev eth0; "
                  "ip route add 10.200.0.1 dev eth0; ip route replace default via 10.200.0.1")  # fmt: skip
    until(lambda: any("10.200.0.12" in entry for entry in one.kernel()["fdb"]), "the tunnel", LATE, one.text)
    direct.outer.run("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0")
    until(lambda: one.reaches(two), "packets through the tunnel", LATE, one.text)
    one.space.run("sh", "-c", "ip addr del 10.200.0.11/32 dev eth0; ip route flush 10.200.0.1")
    one.configure()
    until_equal(one.both, before, "all is as before", LATE, one.text)
    until(lambda: one.reaches(two), "packets to the neighbour", LATE, one.text)
