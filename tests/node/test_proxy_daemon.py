"""The proxy as a process: it follows the API, survives kills, repairs what others break, and cleans up."""

from __future__ import annotations

import signal
import socket

import pytest

from linux import netns as kernel_netns
from tests.node.proxy_world import Cluster, Process, parsed, until
from tests.node.service_world import HERE, HERE_TOO, NODE, OUTSIDER, POD, THERE, World
from tests.requirements import missing, tool

CLUSTER_IP, BALANCER, NODE_PORT = "172.30.0.41", "198.51.100.4", 30080
POD_RANGES = "10.180.0.0/16,fd00::10:180:0:0/96"


def test_it_follows_services_and_endpoints(cluster: Cluster) -> None:
    world = cluster.world
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    cluster.answers(OUTSIDER, NODE, NODE_PORT, HERE, THERE)
    cluster.set_endpoints("web", HERE_TOO)
    cluster.answers(OUTSIDER, CLUSTER_IP, 80, HERE_TOO)
    cluster.set_endpoints("web")
    cluster.answers(OUTSIDER, NODE, NODE_PORT, "refused")
    cluster.set_endpoints("web", HERE)
    cluster.answers(OUTSIDER, NODE, NODE_PORT, HERE)
    cluster.delete_service("web")
    until(lambda: "KUBE-SEP" not in world.node.run("iptables-save"), "its chains are gone")
    assert "Traceback" not in proxy.log


def test_its_own_endpoints(cluster: Cluster) -> None:
    proxy = cluster.start_proxy(healthzBindAddress="127.0.0.1:10256")
    cluster.make_service("web", CLUSTER_IP, HERE)
    cluster.make_service("lonely", "172.30.0.42", THERE, internalTrafficPolicy="Local")
    proxy.ready()
    until(lambda: cluster.get("http://127.0.0.1:10256/healthz")[0] == 200, "healthy")
    body = parsed(cluster.get("http://127.0.0.1:10256/healthz")[1])
    assert (body["healthy"], body["nodeEligible"], body["status"]["IPv4"]["healthy"]) == (True, True, True)
    assert "nodeEligible" not in parsed(cluster.get("http://127.0.0.1:10256/livez")[1])
    assert cluster.get("http://127.0.0.1:10249/proxyMode") == (200, "iptables")
    assert cluster.get("http://127.0.0.1:10249/healthz")[0] == 200
    configz = parsed(cluster.get("http://127.0.0.1:10249/configz")[1])["kubeproxy.config.k8s.io"]
    assert (configz["clusterCIDR"], configz["iptables"]["syncPeriod"]) == (POD_RANGES, "30s")
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
    cluster.make_service("web", CLUSTER_IP, HERE, THERE)
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    flow = cluster.flow(POD, CLUSTER_IP, 80)
    with world.holding(*[flow] * 20) as held, world.streaming(flow) as streamed:
        for number in (signal.SIGKILL, signal.SIGTERM):
            assert proxy.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert set(cluster.ask(POD, CLUSTER_IP, 80, times=50)) == {f"{HERE}:8080 {POD}", f"{THERE}:8080 {POD}"}
            proxy = cluster.start_proxy().ready()
            assert "chains written" not in proxy.log, proxy.log
        kept, fresh = held(), streamed()
    assert (kept.failures, fresh.failures) == ([], [])
    assert sum(fresh.answers.values()) > 200, fresh


def test_a_udp_sender_that_keeps_its_port_follows_the_endpoints(cluster: Cluster) -> None:
    cluster.start_proxy().ready()
    cluster.make_service("dns", CLUSTER_IP, HERE, protocol="UDP", node_port=NODE_PORT, balancer=BALANCER)
    senders = [(POD, CLUSTER_IP, 80), (OUTSIDER, NODE, NODE_PORT), (OUTSIDER, BALANCER, 80), (NODE, CLUSTER_IP, 80)]
    flows = [
        cluster.flow(*each, protocol="udp", source_port=5353 + index, timeout=0.2) for index, each in enumerate(senders)
    ]

    def answered_by(*names: str) -> None:
        def so() -> bool:
            answers = cluster.ask_all(flows)
            return all(answer.split(":")[0] in names for found in answers for answer in found)

        until(so, lambda: f"everyone is answered by {names}: {cluster.ask_all(flows)}")

    answered_by(HERE)
    cluster.set_endpoints("dns", THERE)
    answered_by(THERE)
    cluster.set_endpoints("dns")
    answered_by("refused", "EPERM")  # the node's own datagrams fail at once
    cluster.set_endpoints("dns", HERE)
    answered_by(HERE)


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
    cluster.start_proxy(iptables={"syncPeriod": "1s" if flavor == "legacy" else "1h"})
    cluster.make_service("web", CLUSTER_IP, HERE)
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    for line in damage:
        world.node.run(command, *line.split())
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    assert "KUBE-SERVICES" in world.node.run(f"{command}-save", "-t", "nat")


def test_without_the_api_the_rules_stay_and_with_it_they_follow_again(cluster: Cluster) -> None:
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE)
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    cluster.server.end(signal.SIGKILL)
    assert set(cluster.ask(POD, CLUSTER_IP, 80, times=5)) == {f"{HERE}:8080 {POD}"}
    proxy.end(signal.SIGKILL)
    proxy = cluster.start_proxy()
    until(lambda: "again in" in proxy.log, "the new proxy has noticed that the API is away")
    assert set(cluster.ask(POD, CLUSTER_IP, 80, times=5)) == {f"{HERE}:8080 {POD}"}
    cluster.server = cluster.start_api()
    cluster.set_endpoints("web", THERE)
    cluster.answers(POD, CLUSTER_IP, 80, THERE)


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
    cluster.make_service("none", "172.30.0.42")
    for hint in (False, True):
        if hint:
            world.node.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        proxy = cluster.start_proxy()
        proxy.ready()
        proxy.end()
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
