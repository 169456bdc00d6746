"""HorizontalPodAutoscaler: `autoscaling/v2` is stored, `autoscaling/v1` is what that says about CPU.

    v1                                     v2
    spec.targetCPUUtilizationPercentage    spec.metrics: Resource cpu, target averageUtilization
    status.currentCPUUtilizationPercentage status.currentMetrics: Resource cpu, current averageUtilization
    annotation .../metrics                 every other metric, in the older shape of MetricSpec
    annotation .../current-metrics         status.currentMetrics, all of them
    annotation .../behavior                spec.behavior
    annotation .../conditions              status.conditions

A v1 object without any metric means CPU at 80 %: v1's controller assumed it, v2 says it. An annotation that cannot be read
is dropped, as upstream does (pkg/apis/autoscaling/v1/conversion.go): it was ours to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from apiserver.codec import Mismatch, conform

Json = dict[str, Any]

_ALPHA: Final = "autoscaling.alpha.kubernetes.io/"
METRICS: Final = _ALPHA + "metrics"
CURRENT: Final = _ALPHA + "current-metrics"
BEHAVIOR: Final = _ALPHA + "behavior"
CONDITIONS: Final = _ALPHA + "conditions"
_OURS: Final = (METRICS, CURRENT, BEHAVIOR, CONDITIONS)
_V2: Final = "io.k8s.api.autoscaling.v2."
_ASSUMED_CPU: Final = 80


def to_v2(obj: Json) -> Json:
    """Inward: from autoscaling/v1."""
    metadata, spec, status = dict(obj.get("metadata") or {}), dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    annotations = dict(metadata.get("annotations") or {})
    percentage = spec.pop("targetCPUUtilizationPercentage", None)
    metrics = _read(annotations, METRICS, "MetricSpec", "target") or []
    if percentage is not None:
        metrics.append(_cpu("target", {"type": "Utilization", "averageUtilization": percentage}))
    spec["metrics"] = metrics or [_cpu("target", {"type": "Utilization", "averageUtilization": _ASSUMED_CPU})]
    if behavior := _read(annotations, BEHAVIOR, "HorizontalPodAutoscalerBehavior"):
        spec["behavior"] = behavior[0]
    current = status.pop("currentCPUUtilizationPercentage", None)
    if (seen := _read(annotations, CURRENT, "MetricStatus", "current")) is not None:
        status["currentMetrics"] = seen
    elif current is not None:
        status["currentMetrics"] = [_cpu("current", {"averageUtilization": current})]
    if (conditions := _read(annotations, CONDITIONS, "HorizontalPodAutoscalerCondition")) is not None:
        status["conditions"] = conditions
    return _put_together(obj, "autoscaling/v2", metadata, annotations, spec, status)


def from_v2(obj: Json) -> Json:
    """Outward: to autoscaling/v1."""
    metadata, spec, status = dict(obj.get("metadata") or {}), dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    annotations = dict(metadata.get("annotations") or {})
    others = []
    for one in spec.pop("metrics", None) or ():
        percentage = _cpu_percentage(one, "target")
        if percentage is None:
            others.append(_old(one, "target"))
        else:
            spec["targetCPUUtilizationPercentage"] = percentage
    current = status.pop("currentMetrics", None) or []
    for one in current:
        if (percentage := _cpu_percentage(one, "current")) is not None:
            status["currentCPUUtilizationPercentage"] = percentage
    written: dict[str, Any] = {
        METRICS: others,
        CURRENT: [_old(one, "current") for one in current],
        BEHAVIOR: spec.pop("behavior", None),
        CONDITIONS: status.pop("conditions", None),
    }
    for key, value in written.items():
        annotations.pop(key, None)
        if value:
            annotations[key] = orjson.dumps(value).decode()
    return _put_together(obj, "autoscaling/v1", metadata, annotations, spec, status)


def _put_together(obj: Json, api_version: str, metadata: Json, annotations: Json, spec: Json, status: Json) -> Json:
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    made = obj | {"apiVersion": api_version, "metadata": metadata}
    for key, value in (("spec", spec), ("status", status)):
        if value or key in obj:
            made[key] = value
    return made


def _read(annotations: Json, key: str, of: str, side: str = "") -> list[Json] | None:
    """Takes the annotation away and returns what it says, sound objects of that v2 type; None when it is missing or says
    something else. A behavior is written alone, the others as lists."""
    text = annotations.pop(key, None)
    if not isinstance(text, str):
        return None
    try:
        value = orjson.loads(text)
        items = [value] if key == BEHAVIOR else value
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            return None
        return [conform(_new(one, side) if side else one, _V2 + of)[0] for one in items]
    except (orjson.JSONDecodeError, Mismatch):
        return None


def _cpu(side: str, value: Json) -> Json:
    return {"type": "Resource", "resource": {"name": "cpu", side: value}}


def _cpu_percentage(metric: Json, side: str) -> int | None:
    resource = metric.get("resource") or {}
    if metric.get("type") != "Resource" or resource.get("name") != "cpu":
        return None
    percentage: int | None = (resource.get(side) or {}).get("averageUtilization")
    return percentage


# In v1 the figures of a source are its own fields, `targetAverageValue` and the like; v2 keeps them in `target` or `current`.
_FIGURES: Final[dict[str, dict[str, dict[str, str]]]] = {
    "target": {
        "object": {"value": "targetValue", "averageValue": "averageValue"},
        "pods": {"averageValue": "targetAverageValue"},
        "resource": {"averageUtilization": "targetAverageUtilization", "averageValue": "targetAverageValue"},
        "external": {"value": "targetValue", "averageValue": "targetAverageValue"},
    },
    "current": {
        "object": {"value": "currentValue", "averageValue": "averageValue"},
        "pods": {"averageValue": "currentAverageValue"},
        "resource": {"averageUtilization": "currentAverageUtilization", "averageValue": "currentAverageValue"},
        "external": {"value": "currentValue", "averageValue": "currentAverageValue"},
    },
}
for _side in _FIGURES.values():
    _side["containerResource"] = _side["resource"]
_TARGET_TYPES: Final = {"averageUtilization": "Utilization", "averageValue": "AverageValue", "value": "Value"}


def _sources(metric: Json, change: Callable[[str, Json], Json]) -> Json:
    return {key: change(key, value) if isinstance(value, dict) else value for key, value in metric.items()}


def _old(metric: Json, side: str) -> Json:
    def change(source: str, value: Json) -> Json:
        names = _FIGURES[side].get(source, {})
        old: Json = {}
        if "describedObject" in value:
            old["target"] = value["describedObject"]
        if metric_of := value.get("metric"):
            old["metricName"] = metric_of.get("name", "")
            if "selector" in metric_of:
                old["metricSelector" if source == "external" else "selector"] = metric_of["selector"]
        for name in ("name", "container"):
            if name in value:
                old[name] = value[name]
        figures = value.get(side) or {}
        if source == "object":  # a Go value there, not a pointer: always written
            old[names["value"]] = figures.get("value", "0")
        if source == "pods":
            old[names["averageValue"]] = figures.get("averageValue", "0")
        return old | {names[key]: figure for key, figure in figures.items() if key in names}

    return _sources(metric, change)


def _new(metric: Json, side: str) -> Json:
    def change(source: str, value: Json) -> Json:
        names = _FIGURES[side].get(source, {})
        figures: Json = {key: value[old] for key, old in names.items() if value.get(old) is not None}
        if source == "object" and "averageValue" in figures and figures.get("value") in ("0", 0):
            del figures["value"]
        if side == "target":
            kind = next((_TARGET_TYPES[key] for key in _TARGET_TYPES if key in figures), "Value")
            figures = {"type": kind} | figures
        new: Json = {name: value[name] for name in ("name", "container") if name in value}
        if "target" in value:
            new["describedObject"] = value["target"]
        if "metricName" in value:
            selector = value.get("metricSelector" if source == "external" else "selector")
            new["metric"] = {"name": value["metricName"]} | ({"selector": selector} if selector is not None else {})
        return new | {side: figures}

    return _sources(metric, change)
