"""Nothing is lost on change: restarts, kills, another mode, rolling updates, each under a stream of connections."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Callable

import pytest

from tests.node.proxy_world import Cluster, End, Kernel, Process, many, until
from tests.node.service_world import HERE, HERE_TOO, LOOPBACK, NODE, OTHER_NODE, OUTSIDER, POD, PORT, THERE, Talk

CLUSTER_IP, BALANCER, NODE_PORT, HEALTH_PORT = "172.30.0.41", "198.51.100.4", 30080, 32000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`each_kernel`: in a short run without the legacy interface, which other tests meet."""
    if "each_kernel" in metafunc.fixturenames:
        short = [kernel for kernel in Kernel if kernel is not Kernel.IPTABLES_LEGACY]
        metafunc.parametrize("each_kernel", list(Kernel) if metafunc.config.getoption("--soak") else short)


def wrote(proxy: Process) -> list[str]:
    """What a proxy says that it wrote or deleted."""
    return re.findall(r"IPv\d: (?!0 written, 0 deleted)\d+ written, \d+ deleted.*", proxy.log)


def lossless(*talks: Talk, least: int = 100) -> None:
    for talk in talks:
        assert talk.failures == []
        assert sum(talk.answers.values()) >= least, talk


def test_kills_and_restarts_lose_no_connection_and_rewrite_nothing(cluster: Cluster, each_kernel: Kernel) -> None:
    world, kernel = cluster.world, each_kernel
    proxy = cluster.start_proxy(kernel=kernel)
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    cluster.make_service("sticky", "172.30.0.42", HERE, THERE, sessionAffinity="ClientIP")
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    until(lambda: len(cluster.names(OUTSIDER, "172.30.0.42", 80, 1) & {HERE, THERE}) == 1, "the other is there")
    home = cluster.names(OUTSIDER, "172.30.0.42", 80, 5)
    flows = [cluster.flow(POD, CLUSTER_IP, 80), cluster.flow(OUTSIDER, NODE, NODE_PORT)]
    before = cluster.rules()
    with world.holding(*flows * 20) as held, world.streaming(*flows) as streamed:
        for number in (signal.SIGKILL, signal.SIGTERM):
            assert proxy.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert cluster.names(POD, CLUSTER_IP, 80, 50) == {HERE, THERE}
            proxy = cluster.start_proxy(kernel=kernel).ready()
            assert wrote(proxy) == []
        lossless(held(), streamed())
    assert static(cluster.rules()) == static(before)
    assert cluster.names(OUTSIDER, "172.30.0.42", 80, 5) == home


def static(rules: list[str]) -> list[str]:
    """Without what clients leave in the kernel: remembered affinities."""
    return [line for line in rules if "expires" not in line]


def test_another_mode_leaves_no_gap_and_nothing_of_the_one_before(cluster: Cluster) -> None:
    world = cluster.world
    proxy = cluster.start_proxy()
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    cluster.make_service("none", "172.30.0.42")
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    flows = [cluster.flow(POD, CLUSTER_IP, 80), cluster.flow(OUTSIDER, NODE, NODE_PORT)]
    with world.holding(*flows * 10) as held, world.streaming(*flows) as streamed:
        for kernel in (Kernel.NFTABLES, Kernel.IPTABLES_NFT, Kernel.IPTABLES_LEGACY, Kernel.NFTABLES):
            proxy.end()
            proxy = cluster.start_proxy(kernel=kernel).ready()
            alone(cluster, kernel)
            assert cluster.names(POD, "172.30.0.42", 80, 1) == {"refused"}
        lossless(held(), streamed())


def alone(cluster: Cluster, kernel: Kernel) -> None:
    """Wait until nothing of another mode is left."""
    until(lambda: holders(cluster) == {kernel}, lambda: f"only {kernel}: {holders(cluster)}")


def holders(cluster: Cluster) -> set[Kernel]:
    """The interfaces of the kernel that hold rules of a proxy, in either family. KUBE-FIREWALL is the kubelet's too."""
    run, found = cluster.world.node.run, set()
    for flavor in (Kernel.IPTABLES_NFT, Kernel.IPTABLES_LEGACY):
        saved = run(f"{flavor}-save") + run(f"{flavor.replace('ip', 'ip6', 1)}-save")
        if re.search(r":KUBE-(?!FIREWALL|IPTABLES-HINT)", saved):
            found.add(flavor)
    if "table ip kube-proxy" in (tables := run("nft", "list", "tables")) or "table ip6 kube-proxy" in tables:
        found.add(Kernel.NFTABLES)
    return found


