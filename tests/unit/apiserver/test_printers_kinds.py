"""Tables of every kind, header and row, as stock `kubectl get -o wide` shows them (columns of priority 1 in parentheses)."""

# ruff: noqa: E501 (a row a line: the tables are read across)

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from apiserver import printers, schema
from apiserver.schema import GVK
from tests.unit.apiserver import manifests

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
MADE = "2026-06-01T11:55:00Z"
HOUR = "2026-06-01T11:00:00Z"
TEMPLATE = {
    "spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}], "nodeSelector": {"d": "ssd"}}
}
SELECTOR = {"matchLabels": {"app": "w"}}
OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": True}
RBAC, STORAGE, NETWORK = "rbac.authorization.k8s.io", "storage.k8s.io", "networking.k8s.io"
ADMISSION, FLOW, RESOURCE = "admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io", "resource.k8s.io"
ROLE_COLUMNS = "Name Role Age (Users) (Groups) (ServiceAccounts)"
ROW = tuple[str, str, dict[str, Any], str, list[Any]]

ROWS: list[ROW] = [
    ("apps", "StatefulSet", {"spec": {"replicas": 3, "template": TEMPLATE}, "status": {"readyReplicas": 2}}, "Name Ready Age (Containers) (Images)", ["x", "2/3", "5m", "a,b", "x:1,y:2"]),
    ("apps", "DaemonSet", {"spec": {"template": TEMPLATE, "selector": SELECTOR}, "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 2, "numberAvailable": 1}}, "Name Desired Current Ready Up-to-date Available Node_Selector Age (Containers) (Images) (Selector)", ["x", 3, 2, 1, 2, 1, "d=ssd", "5m", "a,b", "x:1,y:2", "app=w"]),
    ("apps", "ControllerRevision", {"metadata": {"ownerReferences": [OWNER]}, "revision": 4}, "Name Controller Revision Age", ["x", "statefulset.apps/db", 4, "5m"]),
    ("", "ReplicationController", {"spec": {"replicas": 2, "selector": {"app": "w"}, "template": TEMPLATE}, "status": {"replicas": 2}}, "Name Desired Current Ready Age (Containers) (Images) (Selector)", ["x", 2, 2, 0, "5m", "a,b", "x:1,y:2", "app=w"]),
    ("", "PodTemplate", {"template": TEMPLATE | {"metadata": {"labels": {"app": "w"}}}}, "Name Containers Images Pod_Labels", ["x", "a,b", "x:1,y:2", "app=w"]),
    ("batch", "Job", {"spec": {"completions": 3, "template": TEMPLATE, "selector": SELECTOR}, "status": {"succeeded": 1, "startTime": HOUR}}, "Name Status Completions Duration Age (Containers) (Images) (Selector)", ["x", "Running", "1/3", "60m", "5m", "a,b", "x:1,y:2", "app=w"]),
    ("batch", "Job", {"spec": {"parallelism": 4}, "status": {"startTime": HOUR, "completionTime": MADE, "conditions": [{"type": "Complete", "status": "True"}]}}, "Name Status Completions Duration Age (Containers) (Images) (Selector)", ["x", "Complete", "0/1 of 4", "55m", "5m", "", "", "<none>"]),
    ("batch", "Job", {"spec": {"completions": 1, "suspend": True}, "status": {"conditions": [{"type": "Suspended", "status": "True"}]}}, "Name Status Completions Duration Age (Containers) (Images) (Selector)", ["x", "Suspended", "0/1", "", "5m", "", "", "<none>"]),
    ("batch", "Job", {"spec": {"completions": 1}, "metadata": {"deletionTimestamp": MADE}}, "Name Status Completions Duration Age (Containers) (Images) (Selector)", ["x", "Terminating", "0/1", "", "5m", "", "", "<none>"]),
    ("batch", "CronJob", {"spec": {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "suspend": False, "jobTemplate": {"spec": {"template": TEMPLATE}}}, "status": {"active": [{}], "lastScheduleTime": HOUR}}, "Name Schedule Timezone Suspend Active Last_Schedule Age (Containers) (Images) (Selector)", ["x", "*/5 * * * *", "Etc/UTC", "False", 1, "60m", "5m", "a,b", "x:1,y:2", "<none>"]),
    ("batch", "CronJob", {"spec": {"schedule": "@daily"}}, "Name Schedule Timezone Suspend Active Last_Schedule Age (Containers) (Images) (Selector)", ["x", "@daily", "<none>", "<unset>", 0, "<none>", "5m", "", "", "<none>"]),
    ("policy", "PodDisruptionBudget", {"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}, "Name Min_Available Max_Unavailable Allowed_Disruptions Age", ["x", "50%", "N/A", 1, "5m"]),
    ("autoscaling", "HorizontalPodAutoscaler", {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}, "status": {"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 42}}}]}}, "Name Reference Targets MinPods MaxPods Replicas Age", ["x", "Deployment/web", "cpu: 42%/80%", "1", 5, 2, "5m"]),
    ("autoscaling", "HorizontalPodAutoscaler", {"spec": {"scaleTargetRef": {"kind": "D", "name": "w"}, "maxReplicas": 5, "metrics": [{"type": "Pods", "pods": {"target": {"averageValue": "10"}}}, {"type": "External", "external": {"target": {"value": "5"}}}, {"type": "Object", "object": {"target": {"averageValue": "3"}}}]}}, "Name Reference Targets MinPods MaxPods Replicas Age", ["x", "D/w", "<unknown>/10, <unknown>/5 + 1 more...", "<unset>", 5, 0, "5m"]),
    ("autoscaling", "Scale", {"spec": {"replicas": 3}, "status": {"replicas": 2}}, "Name Desired Available Age", ["x", 3, 2, "5m"]),
    (NETWORK, "Ingress", {"spec": {"ingressClassName": "nginx", "tls": [{}], "rules": [{"host": f"{one}.com"} for one in "abcde"]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}, "Name Class Hosts Address Ports Age", ["x", "nginx", "a.com,b.com,c.com + 2 more...", "1.2.3.4", "80, 443", "5m"]),
    (NETWORK, "Ingress", {"spec": {"rules": [{}]}}, "Name Class Hosts Address Ports Age", ["x", "<none>", "*", "", "80", "5m"]),
    (NETWORK, "IngressClass", {"spec": {"controller": "e.com/c", "parameters": {"apiGroup": "g.io", "kind": "K", "name": "n"}}}, "Name Controller Parameters Age", ["x", "e.com/c", "K.g.io/n", "5m"]),
    (NETWORK, "NetworkPolicy", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}, "Name Pod-Selector Age", ["x", "a=b", "5m"]),
    (NETWORK, "ServiceCIDR", {"spec": {"cidrs": ["10.96.0.0/12", "fd00::/112"]}}, "Name CIDRs Age", ["x", "10.96.0.0/12,fd00::/112", "5m"]),
    (NETWORK, "IPAddress", {"spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "s"}}}, "Name ParentRef", ["x", "services/d/s"]),
    ("", "PersistentVolume", {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"}, "storageClassName": "fast", "volumeMode": "Filesystem"}, "status": {"phase": "Bound"}}, "Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age (VolumeMode)", ["x", "1Gi", "RWO,RWX", "Retain", "Bound", "n/c", "fast", "<unset>", "", "5m", "Filesystem"]),
    ("", "PersistentVolumeClaim", {"spec": {"volumeName": "v", "storageClassName": "fast"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}, "Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age (VolumeMode)", ["x", "Bound", "v", "1Gi", "RWO", "fast", "<unset>", "5m", "<unset>"]),
    ("", "PersistentVolumeClaim", {"metadata": {"deletionTimestamp": MADE}, "status": {"phase": "Pending"}}, "Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age (VolumeMode)", ["x", "Terminating", "", "", "", "", "<unset>", "5m", "<unset>"]),
    (STORAGE, "StorageClass", {"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "e.com/p", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"}, "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age", ["x (default)", "e.com/p", "Delete", "WaitForFirstConsumer", False, "5m"]),
    (STORAGE, "VolumeAttributesClass", {"driverName": "d"}, "Name DriverName Age", ["x", "d", "5m"]),
    (STORAGE, "CSIDriver", {"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "b"}], "volumeLifecycleModes": ["Persistent"]}}, "Name AttachRequired PodInfoOnMount StorageCapacity TokenRequests RequiresRepublish Modes Age", ["x", True, False, False, "a,b", False, "Persistent", "5m"]),
    (STORAGE, "CSINode", {"spec": {"drivers": [{}, {}]}}, "Name Drivers Age", ["x", 2, "5m"]),
    (STORAGE, "CSIStorageCapacity", {"storageClassName": "fast"}, "Name StorageClassName Capacity", ["x", "fast", "<unset>"]),
    (STORAGE, "VolumeAttachment", {"spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "v"}}, "status": {"attached": True}}, "Name Attacher PV Node Attached Age", ["x", "d", "v", "n1", True, "5m"]),
    ("", "ResourceQuota", {"status": {"hard": {"pods": "10", "limits.cpu": "4", "requests.cpu": "2"}, "used": {"pods": "3", "limits.cpu": "1"}}}, "Name Request Limit Age", ["x", "pods: 3/10, requests.cpu: 0/2", "limits.cpu: 1/4", "5m"]),
    ("", "ComponentStatus", {"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}, "Name Status Message Error", ["x", "Healthy", "ok", ""]),
    ("", "LimitRange", {}, "Name Created_At", ["x", MADE]),
    (RBAC, "ClusterRole", {}, "Name Created_At", ["x", MADE]),
    ("apiextensions.k8s.io", "CustomResourceDefinition", {}, "Name Created_At", ["x", MADE]),
    (RBAC, "RoleBinding", {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}, ROLE_COLUMNS, ["x", "Role/r", "5m", "u, v", "g", "n/s"]),
    (RBAC, "ClusterRoleBinding", {"roleRef": {"kind": "ClusterRole", "name": "admin"}}, ROLE_COLUMNS, ["x", "ClusterRole/admin", "5m", "", "", ""]),
    ("certificates.k8s.io", "CertificateSigningRequest", {"spec": {"signerName": "s/n", "username": "me", "expirationSeconds": 86400}, "status": {"conditions": [{"type": "Approved"}], "certificate": "AA=="}}, "Name Age SignerName Requestor RequestedDuration Condition", ["x", "5m", "s/n", "me", "24h", "Approved,Issued"]),
    ("certificates.k8s.io", "CertificateSigningRequest", {}, "Name Age SignerName Requestor RequestedDuration Condition", ["x", "5m", "<none>", "", "<none>", "Pending"]),
    (ADMISSION, "ValidatingWebhookConfiguration", {"webhooks": [{}, {}]}, "Name Webhooks Age", ["x", 2, "5m"]),
    (ADMISSION, "MutatingWebhookConfiguration", {}, "Name Webhooks Age", ["x", 0, "5m"]),
    (ADMISSION, "ValidatingAdmissionPolicy", {"spec": {"validations": [{}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}, "Name Validations ParamKind Age", ["x", 1, "v1/ConfigMap", "5m"]),
    (ADMISSION, "MutatingAdmissionPolicy", {"spec": {"mutations": [{}]}}, "Name Mutations ParamKind Age", ["x", 1, "<unset>", "5m"]),
    (ADMISSION, "ValidatingAdmissionPolicyBinding", {"spec": {"policyName": "p", "paramRef": {"name": "n"}}}, "Name PolicyName ParamRef Age", ["x", "p", "*/n", "5m"]),
    (ADMISSION, "MutatingAdmissionPolicyBinding", {"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"a": "b"}}}}}, "Name PolicyName ParamRef Age", ["x", "p", "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}", "5m"]),
    (FLOW, "FlowSchema", {"spec": {"matchingPrecedence": 9, "priorityLevelConfiguration": {"name": "p"}, "distinguisherMethod": {"type": "ByUser"}}, "status": {"conditions": [{"type": "Dangling", "status": "False"}]}}, "Name PriorityLevel MatchingPrecedence DistinguisherMethod Age MissingPL", ["x", "p", 9, "ByUser", "5m", "False"]),
    (FLOW, "PriorityLevelConfiguration", {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 30, "limitResponse": {"queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}}, "Name Type NominalConcurrencyShares Queues HandSize QueueLengthLimit Age", ["x", "Limited", 30, 64, 6, 50, "5m"]),
    (FLOW, "PriorityLevelConfiguration", {"spec": {"type": "Exempt"}}, "Name Type NominalConcurrencyShares Queues HandSize QueueLengthLimit Age", ["x", "Exempt", "<none>", "<none>", "<none>", "<none>", "5m"]),
    ("scheduling.k8s.io", "PriorityClass", {"value": 10, "preemptionPolicy": "Never"}, "Name Value Global-Default Age PreemptionPolicy", ["x", 10, False, "5m", "Never"]),
    ("node.k8s.io", "RuntimeClass", {"handler": "h"}, "Name Handler Age", ["x", "h", "5m"]),
    (RESOURCE, "DeviceClass", {}, "Name Age", ["x", "5m"]),
    (RESOURCE, "ResourceClaim", {"status": {"allocation": {}, "reservedFor": [{}]}}, "Name State Age", ["x", "allocated,reserved", "5m"]),
    (RESOURCE, "ResourceClaim", {}, "Name State Age", ["x", "pending", "5m"]),
    (RESOURCE, "ResourceClaimTemplate", {}, "Name Age", ["x", "5m"]),
    (RESOURCE, "ResourceSlice", {"spec": {"nodeName": "n1", "driver": "d", "pool": {"name": "p"}}}, "Name Node Driver Pool Age", ["x", "n1", "d", "p", "5m"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "kind", "obj", "header", "cells"),
    ROWS,
    ids=lambda one: one if isinstance(one, str) and " " not in one else "",
)
def test_a_row(group: str, kind: str, obj: dict[str, Any], header: str, cells: list[Any]) -> None:
    whole = obj | {"metadata": {"name": "x", "creationTimestamp": MADE} | obj.get("metadata", {})}
    table = printers.table(GVK(group, "v1", kind), [whole], NOW)
    names = [one["name"].replace(" ", "_") for one in table["columnDefinitions"]]
    shown = [
        f"({name})" if one["priority"] else name for name, one in zip(names, table["columnDefinitions"], strict=True)
    ]
    assert " ".join(shown) == header
    assert table["rows"][0]["cells"] == cells


def test_flow_schemas_are_listed_as_they_are_asked() -> None:
    objects = [
        {"metadata": {"name": name}, "spec": {"matchingPrecedence": at}} for name, at in (("b", 2), ("a", 2), ("c", 1))
    ]
    rows = printers.table(GVK(FLOW, "v1", "FlowSchema"), objects, NOW)["rows"]
    assert [row["cells"][0] for row in rows] == ["c", "a", "b"]


@pytest.mark.parametrize("gvk", sorted(manifests.kinds()), ids=lambda gvk: gvk.kind)
def test_each_kind_has_a_cell_for_each_column(gvk: GVK) -> None:
    info = schema.resource_of(gvk)
    assert info is not None
    table = printers.table(info, [manifests.manifest(gvk)], NOW)
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
