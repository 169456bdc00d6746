"""Defaults of every kind: what a minimal object of each becomes, and that defaulting again changes nothing."""

# ruff: noqa: E501 (a row a line: the tables are read across)

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver import codec, defaults, schema
from apiserver.defaults import rules, workloads
from apiserver.schema import GVK
from tests.unit.apiserver import manifests
from tests.unit.apiserver.arbitrary import values

Obj = dict[str, Any]
APPS, BATCH, RBAC = "apps", "batch", "rbac.authorization.k8s.io"
ADMISSION, STORAGE, NETWORK = "admissionregistration.k8s.io", "storage.k8s.io", "networking.k8s.io"


def at(obj: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        obj = obj[int(part)] if part.isdigit() else obj[part]
    return obj


CONTAINERS = {"containers": [{"name": "c", "image": "i:1"}]}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": CONTAINERS}


@pytest.mark.parametrize(
    ("gvk", "given_spec", "path", "wanted"),
    [
        (GVK(APPS, "v1", "StatefulSet"), {"spec": {}}, "spec.podManagementPolicy", "OrderedReady"),
        (GVK(APPS, "v1", "StatefulSet"), {}, "spec.updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        (GVK(APPS, "v1", "StatefulSet"), {"spec": {"updateStrategy": {"type": "OnDelete"}}}, "spec.updateStrategy", {"type": "OnDelete"}),
        (GVK(APPS, "v1", "StatefulSet"), {}, "spec.persistentVolumeClaimRetentionPolicy", {"whenDeleted": "Retain", "whenScaled": "Retain"}),
        (GVK(APPS, "v1", "StatefulSet"), {"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}, "spec.volumeClaimTemplates.0.spec.volumeMode", "Filesystem"),
        (GVK(APPS, "v1", "DaemonSet"), {}, "spec.updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}),
        (GVK(APPS, "v1", "StatefulSet"), {"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}, "spec.volumeClaimTemplates.0.status", {"phase": "Pending"}),
        (GVK(APPS, "v1", "DaemonSet"), {}, "spec.revisionHistoryLimit", 10),
        (GVK("", "v1", "ReplicationController"), {"spec": {"template": TEMPLATE}}, "spec.selector", {"a": "b"}),
        (GVK("", "v1", "ReplicationController"), {"spec": {"template": TEMPLATE}}, "metadata.labels", {"a": "b"}),
        (GVK(BATCH, "v1", "Job"), {"spec": {"template": TEMPLATE}}, "metadata.labels", {"a": "b"}),
        (GVK(BATCH, "v1", "Job"), {}, "spec.completions", 1),
        (GVK(BATCH, "v1", "Job"), {}, "spec.backoffLimit", 6),
        (GVK(BATCH, "v1", "Job"), {"spec": {"backoffLimitPerIndex": 1}}, "spec.backoffLimit", 2**31 - 1),
        (GVK(BATCH, "v1", "Job"), {"spec": {"podFailurePolicy": {"rules": []}}}, "spec.podReplacementPolicy", "Failed"),
        (GVK(BATCH, "v1", "Job"), {}, "spec.podReplacementPolicy", "TerminatingOrFailed"),
        (GVK(BATCH, "v1", "CronJob"), {}, "spec.concurrencyPolicy", "Allow"),
        (GVK(BATCH, "v1", "CronJob"), {}, "spec.successfulJobsHistoryLimit", 3),
        (GVK(BATCH, "v1", "CronJob"), {"spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}}, "spec.jobTemplate.spec.template.spec.dnsPolicy", "ClusterFirst"),
        (GVK("autoscaling", "v2", "HorizontalPodAutoscaler"), {}, "spec.metrics", [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        (GVK("autoscaling", "v2", "HorizontalPodAutoscaler"), {"spec": {"behavior": {}}}, "spec.behavior.scaleUp", {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}], "stabilizationWindowSeconds": 0}),
        (GVK("autoscaling", "v2", "HorizontalPodAutoscaler"), {"spec": {"behavior": {}}}, "spec.behavior.scaleDown", {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}),
        (GVK(NETWORK, "v1", "NetworkPolicy"), {"spec": {"egress": [{"ports": [{"port": 53}]}]}}, "spec.policyTypes", ["Ingress", "Egress"]),
        (GVK(NETWORK, "v1", "NetworkPolicy"), {"spec": {"egress": [{"ports": [{"port": 53}]}]}}, "spec.egress.0.ports.0.protocol", "TCP"),
        (GVK(NETWORK, "v1", "NetworkPolicy"), {"spec": {"egress": []}}, "spec.policyTypes", ["Ingress"]),
        (GVK(NETWORK, "v1", "IngressClass"), {"spec": {"parameters": {"kind": "K", "name": "n"}}}, "spec.parameters.scope", "Cluster"),
        (GVK(RBAC, "v1", "RoleBinding"), {"roleRef": {"kind": "Role"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}, "", {"roleRef": {"kind": "Role", "apiGroup": RBAC}, "subjects": [{"kind": "User", "name": "u", "apiGroup": RBAC}, {"kind": "ServiceAccount", "name": "s"}]}),
        (GVK(STORAGE, "v1", "StorageClass"), {}, "", {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
        (GVK(STORAGE, "v1", "CSIDriver"), {}, "spec", {"attachRequired": True, "podInfoOnMount": False, "storageCapacity": False, "fsGroupPolicy": "ReadWriteOnceWithFSType", "requiresRepublish": False, "seLinuxMount": False, "volumeLifecycleModes": ["Persistent"]}),
        (GVK("", "v1", "PersistentVolume"), {"spec": {"rbd": {"image": "i"}}}, "spec", {"rbd": {"image": "i", "pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"}, "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}),
        (GVK("", "v1", "LimitRange"), {"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"}, "default": {"memory": "9"}}]}}, "spec.limits.0", {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"}, "default": {"cpu": "2", "memory": "9"}, "defaultRequest": {"cpu": "2", "memory": "9"}}),
        (GVK("", "v1", "LimitRange"), {"spec": {"limits": [{"type": "Pod", "max": {"cpu": "2"}}]}}, "spec.limits.0", {"type": "Pod", "max": {"cpu": "2"}}),
        (GVK(ADMISSION, "v1", "MutatingWebhookConfiguration"), {"webhooks": [{"name": "w", "clientConfig": {"service": {"name": "s"}}, "rules": [{}]}]}, "webhooks.0", {"name": "w", "clientConfig": {"service": {"name": "s", "port": 443}}, "rules": [{"scope": "*"}], "failurePolicy": "Fail", "matchPolicy": "Equivalent", "timeoutSeconds": 10, "reinvocationPolicy": "Never", "namespaceSelector": {}, "objectSelector": {}}),
        (GVK(ADMISSION, "v1", "ValidatingAdmissionPolicy"), {"spec": {"matchConstraints": {}}}, "spec", {"failurePolicy": "Fail", "matchConstraints": {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}}),
        (GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), {"spec": {"names": {"kind": "Boat", "plural": "boats"}}}, "spec", {"names": {"kind": "Boat", "plural": "boats", "singular": "boat", "listKind": "BoatList"}, "conversion": {"strategy": "None"}}),
        (GVK("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration"), {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}, "spec.limited", {"limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}, "nominalConcurrencyShares": 30, "lendablePercent": 0}),
        (GVK("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema"), {"spec": {}}, "spec.matchingPrecedence", 1000),
        (GVK("scheduling.k8s.io", "v1", "PriorityClass"), {}, "preemptionPolicy", "PreemptLowerPriority"),
        (GVK("resource.k8s.io", "v1", "ResourceClaim"), {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}, "spec.devices.requests.0.exactly", {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}),
        (GVK("", "v1", "PodTemplate"), {"template": {"spec": CONTAINERS}}, "template.spec.terminationGracePeriodSeconds", 30),
        (GVK("", "v1", "Pod"), {"spec": {"volumes": [{"name": "v", "azureDisk": {"diskName": "d"}}]}}, "spec.volumes.0.azureDisk", {"diskName": "d", "cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": False}),
        (GVK("", "v1", "Pod"), {"spec": {"volumes": [{"name": "v", "image": {"reference": "r:1"}}]}}, "spec.volumes.0.image.pullPolicy", "IfNotPresent"),
    ],
)  # fmt: skip
def test_what_is_filled_in(gvk: GVK, given_spec: Obj, path: str, wanted: Any) -> None:
    assert at(defaults.apply(copy.deepcopy(given_spec), gvk), path) == wanted


def test_a_job_gets_a_selector_of_its_own_unless_it_selects_by_hand() -> None:
    job = {"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}}
    workloads.new_job(job)
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}  # type: ignore[index]
    assert job["spec"]["template"]["metadata"]["labels"] == {  # type: ignore[index]
        "batch.kubernetes.io/controller-uid": "u",
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": "u",
        "job-name": "j",
    }
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"]  # type: ignore[index]
    by_hand: Obj = {"metadata": {"name": "j", "uid": "u"}, "spec": {"manualSelector": True, "template": {}}}
    workloads.new_job(by_hand)
    assert "selector" not in by_hand["spec"]


@pytest.mark.parametrize(("kind", "kept"), [("NodePort", False), ("ClusterIP", False), ("LoadBalancer", True)])
def test_what_only_a_load_balancer_has_goes_with_it(kind: str, kept: bool) -> None:
    balancing = {"allocateLoadBalancerNodePorts": True, "loadBalancerClass": "e.com/x", "healthCheckNodePort": 30001}
    spec = {"externalTrafficPolicy": "Local", "clusterIP": "10.96.0.9", "ports": [], **balancing}
    old: Obj = {"spec": {"type": "LoadBalancer", **spec}}
    new: Obj = {"spec": {"type": kind, **spec}}
    defaults.prepare_update(GVK("", "v1", "Service"), new, old)
    assert all((name in new["spec"]) is kept for name in balancing)


def test_a_definition_remembers_what_was_ever_stored() -> None:
    gvk = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    old: Obj = {"spec": {"versions": [{"name": "v1", "storage": True}]}}
    defaults.prepare_create(gvk, old)
    assert old["status"]["storedVersions"] == ["v1"]
    new: Obj = {"spec": {"versions": [{"name": "v1"}, {"name": "v2", "storage": True}]}}
    defaults.prepare_update(gvk, new, old)
    assert new["status"]["storedVersions"] == ["v1", "v2"]


def test_defaults_are_about_types_and_fields_that_are_there() -> None:
    assert rules.registered().keys() <= schema.load().types.keys()
    for name in rules.registered():
        rules.filler(name)  # raises where a default names a field that its type does not have


@pytest.mark.parametrize("gvk", sorted(manifests.kinds()), ids=lambda gvk: gvk.kind)
def test_defaulting_twice_is_defaulting_once(gvk: GVK) -> None:
    once = defaults.apply(copy.deepcopy(manifests.manifest(gvk)), gvk)
    assert defaults.apply(copy.deepcopy(once), gvk) == once


@pytest.mark.parametrize("kind", ["Pod", "Service", "LimitRange", "ReplicationController"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_the_object_defaults_are_stable(kind: str, data: st.DataObject) -> None:
    gvk = GVK("", "v1", kind)
    name = schema.type_name(gvk)
    assert name is not None
    obj = codec.conform(data.draw(values(name, 4)), name)[0]
    once = defaults.apply(obj, gvk)
    assert defaults.apply(copy.deepcopy(once), gvk) == once
