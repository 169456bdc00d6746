"""Defaults: minimal objects become what a stock server would store, once and for all."""

import copy
from typing import Any

import pytest

from apiserver import defaults
from apiserver.defaults import pods
from apiserver.schema import GVK

POD = GVK("", "v1", "Pod")
SERVICE = GVK("", "v1", "Service")
DEPLOYMENT = GVK("apps", "v1", "Deployment")


def test_a_minimal_pod() -> None:
    found = defaults.apply({"spec": {"containers": [{"name": "c", "image": "busybox"}]}}, POD)
    assert found["spec"] == {
        "containers": [
            {
                "name": "c",
                "image": "busybox",
                "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "resources": {},
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
    }


@pytest.mark.parametrize(
    ("image", "floats"),
    [
        ("busybox", True),
        ("busybox:latest", True),
        ("busybox:1.36", False),
        ("registry:5000/busybox", True),
        ("registry:5000/busybox:1", False),
        ("busybox@sha256:0", False),
        ("busybox:latest@sha256:0", True),
        ("", True),
    ],
)
def test_images_whose_tag_may_move(image: str, floats: bool) -> None:
    assert pods.floating(image) is floats


def test_probes_ports_volumes_and_references() -> None:
    container: dict[str, Any] = {
        "name": "c",
        "image": "i:1",
        "ports": [{"containerPort": 80}],
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"port": 80}},
        "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
    }
    volumes = [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}]
    spec = defaults.apply({"spec": {"containers": [container], "volumes": volumes}}, POD)["spec"]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["lifecycle"]["preStop"]["httpGet"]["scheme"] == "HTTP"
    assert spec["volumes"] == [
        {"name": "e", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
        {"name": "h", "hostPath": {"path": "/", "type": ""}},
    ]


def test_requests_follow_limits_in_pods_and_not_in_templates() -> None:
    container = {
        "name": "c",
        "image": "i",
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}},
    }
    pod = defaults.apply({"spec": {"containers": [copy.deepcopy(container)]}}, POD)
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1m", "memory": "1Gi"}
    template = {"spec": {"containers": [copy.deepcopy(container)]}}
    defaults.apply({"spec": {"template": template}}, DEPLOYMENT)
    assert template["spec"]["containers"][0]["resources"] == container["resources"]
    assert "enableServiceLinks" not in template["spec"]


def test_host_network_publishes_its_ports() -> None:
    container: dict[str, Any] = {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}
    defaults.apply({"spec": {"hostNetwork": True, "containers": [container]}}, POD)
    assert container["ports"][0]["hostPort"] == 80


@pytest.mark.parametrize(
    ("resources", "quality"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1000m", "memory": "1"}}], "Guaranteed"),
        ([{"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "2", "memory": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1", "memory": "1"}}, {}], "Burstable"),
        ([{"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"example.com/gpu": "1"}}], "BestEffort"),
    ],
)
def test_quality_of_service(resources: list[dict[str, Any]], quality: str) -> None:
    assert pods.quality_of_service({"containers": [{"resources": one} for one in resources]}) == quality


def test_a_new_pod_is_pending_whatever_the_client_says() -> None:
    obj: dict[str, Any] = {"spec": {"containers": [], "serviceAccountName": "sa"}, "status": {"phase": "Running"}}
    defaults.prepare_create(POD, obj)
    assert obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert obj["spec"]["serviceAccount"] == "sa"


def test_a_minimal_deployment() -> None:
    spec = defaults.apply({"spec": {}}, DEPLOYMENT)["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    assert (spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (10, 600)
    recreate = defaults.apply({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}, DEPLOYMENT)["spec"]
    assert recreate["strategy"] == {"type": "Recreate"}
    assert recreate["replicas"] == 0


def test_services_by_type() -> None:
    cluster = defaults.apply({"spec": {"ports": [{"port": 80}]}}, SERVICE)["spec"]
    assert cluster == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "sessionAffinity": "None",
        "type": "ClusterIP",
        "internalTrafficPolicy": "Cluster",
    }
    node = defaults.apply({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}}, SERVICE)["spec"]
    assert node["externalTrafficPolicy"] == "Cluster"
    assert node["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    external = defaults.apply({"spec": {"type": "ExternalName"}}, SERVICE)["spec"]
    assert "internalTrafficPolicy" not in external


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "ClusterIP"}, {"ipFamilyPolicy": "SingleStack"}),  # the family comes with the address
        ({"type": "ClusterIP", "clusterIP": "10.96.0.9"}, {"clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"]}),
        ({"type": "ClusterIP", "clusterIP": "None"}, {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["None"]}),
        ({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}, {"ipFamilyPolicy": "SingleStack"}),
        ({"type": "ExternalName"}, {}),
    ],
)
def test_address_families_of_a_new_service(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    obj = {"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}
    defaults.prepare_create(SERVICE, obj)
    assert obj["status"] == {"loadBalancer": {}}
    assert expected.items() <= obj["spec"].items()
    assert bool(expected) == ("ipFamilyPolicy" in obj["spec"])


def test_an_update_keeps_the_addresses_and_ports_the_client_left_out() -> None:
    old = {
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.9",
            "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [
                {"port": 80, "protocol": "TCP", "nodePort": 30080},
                {"port": 81, "protocol": "TCP", "nodePort": 30081},
            ],
        },
        "status": {"loadBalancer": {}},
    }
    ports = [{"port": 80, "protocol": "TCP"}, {"port": 82, "protocol": "TCP", "nodePort": 30081}]
    new: dict[str, Any] = {"spec": {"type": "NodePort", "ports": ports}, "status": {"loadBalancer": {"x": 1}}}
    defaults.prepare_update(SERVICE, new, old)
    assert new["spec"]["clusterIPs"] == ["10.96.0.9"]
    assert [port["nodePort"] for port in new["spec"]["ports"]] == [30080, 30081]
    assert new["status"] == {"loadBalancer": {}}


def test_namespaces_secrets_and_nodes() -> None:
    namespace: dict[str, Any] = {"metadata": {"name": "n", "labels": {"a": "b"}}}
    defaults.prepare_create(GVK("", "v1", "Namespace"), defaults.apply(namespace, GVK("", "v1", "Namespace")))
    assert namespace["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "n"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    assert namespace["status"] == {"phase": "Active"}
    secret = defaults.apply({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "hi"}}, GVK("", "v1", "Secret"))
    assert secret == {"type": "Opaque", "data": {"a": "aGk=", "b": "eA=="}}
    node = defaults.apply({"status": {"capacity": {"cpu": "2"}}}, GVK("", "v1", "Node"))
    assert node["status"]["allocatable"] == {"cpu": "2"}


_EXAMPLES: list[tuple[GVK, dict[str, Any]]] = [
    (
        POD,
        {"spec": {"hostNetwork": True, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}]}]}},
    ),
    (DEPLOYMENT, {"spec": {"template": {"spec": {"volumes": [{"name": "v"}]}}}}),
    (SERVICE, {"spec": {"type": "LoadBalancer", "ports": [{"port": 1}]}}),
    (GVK("discovery.k8s.io", "v1", "EndpointSlice"), {"ports": [{"port": 1}]}),
    (GVK("", "v1", "Endpoints"), {"subsets": [{"ports": [{"port": 1}]}]}),
]


@pytest.mark.parametrize(("gvk", "obj"), _EXAMPLES)
def test_defaulting_twice_is_defaulting_once(gvk: GVK, obj: dict[str, Any]) -> None:
    once = defaults.apply(copy.deepcopy(obj), gvk)
    assert defaults.apply(copy.deepcopy(once), gvk) == once
    assert once != obj
