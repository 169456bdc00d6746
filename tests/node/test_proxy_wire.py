"""What the proxy asks of an API server: only what a stock kube-apiserver offers to kube-proxy, and no writes but Events.

The whole daemon lives through a day of a node with an ear on the wire. What is not in the table is a way in which this proxy
could not be pointed at another API server, or would be refused by the roles that clusters give kube-proxy.
"""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from linux import netns as kernel_netns
from tests.fakes.eavesdropper import Heard
from tests.node.proxy_world import NODE_NAME, Cluster, Kernel, until
from tests.node.service_world import HERE, NODE, POD

CLUSTER_IP = "172.30.0.41"
INFORMING = {"watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds", "limit", "continue"}
INFORMING |= {"resourceVersionMatch", "sendInitialEvents"}
SERVICES = "!service.kubernetes.io/service-proxy-name"
SLICES = "!service.kubernetes.io/headless"

# (method, path, field selector, label selector): kube-proxy's own informers and Events
ALLOWED = [
    ("GET", "/api/v1/services", "spec.clusterIP!=None", SERVICES),
    ("GET", "/apis/discovery.k8s.io/v1/endpointslices", "", SLICES),
    ("GET", "/api/v1/nodes", f"metadata.name={NODE_NAME}", ""),
    ("GET", "/apis/networking.k8s.io/v1/servicecidrs", "", ""),
    ("POST", "/api(s/events.k8s.io)?/v1/namespaces/default/events", "", ""),
    ("PATCH", r"/api(s/events.k8s.io)?/v1/namespaces/default/events/[a-z0-9.-]+", "", ""),
]


def allowed(one: Heard) -> bool:
    asked = one.query.get("fieldSelector", ""), one.query.get("labelSelector", "")
    return set(one.query) <= INFORMING | {"fieldSelector", "labelSelector"} and any(
        one.method == method and re.fullmatch(path, one.path) and asked == (fields, labels)
        for method, path, fields, labels in ALLOWED
    )


@pytest.mark.parametrize("kernel", [Kernel.IPTABLES_NFT, Kernel.NFTABLES])
def test_only_what_a_stock_api_server_offers_to_kube_proxy(cluster: Cluster, kernel: Kernel) -> None:
    with cluster.overheard() as (connection, heard):
        proxy = cluster.start_proxy(kernel=kernel, clientConnection={"kubeconfig": connection}).ready()
        cluster.make_service("web", CLUSTER_IP, HERE, node_port=30080)
        cluster.answers(POD, CLUSTER_IP, 80, HERE)
        taken = kernel_netns.call(cluster.world.node.path, lambda: socket.create_server((NODE, 32000)))
        with taken:  # so that there is something to tell
            local: dict[str, Any] = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
            cluster.make_service("sad", "172.30.0.42", HERE, node_port=30081, balancer="198.51.100.4", **local)
            until(lambda: any(one.method == "POST" for one in heard), lambda: f"an Event is written\n{proxy.log}")
        assert cluster.metric("kubeproxy_sync_proxy_rules_service_changes_total") >= 2
        proxy.end()
    assert [one for one in heard if not allowed(one)] == []
    watched = {one.path for one in heard if one.method == "GET" and one.query.get("watch")}
    wanted = {path for method, path, *_ in ALLOWED if method == "GET"}
    if kernel.mode == "iptables":
        wanted -= {"/apis/networking.k8s.io/v1/servicecidrs"}
    assert watched == wanted
    lists = [one.path for one in heard if one.method == "GET" and not one.query.get("watch")]
    for path in ("/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nodes"):
        assert lists.count(path) == 1, "listed once, and then watched"
