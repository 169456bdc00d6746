"""Tables: cells as stock kubectl shows them."""

# ruff: noqa: E501 (a row a line: the tables are read across)

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apiserver import printers, schema
from apiserver.printers import text
from apiserver.schema import GVK

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
POD = GVK("", "v1", "Pod")
RUNNING = {"running": {"startedAt": "2026-06-01T11:00:00Z"}}


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")


def cells(gvk: GVK, obj: dict[str, Any]) -> dict[str, Any]:
    obj.setdefault("metadata", {"name": "x", "creationTimestamp": ago(minutes=5)})
    table = printers.table(gvk, [obj], NOW)
    return dict(zip((one["name"] for one in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        ({"seconds": -5}, "<invalid>"),
        ({"seconds": -0.5}, "0s"),
        ({"seconds": 0}, "0s"),
        ({"seconds": 119}, "119s"),
        ({"seconds": 120}, "2m"),
        ({"seconds": 150}, "2m30s"),
        ({"minutes": 10, "seconds": 3}, "10m"),
        ({"minutes": 179}, "179m"),
        ({"minutes": 180}, "3h"),
        ({"hours": 7, "minutes": 30}, "7h30m"),
        ({"hours": 47}, "47h"),
        ({"days": 2}, "2d"),
        ({"days": 2, "hours": 5}, "2d5h"),
        ({"days": 8}, "8d"),
        ({"days": 729}, "729d"),
        ({"days": 730}, "2y"),
        ({"days": 800}, "2y70d"),
        ({"days": 365 * 8}, "8y"),
    ],
)
def test_ages(span: dict[str, float], shown: str) -> None:
    assert text.human(timedelta(**span)) == shown


def status(name: str, *, restarts: int = 0, ready: bool = False, last: str = "", **state: Any) -> dict[str, Any]:
    last_state = {"terminated": {"finishedAt": last}} if last else {}
    return {"name": name, "ready": ready, "restartCount": restarts, "state": state, "lastState": last_state}


def pod(
    *statuses: dict[str, Any], phase: str = "Running", init: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": one["name"]} for one in statuses] or [{"name": "c"}]}
    obj: dict[str, Any] = {"spec": spec, "status": {"phase": phase, "containerStatuses": list(statuses), **more}}
    if init is not None:
        spec["initContainers"] = [{"name": one["name"], **one.pop("spec", {})} for one in init]
        obj["status"]["initContainerStatuses"] = init
    return obj


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("obj", "ready", "reason"),
    [
        (pod(phase="Pending"), "0/1", "Pending"),
        (pod(status("c", ready=True, **RUNNING)), "1/1", "Running"),
        (pod(status("a", ready=True, **RUNNING), status("b", waiting={"reason": "ImagePullBackOff"})), "1/2", "ImagePullBackOff"),
        (pod(status("c", waiting={"reason": "CrashLoopBackOff"})), "0/1", "CrashLoopBackOff"),
        (pod(status("c", terminated={"exitCode": 1})), "0/1", "ExitCode:1"),
        (pod(status("c", terminated={"exitCode": 137, "signal": 9})), "0/1", "Signal:9"),
        (pod(status("c", terminated={"exitCode": 137, "reason": "OOMKilled"})), "0/1", "OOMKilled"),
        (pod(status("c", **DONE), phase="Succeeded"), "0/1", "Completed"),
        (pod(status("a", **DONE), status("b", ready=True, **RUNNING)), "1/2", "NotReady"),
        (pod(status("a", **DONE), status("b", ready=True, **RUNNING), **READY), "1/2", "Running"),
        (pod(phase="Failed", reason="Evicted"), "0/1", "Evicted"),
        (pod(phase="Pending", conditions=[{"type": "PodScheduled", "reason": "SchedulingGated"}]), "0/1", "SchedulingGated"),
        (pod(phase="Pending", init=[status("i", **RUNNING)]), "0/1", "Init:0/1"),
        (pod(phase="Pending", init=[status("i", **DONE), status("j", waiting={"reason": "PodInitializing"})]), "0/1", "Init:1/2"),
        (pod(phase="Pending", init=[status("i", waiting={"reason": "CrashLoopBackOff"})]), "0/1", "Init:CrashLoopBackOff"),
        (pod(phase="Pending", init=[status("i", terminated={"exitCode": 2})]), "0/1", "Init:ExitCode:2"),
        (pod(phase="Pending", init=[status("i", terminated={"exitCode": 2, "reason": "Error"})]), "0/1", "Init:Error"),
        (pod(status("c", ready=True, **RUNNING), init=[{**status("i", ready=True, **RUNNING), "started": True, "spec": {"restartPolicy": "Always"}}]), "2/2", "Running"),
    ],
)  # fmt: skip
def test_ready_and_status_of_pods(obj: dict[str, Any], ready: str, reason: str) -> None:
    row = cells(POD, obj)
    assert (row["Ready"], row["Status"]) == (ready, reason)


@pytest.mark.parametrize(
    ("phase", "why", "shown"),
    [("Running", "", "Terminating"), ("Running", "NodeLost", "Unknown"), ("Succeeded", "", "Completed")],
)
def test_a_deleted_pod(phase: str, why: str, shown: str) -> None:
    state = DONE if phase == "Succeeded" else RUNNING
    obj = pod(status("c", **state), phase=phase, reason=why)
    obj["metadata"] = {"name": "x", "deletionTimestamp": ago(seconds=1)}
    row = cells(POD, obj)
    assert row["Status"] == shown
    assert row["Age"] == "<unknown>"


def test_restarts_tell_when() -> None:
    row = cells(POD, pod(status("a", restarts=2, last=ago(minutes=5), **RUNNING), status("b", restarts=1, **RUNNING)))
    assert row["Restarts"] == "3 (5m ago)"
    assert cells(POD, pod(status("a", **RUNNING)))["Restarts"] == "0"


def test_wide_columns_of_pods() -> None:
    obj = pod(podIPs=[{"ip": "10.1.2.3"}], conditions=[{"type": "gate", "status": "True"}])
    obj["spec"] |= {"nodeName": "n1", "readinessGates": [{"conditionType": "gate"}, {"conditionType": "other"}]}
    row = cells(POD, obj)
    assert row["IP"] == "10.1.2.3"
    assert row["Node"] == "n1"
    assert row["Nominated Node"] == "<none>"
    assert row["Readiness Gates"] == "1/2"
    wide = [one["name"] for one in printers.table(POD, [], NOW)["columnDefinitions"] if one["priority"]]
    assert wide == ["IP", "Node", "Nominated Node", "Readiness Gates"]


def test_nodes() -> None:
    labels = {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}
    node = {
        "metadata": {"name": "n", "labels": labels, "creationTimestamp": ago(hours=3)},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian", "containerRuntimeVersion": "docker://1"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        },
    }
    assert list(cells(GVK("", "v1", "Node"), node).values()) == [
        "n", "NotReady,SchedulingDisabled", "control-plane,edge", "3h", "v1", "10.0.0.1", "<none>", "Debian",
        "<unknown>", "docker://1",
    ]  # fmt: skip
    assert cells(GVK("", "v1", "Node"), {})["Status"] == "Unknown"


@pytest.mark.parametrize(
    ("spec", "address", "outside", "ports"),
    [
        ({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443, "protocol": "TCP"}]}, "10.96.0.1", "<none>", "443/TCP"),
        ({"type": "NodePort", "clusterIP": "10.96.0.2", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}, "10.96.0.2", "<none>", "80:30080/TCP,53/UDP"),
        ({"type": "LoadBalancer", "clusterIPs": ["10.96.0.3"]}, "10.96.0.3", "<pending>", "<none>"),
        ({"type": "ExternalName", "externalName": "e.com"}, "<none>", "e.com", "<none>"),
        ({"type": "ClusterIP", "clusterIP": "None", "externalIPs": ["1.2.3.4", "1.2.3.5"]}, "None", "1.2.3.4,1.2.3.5", "<none>"),
    ],
)  # fmt: skip
def test_services(spec: dict[str, Any], address: str, outside: str, ports: str) -> None:
    row = cells(GVK("", "v1", "Service"), {"spec": spec})
    assert (row["Cluster-IP"], row["External-IP"], row["Port(s)"]) == (address, outside, ports)
    assert row["Selector"] == "<none>"


