"""What others do to the rules: they come back, others' rules stay as they are, and what is in the way is said in words."""

from __future__ import annotations

import fcntl
import socket
import time

import pytest

from linux import netns as kernel_netns
from tests.node.proxy_world import Cluster, Kernel, Process, until
from tests.node.service_world import HERE, NODE, OUTSIDER, POD, THERE

CLUSTER_IP, NODE_PORT = "172.30.0.41", 30080
SOON = 1.0  # seconds
OTHERS = """
table inet firewall {
  set known { type ipv4_addr . inet_service; elements = { 10.0.0.1 . 80 }; }
  chain input { type filter hook input priority 10; policy accept; ip saddr . tcp dport @known counter accept; }
}
table ip nat {
  chain DOCKER { ip daddr 10.1.2.3 counter return; }
}
"""


# The first word is the program; {chain} is a chain of the Service.
_IPTABLES = (
    ["{iptables} -t nat -F KUBE-SERVICES"],
    ["{iptables} -t nat -F"],
    ["{iptables} -t filter -F"],
    ["{iptables} -t nat -F {chain}"],
    ["{iptables} -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES"],
    ["{iptables} -t nat -I KUBE-SERVICES 1 -p tcp --dport 80 -j RETURN"],
    # In one transaction: between a flush and a deletion of chains the proxy may already have brought them back.
    [f"printf '*{table}\\nCOMMIT\\n' | {{iptables}}-restore" for table in ("nat", "filter")],
    ["{iptables} -t mangle -X KUBE-PROXY-CANARY"],
)
DAMAGES = {
    Kernel.IPTABLES_NFT: (*_IPTABLES, ["nft flush ruleset"], ["nft delete table ip nat"]),
    Kernel.IPTABLES_LEGACY: _IPTABLES[::2],  # each takes a sync period to be seen
    Kernel.NFTABLES: (
        ["nft flush ruleset"],
        ["nft delete table ip kube-proxy"],
        ["nft flush chain ip kube-proxy services"],
        ["nft flush map ip kube-proxy services-by-ip"],
        ["nft insert rule ip kube-proxy services tcp dport 80 drop"],
    ),
}


@pytest.mark.parametrize("kernel", list(Kernel))
@pytest.mark.alone
def test_what_others_break_is_back_within_a_second(cluster: Cluster, kernel: Kernel) -> None:
    # Legacy tables tell nobody that they were changed: they are looked at every sync period.
    period = "1s" if kernel is Kernel.IPTABLES_LEGACY else "1h"
    proxy = cluster.start_proxy(kernel=kernel, **{kernel.mode: {"syncPeriod": period}}).ready()
    cluster.make_service("web", CLUSTER_IP, HERE, node_port=NODE_PORT)
    cluster.make_service("none", "172.30.0.42")
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    cluster.answers(OUTSIDER, "172.30.0.42", 80, "refused")
    whole = cluster.rules()
    proxy.end()  # the next one has nothing to write, and watches all the same
    proxy = cluster.start_proxy(kernel=kernel, **{kernel.mode: {"syncPeriod": period}}).ready()
    late = []
    for damage in DAMAGES[kernel]:
        chain = next((line.split()[1] for line in whole if line.startswith("-A KUBE-SVC")), "")
        for line in damage:
            words = line.format(iptables=kernel, chain=chain)
            cluster.world.node.run("sh", "-c", words)
        begun = time.monotonic()
        until(lambda: cluster.rules() == whole, lambda: f"{set(whole) ^ set(cluster.rules())}\n{proxy.log}", 10)
        if (took := time.monotonic() - begun) > SOON + (1.0 if kernel is Kernel.IPTABLES_LEGACY else 0.0):
            late.append((damage, took))
        assert cluster.names(POD, CLUSTER_IP, 80, 5) == {HERE}
    assert late == []
    assert "Traceback" not in proxy.log


