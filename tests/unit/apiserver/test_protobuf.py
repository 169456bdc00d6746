"""Protobuf bodies: literal bytes as Go writes them, and round trips through a test-side writer."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import codec
from apiserver.codec import protobuf
from apiserver.codec.protobuf import MAGIC, Malformed, decode
from apiserver.errors import StatusError
from apiserver.schema import GVK
from tests.unit.apiserver.protobuf_writer import chunk, envelope

# kubectl create namespace demo, as kubectl 1.33 sends it: every field without a pointer is there, empty
NAMESPACE = bytes.fromhex(
    "6b387300"  # k8s\0
    "0a0f 0a02 7631 1209 4e616d657370616365"  # TypeMeta v1 Namespace
    "121c"
    "0a14 0a0464656d6f 1200 1a00 2200 2a00 3200 3800 4200"  # ObjectMeta: name demo, generateName "" ... creationTimestamp {}
    "1200 1a02 0a00"  # spec {}, status {phase ""}
    "1a00 2200".replace(" ", "")
)


def test_a_body_as_kubectl_sends_it() -> None:
    gvk, obj = decode(NAMESPACE, None)
    assert gvk == ("", "v1", "Namespace")
    metadata = {"name": "demo"}
    assert obj == {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "spec": {}, "status": {}}


def test_the_body_is_decoded_by_its_content_type() -> None:
    decoded = codec.decode_body(NAMESPACE, codec.PROTOBUF, GVK("", "v1", "Namespace"), "Strict")
    assert decoded.obj["metadata"] == {"name": "demo"}


def test_another_kind_than_expected_is_refused() -> None:
    with pytest.raises(StatusError) as caught:
        codec.decode_body(NAMESPACE, codec.PROTOBUF, GVK("", "v1", "Pod"))
    assert 'the kind in the data ("Namespace") does not match the expected kind ("Pod")' in caught.value.message


POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"a": "1", "b": ""}, "finalizers": ["x/y"]},
    "spec": {
        "volumes": [{"name": "v", "hostPath": {"path": "/v"}}, {"name": "e", "emptyDir": {}}],
        "containers": [
            {
                "name": "c",
                "image": "busybox",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3},
                "readinessProbe": {"tcpSocket": {"port": 8080}},
            }
        ],
        "terminationGracePeriodSeconds": 0,
        "hostNetwork": True,
    },
    "status": {},
}


def test_inlined_messages_maps_quantities_and_pointers_to_zero() -> None:
    assert decode(envelope(POD), None)[1] == POD


def test_values_and_pointers_differ() -> None:
    spec = {"replicas": 0, "minReadySeconds": 0, "selector": {"matchLabels": {"a": "b"}}}
    body = envelope({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    found = decode(body, None)[1]["spec"]
    assert found["replicas"] == 0  # a pointer to zero is a wish
    assert "minReadySeconds" not in found  # a plain zero is nothing
    assert found["template"] == {"metadata": {}, "spec": {}}


def test_delete_options_under_another_group_version() -> None:
    meta = chunk(1, b"apps/v1") + chunk(2, b"DeleteOptions")
    body = MAGIC + chunk(1, meta) + chunk(2, b"\x08\x00" + chunk(4, b"Background"))
    found = codec.decode_body(body, codec.PROTOBUF, GVK("", "v1", "DeleteOptions")).obj
    assert found["gracePeriodSeconds"] == 0
    assert found["propagationPolicy"] == "Background"


def test_an_envelope_without_a_kind_means_the_expected_one() -> None:
    body = MAGIC + chunk(2, chunk(1, chunk(1, b"n")))
    assert decode(body, GVK("", "v1", "ConfigMap")) == (
        ("", "v1", "ConfigMap"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}},
    )


def test_packed_numbers_and_unknown_fields() -> None:
    groups = chunk(7, chunk(4, b"\x01\x02\xac\x02"))  # PodSpec.securityContext... any field number
    name = "k8s.io.api.core.v1.ContainerRestartRuleOnExitCodes"
    into: dict[str, Any] = {}
    protobuf._read(name, chunk(2, b"\x01\x02\xac\x02") + groups + chunk(99, b"later"), into, 0)
    assert into["values"] == [1, 2, 300]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1, "1ns"), (1_500, "1.5µs"), (300_000_000, "300ms"), (1_500_000_000, "1.5s"), (90 * 10**9, "1m30s"),
     (3600 * 10**9, "1h0m0s"), (-(10**9), "-1s")],
)  # fmt: skip
def test_durations(nanoseconds: int, text: str) -> None:
    assert protobuf._duration({1: nanoseconds & (2**64 - 1)}) == text


def test_times() -> None:
    assert protobuf._time({}) is None
    assert protobuf._time({1: 1_767_323_045}) == "2026-01-02T03:04:05Z"
    assert protobuf._micro_time({1: 1_767_323_045, 2: 6_000}) == "2026-01-02T03:04:05.000006Z"


@pytest.mark.parametrize("cut", range(5, len(NAMESPACE) - 5))
def test_a_body_cut_short_is_refused_or_shorter(cut: int) -> None:
    with contextlib.suppress(Malformed):
        decode(NAMESPACE[:cut], None)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_malformed(data: bytes) -> None:
    meta = chunk(1, chunk(1, b"v1") + chunk(2, b"Pod"))
    with contextlib.suppress(Malformed):
        decode(MAGIC + meta + chunk(2, data), None)


def test_not_protobuf_at_all() -> None:
    with pytest.raises(StatusError) as caught:
        codec.decode_body(b"{}", codec.PROTOBUF, GVK("", "v1", "Pod"))
    assert "expected prefix [107 56 115 0]" in caught.value.message
