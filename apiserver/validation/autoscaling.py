"""HorizontalPodAutoscalers (both versions) and PodDisruptionBudgets: how many pods there may be."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import Found, Json, Path, Rule, Rules, at_least, between, one_of, written
from apiserver.validation.workloads import whole_or_percent

_SOURCES: Final = {"ContainerResource": "containerResource", "External": "external", "Object": "object",
                   "Pods": "pods", "Resource": "resource"}  # fmt: skip
_WINDOW: Final = 3600
_PERIOD: Final = 1800


def autoscaler(spec: Json, path: Path, found: Found) -> None:
    low, high = spec.get("minReplicas"), spec.get("maxReplicas", 0)
    if low is not None and low < 1:
        found.invalid((path, "minReplicas"), low, "must be greater than or equal to 1")
    if high < 1:
        found.invalid((path, "maxReplicas"), high, "must be greater than 0")
    if low is not None and high < low:
        found.invalid((path, "maxReplicas"), high, "must be greater than or equal to `minReplicas`")
    target = spec.get("scaleTargetRef", {})
    for field in ("kind", "name"):
        value = target.get(field)
        here = ((path, "scaleTargetRef"), field)
        if not value:
            found.required(here)
            continue
        for text in names.path_segment(value):
            found.invalid(here, value, text)


def _metric(one: Json, path: Path, found: Found) -> None:
    kind = one.get("type", "")
    if not kind:
        found.required((path, "type"), "must specify a metric source type")
        return
    if kind not in _SOURCES:
        found.unsupported((path, "type"), kind, _SOURCES)
    given = [field for field in _SOURCES.values() if field in one]
    if not given:
        found.required(path, "must specify a metric source type")
    wanted = _SOURCES.get(kind)
    for field in given:
        if wanted and field != wanted:
            found.forbidden((path, field), "must populate the given metric source only")
    if wanted and wanted not in one:
        found.required((path, wanted), f"must populate information for the given metric source type ({kind})")


def _target(one: Json, path: Path, found: Found) -> None:
    kind = one.get("type", "")
    if not kind:
        found.required((path, "type"), "must specify a metric target type")
    elif kind not in ("AverageValue", "Utilization", "Value"):
        found.invalid((path, "type"), kind, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if field in one and parsed(one[field]) <= 0:
            found.invalid((path, field), one[field], "must be positive")
    if "averageUtilization" in one and one["averageUtilization"] < 1:
        found.invalid((path, "averageUtilization"), one["averageUtilization"], "must be greater than 0")


def _either(one: Json, path: Path, found: Found) -> None:
    target = one.get("target", {})
    here = (path, "target")
    if "averageUtilization" not in target and "averageValue" not in target:
        detail = "must set either a target raw value or a target utilization"
        found.required((here, "averageUtilization"), detail)
    elif "averageUtilization" in target and "averageValue" in target:
        detail = "may not set both a target raw value and a target utilization"
        found.forbidden((here, "averageValue"), detail)


def _positive_average(one: Json, path: Path, found: Found) -> None:
    if "averageValue" not in one.get("target", {}):
        found.required(((path, "target"), "averageValue"), "must specify a positive target averageValue")


def _value_or_average(one: Json, path: Path, found: Found) -> None:
    target, here = one.get("target", {}), (path, "target")
    if "value" not in target and "averageValue" not in target:
        found.required((here, "averageValue"), "must set either a target value for metric or a per-pod target")
    elif "value" in target and "averageValue" in target:
        found.forbidden((here, "value"), "may not set both a target value for metric and a per-pod target")


def _rules(one: Json, path: Path, found: Found) -> None:
    window = one.get("stabilizationWindowSeconds")
    if window is not None and window < 0:
        found.invalid((path, "stabilizationWindowSeconds"), window, "must be greater than or equal to zero")
    elif window is not None and window > _WINDOW:
        found.invalid((path, "stabilizationWindowSeconds"), window, f"must be less than or equal to {_WINDOW}")
    if not one.get("policies"):
        found.required((path, "policies"), "must specify at least one Policy")


def _policy(one: Json, path: Path, found: Found) -> None:
    if one.get("value", 0) <= 0:
        found.invalid((path, "value"), one.get("value", 0), "must be greater than zero")
    period = one.get("periodSeconds", 0)
    if period <= 0:
        found.invalid((path, "periodSeconds"), period, "must be greater than zero")
    elif period > _PERIOD:
        found.invalid((path, "periodSeconds"), period, f"must be less than or equal to {_PERIOD}")


def budget(spec: Json, path: Path, found: Found) -> None:
    if "minAvailable" in spec and "maxUnavailable" in spec:
        found.invalid(path, spec, "minAvailable and maxUnavailable cannot be both set")


def _part(value: Any, path: Path, found: Found) -> None:
    whole_or_percent(value, path, found)
    if isinstance(value, str) and not names.percent(value) and int(value[:-1]) > 100:
        found.invalid(path, value, "must not be greater than 100%")


RULES: Final[Rules] = {
    "autoscaling.v2.HorizontalPodAutoscaler": Rule(required=("spec",)),
    "autoscaling.v2.HorizontalPodAutoscalerSpec": Rule(checks=(autoscaler,)),
    "autoscaling.v1.HorizontalPodAutoscaler": Rule(required=("spec",)),
    "autoscaling.v1.HorizontalPodAutoscalerSpec": Rule(
        {"targetCPUUtilizationPercentage": at_least(1)}, checks=(autoscaler,)
    ),
    "autoscaling.v2.MetricSpec": Rule(checks=(_metric,)),
    "autoscaling.v2.MetricTarget": Rule(checks=(_target,)),
    "autoscaling.v2.ResourceMetricSource": Rule(required=("name",), checks=(_either,)),
    "autoscaling.v2.ContainerResourceMetricSource": Rule(required=("name", "container"), checks=(_either,)),
    "autoscaling.v2.PodsMetricSource": Rule(checks=(_positive_average,)),
    "autoscaling.v2.ObjectMetricSource": Rule(checks=(_value_or_average,)),
    "autoscaling.v2.ExternalMetricSource": Rule(checks=(_value_or_average,)),
    "autoscaling.v2.MetricIdentifier": Rule({"name": written(names.path_segment)}, ("name",)),
    "autoscaling.v2.HPAScalingRules": Rule({"selectPolicy": one_of("Disabled", "Max", "Min")}, checks=(_rules,)),
    "autoscaling.v2.HPAScalingPolicy": Rule({"type": one_of("Percent", "Pods")}, ("type",), (_policy,)),
    "policy.v1.PodDisruptionBudgetSpec": Rule(
        {
            "minAvailable": _part,
            "maxUnavailable": _part,
            "unhealthyPodEvictionPolicy": one_of("AlwaysAllow", "IfHealthyBudget"),
        },
        checks=(budget,),
    ),
    "policy.v1.PodDisruptionBudgetStatus": Rule(
        {
            name: between(0, 2**31 - 1)
            for name in ("currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed")
        }
    ),
}
