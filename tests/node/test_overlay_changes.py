"""What changes under the daemon by somebody's right: its subnets, its families, its backend, an administrator's word."""

import json
from collections.abc import Iterator

import pytest

from kube.resources import NODES
from tests.node.overlay_world import DUAL, OverlayNode, World, until
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

LATE = 20.0
HOST_GW = {**DUAL, "Backend": {"Type": "host-gw"}}
FOUR = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"), nodes=2, conf=DUAL)
    try:
        yield made
    finally:
        made.close()


def registered(world: World, name: str, *cidrs: str) -> None:
    """The Node made anew, with these podCIDRs."""
    world.delete_node(name)
    spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
    made = {**world.node_object(name, ""), "spec": spec}
    world.api(lambda client: client.create(NODES, made))


def device(node: OverlayNode, version: int) -> list[str]:
    found: list[str] = node.both()[str(version)]["addresses"]
    return found


def test_a_family_without_a_subnet_does_not_hold_up_the_other(world: World) -> None:
    one, two = world.nodes
    registered(world, "node1", "10.244.1.0/24")
    one.start()
    two.start()
    two.ready()
    until(lambda: one.reaches(two), "IPv4 between pods", LATE, one.text)
    assert "node node1 has no IPv6 podCIDR: the controllers' node IPAM assigns it" in one.get("/readyz")
    assert "FLANNEL_IPV6_SUBNET" not in one.subnet_env()
    assert one.both()["6"]["device"] is None
    registered(world, "node1", "10.244.1.0/24", "fd10:244:0:1::/64")
    one.ready()
    until(lambda: one.subnet_env().get("FLANNEL_IPV6_SUBNET") == "fd10:244:0:1::1/64", "subnet.env", LATE, one.text)
    until(lambda: one.reaches(two, version=6), "IPv6 between pods", LATE, one.text)


def test_a_subnet_that_is_replaced_is_followed_by_all(world: World) -> None:
    one, two = world.start_daemons().nodes
    registered(world, "node1", "10.244.41.0/24", "fd10:244:0:41::/64")
    until(lambda: device(one, 4) == ["10.244.41.0/32"], "the device's address", LATE, one.text)
    until(lambda: device(one, 6) == ["fd10:244:0:41::/128"], "the IPv6 device's address", LATE, one.text)
    env = {"FLANNEL_SUBNET": "10.244.41.1/24", "FLANNEL_IPV6_SUBNET": "fd10:244:0:41::1/64"}
    until(lambda: env.items() <= one.subnet_env().items(), "subnet.env", LATE, one.text)
    assert "this node's subnet was 10.244.1.0/24 and is 10.244.41.0/24 now" in one.text()
    for version, new in (("4", "10.244.41.0/24"), ("6", "fd10:244:0:41::/64")):
        until(lambda v=version: len(two.both()[v]["routes"]) == 1, "one way to node1", LATE, two.text)  # type: ignore[misc]
        until(lambda v=version, n=new: n in two.both()[v]["routes"][0], "the new way", LATE, two.text)  # type: ignore[misc]
    assert one.drift("address") == 0, "it was nobody's damage"


def test_an_administrators_word_on_the_public_ip(world: World) -> None:
    one, two = world.start_daemons().nodes
    world.annotate("node1", public_ip_overwrite="203.0.113.7")
    until(lambda: any("203.0.113.7" in entry for entry in two.kernel()["fdb"]), "told to node2", LATE, two.text)
    world.annotate("node1", public_ip_overwrite=None)
    until(lambda: one.reaches(two), "and taken back", LATE, two.text)


def test_a_restart_while_a_familys_underlay_is_away(world: World) -> None:
    """Pods that are made meanwhile have both families for life."""
    one, two = world.start_daemons().nodes
    text = one.subnet_file.read_text()
    assert "FLANNEL_IPV6_SUBNET" in text
    one.stop()
    one.space.run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global")
    one.start()
    until(lambda: "lease failed" not in one.get("/readyz") and "device-v6 failed" in one.get("/readyz"), "IPv4", LATE)
    assert one.reaches(two)
    assert one.subnet_file.read_text() == text
    one.configure()
    one.ready()
    assert one.subnet_file.read_text() == text
    until(lambda: one.reaches(two, version=6), "IPv6 between pods", LATE, one.text)


def test_another_backend_and_fewer_families_leave_nothing_of_the_former(world: World) -> None:
    conf = world.home / "net-conf.json"
    one, two = world.start_daemons("--ip-masq").nodes
    for change in (HOST_GW, FOUR):
        conf.write_text(json.dumps(change))
        for node in world.nodes:
            node.stop()
            node.start("--ip-masq")
        for node in world.nodes:
            node.ready()
        until(lambda: one.reaches(two), "IPv4 between pods", LATE, one.text)
        if change is HOST_GW:
            assert one.reaches(two, size=1500 - 28) or one.subnet_env()["FLANNEL_MTU"] == "1500"
            until(lambda: one.both()["4"]["device"] is None, "no VXLAN device is left", LATE, one.text)
            until(lambda: one.reaches(two, version=6), "IPv6 between pods", LATE, one.text)
    assert one.both()["6"] == {**one.both()["6"], "device": None, "routes": [], "elsewhere": []}
    until(lambda: not any("fd10:244" in line for line in one.rules()), "no rules of IPv6", LATE, one.text)
    assert "FLANNEL_IPV6_SUBNET" not in one.subnet_env()


def test_a_kernel_without_wireguard_is_named(world: World) -> None:
    one = world.nodes[0]
    if "wireguard" in one.space.run(
        "sh", "-c", "ip link add wgtry type wireguard && echo wireguard; true", check=False
    ):
        pytest.skip("this kernel has WireGuard")
    (world.home / "net-conf.json").write_text(json.dumps({**FOUR, "Backend": {"Type": "wireguard"}}))
    one.start()
    until(lambda: "this kernel has no WireGuard" in one.get("/readyz"), "words", LATE, one.text)
    assert one.get("/healthz") == "ok"
    assert not one.subnet_file.exists()
    key = one.subnet_file.with_name("wgkey")
    assert key.stat().st_mode & 0o777 == 0o600
    kept = key.read_text()
    one.stop()
    one.start()
    until(lambda: "this kernel has no WireGuard" in one.get("/readyz"), "words again", LATE, one.text)
    assert key.read_text() == kept
