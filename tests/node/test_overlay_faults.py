"""Restarts, kills, an API server that is away, clean-up: the network stays while its daemon comes and goes."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.resources import NODES
from linux import netns
from tests.node.overlay_world import DUAL, VXLAN, Space, World, end, until, until_equal
from tests.node.pinger import Echo, ping, train
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Two nodes; the parameter is their net-conf.json."""
    made = World(tmp_path, nodes=2, conf=getattr(request, "param", VXLAN))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("world", [DUAL], indirect=True, ids=[""])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_restart_is_invisible(world: World, number: signal.Signals) -> None:
    """Not one packet of either family is lost, nothing in the kernel is touched, nothing is announced anew."""
    one, two = world.start_daemons("--ip-masq").nodes
    until(lambda: "FLANNEL-POSTRTG" in _rules(one.space), "rules")
    before, rules, written = one.both(), one.rules(), one.subnet_file.stat()
    with (
        train(one.pod.path, two.pod_address, gap=0.005) as pings,
        train(one.pod.path, two.pod_address6, gap=0.005) as pings6,
    ):
        assert one.stop(number) == (0 if number is signal.SIGTERM else -9)
        assert one.both() == before
        logged = len(one.text())
        one.start("--ip-masq")
        one.ready()
        sent = len(pings.sent)
        until(lambda: len(pings.sent) > sent + 10, "more pings")
    for found in (pings, pings6):
        assert not found.lost, f"{found.lost} of {len(found.sent)} lost"
    assert one.both() == before
    assert one.rules() == rules
    assert one.subnet_file.stat().st_ino == written.st_ino
    started = one.text()[logged:]
    for word in ("create device", "set route", "delete", "drift repaired", "announced in", "wrote"):
        assert word not in started


def test_what_changed_while_it_was_down_is_caught_up_with(world: World) -> None:
    one, two = world.start_daemons().nodes
    mac = one.kernel()["device"].mac
    one.stop(signal.SIGKILL)
    world.create_node("node7", "10.244.7.0/24")
    world.annotate(
        "node7",
        kube_subnet_manager="true",
        backend_type="vxlan",
        backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}',
        public_ip="10.200.0.17",
    )
    two.stop()
    world.delete_node("node2")
    one.space.run("ip", "link", "del", "flannel.1")
    one.space.run("ip", "route", "add", "10.244.66.0/24", "dev", "eth0", "proto", "87")
    one.start()
    one.ready()
    assert one.kernel()["device"].mac == mac, "the MAC is the announced one"
    assert one.kernel()["routes"] == ["10.244.7.0/24 via 10.244.7.0 proto 87 onlink"]
    assert one.kernel()["elsewhere"] == []
    assert one.drift("device") == 0, "what a start finds is no drift"


def test_while_the_api_server_is_away_the_network_stays_and_is_still_mended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.start_daemons().nodes
    right = one.kernel()
    kept = one.subnet_file.with_name("nodes.json")
    until(lambda: kept.exists() and two.address in kept.read_text() and one.address in kept.read_text(), "kept Nodes")
    assert world.server
    end(world.server, signal.SIGKILL)
    one.space.run("ip", "link", "del", "flannel.1")
    until_equal(one.kernel, right, "repair without an API server", 3.0)
    assert one.reaches(two)
    one.stop(signal.SIGKILL)
    one.start()
    until(lambda: "waiting for the registry at" in one.text().rsplit("has stopped", 1)[-1], "its start")
    until(lambda: one.get("/healthz") == "ok", "alive")
    assert "registry failed: not yet heard from" in one.get("/readyz")
    assert one.kernel() == right, "nothing is touched before the Nodes are known"
    assert one.reaches(two)
    one.space.run("ip", "link", "del", "flannel.1")
    until_equal(one.kernel, right, "repair from what the Nodes said last", 20, one.text)
    assert "going on from what 2 Nodes said" in one.text()
    assert one.reaches(two)
    one.stop(signal.SIGKILL)
    # As flannel's DaemonSet starts it: only the API server knows on which node a Pod is.
    monkeypatch.setenv("POD_NAME", "kube-flannel-ds-x")
    monkeypatch.setenv("POD_NAMESPACE", "kube-flannel")
    monkeypatch.delenv("NODE_NAME", raising=False)
    one.space.run("ip", "link", "del", "flannel.1")
    as_pod = [word for word in one.argv() if not word.startswith("--hostname-override")]
    one.daemon = one.space.start(as_pod, one.log)
    until_equal(one.kernel, right, "repair by a Pod that was node1 last", 20, one.text)
    assert one.reaches(two)
    world.start_server()
    one.ready()
    assert one.kernel() == right