@pytest.mark.alone
def test_one_element_that_somebody_deletes_is_back(cluster: Cluster) -> None:
    cluster.start_proxy(kernel=Kernel.NFTABLES, nftables={"syncPeriod": "1h"}).ready()
    cluster.make_service("web", CLUSTER_IP, HERE, node_port=NODE_PORT)
    cluster.answers(POD, CLUSTER_IP, 80, HERE)
    whole = cluster.rules()
    cluster.world.node.run(
        "nft", "delete", "element", "ip", "kube-proxy", "services-by-ip", f"{{ {CLUSTER_IP} . tcp . 80 }}"
    )
    until(lambda: cluster.rules() == whole, "the element is back", SOON)


def test_cleanup_takes_what_is_ours_and_leaves_the_rest_byte_for_byte(cluster: Cluster) -> None:
    node = cluster.world.node
    node.run("nft", "-f", "-", stdin=OTHERS)
    for flavor in ("nft", "legacy"):
        for line in (
            "-N KUBE-FIREWALL",
            "-A INPUT -j KUBE-FIREWALL",
            "-t nat -N FLANNEL-POSTRTG",
            "-t nat -A POSTROUTING -m comment --comment xy -j FLANNEL-POSTRTG",
        ):
            node.run(f"iptables-{flavor}", *line.split())
    cleanup(cluster)  # on a node where nothing of ours is
    untouched = cluster.rules()
    cluster.make_service("web", CLUSTER_IP, HERE, node_port=NODE_PORT, sessionAffinity="ClientIP")
    cluster.make_service("none", "172.30.0.42")
    for kernel in Kernel:
        cluster.start_proxy(kernel=kernel).ready().end()
        ours = set(cluster.rules()) - set(untouched)
        assert any("KUBE-SEP" in line or "services-by-ip" in line for line in ours), kernel
        assert "10.1.2.3" in "".join(cluster.rules())
        if kernel is Kernel.IPTABLES_LEGACY:
            cluster.hint("-X")
        cleanup(cluster)
        assert cluster.rules() == untouched, kernel
    cleanup(cluster)
    assert cluster.rules() == untouched


def cleanup(cluster: Cluster) -> None:
    done = Process(cluster.world, cluster.home / "cleanup.log", "proxy", "--cleanup")
    assert done.wait() == 0, done.log


def test_a_lock_that_somebody_holds_is_named_and_waited_for(cluster: Cluster) -> None:
    proxy = cluster.start_proxy(kernel=Kernel.IPTABLES_LEGACY).ready()
    with (cluster.home / "xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster.make_service("web", CLUSTER_IP, HERE)
        until(lambda: "lock" in proxy.log, lambda: f"the lock is named\n{proxy.log}")
        assert cluster.names(POD, CLUSTER_IP, 80, 1) == {"silence"}
    cluster.answers(POD, CLUSTER_IP, 80, HERE)


@pytest.mark.parametrize("kernel", [Kernel.IPTABLES_NFT, Kernel.NFTABLES])
def test_a_table_of_others_that_drops_is_named(cluster: Cluster, kernel: Kernel) -> None:
    cluster.world.node.run(
        "nft",
        "add table inet strict; add chain inet strict forward { type filter hook forward priority 0; policy drop; }",
    )
    proxy = cluster.start_proxy(kernel=kernel).ready()
    until(lambda: "table inet strict" in proxy.log, lambda: f"the table is named\n{proxy.log}")


def test_a_taken_health_check_port_is_told_and_tried_again(cluster: Cluster) -> None:
    with kernel_netns.enter(cluster.world.node.path):
        taken = socket.create_server((NODE, 32000))
    with taken:
        cluster.start_proxy(iptables={"syncPeriod": "2s"}).ready()
        cluster.make_service(
            "web",
            CLUSTER_IP,
            HERE,
            THERE,
            node_port=NODE_PORT,
            balancer="198.51.100.4",
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
        )
        until(
            lambda: "FailedToStartServiceHealthcheck" in events(cluster), lambda: f"an Event tells: {events(cluster)}"
        )
    until(lambda: cluster.get(f"http://{NODE}:32000/")[0] == 200, "the port is served once it is free", 30)


def events(cluster: Cluster) -> str:
    return cluster.api(lambda client: client.request("GET", "/api/v1/namespaces/default/events")).decode()
