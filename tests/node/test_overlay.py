"""Three nodes, one overlay: packets cross it, and whatever is done to it behind its back is mended within moments."""

import inspect
from collections.abc import Callable, Iterator

import pytest

from tests.node.overlay_world import PREFIX, OverlayNode, World, until, until_equal
from tests.node.pinger import ping
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"))
    try:
        yield made.start_daemons()
    finally:
        made.close()


def test_every_pod_reaches_every_other_with_full_packets(world: World) -> None:
    for here in world.nodes:
        for there in world.nodes:
            if here is not there:
                assert here.reaches(there, size=1422), f"{here.name} -> {there.name}: 1450 bytes"
    assert not world.nodes[0].reaches(world.nodes[1], size=1423), "one byte more than the MTU cannot pass unfragmented"


def test_the_source_address_is_preserved(world: World) -> None:
    one, two = world.nodes[:2]
    counter = ("iptables", "-w", "-I", "INPUT", "-p", "icmp", "-s", one.pod_address, "-d", two.pod_address)
    two.pod.run(*counter)
    try:
        assert one.reaches(two, count=3)
        counted = two.pod.run("iptables", "-w", "-nvxL", "INPUT").splitlines()[2].split()[0]
        assert counted == "3"
    finally:
        two.pod.run("iptables", "-w", "-F", "INPUT")


def test_nodes_reach_remote_pods_from_their_own_overlay_address(world: World) -> None:
    one, two = world.nodes[:2]
    assert ping(one.space.path, two.pod_address)


def test_each_node_says_what_flannel_would(world: World) -> None:
    node = world.node("node2")
    mac = world.nodes[1].kernel()["device"][0]
    notes = {key: value for key, value in node.metadata.annotations.items() if key.startswith(PREFIX)}
    assert notes == {
        f"{PREFIX}kube-subnet-manager": "true",
        f"{PREFIX}backend-type": "vxlan",
        f"{PREFIX}backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
        f"{PREFIX}public-ip": "10.200.0.12",
    }
    condition = next(one for one in node.status.conditions if one.type == "NetworkUnavailable")
    assert (condition.status, condition.reason) == ("False", "FlannelIsUp")
    assert world.nodes[1].subnet_file.read_text() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.2.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    assert world.nodes[1].space.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"


def _device_deleted(node: OverlayNode) -> str:
    node.space.run("ip", "link", "del", "flannel.1")
    return "device"


def _device_set_down(node: OverlayNode) -> str:
    node.space.run("ip", "link", "set", "flannel.1", "down")
    return "device"


def _device_renamed(node: OverlayNode) -> str:
    node.space.run("ip", "link", "set", "flannel.1", "down")
    node.space.run("ip", "link", "set", "flannel.1", "name", "elsewhere")
    return "device"


def _device_of_another_make(node: OverlayNode) -> str:
    node.space.run("ip", "link", "del", "flannel.1")
    # Whoever wins the race for the name, ours is there in the end.
    node.space.run("ip", "link", "add", "flannel.1", "type", "bridge", check=False)
    return "device"


def _mac_changed(node: OverlayNode) -> str:
    node.space.run("ip", "link", "set", "flannel.1", "address", "02:12:34:56:78:9a")
    return "device"


def _mtu_changed(node: OverlayNode) -> str:
    node.space.run("ip", "link", "set", "flannel.1", "mtu", "1300")
    return "device"


def _route_deleted(node: OverlayNode) -> str:
    node.space.run("ip", "route", "del", "10.244.2.0/24")
    return "route"


def _routes_flushed(node: OverlayNode) -> str:
    node.space.run("ip", "route", "flush", "dev", "flannel.1")
    return "route"


def _route_led_astray(node: OverlayNode) -> str:
    node.space.run("ip", "route", "replace", "10.244.2.0/24", "via", "10.244.3.0", "dev", "flannel.1", "onlink")
    return "route"


def _route_added(node: OverlayNode) -> str:
    node.space.run("ip", "route", "add", "10.244.9.0/24", "via", "10.244.9.0", "dev", "flannel.1", "onlink")
    return "route"


def _route_of_ours_elsewhere(node: OverlayNode) -> str:
    node.space.run("ip", "route", "add", "10.99.0.0/24", "dev", "eth0", "proto", "87")
    return "route"


def _fdb_flushed(node: OverlayNode) -> str:
    for line in node.kernel()["fdb"]:
        node.space.run("bridge", "fdb", "del", line.split()[0], "dev", "flannel.1")
    return "fdb"


def _fdb_led_astray(node: OverlayNode) -> str:
    mac = next(line.split()[0] for line in node.kernel()["fdb"] if "10.200.0.12" in line)
    node.space.run("bridge", "fdb", "replace", mac, "dev", "flannel.1", "dst", "10.200.0.99", "self", "permanent")
    return "fdb"


def _fdb_added(node: OverlayNode) -> str:
    node.space.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "flannel.1", "dst", "10.200.0.99")
    return "fdb"


