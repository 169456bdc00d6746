"""Validation: a good object passes, and each broken field is named by its path, in upstream's words."""

# ruff: noqa: E501 (a row a line: the tables are read across)

import copy
from collections.abc import Callable
from typing import Any

import pytest

from apiserver import defaults, validation
from apiserver.schema import GVK

POD = GVK("", "v1", "Pod")
SERVICE = GVK("", "v1", "Service")
DEPLOYMENT = GVK("apps", "v1", "Deployment")
SLICE = GVK("discovery.k8s.io", "v1", "EndpointSlice")

Change = Callable[[dict[str, Any]], object]


def meta(**more: Any) -> dict[str, Any]:
    return {"name": "x", "namespace": "default", **more}


def pod() -> dict[str, Any]:
    container = {"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "name": "http"}]}
    obj = {"metadata": meta(labels={"a": "b"}), "spec": {"containers": [container], "volumes": [{"name": "v"}]}}
    return defaults.apply(obj, POD)


def deployment() -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    template["spec"].pop("enableServiceLinks")
    return defaults.apply(
        {"metadata": meta(), "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}, DEPLOYMENT
    )


def service(**spec: Any) -> dict[str, Any]:
    obj = {"metadata": meta(), "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "name": "http"}], **spec}}
    return defaults.apply(obj, SERVICE)


def endpoint_slice() -> dict[str, Any]:
    return {
        "metadata": meta(),
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"port": 80}],
    }


def found(gvk: GVK, obj: dict[str, Any]) -> dict[str, str]:
    return {cause.field: cause.message for cause in validation.validate_create(gvk, obj)}


def first(obj: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = obj["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    ("gvk", "obj"),
    [
        (POD, pod()),
        (DEPLOYMENT, deployment()),
        (SERVICE, service()),
        (SERVICE, service(clusterIP="None", ports=[])),
        (SERVICE, service(type="ExternalName", externalName="example.com.", ports=[])),
        (SLICE, endpoint_slice()),
        (GVK("", "v1", "Namespace"), {"metadata": {"name": "n"}}),
        (GVK("", "v1", "ConfigMap"), {"metadata": meta(), "data": {"a.b_C-d": "x"}}),
        (GVK("coordination.k8s.io", "v1", "Lease"), {"metadata": meta(), "spec": {"leaseDurationSeconds": 40}}),
        (GVK("", "v1", "Binding"), {"metadata": meta(), "target": {"kind": "Node", "name": "n"}}),
        (GVK("", "v1", "Event"), {"metadata": meta(name="x.17"), "involvedObject": {"namespace": "default"}}),
    ],
)
def test_good_objects(gvk: GVK, obj: dict[str, Any]) -> None:
    assert found(gvk, obj) == {}


LABEL = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda o: o["metadata"].update(name="A_b"), "metadata.name", 'Invalid value: "A_b": a lowercase RFC 1123 subdomain'),
        (lambda o: o["metadata"].pop("name"), "metadata.name", "Required value: name or generateName is required"),
        (lambda o: o["metadata"].pop("namespace"), "metadata.namespace", "Required value"),
        (lambda o: o["metadata"].update(labels={"-": "b"}), "metadata.labels", 'Invalid value: "-": name part must consist'),
        (lambda o: o["metadata"].update(labels={"a": "b c"}), "metadata.labels", 'Invalid value: "b c": a valid label must'),
        (lambda o: o["metadata"].update(annotations={"a": "x" * 300_000}), "metadata.annotations", "Too long: may not be more than 262144 bytes"),
        (lambda o: o["metadata"].update(finalizers=["mine"]), "metadata.finalizers[0]", 'Invalid value: "mine": name is neither'),
        (lambda o: o["metadata"].update(ownerReferences=[{"apiVersion": "v1", "kind": "K", "name": "n"}]), "metadata.ownerReferences[0].uid", 'Invalid value: "": must not be empty'),
        (lambda o: o["spec"].update(containers=[]), "spec.containers", "Required value"),
        (lambda o: first(o).update(name="C"), "spec.containers[0].name", f'Invalid value: "C": {LABEL}'),
        (lambda o: first(o).pop("image"), "spec.containers[0].image", "Required value"),
        (lambda o: first(o).update(image=" i"), "spec.containers[0].image", 'Invalid value: " i": must not have leading or trailing whitespace'),
        (lambda o: o["spec"]["containers"].append(copy.deepcopy(first(o))), "spec.containers[1].name", 'Duplicate value: "c"'),
        (lambda o: first(o).update(imagePullPolicy="Maybe"), "spec.containers[0].imagePullPolicy", 'Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"'),
        (lambda o: first(o)["ports"][0].update(containerPort=70000), "spec.containers[0].ports[0].containerPort", "Invalid value: 70000: must be between 1 and 65535, inclusive"),
        (lambda o: first(o)["ports"][0].update(name="UPPER"), "spec.containers[0].ports[0].name", 'Invalid value: "UPPER": must contain'),
        (lambda o: first(o)["ports"][0].update(protocol="ICMP"), "spec.containers[0].ports[0].protocol", 'Unsupported value: "ICMP"'),
        (lambda o: first(o).update(env=[{"name": "a=b"}]), "spec.containers[0].env[0].name", 'Invalid value: "a=b": a valid environment variable name'),
        (lambda o: first(o).update(env=[{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]), "spec.containers[0].env[0].valueFrom", 'Invalid value: "": may not be specified when `value` is not empty'),
        (lambda o: first(o).update(env=[{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]), "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath", 'Unsupported value: "spec.foo"'),
        (lambda o: first(o).update(volumeMounts=[{"name": "w", "mountPath": "/w"}]), "spec.containers[0].volumeMounts[0].name", 'Not found: "w"'),
        (lambda o: first(o).update(volumeMounts=[{"name": "v", "mountPath": "/v"}] * 2), "spec.containers[0].volumeMounts[1].mountPath", 'Invalid value: "/v": must be unique'),
        (lambda o: first(o).update(volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "../x"}]), "spec.containers[0].volumeMounts[0].subPath", "Invalid value: \"../x\": must not contain '..'"),
        (lambda o: first(o).update(livenessProbe={}), "spec.containers[0].livenessProbe", "Required value: must specify a handler type"),
        (lambda o: first(o).update(livenessProbe={"exec": {"command": ["x"]}, "successThreshold": 2}), "spec.containers[0].livenessProbe.successThreshold", "Invalid value: 2: must be 1"),
        (lambda o: first(o).update(readinessProbe={"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}), "spec.containers[0].readinessProbe.tcpSocket", "Forbidden: may not specify more than 1 handler type"),
        (lambda o: first(o).update(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), "spec.containers[0].resources.requests", 'Invalid value: "2": must be less than or equal to cpu limit of 1'),
        (lambda o: first(o).update(resources={"limits": {"gpu": "1"}}), "spec.containers[0].resources.limits[gpu]", 'Invalid value: "gpu": must be a standard resource for containers'),
        (lambda o: first(o).update(resources={"limits": {"cpu": "-1"}}), "spec.containers[0].resources.limits[cpu]", 'Invalid value: "-1": must be greater than or equal to 0'),
        (lambda o: first(o).update(securityContext={"privileged": True, "allowPrivilegeEscalation": False}), "spec.containers[0].securityContext", "Invalid value: {"),
        (lambda o: o["spec"].update(restartPolicy="Sometimes"), "spec.restartPolicy", 'Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"'),
        (lambda o: o["spec"].update(dnsPolicy="X"), "spec.dnsPolicy", 'Unsupported value: "X"'),
        (lambda o: o["spec"].update(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds", "Invalid value: 0: must be between 1 and 2147483647, inclusive"),
        (lambda o: o["spec"].update(nodeName="A"), "spec.nodeName", 'Invalid value: "A"'),
        (lambda o: o["spec"].update(tolerations=[{"value": "x"}]), "spec.tolerations[0].operator", 'Invalid value: "": operator must be Exists when `key` is empty'),
        (lambda o: o["spec"].update(tolerations=[{"key": "k", "effect": "NoSchedule", "tolerationSeconds": 1}]), "spec.tolerations[0].effect", 'Invalid value: "NoSchedule": effect must be \'NoExecute\''),
        (lambda o: o["spec"].update(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]), "spec.volumes[0].hostPath", "Forbidden: may not specify more than 1 volume type"),
        (lambda o: o["spec"].update(volumes=[{"name": "v"}]), "spec.volumes[0]", "Required value: must specify a volume type"),
        (lambda o: o["spec"].update(volumes=[{"name": "v", "configMap": {"defaultMode": 0o1000}}]), "spec.volumes[0].configMap.defaultMode", "Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"),
        (lambda o: o["spec"].update(initContainers=[{**copy.deepcopy(first(o)), "name": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]), "spec.initContainers[0].livenessProbe", "Forbidden: may not be set for init containers without restartPolicy=Always"),
        (lambda o: o["spec"].update(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}), "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", "Required value: must have at least one node selector term"),
    ],
)  # fmt: skip
def test_broken_pods(change: Change, field: str, message: str) -> None:
    obj = pod()
    change(obj)
    causes = found(POD, obj)
    assert field in causes, causes
    assert causes[field].startswith(message)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda o: o["spec"].update(replicas=-1), "spec.replicas", "Invalid value: -1: must be greater than or equal to 0"),
        (lambda o: o["spec"].pop("selector"), "spec.selector", "Required value"),
        (lambda o: o["spec"].update(selector={}), "spec.selector", "Invalid value: {}: empty selector is invalid for deployment"),
        (lambda o: o["spec"]["template"]["metadata"].update(labels={"a": "c"}), "spec.template.metadata.labels", 'Invalid value: {"a":"c"}: `selector` does not match template `labels`'),
        (lambda o: o["spec"]["template"]["spec"].update(restartPolicy="Never"), "spec.template.spec.restartPolicy", 'Unsupported value: "Never": supported values: "Always"'),
        (lambda o: o["spec"].update(strategy={"type": "Recreate", "rollingUpdate": {}}), "spec.strategy.rollingUpdate", "Forbidden: may not be specified when strategy `type` is 'Recreate'"),
        (lambda o: o["spec"].update(strategy={"type": "Big"}), "spec.strategy.type", 'Unsupported value: "Big"'),
        (lambda o: o["spec"].update(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}), "spec.strategy.rollingUpdate.maxUnavailable", "Invalid value: 0: may not be 0 when `maxSurge` is 0"),
        (lambda o: o["spec"].update(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "x", "maxSurge": 1}}), "spec.strategy.rollingUpdate.maxUnavailable", 'Invalid value: "x": a valid percent string'),
        (lambda o: o["spec"].update(progressDeadlineSeconds=5, minReadySeconds=5), "spec.progressDeadlineSeconds", "Invalid value: 5: must be greater than minReadySeconds"),
        (lambda o: o["spec"]["selector"].update(matchExpressions=[{"key": "a", "operator": "Near"}]), "spec.selector.matchExpressions[0].operator", 'Invalid value: "Near": not a valid selector operator'),
    ],
)  # fmt: skip
def test_broken_deployments(change: Change, field: str, message: str) -> None:
    obj = deployment()
    change(obj)
    assert found(DEPLOYMENT, obj)[field].startswith(message)


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"ports": []}, "spec.ports", "Required value"),
        ({"type": "Tunnel"}, "spec.type", 'Unsupported value: "Tunnel"'),
        ({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}, "spec.ports[0].name", "Required value"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}, "spec.ports[1]", "Duplicate value: {"),
        ({"ports": [{"port": 1, "nodePort": 30000}]}, "spec.ports[0].nodePort", "Forbidden: may not be used when `type` is 'ClusterIP'"),
        ({"ports": [{"port": 1, "targetPort": "Bad"}]}, "spec.ports[0].targetPort", 'Invalid value: "Bad"'),
        ({"clusterIP": "10.0.0.300"}, "spec.clusterIPs[0]", 'Invalid value: "10.0.0.300": must be a valid IP address'),
        ({"externalIPs": ["127.0.0.1"]}, "spec.externalIPs[0]", 'Invalid value: "127.0.0.1": may not be in the loopback range'),
        ({"type": "ExternalName"}, "spec.externalName", "Required value"),
        ({"type": "LoadBalancer", "clusterIP": "None"}, "spec.clusterIPs[0]", "Invalid value: \"None\": may not be set to 'None' for LoadBalancer services"),
        ({"sessionAffinity": "Sticky"}, "spec.sessionAffinity", 'Unsupported value: "Sticky"'),
        ({"externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy", 'Invalid value: "Local": may only be set for externally-accessible services'),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]", 'Unsupported value: "IPv5"'),
    ],
)  # fmt: skip
def test_broken_services(spec: dict[str, Any], field: str, message: str) -> None:
    assert found(SERVICE, service(**spec))[field].startswith(message)


