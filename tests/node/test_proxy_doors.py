"""The proxy's doors as a process: what it tells and sets in each mode, and when it ends by itself."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube.resources import NODES
from linux import netns as kernel_netns
from tests.node.proxy_world import NODE_NAME, Cluster, Kernel, parsed, running, until
from tests.node.service_world import HERE, NODE, POD, THERE, Make, built
from tests.requirements import missing, requires, tool

CLUSTER_IP, NODE_PORT = "172.30.0.41", 30080
METRICS = "http://127.0.0.1:10249"


@pytest.fixture
def cluster(netns: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    requires("netns", "iptables-nft-restore")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with built(netns) as world, running(world, tmp_path) as made:
        yield made


def checked_metrics(cluster: Cluster, path: str = "/metrics") -> str:
    status, text = cluster.get(METRICS + path)
    assert status == 200
    if not missing("promtool"):
        assert cluster.world.node.run(str(tool("promtool")), "check", "metrics", stdin=text) == ""
    return text


def test_nftables_mode_tells_of_both_families_and_follows_its_configuration(cluster: Cluster) -> None:
    cluster.make_node()
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    proxy = cluster.start_proxy(kernel=Kernel.NFTABLES, bindAddress=NODE).ready()
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    assert cluster.get(f"{METRICS}/proxyMode") == (200, "nftables")
    body = parsed(cluster.get("http://127.0.0.1:10256/livez")[1])
    assert {family: each["healthy"] for family, each in body["status"].items()} == {"IPv4": True, "IPv6": True}
    text = checked_metrics(cluster)
    for family in ("IPv4", "IPv6"):
        assert f'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{{ip_family="{family}"}} 0.0' in text
    assert re.search(r'wherry_proxy_nftables_elements\{ip_family="IPv4",table="[a-z-]+"\} [1-9]', text)
    assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0' in checked_metrics(cluster, "/metrics/slis")

    # Another mode in its file ends it, and the next one takes over without a gap and leaves nothing of the first.
    path = cluster.config(mode="iptables", iptables={"localhostNodePorts": True})
    until(lambda: proxy.ended, lambda: f"it ends\n{proxy.log}")
    assert (proxy.wait(), "has changed: ending" in proxy.log) == (0, True)
    again = cluster.start_proxy(iptables={"localhostNodePorts": True}).ready()
    assert yaml.safe_load(path.read_text())["mode"] == "iptables"
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    until(lambda: "kube-proxy" not in cluster.world.node.run("nft", "list", "tables"), "the other mode's table is gone")

    # NodePorts on loopback need a sysctl, and a rule that keeps the network off what listens there.
    assert cluster.world.node.run("sysctl", "-n", "net.ipv4.conf.all.route_localnet").strip() == "1"
    cluster.answers(NODE, "127.0.0.1", NODE_PORT, HERE, THERE)
    assert "! -s 127.0.0.0/8 -d 127.0.0.0/8" in cluster.world.node.run("iptables-save", "-t", "filter")
    text = checked_metrics(cluster)
    for counted in ("ct_state_invalid_dropped", "localhost_nodeports_accepted"):
        assert f"kubeproxy_iptables_{counted}_packets_total " in text
    assert "Traceback" not in proxy.log + again.log


def test_a_node_by_its_own_range_is_waited_for_and_another_range_ends_the_proxy(cluster: Cluster) -> None:
    cluster.make_service("web", CLUSTER_IP, HERE)
    keys: dict[str, Any] = {"detectLocalMode": "NodeCIDR", "clusterCIDR": "", "iptables": {"localhostNodePorts": True}}
    cluster.world.node.run(sys.executable, "-m", "proxy", f"--config={cluster.config(**keys)}", "--init-only")
    proxy = cluster.start_proxy(**keys)
    until(lambda: "waiting until Node" in proxy.log, lambda: f"it waits\n{proxy.log}")
    assert "KUBE-SERVICES" not in cluster.world.node.run("iptables-save", "-t", "nat")
    # Until the rule that keeps the network off loopback is in, nothing leads there.
    assert cluster.world.node.run("sysctl", "-n", "net.ipv4.conf.all.route_localnet").strip() == "0"
    cluster.make_node(podCIDR="10.180.0.0/24", podCIDRs=["10.180.0.0/24"])
    proxy.ready()
    assert cluster.world.node.run("sysctl", "-n", "net.ipv4.conf.all.route_localnet").strip() == "1"
    assert "! -s 10.180.0.0/24" in cluster.world.node.run("iptables-save", "-t", "nat")
    cluster.answers(POD, CLUSTER_IP, 80, HERE)

    cluster.api(lambda client: client.delete(NODES, NODE_NAME))
    cluster.make_node(podCIDR="10.180.1.0/24", podCIDRs=["10.180.1.0/24"])
    until(lambda: proxy.ended, lambda: f"it ends\n{proxy.log}")
    assert proxy.wait() == 1
    assert "has podCIDR 10.180.1.0/24 now, was 10.180.0.0/24" in proxy.log
    assert "Traceback" not in proxy.log
    cluster.answers(POD, CLUSTER_IP, 80, HERE)  # the rules stay


def test_limits_of_flows_are_set_and_a_busy_port_need_not_be_the_end(cluster: Cluster) -> None:
    world = cluster.world

    def limit(name: str) -> str:
        return world.node.run("sysctl", "-n", f"net.netfilter.nf_conntrack_{name}").strip()

    cluster.make_service("web", CLUSTER_IP, HERE)
    once = cluster.start_proxy("--init-only", conntrack={"maxPerCore": 0, "udpTimeout": "17s"})
    assert once.wait() == 0
    assert "KUBE-" not in world.node.run("iptables-save")

    busy = kernel_netns.call(world.node.path, lambda: socket.create_server(("127.0.0.1", 10249)))
    proxy = cluster.start_proxy(bindAddressHardFail=False, conntrack={"maxPerCore": 0, "udpTimeout": "17s"}).ready()
    assert "cannot listen on 127.0.0.1:10249" in proxy.log
    # Our first rules have loaded conntrack, if nothing else had.
    assert (limit("tcp_timeout_established"), limit("tcp_timeout_close_wait")) == ("86400", "3600")
    assert limit("udp_timeout") == "17"
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    busy.close()
    until(lambda: cluster.get(f"{METRICS}/healthz") == (200, "ok"), lambda: f"it listens\n{proxy.log}")
    assert "Traceback" not in proxy.log