def _neighbours_flushed(node: OverlayNode) -> str:
    node.space.run("ip", "neigh", "flush", "dev", "flannel.1", "nud", "permanent")
    return "neighbour"


def _neighbour_led_astray(node: OverlayNode) -> str:
    node.space.run(
        "ip", "neigh", "replace", "10.244.2.0", "lladdr", "02:99:99:99:99:99", "dev", "flannel.1", "nud", "permanent"
    )
    return "neighbour"


def _neighbour_added(node: OverlayNode) -> str:
    node.space.run(
        "ip", "neigh", "add", "10.244.9.0", "lladdr", "02:99:99:99:99:99", "dev", "flannel.1", "nud", "permanent"
    )
    return "neighbour"


def _address_removed(node: OverlayNode) -> str:
    node.space.run("ip", "addr", "flush", "dev", "flannel.1")
    return "address"


def _address_added(node: OverlayNode) -> str:
    node.space.run("ip", "addr", "add", "10.9.9.9/24", "dev", "flannel.1")
    return "address"


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("_") and inspect.isfunction(value)]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__.strip("_"))
def test_what_is_done_behind_its_back_is_mended_counted_and_said(
    world: World, damage: Callable[[OverlayNode], str]
) -> None:
    one, two = world.nodes[:2]
    right = until(lambda: one.reaches(two) and one.kernel(), "the overlay works")
    logged = len(one.text())
    counts = {name: one.drift(name) for name in ("device", "address", "neighbour", "fdb", "route")}
    drifted = damage(one)
    until_equal(one.kernel, right, f"repair of {damage.__name__}", 3.0)
    assert one.reaches(two)
    until(lambda: one.drift(drifted) > counts[drifted], f"the repaired {drifted} is counted", 3.0)
    assert "drift repaired: " in one.text()[logged:]


def test_ip_forward_comes_back_at_the_latest_with_the_next_pass(world: World) -> None:
    one = world.nodes[0]
    one.space.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    one.space.run("ip", "route", "flush", "dev", "flannel.1")
    until(lambda: one.space.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1", "forwarding", 3.0)


def test_the_underlays_mtu_is_followed(world: World) -> None:
    three = world.nodes[2]
    three.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    until(lambda: three.kernel()["device"][1] == 1350, "device MTU", 3.0)
    until(lambda: "FLANNEL_MTU=1350\n" in three.subnet_file.read_text(), "subnet.env", 3.0)
    three.space.run("ip", "link", "set", "eth0", "mtu", "1500")
    until(lambda: three.kernel()["device"][1] == 1450, "device MTU", 3.0)


def test_a_peers_new_mac_and_new_public_ip_are_followed(world: World) -> None:
    one, two = world.nodes[:2]
    before = one.kernel()
    notes = world.node("node3").metadata.annotations
    world.create_node("node9", "10.244.9.0/24")
    world.annotate(
        "node9",
        kube_subnet_manager="true",
        backend_type="vxlan",
        backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}',
        public_ip="10.200.0.19",
    )
    until(lambda: "02:00:00:00:00:09 10.200.0.19 " in one.kernel()["fdb"], "the new node's FDB entry")
    world.annotate("node9", backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:0A"}')
    until(lambda: "10.244.9.0 02:00:00:00:00:0a ['PERMANENT']" in one.kernel()["neighbours"], "the new MAC")
    world.annotate("node9", public_ip="10.200.0.29")
    until(lambda: "02:00:00:00:00:0a 10.200.0.29 " in two.kernel()["fdb"], "the new public IP")
    assert not any("02:00:00:00:00:09" in line for line in one.kernel()["fdb"])
    world.delete_node("node9")
    until_equal(one.kernel, before, "nothing is left of the node that is gone")
    assert notes == world.node("node3").metadata.annotations


def test_two_nodes_with_one_public_ip_are_refused_in_words(world: World) -> None:
    one = world.nodes[0]
    before = one.kernel()
    world.create_node("node8", "10.244.8.0/24")
    world.annotate(
        "node8",
        kube_subnet_manager="true",
        backend_type="vxlan",
        backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:08"}',
        public_ip="10.200.0.12",
    )
    until(lambda: "nodes node2 and node8 both announce the public IP 10.200.0.12" in one.text(), "words")
    assert one.kernel() == before
    assert "wherry_overlay_refused_nodes 1.0" in one.get("/metrics")
    world.delete_node("node8")
    until(lambda: "wherry_overlay_refused_nodes 0.0" in one.get("/metrics"), "the refusal ends")


def test_metrics_and_health(world: World) -> None:
    one = world.nodes[0]
    text = one.get("/metrics")
    assert "wherry_overlay_peers 2.0" in text
    assert "wherry_overlay_last_sync_timestamp_seconds 1." in text
    assert "wherry_overlay_sync_duration_seconds_count" in text
    assert one.get("/healthz") == "ok"
    assert "[+]device ok" in one.get("/readyz?verbose")
    assert "/run/subnet.env" in one.get("/configz")