def test_endpoints_and_slices_are_cut_after_three() -> None:
    addresses = [{"ip": f"10.0.0.{n}"} for n in range(1, 6)]
    row = cells(GVK("", "v1", "Endpoints"), {"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})
    assert row["Endpoints"] == "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    assert cells(GVK("", "v1", "Endpoints"), {})["Endpoints"] == "<none>"
    found = {
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": [one["ip"]]} for one in addresses],
    }
    row = cells(GVK("discovery.k8s.io", "v1", "EndpointSlice"), found)
    assert (row["Ports"], row["Endpoints"]) == ("80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...")
    empty = cells(GVK("discovery.k8s.io", "v1", "EndpointSlice"), {"addressType": "IPv4"})
    assert (empty["Ports"], empty["Endpoints"]) == ("<unset>", "<unset>")


def test_workloads() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}}
    selector = {"matchLabels": {"app": "w"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "1"]}]}
    counts = {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}
    obj = {"spec": {"replicas": 3, "template": template, "selector": selector}, "status": counts}
    row = cells(GVK("apps", "v1", "Deployment"), obj)
    assert list(row.values())[1:4] == ["2/3", 1, 2]
    assert (row["Containers"], row["Images"], row["Selector"]) == ("a,b", "x:1,y:2", "app=w,b in (1,2)")
    assert list(cells(GVK("apps", "v1", "ReplicaSet"), obj).values())[1:4] == [3, 3, 2]


