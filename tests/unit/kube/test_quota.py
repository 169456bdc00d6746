"""What objects count for against quotas."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import quota

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def container(name: str = "c", restart: str = "", **resources: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "resources": resources}
    return found | ({"restartPolicy": restart} if restart else {})


def pod(*containers: dict[str, Any], init: Any = (), status: Any = None, **spec: Any) -> dict[str, Any]:
    whole = {"containers": list(containers) or [container()], "initContainers": list(init), **spec}
    return {"metadata": {"name": "p"}, "spec": whole, "status": status or {}}


def shown(kind: str, obj: dict[str, Any]) -> str:
    return quota.shown(quota.usage(kind, obj, NOW))


def test_pods_count_for_what_they_ask_for() -> None:
    one = container(requests={"cpu": "500m", "memory": "1Gi", "example.com/gpu": "2"}, limits={"cpu": "1"})
    assert shown("pods", pod(one, overhead={"cpu": "100m"})) == (
        "count/pods=1,cpu=600m,limits.cpu=1100m,memory=1Gi,pods=1,requests.cpu=600m,requests.example.com/gpu=2,requests.memory=1Gi"
    )


def test_the_start_may_be_the_greediest_moment() -> None:
    init = [container("side", "Always", requests={"cpu": "100m"}), container("big", requests={"cpu": "2"})]
    assert quota.pod_requests(pod(container(requests={"cpu": "1"}), init=init)["spec"])["cpu"] == Fraction(21, 10)
    small = [container("side", "Always", requests={"cpu": "100m"}), container("one", requests={"cpu": "10m"})]
    assert quota.pod_requests(pod(container(requests={"cpu": "1"}), init=small)["spec"])["cpu"] == Fraction(11, 10)


def test_what_is_over_counts_as_an_object_only() -> None:
    one = container(requests={"cpu": "1"})
    assert shown("pods", pod(one, status={"phase": "Succeeded"})) == "count/pods=1"
    late = pod(one)
    late["metadata"] |= {"deletionTimestamp": "2025-12-31T23:00:00Z", "deletionGracePeriodSeconds": 30}
    assert shown("pods", late) == "count/pods=1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"type": "ClusterIP", "ports": [{}]},
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0",
        ),
        (
            {"type": "NodePort", "ports": [{}, {}]},
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
        ),
        (
            {"type": "LoadBalancer", "ports": [{}, {"nodePort": 1}], "allocateLoadBalancerNodePorts": False},
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
        ),
    ],
)
def test_services(spec: dict[str, Any], expected: str) -> None:
    assert shown("services", {"metadata": {}, "spec": spec}) == expected


def test_claims_count_for_their_class() -> None:
    claim = {"metadata": {}, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}}
    found = quota.usage("persistentvolumeclaims", claim, NOW)
    assert quota.render("requests.storage", found["fast.storageclass.storage.k8s.io/requests.storage"]) == "2Gi"
    hard = ("fast.storageclass.storage.k8s.io/requests.storage", "requests.storage", "pods")
    assert quota.matching("persistentvolumeclaims", hard) == set(hard[:2])


def test_what_a_quota_looks_at() -> None:
    assert quota.kinds(["count/deployments.apps", "pods", "requests.nvidia.com/gpu", "secrets"]) == {
        "deployments.apps", "pods", "secrets",
    }  # fmt: skip
    assert shown("deployments.apps", {"metadata": {}}) == "count/deployments.apps=1"


@pytest.mark.parametrize(
    ("scopes", "selector", "spec", "matches"),
    [
        (["Terminating"], None, {"activeDeadlineSeconds": 5}, True),
        (["NotTerminating"], None, {"activeDeadlineSeconds": 5}, False),
        (["BestEffort"], None, {}, True),
        (["NotBestEffort"], None, {}, False),
        ([], ("PriorityClass", "In", ["high"]), {"priorityClassName": "high"}, True),
        ([], ("PriorityClass", "NotIn", ["high"]), {"priorityClassName": "high"}, False),
        ([], ("PriorityClass", "Exists", []), {}, False),
        (["CrossNamespacePodAffinity"], None, {"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z", "namespaceSelector": {}}]}}}, True),
    ],
)  # fmt: skip
def test_scopes(scopes: list[str], selector: Any, spec: dict[str, Any], matches: bool) -> None:
    quoted: dict[str, Any] = {"scopes": scopes}
    if selector:
        term = dict(zip(("scopeName", "operator", "values"), selector, strict=True))
        quoted["scopeSelector"] = {"matchExpressions": [term]}
    assert quota.in_scope(quoted, "pods", pod(**spec)) is matches
    assert not quota.in_scope(quoted, "services", {"metadata": {}, "spec": {}})


def test_cpu_and_memory_have_to_be_said_where_they_are_limited() -> None:
    two = pod(container("a", requests={"cpu": "1"}), container("b"))
    assert quota.unspecified(["requests.cpu", "limits.memory", "pods"], two) == (
        "must specify limits.memory for: a,b; requests.cpu for: b"
    )
    assert quota.unspecified(["pods"], two) == ""


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=5), st.lists(st.integers(0, 4000), max_size=4))
def test_a_pod_asks_for_at_least_its_containers_and_each_step_of_its_start(main: list[int], init: list[int]) -> None:
    def sized(n: int, milli: int) -> dict[str, Any]:
        return container(f"c{n}", requests={"cpu": f"{milli}m"})

    spec = pod(*(sized(n, m) for n, m in enumerate(main)), init=[sized(n, m) for n, m in enumerate(init)])["spec"]
    assert quota.pod_requests(spec)["cpu"] * 1000 == max(sum(main), *init, 0)
