"""Every field of every kind: read strictly without loss, from protobuf exactly as from JSON, and kept through the store."""

from typing import Any

import orjson
import pytest

from apiserver import codec, schema
from apiserver.cache import stamp, storage_bytes
from apiserver.conversion import PAIRS, autoscaling
from apiserver.schema import GVK
from tests.unit.apiserver import golden

PAIRS_OF_FILES = golden.load()
# Nobody publishes golden objects of these.
WITHOUT = {"CustomResourceDefinition"}


def test_every_served_kind_has_a_golden_object() -> None:
    kinds = {GVK.of(obj) for obj, _ in PAIRS_OF_FILES.values()}
    assert {one.gvk for one in schema.served()} - kinds == {GVK("apiextensions.k8s.io", "v1", kind) for kind in WITHOUT}


@pytest.mark.parametrize("name", PAIRS_OF_FILES)
def test_json_and_protobuf_are_the_same_object(name: str) -> None:
    obj, wire = PAIRS_OF_FILES[name]
    gvk = GVK.of(obj)
    assert codec.decode_body(orjson.dumps(obj), codec.JSON, gvk, "Strict").obj == obj
    assert codec.decode_body(wire, codec.PROTOBUF, gvk, "Strict").obj == obj
    if schema.resource_of(gvk):
        assert orjson.loads(stamp(storage_bytes(obj), 640)) == with_version(obj, "640")


def with_version(obj: dict[str, Any], version: str) -> dict[str, Any]:
    return obj | {"metadata": obj.get("metadata", {}) | {"resourceVersion": version}}


def named(address: tuple[str, str, str]) -> dict[str, Any]:
    info = schema.resource(*address)
    assert info is not None
    return next(obj for obj, _ in PAIRS_OF_FILES.values() if GVK.of(obj) == info.gvk)


@pytest.mark.parametrize("address", PAIRS)
def test_what_is_stored_as_another_version_comes_back(address: tuple[str, str, str]) -> None:
    pair, obj = PAIRS[address], named(address)
    stored = pair.inward(obj)
    assert GVK.of(stored) == GVK.of(named(pair.stored))
    assert codec.decode_body(orjson.dumps(stored), codec.JSON, GVK.of(stored), "Strict").obj == stored
    back = pair.outward(stored)
    back["metadata"]["annotations"].pop(autoscaling.CURRENT, None)  # the figures behind the percentage
    assert back == obj


def test_a_version_that_says_more_comes_back_from_one_that_says_less() -> None:
    pair, obj = PAIRS["events.k8s.io", "v1", "events"], named(("", "v1", "events"))
    assert pair.inward(pair.outward(obj)) == obj
    pair, obj = PAIRS["autoscaling", "v1", "horizontalpodautoscalers"], dict(HPA)
    shown = pair.outward(obj)
    assert codec.decode_body(orjson.dumps(shown), codec.JSON, GVK.of(shown), "Strict").obj == shown
    assert shown["spec"] == {
        "scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "maxReplicas": 3,
        "targetCPUUtilizationPercentage": 50,
    }
    assert pair.inward(shown) == obj


@pytest.mark.parametrize(
    "said", ['[{"type": 5}]', '[{"type":"Pods","pods":{"metricName":[]}}]', '["x"]', '{"type":"Pods"}']
)
def test_annotations_that_say_nonsense_say_nothing(said: str) -> None:
    obj = {
        "metadata": {"name": "h", "annotations": {autoscaling.METRICS: said, autoscaling.CONDITIONS: '[{"type": 5}]'}},
        "spec": {},
    }
    stored = autoscaling.to_v2(obj)
    assert len(stored["spec"]["metrics"]) == 1  # the assumed one
    assert "conditions" not in stored.get("status", {})


def test_no_metric_at_all_means_cpu_and_unreadable_annotations_mean_nothing() -> None:
    obj = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "annotations": {autoscaling.METRICS: "[", autoscaling.BEHAVIOR: "[]", "mine": "x"}},
        "spec": {"maxReplicas": 2},
    }
    stored = autoscaling.to_v2(obj)
    assert stored["metadata"]["annotations"] == {"mine": "x"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    assert stored["spec"] == {"maxReplicas": 2, "metrics": [{"type": "Resource", "resource": cpu}]}


HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "h"},
    "spec": {
        "scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "maxReplicas": 3,
        "metrics": [
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}},
                                      "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"},
                                          "target": {"type": "Value", "value": "7"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"},
                                          "target": {"type": "AverageValue", "averageValue": "8"}}},
            {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"c": "d"}}},
                                              "target": {"type": "Value", "value": "9"}}},
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                                          "target": {"type": "Utilization", "averageUtilization": 60}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
    },
    "status": {
        "desiredReplicas": 2,
        "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 44, "averageValue": "3m"}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "current": {"averageValue": "4"}}},
        ],
        "conditions": [{"type": "AbleToScale", "status": "True"}],
    },
}  # fmt: skip
