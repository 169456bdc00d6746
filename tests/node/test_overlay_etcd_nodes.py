"""Nodes that find each other through etcd: packets of both families, a lease that is lost, an etcd that is away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.node.overlay_etcd_world import DUAL, PREFIX, EtcdWorld
from tests.node.overlay_world import until
from tests.requirements import requires


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdWorld]:
    requires("netns", "nsenter", "ip", "etcd", "etcdctl", "iptables-nft-restore")
    made = EtcdWorld(tmp_path_factory.mktemp("etcd-nodes"), DUAL)
    try:
        yield made.start_daemons("--iptables-resync=1s", "--resync=1s")
    finally:
        made.close()


def test_nodes_take_subnets_and_their_pods_reach_each_other(world: EtcdWorld) -> None:
    there = world.subnets()
    assert len(there) == 2
    assert {value["PublicIP"] for value in there.values()} == {node.address for node in world.nodes}
    assert {value["PublicIPv6"] for value in there.values()} == {node.address6 for node in world.nodes}
    for node in world.nodes:
        env = node.subnet_env()
        assert env["FLANNEL_NETWORK"] == "10.5.0.0/16"
        assert env["FLANNEL_IPV6_NETWORK"] == "fc00:5::/48"
        left = node.metric("wherry_overlay_lease_expiry_timestamp_seconds") - time.time()
        assert left == pytest.approx(24 * 3600, abs=120)
        assert "--random-fully" in "\n".join(node.rules())


def test_a_lease_that_somebody_deletes_comes_back_and_pods_stay(world: EtcdWorld) -> None:
    """flannel ends itself here; the subnet may go to somebody else then."""
    before = world.subnets()
    node = world.nodes[0]
    name = next(name for name, value in before.items() if value["PublicIP"] == node.address)
    world.ctl("del", f"{PREFIX}/subnets/{name}")
    until(lambda: world.subnets() == before, "the same lease again", 20, node.text)
    world.until_all_reach()
    assert node.running
    assert "has expired or was deleted" in node.text()
    world.ctl("put", f"{PREFIX}/subnets/{name}", json.dumps({**before[name], "PublicIP": "10.200.0.99"}))
    until(lambda: world.subnets() == before, "what is true", 20, node.text)
    until(lambda: node.drift("lease") > 0, "drift of the lease", 10, node.text)


def test_a_restart_keeps_the_subnet_and_loses_nothing(world: EtcdWorld) -> None:
    before, node = world.subnets(), world.nodes[0]
    kernel = node.both()
    node.stop()
    node.start("--iptables-resync=1s", "--resync=1s")
    node.ready()
    assert world.subnets() == before
    assert node.both() == kernel


def test_a_hand_written_lease_is_a_peer(world: EtcdWorld) -> None:
    """As flanneld writes it; then away again, as when it expires."""
    value = (
        '{"PublicIP":"10.200.0.77","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"4e:1b:10:4f:22:4d"}}'
    )
    world.ctl("put", f"{PREFIX}/subnets/10.5.250.0-24", value)
    node = world.nodes[0]

    def known() -> bool:
        return "10.5.250.0/24" in json.dumps(node.kernel(), default=str)

    until(known, "the peer's route", 10, node.text)
    world.ctl("del", f"{PREFIX}/subnets/10.5.250.0-24")
    until(lambda: not known(), "the peer's route gone", 10, node.text)


def test_another_description_of_the_network_is_followed(world: EtcdWorld) -> None:
    """flannel reads it once; then somebody has to restart every node."""
    world.ctl("put", f"{PREFIX}/config", json.dumps({**DUAL, "Network": "10.6.0.0/16", "EnableNFTables": True}))
    for node in world.nodes:
        until(lambda n=node: n.subnet_env().get("FLANNEL_NETWORK") == "10.6.0.0/16", "the new network", 20, node.text)  # type: ignore[misc]
        assert node.running
        until(lambda n=node: n.get("/readyz") == "ok", "ready again", 20, node.text)  # type: ignore[misc]
        node.make_pod()
    world.until_all_reach()
    assert all(name.startswith("10.6.") for name in world.subnets())
    for node in world.nodes:
        until(lambda n=node: "FLANNEL" not in str(n.rules()), "no rules of the other way", 20, node.text)  # type: ignore[misc]
        assert "flannel-ipv6" in node.space.run("nft", "list", "ruleset")


def test_a_start_without_etcd_goes_on_with_what_was_known(world: EtcdWorld) -> None:
    node = world.nodes[0]
    world.stop_server()
    try:
        node.stop()
        node.space.run("ip", "link", "del", "flannel.1")
        node.space.run("ip", "link", "del", "flannel-v6.1")
        node.start("--iptables-resync=1s", "--resync=1s")
        world.until_all_reach()
    finally:
        world.start_server()
    node.ready()


def test_a_blackhole_for_addresses_that_no_pod_has(world: EtcdWorld) -> None:
    """--ip-blackhole-route: as long as the pods' bridge is not there, packets for them do not go out again by the default
    route; once it is, pods are reached."""
    node = world.nodes[0]
    node.stop()
    node.space.run("ip", "link", "set", "pod0", "down")
    node.start("--ip-blackhole-route", "--iptables-resync=1s", "--resync=1s")
    node.ready()
    for address, flag in ((node.pod_address, "-4"), (node.pod_address6, "-6")):
        until(
            lambda f=flag: node.space.run("ip", f, "route", "show", "type", "blackhole"),  # type: ignore[misc]
            "the blackhole",
            10,
            node.text,
        )
        said = node.space.run("ip", "route", "get", address, check=False)
        assert not said or "blackhole" in said, said
    node.space.run("ip", "link", "set", "pod0", "up")
    node.make_pod()
    world.until_all_reach()
    node.stop()
    node.start("--iptables-resync=1s", "--resync=1s")
    node.ready()
    for flag in ("-4", "-6"):
        until(
            lambda f=flag: not node.space.run("ip", f, "route", "show", "type", "blackhole"),  # type: ignore[misc]
            "no blackhole",
            10,
            node.text,
        )


def test_while_etcd_is_away_the_network_heals_itself(world: EtcdWorld) -> None:
    node = world.nodes[0]
    world.stop_server()
    try:
        node.space.run("ip", "link", "del", "flannel.1")
        world.until_all_reach()
    finally:
        world.start_server()
    until(lambda: node.get("/readyz") == "ok", "ready again", 30, node.text)