def test_service_names_are_stricter_than_others() -> None:
    obj = service()
    obj["metadata"]["name"] = "1st"
    assert "a DNS-1035 label must consist" in found(SERVICE, obj)["metadata.name"]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"addressType": ""}, "addressType", "Required value"),
        ({"addressType": "MAC"}, "addressType", 'Unsupported value: "MAC"'),
        ({"endpoints": [{"addresses": []}]}, "endpoints[0].addresses", "Required value"),
        ({"endpoints": [{"addresses": ["fe80::1"]}]}, "endpoints[0].addresses[0]", 'Invalid value: "fe80::1": must be an IPv4 address'),
        ({"endpoints": [{"addresses": ["169.254.0.1"]}]}, "endpoints[0].addresses[0]", 'Invalid value: "169.254.0.1": may not be in the link-local range'),
        ({"ports": [{"name": "a"}, {"name": "a"}]}, "ports[1].name", 'Duplicate value: "a"'),
        ({"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001}, "endpoints", "Too many: 1001: must have at most 1000 items"),
    ],
)  # fmt: skip
def test_broken_endpoint_slices(change: dict[str, Any], field: str, message: str) -> None:
    assert found(SLICE, endpoint_slice() | change)[field].startswith(message)


@pytest.mark.parametrize(
    ("gvk", "obj", "field", "message"),
    [
        (GVK("", "v1", "ConfigMap"), {"data": {"a/b": ""}}, "data[a/b]", 'Invalid value: "a/b": a valid config key'),
        (GVK("", "v1", "ConfigMap"), {"data": {"a": "x" * 1_048_577}}, "", "Too long: may not be more than 1048576 bytes"),
        (GVK("", "v1", "Secret"), {"type": "kubernetes.io/tls", "data": {"tls.key": ""}}, "data[tls.crt]", "Required value"),
        (GVK("coordination.k8s.io", "v1", "Lease"), {"spec": {"leaseDurationSeconds": 0}}, "spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0"),
        (GVK("", "v1", "Binding"), {"target": {}}, "target.name", "Required value"),
        (GVK("", "v1", "Event"), {"involvedObject": {"namespace": "other"}}, "involvedObject.namespace", 'Invalid value: "other": does not match event.namespace'),
        (GVK("", "v1", "Endpoints"), {"subsets": [{"addresses": [{"ip": "0.0.0.0"}]}]}, "subsets[0].addresses[0].ip", 'Invalid value: "0.0.0.0": may not be unspecified'),
    ],
)  # fmt: skip
def test_small_kinds(gvk: GVK, obj: dict[str, Any], field: str, message: str) -> None:
    assert found(gvk, {"metadata": meta(), **obj})[field].startswith(message)


