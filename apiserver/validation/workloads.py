"""Deployments and ReplicaSets (pkg/apis/apps/validation/validation.go), and the Scale that stands for either."""

from collections.abc import Iterator
from typing import Any

import msgspec

from apiserver.errors import FORBIDDEN, INVALID, Cause, cause, not_supported, required
from apiserver.validation import meta, names, pods
from kube.meta import LabelSelector
from kube.selectors import from_label_selector

Json = dict[str, Any]


def deployment(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    yield from _numbers(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"))
    yield from _selector(spec, "deployment")
    yield from _template(spec)
    yield from _strategy(spec.get("strategy", {}), "spec.strategy")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= spec.get("minReadySeconds", 0):
        yield cause("spec.progressDeadlineSeconds", INVALID, deadline, "must be greater than minReadySeconds")


def replica_set(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    yield from _numbers(spec, ("replicas", "minReadySeconds"))
    yield from _selector(spec, "deployment")
    yield from _template(spec)


def selector_update(new: Json, old: Json) -> Iterator[Cause]:
    """Once made, an owner keeps looking for the same pods."""
    selector = new["spec"].get("selector", {})
    if selector != old["spec"].get("selector", {}):
        yield cause("spec.selector", INVALID, selector, names.IMMUTABLE)


def scale(obj: Json) -> Iterator[Cause]:
    yield from _numbers(obj.get("spec", {}), ("replicas",))


def _numbers(spec: Json, fields: tuple[str, ...]) -> Iterator[Cause]:
    for field in fields:
        if spec.get(field, 0) < 0:
            yield cause(f"spec.{field}", INVALID, spec[field], names.NEGATIVE)


def _selector(spec: Json, what: str) -> Iterator[Cause]:
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
        return
    found = list(meta.label_selector(selector, "spec.selector"))
    yield from found
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield cause("spec.selector", INVALID, selector, f"empty selector is invalid for {what}")
    elif not found:
        labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
        if not _matches(selector, labels):
            detail = "`selector` does not match template `labels`"
            yield cause("spec.template.metadata.labels", INVALID, labels, detail)


def _matches(selector: Json, labels: dict[str, str]) -> bool:
    return from_label_selector(msgspec.convert(selector, LabelSelector)).matches(labels)


def _template(spec: Json) -> Iterator[Cause]:
    path = "spec.template"
    template = spec.get("template", {})
    yield from pods.template(template, path)
    inner = template.get("spec", {})
    if inner.get("restartPolicy") in {"Never", "OnFailure"}:
        yield not_supported(f"{path}.spec.restartPolicy", inner["restartPolicy"], ("Always",))
    if inner.get("activeDeadlineSeconds") is not None:
        detail = "activeDeadlineSeconds in ReplicaSet is not Supported"
        yield cause(f"{path}.spec.activeDeadlineSeconds", FORBIDDEN, detail=detail)


def _strategy(strategy: Json, path: str) -> Iterator[Cause]:
    match strategy.get("type", ""):
        case "Recreate":
            if "rollingUpdate" in strategy:
                detail = "may not be specified when strategy `type` is 'Recreate'"
                yield cause(f"{path}.rollingUpdate", FORBIDDEN, detail=detail)
        case "RollingUpdate":
            yield from _rolling(strategy.get("rollingUpdate", {}), f"{path}.rollingUpdate")
        case other:
            yield not_supported(f"{path}.type", other, ("Recreate", "RollingUpdate"))


def _rolling(rolling: Json, path: str) -> Iterator[Cause]:
    for field in ("maxUnavailable", "maxSurge"):
        value = rolling.get(field, 0)
        if isinstance(value, str):
            for text in names.percent(value):
                yield cause(f"{path}.{field}", INVALID, value, text)
        elif value < 0:
            yield cause(f"{path}.{field}", INVALID, value, names.NEGATIVE)
    unavailable = rolling.get("maxUnavailable", 0)
    if isinstance(unavailable, str) and not names.percent(unavailable) and int(unavailable[:-1]) > 100:
        yield cause(f"{path}.maxUnavailable", INVALID, unavailable, "must not be greater than 100%")
    if unavailable in (0, "0%") and rolling.get("maxSurge", 0) in (0, "0%"):
        yield cause(f"{path}.maxUnavailable", INVALID, unavailable, "may not be 0 when `maxSurge` is 0")