@pytest.mark.parametrize("kernel", [Kernel.IPTABLES_NFT, Kernel.NFTABLES])
def test_a_rolling_update_under_a_local_policy_loses_no_request(cluster: Cluster, kernel: Kernel) -> None:
    """One endpoint of this node after the other, as a rollout does: the new one first, the old one drains and goes. At the
    end the last one of this node drains too: it serves until it is gone, while the load balancer is told to go elsewhere."""
    world = cluster.world
    cluster.start_proxy(kernel=kernel)
    cluster.make_service(
        "web",
        CLUSTER_IP,
        HERE,
        THERE,
        node_port=NODE_PORT,
        balancer=BALANCER,
        externalTrafficPolicy="Local",
        healthCheckNodePort=HEALTH_PORT,
    )
    cluster.answers(OUTSIDER, BALANCER, 80, HERE)
    until(lambda: health(cluster) == (200, 1), "the load balancer may come")
    flows = [cluster.flow(OUTSIDER, BALANCER, 80), cluster.flow(OUTSIDER, NODE, NODE_PORT)]
    draining = {ip: End(ip, ready=False, terminating=True) for ip in (HERE, HERE_TOO)}
    with world.streaming(*flows, cluster.flow(POD, CLUSTER_IP, 80)) as streamed:
        for old, new in ((HERE, HERE_TOO), (HERE_TOO, HERE)):
            cluster.set_endpoints("web", old, new, THERE)
            cluster.answers(OUTSIDER, BALANCER, 80, old, new)
            until(lambda: health(cluster) == (200, 2), "both are counted")
            with world.holding(*[cluster.flow(OUTSIDER, BALANCER, 80)] * 10) as held:
                cluster.set_endpoints("web", draining[old], new, THERE)
                cluster.answers(OUTSIDER, BALANCER, 80, new)
                lossless(held(), least=10)
            cluster.set_endpoints("web", new, THERE)
            world.stop_serving((old, PORT))
            assert cluster.names(OUTSIDER, NODE, NODE_PORT) == {new}
            world.serve((old, PORT))
        cluster.set_endpoints("web", draining[HERE], THERE)
        until(lambda: health(cluster) == (503, 0), "the load balancer is sent elsewhere")
        assert cluster.names(OUTSIDER, BALANCER, 80) == {HERE}
        lossless(streamed())
    cluster.set_endpoints("web", THERE)
    cluster.answers(OUTSIDER, BALANCER, 80, "silence", times=2, timeout=0.3)
    assert health(cluster) == (503, 0)
    cluster.change_service("web", {"externalTrafficPolicy": "Cluster", "healthCheckNodePort": None})
    cluster.answers(OUTSIDER, BALANCER, 80, THERE)
    until(lambda: health(cluster)[0] == 0, "the health check's port is closed")


def health(cluster: Cluster) -> tuple[int, int]:
    """What the load balancer is told: status (0 for a closed port) and how many endpoints are here."""
    status, body = cluster.get(f"http://{NODE}:{HEALTH_PORT}/")
    return status, json.loads(body)["localEndpoints"] if status else 0


@pytest.mark.timeout(900)
def test_a_first_sync_killed_at_any_moment_ends_in_the_same_rules(
    cluster: Cluster, each_kernel: Kernel, trial: Callable[[int, int], int]
) -> None:
    kernel = each_kernel
    services, kills = trial(200, 1000), trial(2, 40)
    cluster.make_services(services, HERE, HERE_TOO, THERE)
    whole = seconds_to_write(cluster, kernel)
    after = cluster.rules()
    dice = random.Random(kernel)
    for _ in range(kills):
        emptied(cluster)
        proxy = cluster.start_proxy(kernel=kernel)
        proxy.says("writing")
        time.sleep(dice.uniform(0, whole))  # the moment that is being tried
        proxy.end(signal.SIGKILL)
        # Whatever is there by now either works or does not exist; never a Service that leads nowhere.
        for index in dice.sample(range(services), 5):
            assert cluster.names(POD, many(index), 80, 3, timeout=0.2) in ANY_OF
        proxy = cluster.start_proxy(kernel=kernel).ready()
        assert cluster.rules() == after
        proxy.end()


ANY_OF = [{HERE, HERE_TOO, THERE}, *({one, two} for one in (HERE, HERE_TOO) for two in (HERE_TOO, THERE)), {HERE}]
ANY_OF += [{HERE_TOO}, {THERE}, {"silence"}]


def seconds_to_write(cluster: Cluster, kernel: Kernel) -> float:
    proxy = cluster.start_proxy(kernel=kernel)
    proxy.says("writing")
    begun = time.monotonic()
    proxy.ready()
    took = time.monotonic() - begun
    proxy.end()
    return took


def emptied(cluster: Cluster) -> None:
    """No rule of anybody's in either interface."""
    cluster.world.node.run("nft", "flush", "ruleset")
    nothing = "".join(f"*{table}\nCOMMIT\n" for table in ("nat", "filter"))
    for stem in ("iptables", "ip6tables"):
        cluster.world.node.run(f"{stem}-legacy-restore", stdin=nothing)


def test_node_ports_on_localhost_are_there_and_the_network_gets_no_further(cluster: Cluster) -> None:
    """They need route_localnet, with which whoever is on the link could reach what listens on loopback only."""
    world = cluster.world
    world.serve((LOOPBACK, PORT))
    neighbour = world.spaces[OTHER_NODE]
    for line in (
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "ip address del 127.0.0.1/8 dev lo",
        f"ip route add {LOOPBACK}/32 via {NODE} dev eth0 src {OTHER_NODE}",
    ):
        neighbour.run(*line.split())
    world.node.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    assert cluster.names(OTHER_NODE, LOOPBACK, PORT, 1) == {LOOPBACK}, "the danger is real"
    world.node.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=0")
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    proxy = cluster.start_proxy(iptables={"localhostNodePorts": True}).ready()
    cluster.answers(LOOPBACK, LOOPBACK, NODE_PORT, HERE, THERE)
    assert cluster.names(OTHER_NODE, LOOPBACK, PORT, 1) == {"silence"}
    assert cluster.names(LOOPBACK, LOOPBACK, PORT, 1) == {LOOPBACK}
    proxy.end()
    cluster.start_proxy(iptables={"localhostNodePorts": False}).ready()
    cluster.answers(LOOPBACK, LOOPBACK, NODE_PORT, "refused")