def test_a_node_without_podcidr_waits_in_words_and_goes_on_when_it_comes(world: World) -> None:
    one, two = world.nodes
    two.start()
    world.delete_node("node1")
    one.start()
    until(lambda: "there is no Node node1: its kubelet registers it" in one.text(), "words", 20)
    world.create_node("node1", "")
    until(lambda: "node node1 has no IPv4 podCIDR: the controllers' node IPAM assigns it" in one.text(), "words")
    assert one.kernel()["device"] is None
    assert not one.subnet_file.exists()
    began = time.monotonic()
    world.api(
        lambda client: client.patch(
            NODES, "node1", {"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}}
        )
    )
    one.ready()
    assert time.monotonic() - began < 4.0, "its coming wakes the daemon"
    two.ready()
    until(lambda: one.reaches(two), "packets")


def test_clean_up_leaves_nothing_and_may_be_repeated(world: World) -> None:
    one, two = world.nodes
    before = one.both()
    links, routes = (one.space.run("ip", "-j", kind) for kind in ("link", "route"))
    one.space.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.9.9", "-j", "RETURN")
    rules = _rules(one.space)
    world.start_daemons("--ip-masq")
    until(lambda: "FLANNEL-POSTRTG" in _rules(one.space), "rules")
    one.stop()
    for _ in range(2):
        done = one.space.run(*one.argv("--cleanup"), timeout=20)
        assert done == ""
    assert one.both() == before
    assert not one.subnet_file.exists()
    assert _rules(one.space) == rules
    assert [_plain(one.space.run("ip", "-j", kind)) for kind in ("link", "route")] == [_plain(links), _plain(routes)]
    one.start("--ip-masq")
    one.ready()
    until(lambda: one.reaches(two), "it can start again")


def test_a_node_has_one_daemon_and_no_clean_up_beside_it(world: World) -> None:
    one, two = world.start_daemons("--ip-masq").nodes
    before, rules, logged = one.both(), one.rules(), len(one.text())
    for more in (["--cleanup"], [f"--subnet-file={one.home / 'other.env'}", "--healthz-bind-address=0"]):
        said = one.home / "second.log"
        second = one.space.start(one.argv(*more), said)
        assert second.wait(timeout=30) == 2, said.read_text()
        assert f"process {one.daemon and one.daemon.pid}) keeps this network namespace already" in said.read_text()
        said.unlink()
    assert (one.both(), one.rules()) == (before, rules)
    assert "drift repaired" not in one.text()[logged:]
    one.stop(signal.SIGKILL)
    one.start("--ip-masq")
    one.ready()
    assert one.reaches(two)


def test_masquerading(world: World) -> None:
    """A pod's packet to the world bears its node's address; between pods none is changed; what is flushed comes back."""
    one, two = world.nodes
    for node in world.nodes:
        node.space.run("iptables", "-P", "FORWARD", "DROP")  # as dockerd leaves it
    world.start_daemons("--ip-masq", "--iptables-resync=1s")
    until(lambda: one.reaches(two), "forwarding although the policy is DROP")
    assert "FLANNEL_IPMASQ=true\n" in one.subnet_file.read_text()
    outside = "10.200.0.1"
    one.pod.run("true")
    assert ping(one.pod.path, outside), "the bridge knows no way back to a pod but through its node's address"
    one.space.run("iptables", "-t", "nat", "-F")
    one.space.run("iptables", "-F", "FORWARD")
    # Each attempt is a flow of its own: conntrack remembers how an earlier one was translated.
    until(lambda: ping(one.pod.path, outside, seconds=0.2), "masquerading again", 4.0)
    until(lambda: one.reaches(two), "forwarding again", 4.0)
    until(lambda: one.drift("rules") > 0, "counted", 3.0, one.text)
    one.stop()
    one.start()
    one.ready()
    until(lambda: "FLANNEL-POSTRTG" not in _rules(one.space), "gone without --ip-masq", 5.0)
    assert "FLANNEL-FWD" in _rules(one.space), "the pods' packets are forwarded all the same"
    one.stop()
    one.start("--iptables-forward-rules=false")
    one.ready()
    until(lambda: "FLANNEL" not in _rules(one.space), "gone without either", 5.0)


def test_the_source_of_pod_to_pod_packets_is_kept_under_masquerading(world: World) -> None:
    one, two = world.start_daemons("--ip-masq").nodes
    until(lambda: "FLANNEL-POSTRTG" in _rules(one.space) and "FLANNEL-POSTRTG" in _rules(two.space), "rules")
    two.pod.run("iptables", "-A", "INPUT", "-s", one.pod_address, "-j", "ACCEPT")
    two.pod.run("iptables", "-P", "INPUT", "DROP")
    echo = Echo(one.pod.path, two.pod_address)
    assert echo.ask()
    echo.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--healthz-bind-address=192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
        (["--healthz-bind-address=10262"], "--healthz-bind-address: '10262' is not host:port"),
        (["--net-config-path=/nowhere.json"], "--net-config-path /nowhere.json: No such file or directory"),
        (["--kubeconfig=/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(world: World, arguments: list[str], words: str) -> None:
    one = world.nodes[0]
    before = one.both()
    done = subprocess.run(
        netns.argv_in(one.space.path, one.argv(*arguments)), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert one.both() == before


def test_an_interface_that_is_not_there_is_waited_for(world: World) -> None:
    one, _ = world.nodes
    one.start("--iface=eth7")
    until(lambda: "--iface eth7: there is no such interface" in one.text(), "words", 20)
    world.wire(one.space, "eth7", "10.201.0.71")
    one.ready()
    assert "from 10.201.0.71" in one.text()


def _rules(space: Space) -> str:
    text = space.run("iptables-save")
    return "\n".join(line for line in text.splitlines() if line.startswith("-A"))


def _plain(text: str) -> list[object]:
    return sorted(str({k: v for k, v in one.items() if k not in ("operstate", "ifindex")}) for one in json.loads(text))