def test_a_node_is_cluster_wide_and_its_taints_are_unique() -> None:
    node = GVK("", "v1", "Node")
    taints = [{"key": "a", "effect": "NoSchedule"}] * 2
    causes = found(node, {"metadata": meta(), "spec": {"taints": taints}})
    assert causes["metadata.namespace"] == "Forbidden: not allowed on this type"
    assert causes["spec.taints[1]"].startswith("Duplicate value: {")


def updated(gvk: GVK, old: dict[str, Any], change: Change) -> dict[str, str]:
    new = copy.deepcopy(old)
    change(new)
    return {cause.field: cause.message for cause in validation.validate_update(gvk, new, old)}


@pytest.mark.parametrize(
    "change",
    [
        lambda o: first(o).update(image="other:2"),
        lambda o: o["metadata"].update(labels={"c": "d"}),
        lambda o: o["spec"].update(activeDeadlineSeconds=5),
        lambda o: o["spec"].update(tolerations=[{"key": "k", "operator": "Exists"}]),
    ],
)
def test_what_of_a_pod_may_change(change: Change) -> None:
    assert updated(POD, pod(), change) == {}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda o: o["spec"].update(nodeName="n"), "spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        (lambda o: first(o).update(args=["x"]), "spec", "Forbidden: pod updates may not change fields"),
        (lambda o: o["spec"]["containers"].append({"name": "d", "image": "i"}), "spec.containers", "Forbidden: pod updates may not add or remove containers"),
        (lambda o: first(o).update(image=""), "spec.containers[0].image", "Required value"),
        (lambda o: o["metadata"].update(uid="other"), "metadata.uid", 'Invalid value: "other": field is immutable'),
    ],
)  # fmt: skip
def test_what_of_a_pod_may_not_change(change: Change, field: str, message: str) -> None:
    assert updated(POD, pod(), change)[field].startswith(message)


