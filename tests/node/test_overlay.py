"""Three nodes, one overlay: what each says of itself, and how changes of its peers and of the underlay are followed."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from kube.resources import NODES
from tests.node.overlay_world import PREFIX, World, until, until_equal
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"))
    try:
        yield made.start_daemons()
    finally:
        made.close()


def test_each_node_says_what_flannel_would(world: World) -> None:
    node = world.node("node2")
    mac = world.nodes[1].kernel()["device"].mac
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


def test_the_underlays_mtu_is_followed(world: World) -> None:
    three = world.nodes[2]
    three.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    until(lambda: three.kernel()["device"].mtu == 1350, "device MTU", 3.0)
    until(lambda: "FLANNEL_MTU=1350\n" in three.subnet_file.read_text(), "subnet.env", 3.0)
    three.space.run("ip", "link", "set", "eth0", "mtu", "1500")
    until(lambda: three.kernel()["device"].mtu == 1450, "device MTU", 3.0)


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
    until(lambda: "02:00:00:00:00:09 10.200.0.19 permanent" in one.kernel()["fdb"], "the new node's FDB entry")
    world.annotate("node9", backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:0A"}')
    until(lambda: "10.244.9.0 02:00:00:00:00:0a PERMANENT" in one.kernel()["neighbours"], "the new MAC")
    world.annotate("node9", public_ip="10.200.0.29")
    until(lambda: "02:00:00:00:00:0a 10.200.0.29 permanent" in two.kernel()["fdb"], "the new public IP")
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


def test_the_nodes_other_interfaces_keep_their_addresses(world: World) -> None:
    """A Node says that the range of node1's second network card is its pods': that Node is left out, whichever came first."""
    one, two = world.nodes[:2]
    six = world.claim(6)
    world.wire(one.space, "nat0", "10.244.6.15", bridge="br1")
    before = one.kernel()

    def there() -> str:
        return one.space.run("ip", "-br", "-4", "addr", "show", "nat0") + one.space.run(
            "ip", "route", "show", "dev", "nat0"
        )

    addressed = there()
    assert "10.244.6.0/24" in addressed
    world.api(lambda client: client.create(NODES, six))
    words = "node node6: subnet 10.244.6.0/24 holds 10.244.6.15, an address of this node's nat0"
    until(lambda: words in one.text(), "words", 10, one.text)
    until(lambda: "10.244.6.0/24" in str(two.kernel()["routes"]), "another node, which has no such card, takes it", 10)
    assert there() == addressed
    assert one.kernel() == before
    one.space.run("ip", "addr", "del", "10.244.6.15/24", "dev", "nat0")
    until(lambda: "10.244.6.0/24" in str(one.kernel()["routes"]), "the peer, once the card is elsewhere", 10, one.text)
    one.space.run("ip", "addr", "add", "10.244.6.15/24", "dev", "nat0")
    until_equal(one.kernel, before, "left out again", 10, one.text)
    assert there() == addressed
    world.delete_node("node6")
    one.space.run("ip", "link", "del", "nat0")


def test_metrics_and_health(world: World) -> None:
    one = world.nodes[0]
    text = one.get("/metrics")
    assert re.search(r"^wherry_overlay_peers\S* 2.0$", text, re.MULTILINE)
    assert 'wherry_overlay_last_sync_timestamp_seconds{ip_family="IPv4"} 1.' in text
    assert "wherry_overlay_sync_duration_seconds_count" in text
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert one.get("/healthz") == "ok"
    assert "[+]device ok" in one.get("/readyz?verbose")
    assert "/run/subnet.env" in one.get("/configz")
