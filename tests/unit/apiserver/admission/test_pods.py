"""What admission adds to pods: tolerations, priority, runtime class, account, pull policy."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.errors import StatusError
from tests.unit.apiserver.admission.asked import Obj, World, admitted, attributes, chain, obj, pod

NOT_READY = "node.kubernetes.io/not-ready"


@pytest.mark.parametrize(
    ("present", "added"),
    [
        ([], ["not-ready", "unreachable"]),
        ([{"operator": "Exists"}], []),
        ([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"}], ["unreachable"]),
        ([{"key": NOT_READY, "operator": "Exists", "effect": "NoSchedule"}], ["not-ready", "unreachable"]),
    ],
)
def test_default_tolerations(present: list[Obj], added: list[str]) -> None:
    admission = chain(World(), "DefaultTolerationSeconds", not_ready_seconds=10, unreachable_seconds=20)
    found = admitted(admission, attributes("pods", pod(tolerations=present)))["spec"]["tolerations"]
    assert found[: len(present)] == present
    assert [one["key"].removeprefix("node.kubernetes.io/") for one in found[len(present) :]] == added
    assert all(one["tolerationSeconds"] in (10, 20) for one in found[len(present) :])


def test_extended_resources_are_tolerated_when_the_plugin_is_on() -> None:
    wanting = [{"name": "c", "resources": {"requests": {"example.com/gpu": "1", "cpu": "1"}}}]
    found = admitted(chain(World(), "ExtendedResourceToleration"), attributes("pods", pod(containers=wanting)))
    assert found["spec"]["tolerations"] == [{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_new_nodes_are_not_ready() -> None:
    node = obj("v1", "Node", "n")
    found = admitted(chain(World(), "TaintNodesByCondition"), attributes("nodes", node))
    assert found["spec"]["taints"] == [{"key": NOT_READY, "effect": "NoSchedule"}]


def priority_class(name: str, value: int, **rest: Any) -> Obj:
    return obj("scheduling.k8s.io/v1", "PriorityClass", name, value=value, **rest)


def test_priority_comes_from_the_class() -> None:
    world = World(priority_class("high", 1000, preemptionPolicy="Never"))
    admission = chain(world, "Priority")
    spec = admitted(admission, attributes("pods", pod(priorityClassName="high")))["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (1000, "Never")
    spec = admitted(admission, attributes("pods", pod(priorityClassName="system-node-critical")))["spec"]
    assert spec["priority"] == 2_000_001_000
    spec = admitted(admission, attributes("pods", pod()))["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    assert "priorityClassName" not in spec


def test_the_default_class_is_for_pods_that_name_none() -> None:
    world = World(priority_class("usual", 7, globalDefault=True), priority_class("odd", 9, globalDefault=True))
    spec = admitted(chain(world, "Priority"), attributes("pods", pod()))["spec"]
    assert (spec["priorityClassName"], spec["priority"]) == ("usual", 7)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"priorityClassName": "mine"}, 'pods "p" is forbidden: no PriorityClass with name mine was found'),
        (
            {"priority": 5},
            "priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given",
        ),
        (
            {"preemptionPolicy": "Never"},
            "the string value of PreemptionPolicy (Never) must not be provided in pod spec",
        ),
    ],
)
def test_priorities_that_are_refused(spec: Obj, words: str) -> None:
    with pytest.raises(StatusError) as refused:
        admitted(chain(World(), "Priority"), attributes("pods", pod(**spec)))
    assert refused.value.code == 403
    assert words in refused.value.message


def test_one_default_priority_class() -> None:
    world = World(priority_class("usual", 7, globalDefault=True))
    admission = chain(world, "Priority")
    again = priority_class("usual", 8, globalDefault=True)
    admitted(admission, attributes("priorityclasses.scheduling.k8s.io", again, again))
    new = priority_class("other", 8, globalDefault=True)
    with pytest.raises(StatusError, match="PriorityClass usual is already marked as default"):
        admitted(admission, attributes("priorityclasses.scheduling.k8s.io", new))


def test_runtime_classes_bring_overhead_and_scheduling() -> None:
    sandboxed = obj(
        "node.k8s.io/v1",
        "RuntimeClass",
        "sandboxed",
        handler="runsc",
        overhead={"podFixed": {"cpu": "250m"}},
        scheduling={"nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]},
    )
    admission = chain(World(sandboxed), "RuntimeClass")
    asked = pod(runtimeClassName="sandboxed", nodeSelector={"zone": "a"}, overhead={"cpu": "0.25"})
    spec = admitted(admission, attributes("pods", asked))["spec"]
    assert spec["overhead"] == {"cpu": "250m"}
    assert spec["nodeSelector"] == {"zone": "a", "sandbox": "yes"}
    assert spec["tolerations"] == [{"key": "sandbox", "operator": "Exists"}]
    for wrong, words in (
        ({"runtimeClassName": "gone"}, 'pod rejected: RuntimeClass "gone" not found'),
        ({"runtimeClassName": "sandboxed", "overhead": {"cpu": "1"}}, "Overhead doesn't match RuntimeClass's defined"),
        ({"overhead": {"cpu": "1"}}, "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (
            {"runtimeClassName": "sandboxed", "nodeSelector": {"sandbox": "no"}},
            "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no",
        ),
    ):
        with pytest.raises(StatusError) as refused:
            admitted(admission, attributes("pods", pod(**wrong)))
        assert words in refused.value.message


def test_images_are_always_pulled_when_the_plugin_is_on() -> None:
    asked = pod(containers=[{"name": "c", "image": "i", "imagePullPolicy": "Never"}])
    found = admitted(chain(World(), "AlwaysPullImages"), attributes("pods", asked))
    assert found["spec"]["containers"][0]["imagePullPolicy"] == "Always"


ACCOUNT = obj("v1", "ServiceAccount", "default", "d", imagePullSecrets=[{"name": "registry"}])
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_every_container_has_the_token_where_clients_look() -> None:
    containers = [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKENS}]}]
    asked = pod(containers=containers, initContainers=[{"name": "i"}], volumes=[{"name": "own", "emptyDir": {}}])
    spec = admitted(chain(World(ACCOUNT), "ServiceAccount"), attributes("pods", asked))["spec"]
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("default", [{"name": "registry"}])
    own, tokens = spec["volumes"]
    assert own == {"name": "own", "emptyDir": {}}
    assert tokens["name"].startswith("kube-api-access-")
    mount = {"name": tokens["name"], "readOnly": True, "mountPath": TOKENS}
    assert spec["containers"][0]["volumeMounts"] == spec["initContainers"][0]["volumeMounts"] == [mount]
    assert spec["containers"][1]["volumeMounts"] == [{"name": "own", "mountPath": TOKENS}]
    assert [next(iter(one)) for one in tokens["projected"]["sources"]] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    assert tokens["projected"]["sources"][0]["serviceAccountToken"] == {"expirationSeconds": 3607, "path": "token"}


@pytest.mark.parametrize(
    ("account", "asked", "mounted"),
    [(None, None, True), (False, None, False), (False, True, True), (True, False, False), (None, False, False)],
)
def test_who_wants_no_token_gets_none(account: bool | None, asked: bool | None, mounted: bool) -> None:
    def said(value: bool | None) -> Obj:
        return {} if value is None else {"automountServiceAccountToken": value}

    world = World(obj("v1", "ServiceAccount", "default", "d", **said(account)))
    spec = admitted(chain(world, "ServiceAccount"), attributes("pods", pod(**said(asked))))["spec"]
    assert ("volumes" in spec) is mounted
    assert ("volumeMounts" in spec["containers"][0]) is mounted


def test_a_missing_account_is_named() -> None:
    with pytest.raises(StatusError) as refused:
        admitted(chain(World(), "ServiceAccount", patience=0.0), attributes("pods", pod(serviceAccountName="who")))
    assert refused.value.message == (
        'pods "p" is forbidden: error looking up service account d/who: serviceaccount "who" not found'
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"serviceAccountName": "default"}, "a mirror pod may not reference service accounts"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "a mirror pod may not reference secrets"),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
            "a mirror pod may not use ServiceAccount volume projections",
        ),
    ],
)
def test_mirror_pods(spec: Obj, words: str) -> None:
    mirror = pod(**spec)
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    with pytest.raises(StatusError, match=words):
        admitted(chain(World(ACCOUNT), "ServiceAccount"), attributes("pods", mirror))


def test_an_account_may_limit_the_secrets_of_its_pods() -> None:
    annotated = {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}
    account = obj("v1", "ServiceAccount", "default", "d", metadata=annotated, secrets=[{"name": "mine"}])
    admission = chain(World(account), "ServiceAccount")
    admitted(admission, attributes("pods", pod(volumes=[{"name": "v", "secret": {"secretName": "mine"}}])))
    env = [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "k"}}}]
    tail = "is not allowed because service account default does not reference that"
    for spec, words in (
        ({"volumes": [{"name": "v", "secret": {"secretName": "theirs"}}]}, f'secret.secretName="theirs" {tail} secret'),
        (
            {"containers": [{"name": "c", "env": env}]},
            f'container c with envVar E referencing secret.secretName="theirs" {tail} secret',
        ),
        ({"imagePullSecrets": [{"name": "theirs"}]}, f'imagePullSecrets[0].name="theirs" {tail} imagePullSecret'),
    ):
        with pytest.raises(StatusError) as refused:
            admitted(admission, attributes("pods", pod(**spec)))
        assert words in refused.value.message


def test_a_bound_pod_knows_its_zone() -> None:
    world = World(obj("v1", "Node", "n", metadata={"labels": {"topology.kubernetes.io/zone": "z", "other": "o"}}))
    asked = attributes("pods", pod(nodeName="n"), pod(), subresource="binding")
    found = admitted(chain(world, "PodTopologyLabels"), asked)
    assert found["metadata"]["labels"] == {"topology.kubernetes.io/zone": "z"}
