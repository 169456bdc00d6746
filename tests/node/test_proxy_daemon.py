"""The proxy as a process: it follows the API, survives kills, repairs what others break, and cleans up."""

from __future__ import annotations

import signal
import socket
from typing import Any

import pytest

from kube.errors import ApiError
from kube.labels import SERVICE_PROXY_NAME
from kube.resources import ENDPOINTSLICES, SERVICES
from linux import netns as kernel_netns
from tests.node.proxy_world import Cluster, Kernel, parsed, until
from tests.node.service_world import HERE, HERE_TOO, NODE, OUTSIDER, POD, THERE, World
from tests.requirements import missing, tool

CLUSTER_IP, BALANCER, NODE_PORT = "172.30.0.41", "198.51.100.4", 30080
EITHER = [(Kernel.IPTABLES_NFT, 4), (Kernel.NFTABLES, 6)]
POD_RANGES = "10.180.0.0/16,fd00::10:180:0:0/96"


@pytest.mark.parametrize(("kernel", "cluster"), EITHER, indirect=["cluster"])
def test_it_follows_services_and_endpoints(kernel: Kernel, cluster: Cluster) -> None:
    proxy = cluster.start_proxy(kernel=kernel).ready()
    cluster.make_service("web", CLUSTER_IP, HERE, THERE, node_port=NODE_PORT)
    cluster.answers(POD, CLUSTER_IP, 80, HERE, THERE)
    cluster.answers(OUTSIDER, NODE, NODE_PORT, HERE, THERE)
    cluster.set_endpoints("web", HERE_TOO)
    cluster.answers(OUTSIDER, CLUSTER_IP, 80, HERE_TOO)
    cluster.set_endpoints("web")
    cluster.answers(OUTSIDER, NODE, NODE_PORT, "refused")
    cluster.set_endpoints("web", HERE)
    cluster.answers(OUTSIDER, NODE, NODE_PORT, HERE)
    cluster.change_service("web", {}, {SERVICE_PROXY_NAME: "another"})
    cluster.answers(OUTSIDER, NODE, NODE_PORT, "refused")
    cluster.change_service("web", {}, {SERVICE_PROXY_NAME: None})
    cluster.answers(OUTSIDER, NODE, NODE_PORT, HERE)
    cluster.change_service("web", {"type": "ClusterIP", "ports": [{"name": "http", "port": 80}]})
    cluster.answers(OUTSIDER, NODE, NODE_PORT, "refused")
    cluster.answers(OUTSIDER, CLUSTER_IP, 80, HERE)
    cluster.delete_service("web")
    words = (cluster.at(CLUSTER_IP), cluster.at(HERE), "default/web", "KUBE-SEP", str(NODE_PORT))
    until(lambda: not any(word in line for line in cluster.rules() for word in words), "nothing of it is left")
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


@pytest.mark.parametrize(("kernel", "cluster"), EITHER, indirect=["cluster"])
def test_a_udp_sender_that_keeps_its_port_follows_the_endpoints(kernel: Kernel, cluster: Cluster) -> None:
    cluster.start_proxy(kernel=kernel).ready()
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


def odd_slices(cluster: Cluster) -> list[dict[str, Any]]:
    plain = cluster.slice_of("odd", [HERE])
    (end,) = plain["endpoints"]
    return [
        {**plain, "ports": []},
        {**plain, "ports": [{"name": "http"}]},
        {**plain, "ports": [{"name": "http", "port": 8080, "protocol": "SCTP"}]},
        {**plain, "endpoints": [{**end, "addresses": ["010.180.000.002"]}]},
        {**plain, "endpoints": [end, end, {**end, "conditions": {"ready": False, "terminating": True}}]},
        {**plain, "endpoints": [{"addresses": [cluster.at(HERE)]}]},
        {**plain, "addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]},
        {**plain, "metadata": {"labels": {"kubernetes.io/service-name": "nobody"}}},
        {**plain, "metadata": {"labels": {}}},
        {**plain, "endpoints": [{"addresses": [f"10.181.{n // 250}.{1 + n % 250}"]} for n in range(1000)]},
    ]


@pytest.mark.parametrize("kernel", [Kernel.IPTABLES_NFT, Kernel.NFTABLES])
def test_odd_objects_never_hold_up_the_others(cluster: Cluster, kernel: Kernel) -> None:
    proxy = cluster.start_proxy(kernel=kernel).ready()
    cluster.make_service("web", CLUSTER_IP, HERE, node_port=NODE_PORT)
    taken = 0
    ports = [{"name": f"p{n}", "port": 1000 + n} for n in range(1000)]
    for spec in (
        {"clusterIP": "172.30.0.50", "ports": ports},
        {
            "clusterIP": "172.30.0.51",
            "ports": [{"port": 80}],
            "externalIPs": [cluster.at(CLUSTER_IP), cluster.at(NODE)],
        },
        {"type": "ExternalName", "externalName": "example.org"},
        {"clusterIP": "None", "ports": [{"port": 80}]},
        {"clusterIP": "172.30.0.52", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"},
        {
            "clusterIP": "172.30.0.53",
            "ports": [{"port": 80}],
            "type": "LoadBalancer",
            "loadBalancerSourceRanges": ["0.0.0.0/0"],
        },
    ):
        cluster.create(SERVICES, {"metadata": {"name": f"odd{taken}"}, "spec": spec})
        taken += 1
    for index, body in enumerate(odd_slices(cluster)):
        try:
            cluster.create(ENDPOINTSLICES, {**body, "metadata": {**body["metadata"], "name": f"odd-{index}"}})
        except ApiError:
            continue  # this API server lets no such thing in
        taken += 1
    assert taken > 12
    cluster.set_endpoints("web", THERE)
    cluster.answers(OUTSIDER, NODE, NODE_PORT, THERE)
    cluster.answers(POD, CLUSTER_IP, 80, THERE)
    cluster.answers(POD, "172.30.0.50", 1999, "refused")
    assert cluster.get("http://127.0.0.1:10256/livez")[0] == 200
    assert "Traceback" not in proxy.log


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
