"""Manifests to pods: identity, defaults, and what is refused in which words."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.errors import Invalid
from kubelet.observe.static import StaticPod, fnv128a, pull_policy, static_pod, uid_of

SEEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATH = "/etc/kubernetes/manifests/web.yaml"


def document(**spec: Any) -> dict[str, Any]:
    body = {"containers": [{"name": "a", "image": "nginx"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": body}


def made(found: Any, node: str = "Node1", source: str = "file") -> StaticPod:
    return static_pod(found, node, PATH, source, SEEN)


@pytest.mark.parametrize(
    ("text", "digest"),
    [(b"", "6c62272e07bb014262b821756295c58d"), (b"a", "d228cb696f1a8caf78912b704e4a8964")],
)
def test_fnv128a_is_the_published_function(text: bytes, digest: str) -> None:
    assert fnv128a(text) == digest


def test_identity_is_upstreams() -> None:
    one = made(document())
    meta = one.pod.metadata
    assert (meta.name, meta.namespace, one.pod.spec.node_name) == ("web-node1", "default", "Node1")
    assert len(meta.uid) == 32
    assert meta.annotations == {
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.hash": meta.uid,
        "kubernetes.io/config.seen": "2026-01-02T03:04:05Z",
    }
    assert one.pod.status.phase == "Pending"
    assert [(t.operator, t.effect) for t in one.pod.spec.tolerations] == [("Exists", "NoExecute")]
    assert one.body["metadata"]["annotations"]["kubernetes.io/config.mirror"] == meta.uid
    assert "uid" not in one.body["metadata"]


def test_the_uid_follows_content_node_and_place() -> None:
    uids = {
        made(document()).pod.metadata.uid,
        made(document(hostNetwork=True)).pod.metadata.uid,
        made(document(), node="other").pod.metadata.uid,
        static_pod(document(), "Node1", "/elsewhere.yaml", "file", SEEN).pod.metadata.uid,
        static_pod(document(), "Node1", "http://x/", "http", SEEN).pod.metadata.uid,
    }
    assert len(uids) == 5
    later = static_pod(document(), "Node1", PATH, "file", datetime(2027, 1, 1, tzinfo=UTC))
    assert later.pod.metadata.uid in uids


@given(st.permutations(["apiVersion", "kind", "metadata", "spec"]))
def test_the_order_of_keys_is_no_content(order: list[str]) -> None:
    plain = document()
    assert uid_of({key: plain[key] for key in order}, "n", PATH) == uid_of(plain, "n", PATH)


def test_a_uid_that_was_given_is_kept() -> None:
    given_uid = document()
    given_uid["metadata"]["uid"] = "my-own"
    assert made(given_uid).pod.metadata.uid == "my-own"


def test_defaults_that_one_field_takes_from_another() -> None:
    one = made(
        document(
            hostNetwork=True,
            containers=[
                {
                    "name": "a",
                    "image": "k8s.gcr.io:5000/app",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"cpu": 0.5}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                    "env": None,
                }
            ],
        )
    )
    (container,) = one.pod.spec.containers
    assert container.image_pull_policy == "Always"
    assert container.ports[0].host_port == 80
    assert container.ports[0].protocol == "TCP"
    assert container.resources.requests == {"cpu": "0.5", "memory": "1Gi"}
    assert container.resources.limits == {"cpu": "2", "memory": "1Gi"}
    assert container.liveness_probe is not None
    assert container.liveness_probe.http_get is not None
    assert (container.liveness_probe.period_seconds, container.liveness_probe.http_get.path) == (10, "/")
    assert one.pod.spec.termination_grace_period_seconds == 30
    assert one.pod.spec.restart_policy == "Always"
    # the mirror says what the author wrote: the API server has defaults of its own
    assert "imagePullPolicy" not in one.body["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("host:5000/nginx", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:" + "a" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "found a NoneType: write one Pod"),
        ([], "found a list: write one Pod"),
        ({"apiVersion": "apps/v1", "kind": "Deployment"}, "found kind 'Deployment': write one Pod"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}, "spec: required"),
        (document(containers=[]), "spec.containers: at least one is required"),
        (document(containers="x"), "spec.containers: expected array, got str"),
        (document(containers=[{"name": "a"}]), "spec.containers[0].image: ''"),
        (document(containers=[{"name": "A b", "image": "x"}]), "spec.containers[0].name: 'A b'"),
        (document(containers=[{"name": "a", "image": "x"}] * 2), "spec.containers[1].name: 'a' is there twice"),
        (document(restartPolicy="Sometimes"), "spec.restartPolicy: 'Sometimes': write Always, OnFailure or Never"),
        (document(serviceAccountName="x"), "spec.serviceAccountName: static pods may not refer"),
        (document(volumes=[{"name": "v", "secret": {"secretName": "x"}}]), "spec.volumes[0] (v): static pods may not"),
        (
            document(containers=[{"name": "a", "image": "x", "ports": [{"containerPort": "80"}]}]),
            "spec.containers[0].ports[0].containerPort: expected int, got str",
        ),
        (
            document(containers=[{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
            "spec.containers[0].volumeMounts[0].name: 'v': there is no such volume",
        ),
        (
            document(containers=[{"name": "a", "image": "x", "resources": {"limits": {"cpu": "much"}}}]),
            "spec.containers[0].resources.limits.cpu: 'much' is no quantity",
        ),
        (
            document(containers=[{"name": "a", "image": "x", "envFrom": [{"configMapRef": {"name": "c"}}]}]),
            "spec.containers[0].envFrom[0]: static pods may not refer",
        ),
    ],
)
def test_what_is_wrong_is_named(found: Any, words: str) -> None:
    with pytest.raises(Invalid) as error:
        made(found)
    assert str(error.value).startswith(words)


def container(**fields: Any) -> dict[str, Any]:
    return document(containers=[{"name": "a", "image": "nginx", **fields}])


def probe(**numbers: int) -> dict[str, Any]:
    return {"tcpSocket": {"port": 1}, **numbers}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            document(activeDeadlineSeconds=999999999999),
            "spec.activeDeadlineSeconds: 999999999999: from 1 to 2147483647",
        ),
        (document(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds: 0: from 1"),
        (document(terminationGracePeriodSeconds=-5), "spec.terminationGracePeriodSeconds: -5: from 0"),
        (
            document(volumes=[{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "foo"}}]),
            "spec.volumes[0].emptyDir.sizeLimit: 'foo' is no quantity",
        ),
        (document(resources={"limits": {"cpu": "x"}}), "spec.resources.limits.cpu: 'x' is no quantity"),
        (
            container(
                env=[{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "y"}}}]
            ),
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: 'y' is no quantity",
        ),
        (
            container(livenessProbe=probe(periodSeconds=-1)),
            "spec.containers[0].livenessProbe.periodSeconds: -1: from 1",
        ),
        (
            container(readinessProbe=probe(failureThreshold=-1)),
            "spec.containers[0].readinessProbe.failureThreshold: -1",
        ),
        (
            container(startupProbe=probe(initialDelaySeconds=-1)),
            "spec.containers[0].startupProbe.initialDelaySeconds: -1",
        ),
    ],
)
def test_numbers_and_quantities_that_an_api_refuses(found: Any, words: str) -> None:
    with pytest.raises(Invalid) as error:
        made(found)
    assert str(error.value).startswith(words)


def test_a_probes_zero_is_the_default() -> None:
    zeros = dict.fromkeys(("timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"), 0)
    (made_of,) = made(container(livenessProbe=probe(**zeros, initialDelaySeconds=0))).pod.spec.containers
    assert made_of.liveness_probe == msgspec.convert(probe(), type(made_of.liveness_probe))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "image", "containers", "volumes", "resources", "limits", "emptyDir", "sizeLimit", "env", "ports", "x"]
    ), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(_JSON, _JSON)
def test_no_document_is_more_than_invalid(metadata: Any, spec: Any) -> None:
    """Whatever a file holds, it is a pod that can be said, or one error in words."""
    with suppress(Invalid):
        assert msgspec.json.encode(made({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).body)
