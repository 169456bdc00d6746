"""The verbs as clients meet them, over the store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from apiserver.admission import PLUGINS
from tests.unit.apiserver.calls import Calls, serving

NS = "/api/v1/namespaces/default"
APPS = "/apis/apps/v1/namespaces/default"


@pytest.fixture
async def api() -> AsyncIterator[Calls]:
    async with serving() as calls:
        yield calls


def pod(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def deployment(name: str = "d") -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


async def test_create_fills_in_what_the_server_owns(api: Calls) -> None:
    created = await api.post(f"{NS}/pods", pod())
    assert created.code == 201
    metadata = created.json["metadata"]
    assert metadata["namespace"] == "default"
    assert metadata["generation"] == 1
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) % 128 == 0
    assert created.json["status"]["phase"] == "Pending"
    assert created.json["spec"]["priority"] == 0
    assert (await api.get(f"{NS}/pods/a")).json == created.json


async def test_create_refuses(api: Calls) -> None:
    await api.post(f"{NS}/pods", pod())
    again = await api.post(f"{NS}/pods", pod())
    assert (again.code, again.json["message"]) == (409, 'pods "a" already exists')
    missing = await api.post("/api/v1/namespaces/none/pods", pod())
    assert (missing.code, missing.json["message"]) == (404, 'namespaces "none" not found')
    other = await api.post(f"{NS}/pods", {**pod(), "metadata": {"name": "b", "namespace": "other"}})
    assert "does not match the namespace sent on the request" in other.json["message"]
    versioned = await api.post(f"{NS}/pods", {**pod(), "metadata": {"name": "b", "resourceVersion": "7"}})
    assert versioned.json["message"] == "resourceVersion should not be set on objects to be created"
    invalid = await api.post(f"{NS}/pods", {"metadata": {"name": "b"}, "spec": {"containers": []}})
    assert (invalid.code, invalid.json["reason"]) == (422, "Invalid")
    assert invalid.json["details"]["causes"][0]["field"] == "spec.containers"


async def test_generated_names_differ(api: Calls) -> None:
    body = {**pod(), "metadata": {"generateName": "web-"}}
    names = {(await api.post(f"{NS}/pods", body)).json["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_unknown_fields_by_field_validation(api: Calls) -> None:
    body = {**pod(), "bogus": 1}
    assert (await api.post(f"{NS}/pods?fieldValidation=Strict", body)).code == 400
    warned = await api.post(f"{NS}/pods?dryRun=All", body)
    assert (warned.code, warned.warnings) == (201, ('unknown field "bogus"',))
    assert (await api.post(f"{NS}/pods?fieldValidation=Ignore", body)).warnings == ()


async def test_update_is_optimistic(api: Calls) -> None:
    first = (await api.post(f"{NS}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}})).json
    second = (await api.call("PUT", f"{NS}/configmaps/c", {**first, "data": {"a": "2"}})).json
    assert second["metadata"]["resourceVersion"] > first["metadata"]["resourceVersion"]
    stale = await api.call("PUT", f"{NS}/configmaps/c", {**first, "data": {"a": "3"}})
    assert stale.code == 409
    assert stale.json["message"].endswith("please apply your changes to the latest version and try again")
    body = {"metadata": {"name": "c"}, "data": {"a": "4"}}
    assert (await api.call("PUT", f"{NS}/configmaps/c", body)).json["data"] == {"a": "4"}
    wrong = await api.call("PUT", f"{NS}/configmaps/c", {"metadata": {"name": "x"}})
    assert "does not match the name on the URL" in wrong.json["message"]
    assert (await api.call("PUT", f"{NS}/configmaps/none", {"metadata": {"name": "none"}})).code == 404


async def test_writes_that_change_nothing_write_nothing(api: Calls) -> None:
    await api.post(f"{APPS}/deployments", deployment())
    before = api.cache.rv
    current = (await api.get(f"{APPS}/deployments/d")).json
    assert (await api.call("PUT", f"{APPS}/deployments/d", current)).json == current
    for kind, patch in (("merge", {}), ("strategic", {"spec": {"replicas": 1}}), ("json", [])):
        assert (await api.patch(f"{APPS}/deployments/d", patch, kind)).json == current
    assert (await api.patch(f"{APPS}/deployments/d/status", {"status": {}})).json == current
    assert api.cache.rv == before


async def test_leases_and_friends_are_created_by_put(api: Calls) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n"
    made = await api.call("PUT", path, {"metadata": {"name": "n"}, "spec": {"holderIdentity": "n"}})
    assert made.code == 201
    blind = await api.call("PUT", path, {"metadata": {"name": "n"}, "spec": {"holderIdentity": "m"}})
    assert blind.code == 422
    assert "must be specified for an update" in blind.json["message"]
    assert (await api.call("PUT", path, {**made.json, "spec": {"holderIdentity": "m"}})).code == 200


async def test_patch_retries_but_a_pinned_version_is_a_conflict(api: Calls) -> None:
    made = (await api.post(f"{NS}/configmaps", {"metadata": {"name": "c"}})).json
    await api.patch(f"{NS}/configmaps/c", {"data": {"a": "1"}})
    pinned = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"b": "2"}}
    assert (await api.patch(f"{NS}/configmaps/c", pinned)).code == 409
    wrong = {"metadata": {"uid": "someone-else"}, "data": {"b": "2"}}
    assert (await api.patch(f"{NS}/configmaps/c", wrong)).code == 409
    assert (await api.patch(f"{NS}/configmaps/c", {"data": {"b": "2"}})).json["data"] == {"a": "1", "b": "2"}


async def test_concurrent_patches_all_land(api: Calls) -> None:
    import asyncio

    await api.post(f"{NS}/configmaps", {"metadata": {"name": "c"}})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(api.patch(f"{NS}/configmaps/c", {"data": {f"k{n}": "x"}})) for n in range(5)]
    assert {task.result().code for task in tasks} == {200}
    assert len((await api.get(f"{NS}/configmaps/c")).json["data"]) == 5


async def test_status_and_spec_have_their_own_doors(api: Calls) -> None:
    made = (await api.post(f"{APPS}/deployments", deployment())).json
    assert made["metadata"]["generation"] == 1
    body = {**made, "spec": {**made["spec"], "replicas": 4}, "status": {"replicas": 9}}
    spec = (await api.call("PUT", f"{APPS}/deployments/d", body)).json
    assert (spec["spec"]["replicas"], spec["status"], spec["metadata"]["generation"]) == (4, {}, 2)
    body = {**spec, "spec": {**spec["spec"], "replicas": 7}, "status": {"replicas": 3}}
    body["metadata"] = {**spec["metadata"], "labels": {"x": "y"}, "annotations": {"x": "y"}}
    status = (await api.call("PUT", f"{APPS}/deployments/d/status", body)).json
    assert (status["spec"]["replicas"], status["status"], status["metadata"]["generation"]) == (4, {"replicas": 3}, 2)
    assert "labels" not in status["metadata"]
    assert status["metadata"]["annotations"] == {"x": "y"}


async def test_node_status_takes_annotations_as_flannel_needs(api: Calls) -> None:
    node = (await api.post("/api/v1/nodes", {"metadata": {"name": "n"}})).json
    assert node["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    patch = {"metadata": {"annotations": {"a": "b"}}, "spec": {"podCIDR": "10.0.0.0/24"}, "status": {"conditions": []}}
    status = (await api.patch("/api/v1/nodes/n/status", patch, "strategic")).json
    assert status["metadata"]["annotations"] == {"a": "b"}
    assert "podCIDR" not in status["spec"]


async def test_pod_status_with_another_uid_is_a_conflict(api: Calls) -> None:
    await api.post(f"{NS}/pods", pod())
    answer = await api.patch(f"{NS}/pods/a/status", {"metadata": {"uid": "old"}, "status": {}}, "strategic")
    assert (answer.code, answer.json["reason"]) == (409, "Conflict")


async def test_binding(api: Calls) -> None:
    made = (await api.post(f"{NS}/pods", pod())).json
    binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": "a", "uid": made["metadata"]["uid"]}}
    assert (await api.post(f"{NS}/pods/a/binding", binding)).code == 201
    bound = (await api.get(f"{NS}/pods/a")).json
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["metadata"]["generation"] == 1
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    again = await api.post(f"{NS}/pods/a/binding", binding)
    assert again.code == 409
    assert 'pod a is already assigned to node "n1"' in again.json["message"]
    assert (await api.post(f"{NS}/pods/none/binding", binding)).code == 404
    assert (await api.post(f"{NS}/bindings", {**binding, "target": {}})).code == 422


async def test_scale(api: Calls) -> None:
    await api.post(f"{APPS}/deployments", deployment())
    scale = (await api.get(f"{APPS}/deployments/d/scale")).json
    assert (scale["kind"], scale["spec"], scale["status"]) == (
        "Scale",
        {"replicas": 1},
        {"replicas": 0, "selector": "app=d"},
    )
    assert (await api.patch(f"{APPS}/deployments/d/scale", {"spec": {"replicas": 5}})).json["spec"] == {"replicas": 5}
    put = await api.call("PUT", f"{APPS}/deployments/d/scale", {**scale, "spec": {"replicas": 3}})
    assert put.code == 409
    scale["metadata"].pop("resourceVersion")
    assert (await api.call("PUT", f"{APPS}/deployments/d/scale", {**scale, "spec": {"replicas": 3}})).code == 200
    assert (await api.get(f"{APPS}/deployments/d")).json["spec"]["replicas"] == 3
    assert (await api.patch(f"{APPS}/deployments/d/scale", {"spec": {"replicas": -1}})).code == 422


async def test_pods_are_deleted_gracefully(api: Calls) -> None:
    await api.post(f"{NS}/pods", pod())
    gone = await api.call("DELETE", f"{NS}/pods/a")
    assert gone.json["kind"] == "Pod"
    assert (await api.get(f"{NS}/pods/a")).code == 404  # it was never scheduled

    await api.post(f"{NS}/pods", pod(nodeName="n"))
    first = (await api.call("DELETE", f"{NS}/pods/a")).json["metadata"]
    assert first["deletionGracePeriodSeconds"] == 30
    assert (await api.call("DELETE", f"{NS}/pods/a")).json["metadata"] == first
    longer = (await api.call("DELETE", f"{NS}/pods/a", {"gracePeriodSeconds": 60})).json["metadata"]
    assert longer["deletionTimestamp"] == first["deletionTimestamp"]
    shorter = (await api.call("DELETE", f"{NS}/pods/a?gracePeriodSeconds=5")).json["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    assert shorter["deletionTimestamp"] < first["deletionTimestamp"]
    assert (await api.call("DELETE", f"{NS}/pods/a", {"preconditions": {"uid": "x"}})).code == 409
    assert (await api.call("DELETE", f"{NS}/pods/a", {"gracePeriodSeconds": 0})).code == 200
    assert (await api.get(f"{NS}/pods/a")).code == 404


async def test_finalizers_hold_an_object_until_the_last_is_gone(api: Calls) -> None:
    await api.post(f"{NS}/configmaps", {"metadata": {"name": "c", "finalizers": ["x.io/a", "x.io/b"]}})
    held = (await api.call("DELETE", f"{NS}/configmaps/c")).json
    assert held["metadata"]["deletionTimestamp"]
    await api.patch(f"{NS}/configmaps/c", {"metadata": {"finalizers": ["x.io/b"]}})
    assert (await api.get(f"{NS}/configmaps/c")).code == 200
    assert (await api.patch(f"{NS}/configmaps/c", {"metadata": {"finalizers": None}})).code == 200
    assert (await api.get(f"{NS}/configmaps/c")).code == 404


@pytest.mark.parametrize(
    ("policy", "finalizer"), [("Orphan", "orphan"), ("Foreground", "foregroundDeletion"), ("Background", None)]
)
async def test_propagation_policies_are_finalizers(api: Calls, policy: str, finalizer: str | None) -> None:
    await api.post(f"{APPS}/deployments", deployment())
    answer = await api.call("DELETE", f"{APPS}/deployments/d", {"propagationPolicy": policy})
    if finalizer:
        assert answer.json["metadata"]["finalizers"] == [finalizer]
    else:
        assert (answer.json["kind"], answer.json["details"]["kind"]) == ("Status", "deployments")
    assert (await api.call("DELETE", f"{APPS}/deployments/d", {"propagationPolicy": "No"})).code == 422


async def test_namespaces_end_in_two_steps(api: Calls) -> None:
    made = (await api.post("/api/v1/namespaces", {"metadata": {"name": "x"}})).json
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    ending = (await api.call("DELETE", "/api/v1/namespaces/x")).json
    assert (ending["status"]["phase"], ending["spec"]["finalizers"]) == ("Terminating", ["kubernetes"])
    refused = await api.post("/api/v1/namespaces/x/configmaps", {"metadata": {"name": "c"}})
    assert refused.code == 403
    assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    ending["spec"] = {}
    assert (await api.call("PUT", "/api/v1/namespaces/x/finalize", ending)).code == 200
    assert (await api.get("/api/v1/namespaces/x")).code == 404
    assert (await api.call("DELETE", "/api/v1/namespaces/default")).code == 403


async def test_delete_collection(api: Calls) -> None:
    for name, tier in (("a", "x"), ("b", "x"), ("c", "y")):
        await api.post(f"{NS}/configmaps", {"metadata": {"name": name, "labels": {"tier": tier}}})
    answer = await api.call("DELETE", f"{NS}/configmaps?labelSelector=tier%3Dx")
    assert [item["metadata"]["name"] for item in answer.json["items"]] == ["a", "b"]
    assert [item["metadata"]["name"] for item in (await api.get(f"{NS}/configmaps")).json["items"]] == ["c"]
    assert (await api.call("DELETE", "/api/v1/namespaces")).code == 405


async def test_dry_run_leaves_no_trace(api: Calls) -> None:
    before = api.cache.rv
    assert (await api.post(f"{NS}/pods?dryRun=All", pod())).code == 201
    assert (await api.post(f"{NS}/services?dryRun=All", service(clusterIP="10.96.0.50"))).code == 201
    assert (await api.call("DELETE", f"{NS}/services/kubernetes?dryRun=All")).code == 200
    assert api.cache.rv == before
    assert (await api.post(f"{NS}/services", service(clusterIP="10.96.0.50"))).code == 201
    assert (await api.post(f"{NS}/pods?dryRun=Some", pod())).code == 422


async def test_services_get_addresses_and_ports(api: Calls) -> None:
    assert (await api.get(f"{NS}/services/kubernetes")).json["spec"]["clusterIP"] == "10.96.0.1"
    plain = (await api.post(f"{NS}/services", service())).json["spec"]
    assert plain["clusterIPs"] == [plain["clusterIP"]]
    taken = await api.post(f"{NS}/services", service("t", clusterIP=plain["clusterIP"]))
    assert taken.code == 422
    assert "provided IP is already allocated" in taken.json["message"]
    outside = await api.post(f"{NS}/services", service("t", clusterIP="10.1.0.1"))
    assert "is not in the valid range. The range of valid IPs is 10.96.0.0/16" in outside.json["message"]
    headless = (await api.post(f"{NS}/services", service("h", clusterIP="None"))).json["spec"]
    assert headless["clusterIPs"] == ["None"]

    node = (await api.post(f"{NS}/services", service("n", type="NodePort"))).json
    port = node["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    clash = service("m", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    assert "provided port is already allocated" in (await api.post(f"{NS}/services", clash)).json["message"]
    low = service("m", type="NodePort", ports=[{"port": 80, "nodePort": 80}])
    assert "The range of valid ports is 30000-32767" in (await api.post(f"{NS}/services", low)).json["message"]
    kept = await api.call(
        "PUT", f"{NS}/services/n", service("n", type="NodePort", ports=[{"port": 80}, {"port": 81, "name": "b"}])
    )
    assert kept.code == 422  # two ports need names
    cluster = (await api.patch(f"{NS}/services/n", {"spec": {"type": "ClusterIP"}})).json
    assert "nodePort" not in cluster["spec"]["ports"][0]
    assert cluster["spec"]["clusterIP"] == node["spec"]["clusterIP"]
    assert (await api.post(f"{NS}/services", clash)).code == 201
    await api.call("DELETE", f"{NS}/services/s")
    assert (await api.post(f"{NS}/services", service("t", clusterIP=plain["clusterIP"]))).code == 201


async def test_events_have_two_names_and_one_store(api: Calls) -> None:
    event = {
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "a", "namespace": "default"}, "note": "hello",
        "reason": "R", "type": "Normal", "action": "A", "reportingController": "c", "reportingInstance": "i",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    made = await api.post(path, event)
    assert (made.code, made.json["note"], made.json["apiVersion"]) == (201, "hello", "events.k8s.io/v1")
    core = (await api.get(f"{NS}/events?fieldSelector=involvedObject.name%3Da")).json["items"]
    assert [(one["message"], one["involvedObject"]["name"]) for one in core] == [("hello", "a")]
    again = (await api.patch(f"{path}/e", {"deprecatedCount": 2})).json
    assert again["deprecatedCount"] == 2
    assert (await api.get(f"{NS}/events/e")).json["count"] == 2
    assert len((await api.get(f"{path}?fieldSelector=regarding.name%3Da")).json["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/nonsense", 404),
        ("GET", "/apis/none.io/v1/things", 404),
        ("GET", "/api/v1/pods/a", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", f"{NS}/pods/a/portforward", 404),
        ("POST", f"{NS}/serviceaccounts/default/token", 404),
        ("POST", "/api/v1/pods", 405),
        ("POST", f"{NS}/pods/a", 405),
        ("DELETE", "/api/v1/pods", 405),
        ("PATCH", f"{NS}/pods", 405),
        ("GET", "/nonsense", 404),
    ],
)
async def test_what_is_not_there_is_said_honestly(api: Calls, method: str, path: str, code: int) -> None:
    answer = await api.call(method, path, {})
    assert (answer.code, answer.json["kind"], answer.json["status"]) == (code, "Status", "Failure")


async def test_relay_says_why_it_cannot(api: Calls) -> None:
    two = pod(containers=[{"name": "x", "image": "i"}, {"name": "y", "image": "i"}])
    await api.post(f"{NS}/pods", two)
    unclear = await api.get(f"{NS}/pods/a/log")
    assert unclear.json["message"] == "a container name must be specified for pod a, choose one of: [x y]"
    assert (await api.get(f"{NS}/pods/a/log?container=z")).json["message"] == "container z is not valid for pod a"
    assert (await api.get(f"{NS}/pods/a/exec?container=x", Upgrade="websocket")).code == 400
    homeless = await api.call("POST", f"{NS}/pods/a/exec?container=x", Upgrade="SPDY/3.1")
    assert homeless.json["message"] == "pod a does not have a host assigned"
    assert (await api.get(f"{NS}/pods/a/exec?container=x")).json["message"] == "Upgrade request required"


async def test_a_pod_needs_its_service_account() -> None:
    async with serving(plugins=PLUGINS, patience=0.05) as api:
        refused = await api.post(f"{NS}/pods", pod("p"))
        assert (refused.code, refused.json["reason"]) == (403, "Forbidden")
        assert refused.json["message"] == (
            'pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found'
        )
        other = pod("q")
        other["spec"]["serviceAccountName"] = "robot"
        refused = await api.post(f"{NS}/pods", other)
        assert 'default/robot: serviceaccount "robot" not found' in refused.json["message"]
        secrets = [{"name": "registry"}]
        await api.post(f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}, "imagePullSecrets": secrets})
        made = (await api.post(f"{NS}/pods", other)).json["spec"]
        assert (made["serviceAccountName"], made["serviceAccount"]) == ("robot", "robot")
        assert made["imagePullSecrets"] == secrets
        mirror = pod("m")
        mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
        mirror["spec"]["nodeName"] = "n1"
        assert "serviceAccountName" not in (await api.post(f"{NS}/pods", mirror)).json["spec"]


async def test_a_pod_waits_a_moment_for_the_default_service_account() -> None:
    async with serving(plugins=PLUGINS, patience=5) as api, asyncio.TaskGroup() as group:
        made = group.create_task(api.post(f"{NS}/pods", pod()))
        await asyncio.sleep(0)
        assert (await api.post(f"{NS}/serviceaccounts", {"metadata": {"name": "default"}})).code == 201
        answer = await made
        assert (answer.code, answer.json["spec"]["serviceAccountName"]) == (201, "default")
