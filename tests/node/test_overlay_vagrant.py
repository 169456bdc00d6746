"""Vagrant's machines: eth0 leads to a NAT of their own and has the same address on each, eth1 is the real network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.flanneld import written
from tests.node.overlay_world import OverlayNode, World, until
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

NAT = "10.0.2.15"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, nodes=2, iface="eth1")
    try:
        for node in made.nodes:
            behind_nat(made, node)
        yield made
    finally:
        made.close()


def behind_nat(world: World, node: OverlayNode) -> None:
    """VirtualBox's: 10.0.2.15 in each machine, the router 10.0.2.2, and the default route through it."""
    router = world.space(f"nat{node.number}")
    node.space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "inside", "netns", router.name)
    for space, name, address in ((node.space, "eth0", NAT), (router, "inside", "10.0.2.2")):
        space.address(name, address)
        space.run("ip", "link", "set", name, "up")
    node.space.run("ip", "-4", "route", "replace", "default", "via", "10.0.2.2")


@pytest.mark.parametrize(
    "choice",
    [(), ("--iface-regex=eth[1-9]",), (r"-iface-regex=^10\.200\.",), ("--iface-can-reach=10.200.0.1",)],
    ids=str,
)
def test_the_overlay_takes_the_interface_that_leads_to_the_others(world: World, choice: tuple[str, ...]) -> None:
    world.start_daemons(*choice)
    for node in world.nodes:
        assert written(node)["public-ip"] == node.address
        assert (node.kernel()["device"].underlay, node.kernel()["device"].local) == ("eth1", node.address)


def test_the_same_address_twice_is_refused_in_words_by_both(world: World) -> None:
    """The younger Node announces its address first; when the older one comes with the same, that one stays."""
    one, two = world.nodes
    two.start("--iface=eth0")
    until(lambda: written(two).get("public-ip") == NAT, "node2's announcement", 30, two.text)
    one.start("--iface=eth0")
    words = f"nodes node1 and node2 both announce the public IP {NAT}"
    for node in world.nodes:
        until(lambda n=node: words in n.text(), f"words on {node.name}", 30, node.text)  # type: ignore[misc]
        assert not node.kernel()["routes"]
        assert node.running
    for node in world.nodes:
        node.stop()
        node.start("--iface=eth1")
    until(lambda: one.reaches(two), "once each has an address of its own", 30, one.text)