def test_small_kinds() -> None:
    assert cells(GVK("", "v1", "ConfigMap"), {"data": {"a": ""}, "binaryData": {"b": ""}})["Data"] == 2
    assert list(cells(GVK("", "v1", "Secret"), {"type": "Opaque", "data": {"a": ""}}).values())[1:3] == ["Opaque", 1]
    assert cells(GVK("", "v1", "Namespace"), {"status": {"phase": "Active"}})["Status"] == "Active"
    assert cells(GVK("", "v1", "ServiceAccount"), {})["Secrets"] == 0
    assert cells(GVK("coordination.k8s.io", "v1", "Lease"), {"spec": {"holderIdentity": "n1"}})["Holder"] == "n1"
    assert cells(GVK("unknown", "v1", "Thing"), {}) == {"Name": "x", "Created At": "2026-06-01T11:55:00Z"}


@pytest.mark.parametrize(
    "event",
    [
        {
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "source": {"component": "kubelet", "host": "n1"},
            "message": "Pulled\n",
            "firstTimestamp": ago(minutes=20),
            "lastTimestamp": ago(seconds=30),
            "count": 4,
        },
        {
            "regarding": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "reportingController": "kubelet",
            "reportingInstance": "n1",
            "note": "Pulled",
            "eventTime": ago(minutes=20),
            "series": {"count": 4, "lastObservedTime": ago(seconds=30)},
        },
    ],
)
def test_events_of_both_groups(event: dict[str, Any]) -> None:
    row = cells(GVK("", "v1", "Event"), {"type": "Normal", "reason": "Pulled", **event})
    assert list(row.values()) == [
        "30s", "Normal", "Pulled", "pod/p", "spec.containers{c}", "kubelet, n1", "Pulled", "20m", 4, "x",
    ]  # fmt: skip


def test_tables_carry_metadata_the_object_or_nothing() -> None:
    obj = {"metadata": {"name": "x"}, "spec": {}}
    assert printers.table(POD, [obj], NOW)["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "x"},
    }
    assert printers.table(POD, [obj], NOW, "Object")["rows"][0]["object"] is obj
    assert "object" not in printers.table(POD, [obj], NOW, "None")["rows"][0]


def test_only_the_first_table_of_a_watch_has_columns() -> None:
    assert printers.table(POD, [], NOW, watch_first=False)["columnDefinitions"] is None


def test_finished_pods_are_marked() -> None:
    row = printers.table(POD, [pod(phase="Failed")], NOW)["rows"][0]
    assert row["conditions"][0]["reason"] == "Failed"


def test_every_served_kind_prints_an_empty_object() -> None:
    for resource in schema.served():
        table = printers.table(resource, [{"metadata": {"name": "x"}}], NOW)
        assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