def test_tolerations_are_only_added() -> None:
    old = pod()
    old["spec"]["tolerations"] = [{"key": "k", "operator": "Exists", "effect": "NoExecute"}]
    assert updated(POD, old, lambda o: o["spec"]["tolerations"][0].update(tolerationSeconds=3)) == {}
    refused = updated(POD, old, lambda o: o["spec"].pop("tolerations"))
    assert "existing toleration can not be modified" in refused["spec.tolerations"]


def test_immutables_of_other_kinds() -> None:
    old = service(clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"])
    moved = updated(SERVICE, old, lambda o: o["spec"].update(clusterIP="10.96.0.2", clusterIPs=["10.96.0.2"]))
    assert moved["spec.clusterIPs[0]"] == 'Invalid value: ["10.96.0.2"]: may not change once set'
    reselected = updated(DEPLOYMENT, deployment(), lambda o: o["spec"]["selector"]["matchLabels"].update(a="c"))
    assert reselected["spec.selector"].endswith("field is immutable")
    config: dict[str, Any] = {"metadata": meta(), "data": {"a": "b"}, "immutable": True}
    changed = updated(GVK("", "v1", "ConfigMap"), config, lambda o: o["data"].update(a="c"))
    assert changed["data"] == "Forbidden: field is immutable when `immutable` is set"
    secret = {"metadata": meta(), "type": "Opaque"}
    retyped = updated(GVK("", "v1", "Secret"), secret, lambda o: o.update(type="other"))
    assert retyped["type"] == 'Invalid value: "other": field is immutable'
    assert updated(SLICE, endpoint_slice(), lambda o: o.update(addressType="IPv6"))["addressType"].endswith("immutable")


def test_no_new_finalizers_while_being_deleted() -> None:
    old = pod()
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    causes = updated(POD, old, lambda o: o["metadata"].update(finalizers=["a/b"]))
    assert 'found new finalizers []string{"a/b"}' in causes["metadata.finalizers"]
