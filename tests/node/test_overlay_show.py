"""`wherry overlay show` beside real daemons, and without them: what it says of a node that is right, and of each damage."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from linux import netns
from tests.node.overlay_world import DUAL, OverlayNode, Space, World, end, until
from tests.requirements import requires


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("show"), conf=DUAL)
    try:
        yield made.start_daemons("--ip-masq")
    finally:
        made.close()


def shown(space: Space, *words: str) -> tuple[int, str]:
    """(exit status, output) of the command in a namespace."""
    argv = [sys.executable, "-m", "wherry", "overlay", "show", *words]
    done = subprocess.run(
        netns.argv_in(space.path, argv), capture_output=True, text=True, timeout=60, check=False, cwd=Path.cwd()
    )
    return done.returncode, done.stdout + done.stderr


def settled(node: OverlayNode, *words: str) -> str:
    """Once everything is as wanted."""
    found: tuple[int, str] = (2, "")

    def good() -> bool:
        nonlocal found
        found = shown(node.space, *words)
        return found[0] == 0

    until(good, "all as wanted", 30, lambda: found[1])
    return found[1]


def own_flags(node: OverlayNode) -> list[str]:
    """The daemon's flags, without the program."""
    return [*node.argv("--ip-masq")[3:]]


def test_all_is_as_wanted_in_the_eyes_of_a_stranger(world: World) -> None:
    node = world.nodes[0]
    text = settled(node)
    lines = text.splitlines()
    assert lines[0].split() == ["NODE", "SUBNET", "PUBLIC", "IP", "BY", "STATE"]
    assert [line.split()[0] for line in lines[1:5]] == ["node2", "node2", "node3", "node3"]
    for expected in ("10.244.2.0/24", "fd10:244:0:2::/64", "flannel.1  IPv4", "flannel-v6.1  IPv6", "subnet.env"):
        assert expected in text
    assert lines[-1].startswith("node1: vxlan from https://10.200.0.1:6443; 4 peers, all as wanted")


def test_one_node_is_told_with_every_entry_and_as_json(world: World) -> None:
    status, text = shown(world.nodes[0].space, "node2", "-o", "json")
    assert status == 0, text
    document: dict[str, Any] = json.loads(text)
    assert document["ok"] is True
    assert {peer["node"] for peer in document["peers"]} == {"node2"}
    assert [entry["object"] for entry in document["peers"][0]["entries"]] == ["fdb", "neighbour", "route"]
    status, text = shown(world.nodes[0].space, "node2")
    assert "  route 10.244.2.0/24 via 10.244.2.0  ok" in text


def test_a_node_that_nobody_knows_is_refused_in_words(world: World) -> None:
    status, text = shown(world.nodes[0].space, "node9")
    assert status == 2
    assert "node node9 is neither this one (node1) nor known to the registry" in text


def test_without_daemon_and_flags_it_says_what_to_give(world: World) -> None:
    status, text = shown(world.internet)
    assert status == 2
    if not Path("/etc/wherry/overlay.yaml").exists():
        assert "give the daemon's flags" in text


def test_each_damage_is_told_where_it_is_while_the_daemon_is_away(world: World) -> None:
    node = world.nodes[0]
    node.stop(signal.SIGKILL)
    flags = own_flags(node)
    space = node.space
    assert settled(node, *flags).splitlines()[-1].startswith("note: no daemon answers")
    try:
        space.run("ip", "route", "del", "10.244.2.0/24")
        mac = str(node.both()["6"]["device"].mac)
        space.run("ip", "link", "set", "flannel-v6.1", "mtu", "1300")
        space.run("ip", "addr", "add", "10.244.3.77/32", "dev", "lo")
        space.run("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG")
        space.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        node.subnet_file.write_text("FLANNEL_MTU=1\n")
        before = node.both(), node.rules()
        status, text = shown(space, *flags)
        assert (node.both(), node.rules()) == before, "showing changed the kernel"
        assert status == 1, text
        rows = {tuple(line.split()[:2]): line.rstrip() for line in text.splitlines()[1:5]}
        assert rows["node2", "10.244.2.0/24"].endswith("route missing")
        assert rows["node2", "fd10:244:0:2::/64"].endswith("ok")
        assert "address not wanted: 10.244.3.77/32 on lo" in rows["node3", "10.244.3.0/24"]
        assert f"device flannel-v6.1 ({mac}, MTU 1430, from fd00:200::11)  wrong: mtu 1300" in text
        assert "rules IPv4, for 10.244.1.0/24  wrong: chain FLANNEL-POSTRTG of table nat" in text, (
            f"{text}\n{node.rules()}"
        )
        assert "sysctl net.ipv4.ip_forward=1  wrong: 0" in text
        assert "FLANNEL_SUBNET=10.244.1.1/24 is missing" in text
        assert shown(space, "node2", *flags)[0] == 1
    finally:
        node.start("--ip-masq")
        node.ready()
    settled(node)


def test_while_the_api_is_away_the_daemons_memory_is_compared_with(world: World) -> None:
    node = world.nodes[1]
    settled(node)
    until((node.subnet_file.parent / "nodes.json").exists, "what the daemon remembers", 20)
    assert world.server
    end(world.server, signal.SIGKILL)
    try:
        status, text = shown(node.space)
        assert status == 0, text
        assert "does not answer: going on from what 3 Nodes said" in text
        assert "4 peers, all as wanted" in text
    finally:
        world.start_server()
    settled(node)


def test_a_node_that_is_left_out_is_told_with_the_reason(world: World) -> None:
    world.create_node(
        "node7",
        "10.244.7.0/24",
        kube_subnet_manager="true",
        backend_type="host-gw",
        backend_data="null",
        public_ip="10.200.0.17",
    )
    try:
        status, text = shown(world.nodes[0].space)
        assert status == 1
        assert "left out: node node7 uses the backend host-gw, here it is vxlan" in text
    finally:
        world.delete_node("node7")
    settled(world.nodes[0])


def test_of_etcd_nothing_is_taken_by_looking(world: World, tmp_path: Path) -> None:
    requires("etcd", "etcdctl")
    space, prefix = world.internet, "/coreos.com/network"
    server = space.start(["etcd", "--data-dir", str(tmp_path / "etcd"), "--log-level", "error"], tmp_path / "etcd.log")
    flags = ["--etcd-endpoints=http://127.0.0.1:2379", f"--subnet-file={tmp_path}/subnet.env", "--iface=eth0"]
    try:
        etcdctl = ("env", "ETCDCTL_API=3", "etcdctl")
        config = json.dumps({"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}})
        until(lambda: "OK" in space.run(*etcdctl, "put", f"{prefix}/config", config, check=False), "etcd", 30)
        status, text = shown(space, *flags)
        assert status == 1, text
        assert "this node (198.51.100.2) has no lease" in text
        assert space.run(*etcdctl, "get", "--prefix", f"{prefix}/subnets/") == ""
        for number, address in ((5, "198.51.100.2"), (6, "198.51.100.1")):
            value = json.dumps({"PublicIP": address, "BackendType": "host-gw", "BackendData": None})
            space.run(*etcdctl, "put", f"{prefix}/subnets/10.244.{number}.0-24", value)
        status, text = shown(space, *flags)
        assert status == 1, text
        assert text.splitlines()[1].split() == [
            "10.244.6.0-24",
            "10.244.6.0/24",
            "198.51.100.1",
            "host-gw",
            "route",
            "missing",
        ]
    finally:
        end(server, signal.SIGKILL)
