"""What the kubelet asks of an API server: only what a stock kube-apiserver offers to its own kubelet.

A whole kubelet goes through a node's and a pod's life with an ear on the wire. Each request must be one that upstream's
kubelet makes: its verb, its path, its parameters, the patch type, the preconditions. What is not in the table is a way in
which this kubelet could not be pointed at another API server.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from kube.client import Client, Patch
from kube.pods import Pod
from kube.resources import CONFIGMAPS, PODS, SECRETS
from tests.contracts.kubelet_rig import NODE, Rig, api, container, eventually, ready
from tests.fakes.eavesdropper import Heard, eavesdropping
from tests.fakes.runtime import FakeRuntime

STRATEGIC = "application/strategic-merge-patch+json"
WATCHING = {"watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds", "fieldSelector", "limit", "continue"}
WATCHING |= {"resourceVersionMatch", "sendInitialEvents"}

NAME = "[a-z0-9.-]+"
NAMESPACED = f"/api/v1/namespaces/{NAME}"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

# (method, path, the query's field selector, content type of the body)
ALLOWED = [
    ("POST", "/api/v1/nodes", "", "application/json"),
    ("GET", f"/api/v1/nodes/{NAME}", "", ""),
    ("PATCH", f"/api/v1/nodes/{NAME}/status", "", STRATEGIC),
    ("PATCH", f"/api/v1/nodes/{NAME}", "", STRATEGIC),
    ("GET", "/api/v1/nodes", f"metadata.name={NAME}", ""),
    ("GET", f"{LEASES}/{NAME}", "", ""),
    ("POST", LEASES, "", "application/json"),
    ("PUT", f"{LEASES}/{NAME}", "", "application/json"),
    ("GET", "/api/v1/pods", f"spec.nodeName={NAME}", ""),
    ("GET", "/api/v1/services", "(spec.clusterIP!=None)?", ""),
    ("GET", "/apis/node.k8s.io/v1/runtimeclasses", "", ""),
    ("GET", f"{NAMESPACED}/(configmaps|secrets)", f"metadata.name={NAME}", ""),
    ("POST", f"{NAMESPACED}/pods", "", "application/json"),  # mirror pods
    ("PATCH", f"{NAMESPACED}/pods/{NAME}/status", "", STRATEGIC),
    ("DELETE", f"{NAMESPACED}/pods/{NAME}", "", "application/json"),
    ("POST", f"{NAMESPACED}/serviceaccounts/{NAME}/token", "", "application/json"),
    ("POST", f"{NAMESPACED}/events", "", "application/json"),
    ("PATCH", f"{NAMESPACED}/events/{NAME}", "", STRATEGIC),
]


def allowed(one: Heard) -> bool:
    return set(one.query) <= WATCHING and any(
        one.method == method
        and re.fullmatch(path, one.path)
        and re.fullmatch(selector, one.query.get("fieldSelector", ""))
        and one.content_type == kind
        for method, path, selector, kind in ALLOWED
    )


def _resized(pod: Pod) -> bool:
    return any(one.allocated_resources.get("cpu") == "20m" for one in pod.status.container_statuses)


async def _a_life(node: Rig, operator: Client) -> None:
    """Volumes, environment, statuses, Events, a resize, deletion; a static pod and its mirror. (Reviews and certificates are
    asked for outside of what runs here.)"""
    settings = {"metadata": {"name": "settings"}, "data": {"A": "1"}}
    await operator.create(CONFIGMAPS, settings, "default")
    await operator.create(SECRETS, {"metadata": {"name": "hidden"}, "data": {"B": "MQ=="}}, "default")
    manifest = node.folder / "manifests" / "web.json"
    manifest.parent.mkdir()
    body = {"containers": [container("a")], "terminationGracePeriodSeconds": 1}
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": body}))
    app = container(
        "a",
        envFrom=[{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "hidden"}}],
        resources={"requests": {"cpu": "10m"}},
        volumeMounts=[{"name": "settings", "mountPath": "/settings"}],
    )
    volume = {"name": "settings", "configMap": {"name": "settings"}}
    pod = await node.create("p", containers=[app], volumes=[volume])
    await node.until(ready, "it is ready")
    await node.until_event("Started")
    bigger = {"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "20m"}}}]}}
    await operator.patch(PODS, "p", bigger, "default", kind=Patch.STRATEGIC, subresource="resize")
    await node.until(_resized, "it is resized")
    await node.until(ready, "the mirror is ready", f"web-{NODE}")
    manifest.unlink()
    await node.until_gone(f"web-{NODE}")
    await operator.delete(PODS, "p", "default", uid=pod.metadata.uid)
    await node.until_gone()


async def test_only_what_a_stock_server_offers(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 9.9.9.9\n")
    (tmp_path / "api").mkdir()
    async with (
        api(tmp_path / "api") as connection,
        Client(connection) as operator,
        eavesdropping(connection) as (tapped, heard),
        asyncio.TaskGroup() as group,
    ):
        node = Rig(tapped, operator, FakeRuntime(), tmp_path, group)
        await node.start()
        try:
            await _a_life(node, operator)
            await eventually(lambda: any("/leases" in one.path for one in heard), "a Lease")
            await eventually(
                lambda: any(one.path.endswith("/status") and "/nodes/" in one.path for one in heard), "told"
            )
        finally:
            await node.kill()
    assert len(heard) > 10
    assert [f"{one.method} {one.path}?{one.query} {one.content_type}" for one in heard if not allowed(one)] == []
    assert all("application/json" in one.accept or one.accept == "*/*" for one in heard)
    _pod_statuses(heard)
    _deletion(heard)


def _pod_statuses(heard: list[Heard]) -> None:
    """Each carries the uid, so that a namesake's status is never overwritten, and touches nothing but the status."""
    patches = [
        one for one in heard if one.method == "PATCH" and re.fullmatch(f"{NAMESPACED}/pods/{NAME}/status", one.path)
    ]
    assert patches
    for one in patches:
        assert set(one.body) <= {"metadata", "status"}, one.body
        assert set(one.body["metadata"]) == {"uid"}, one.body


def _deletion(heard: list[Heard]) -> None:
    """At once, and of this very pod only."""
    deletions = [one for one in heard if one.method == "DELETE"]
    assert {one.path.rpartition("/")[2] for one in deletions} == {"p", f"web-{NODE}"}
    for one in deletions:
        assert one.body["gracePeriodSeconds"] == 0
        assert one.body["preconditions"]["uid"]
