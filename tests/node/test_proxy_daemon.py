"""The proxy as a process: it follows the API, survives kills, repairs what others break, and cleans up."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from linux import netns as kernel_netns
from tests.node.proxy_world import Cluster, Process, parsed, until
from tests.node.service_world import NODE, OUTSIDER, REMOTE_POD, Make, World, built, once
from tests.requirements import missing, requires, tool

CLUSTER_IP, NODE_PORT = "10.96.0.10", 30080
HERE, HERE_TOO = "10.244.0.2", "10.244.0.3"


@pytest.fixture
def cluster(netns: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    requires("netns", "iptables-nft-restore", "iptables-legacy-restore")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with built(netns) as world:
        made = Cluster(world, tmp_path)
        try:
            yield made
        finally:
            made.close()


def answers(world: World, source: str, destination: str, port: int, *names: str) -> None:
    """Wait until exactly these answer."""
    until(
        lambda: {each.split()[0] for each in world.ask(source, destination, port, times=20)} == set(names),
        f"{destination}:{port} is answered by {names} only",
    )


def ready(proxy: Process) -> None:
    until(lambda: "wherry-proxy is ready" in proxy.log, f"the proxy is ready\n{proxy.log}")


def test_it_follows_services_and_endpoints(cluster: Cluster) -> None:
    world = cluster.world
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE, REMOTE_POD, node_port=NODE_PORT)
    answers(world, HERE_TOO, CLUSTER_IP, 80, HERE, REMOTE_POD)
    answers(world, OUTSIDER, NODE, NODE_PORT, HERE, REMOTE_POD)
    cluster.set_endpoints("web", HERE_TOO)
    answers(world, OUTSIDER, CLUSTER_IP, 80, HERE_TOO)
    cluster.set_endpoints("web")
    answers(world, OUTSIDER, NODE, NODE_PORT, "refused")
    cluster.set_endpoints("web", HERE)
    answers(world, OUTSIDER, NODE, NODE_PORT, HERE)
    cluster.delete_service("web")
    until(lambda: "KUBE-SEP" not in world.node.run("iptables-save"), "its chains are gone")
    assert "Traceback" not in proxy.log


def test_its_own_endpoints(cluster: Cluster) -> None:
    proxy = cluster.start_proxy("--healthz-bind-address=127.0.0.1:10256")
    cluster.make_node()
    cluster.make_service("web", CLUSTER_IP, HERE)
    cluster.make_service("lonely", "10.96.0.11", REMOTE_POD, internalTrafficPolicy="Local")
    ready(proxy)
    until(lambda: cluster.get("http://127.0.0.1:10256/healthz")[0] == 200, "healthy")
    body = parsed(cluster.get("http://127.0.0.1:10256/healthz")[1])
    assert (body["healthy"], body["nodeEligible"], body["status"]["IPv4"]["healthy"]) == (True, True, True)
    assert "nodeEligible" not in parsed(cluster.get("http://127.0.0.1:10256/livez")[1])
    assert cluster.get("http://127.0.0.1:10249/proxyMode") == (200, "iptables")
    assert cluster.get("http://127.0.0.1:10249/healthz")[0] == 200
    configz = parsed(cluster.get("http://127.0.0.1:10249/configz")[1])["kubeproxy.config.k8s.io"]
    assert (configz["clusterCIDR"], configz["iptables"]["syncPeriod"]) == ("10.244.0.0/16", "30s")
    until(
        lambda: cluster.metric("kubeproxy_sync_proxy_rules_no_local_endpoints_total") == 1, "one lacks local endpoints"
    )
    saved = world_rules(cluster.world, "nat")
    assert cluster.metric("kubeproxy_sync_proxy_rules_iptables_total") >= len(saved)
    assert cluster.metric("kubeproxy_sync_proxy_rules_duration_seconds_count") >= 1
    if not missing("promtool"):
        text = cluster.get("http://127.0.0.1:10249/metrics")[1]
        assert cluster.world.node.run(str(tool("promtool")), "check", "metrics", stdin=text) == ""


def world_rules(world: World, table: str) -> list[str]:
    lines = world.node.run("iptables-save", "-t", table).splitlines()
    return [line for line in lines if line.startswith("-A KUBE-")]


def test_a_kill_under_a_stream_of_connections_loses_none_and_a_restart_rewrites_nothing(cluster: Cluster) -> None:
    world = cluster.world
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE, REMOTE_POD)
    answers(world, HERE_TOO, CLUSTER_IP, 80, HERE, REMOTE_POD)
    hits: Counter[str] = Counter()
    stop = threading.Event()

    def stream() -> None:
        while not stop.is_set():
            hits[once(HERE_TOO, CLUSTER_IP, 80).split()[0]] += 1

    thread = threading.Thread(target=kernel_netns.call, args=(world.pods[HERE_TOO].path, stream))
    thread.start()
    try:
        for number in (signal.SIGKILL, signal.SIGTERM):
            status = proxy.end(number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            before = sum(hits.values())
            until(lambda before=before: sum(hits.values()) > before + 100, "connections go on without a proxy")
            (cluster.home / "proxy.log").write_text("")
            proxy = cluster.start_proxy()
            ready(proxy)
            assert "chains written" not in proxy.log, proxy.log
    finally:
        stop.set()
        thread.join()
    assert set(hits) == {HERE, REMOTE_POD}, hits


def test_a_udp_sender_that_keeps_its_port_follows_the_endpoints(cluster: Cluster) -> None:
    requires("conntrack")
    world = cluster.world
    ready(cluster.start_proxy())
    cluster.make_service("dns", CLUSTER_IP, HERE, protocol="UDP", node_port=NODE_PORT)
    with kernel_netns.enter(world.pods[HERE_TOO].path):
        pod = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        pod.bind((HERE_TOO, 5353))
    with kernel_netns.enter(world.outside.path):
        outsider = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        outsider.bind((OUTSIDER, 5353))

    def answered_by(name: str) -> None:
        for sender, to in ((pod, (CLUSTER_IP, 80)), (outsider, (NODE, NODE_PORT))):
            until(lambda sender=sender, to=to: asked(sender, to) == name, f"{to} is answered by {name}")

    with pod, outsider:
        answered_by(HERE)
        cluster.set_endpoints("dns", REMOTE_POD)
        answered_by(REMOTE_POD)
        cluster.set_endpoints("dns")
        answered_by("")
        cluster.set_endpoints("dns", HERE)
        answered_by(HERE)


def asked(sender: socket.socket, to: tuple[str, int]) -> str:
    """Who answered the last datagram; nobody is an empty name."""
    sender.settimeout(0.3)
    try:
        sender.sendto(b"?", to)
        return sender.recv(1500).decode().split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize(
    "damage",
    [
        ["-t nat -F KUBE-SERVICES"],
        ["-t nat -F"],
        ["-t nat -F", "-t nat -X", "-t filter -F", "-t filter -X", "-t mangle -F", "-t mangle -X"],
        ["-t nat -I KUBE-SERVICES 1 -p tcp --dport 80 -j RETURN"],
    ],
)
@pytest.mark.parametrize("flavor", ["nft", "legacy"])
def test_what_others_break_is_repaired(cluster: Cluster, flavor: str, damage: list[str]) -> None:
    world, command = cluster.world, f"iptables-{flavor}"
    if flavor == "legacy":
        world.node.run(command, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    # nf_tables tells of changes at once; legacy tables have to be looked at, every sync period.
    cluster.start_proxy("--iptables-sync-period=1s" if flavor == "legacy" else "--iptables-sync-period=1h")
    cluster.make_service("web", CLUSTER_IP, HERE)
    answers(world, HERE_TOO, CLUSTER_IP, 80, HERE)
    for line in damage:
        world.node.run(command, *line.split())
    answers(world, HERE_TOO, CLUSTER_IP, 80, HERE)
    assert "KUBE-SERVICES" in world.node.run(f"{command}-save", "-t", "nat")


def test_without_the_api_the_rules_stay_and_with_it_they_follow_again(cluster: Cluster) -> None:
    world = cluster.world
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE)
    answers(world, HERE_TOO, CLUSTER_IP, 80, HERE)
    cluster.server.end(signal.SIGKILL)
    assert set(world.ask(HERE_TOO, CLUSTER_IP, 80, times=5)) == {f"{HERE} {HERE_TOO}"}
    proxy.end(signal.SIGKILL)
    proxy = cluster.start_proxy()
    until(lambda: "again in" in proxy.log, "the new proxy has noticed that the API is away")
    assert set(world.ask(HERE_TOO, CLUSTER_IP, 80, times=5)) == {f"{HERE} {HERE_TOO}"}
    cluster.server = cluster.start_api()
    cluster.set_endpoints("web", REMOTE_POD)
    answers(world, HERE_TOO, CLUSTER_IP, 80, REMOTE_POD)


def test_cleanup_takes_what_is_ours_and_leaves_the_rest(cluster: Cluster) -> None:
    world = cluster.world
    empty = {command: shape(world, command) for command in ("iptables-nft-save", "iptables-legacy-save")}
    for flavor in ("nft", "legacy"):
        iptables = f"iptables-{flavor}"
        world.node.run(iptables, "-N", "KUBE-FIREWALL")
        world.node.run(iptables, "-A", "INPUT", "-j", "KUBE-FIREWALL")
        world.node.run(iptables, "-t", "nat", "-N", "FLANNEL-POSTRTG")
        world.node.run(
            iptables, "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "x y", "-j", "FLANNEL-POSTRTG"
        )
    others = {command: shape(world, command) for command in empty}
    cluster.make_service("web", CLUSTER_IP, HERE, node_port=NODE_PORT)
    cluster.make_service("none", "10.96.0.11")
    for hint in (False, True):
        if hint:
            world.node.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        proxy = cluster.start_proxy()
        ready(proxy)
        proxy.end()
        (cluster.home / "proxy.log").write_text("")
    assert any("KUBE-SEP" in line for line in shape(world, "iptables-legacy-save"))
    assert any("KUBE-SEP" in line for line in shape(world, "iptables-nft-save"))
    world.node.run("iptables-legacy", "-t", "mangle", "-X", "KUBE-IPTABLES-HINT")
    for _ in range(2):
        cleanup = Process(world, cluster.home / "cleanup.log", "proxy", "--cleanup")
        assert cleanup.wait() == 0, cleanup.log
        assert {command: shape(world, command) for command in others} == others


def shape(world: World, command: str) -> set[str]:
    """Rules, and chains that are not built in, of the tables that hold any."""
    found, table = set(), ""
    for line in world.node.run(command).splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith("-A") or (line.startswith(":") and " - " in line):
            found.add(f"{table} {line.split(' [')[0]}")
    return found


def test_a_taken_port_is_one_line(cluster: Cluster) -> None:
    with kernel_netns.enter(cluster.world.node.path):
        taken = socket.create_server(("127.0.0.1", 10249))
    with taken:
        proxy = cluster.start_proxy()
        assert proxy.wait() == 2
    last = proxy.log.splitlines()[-1]
    assert last.startswith("wherry-proxy: ")
    assert "--metrics-bind-address" in last
    assert "Traceback" not in proxy.log
