"""Defaults of Deployments and ReplicaSets (pkg/apis/apps/v1/defaults.go)."""

from typing import Any

from apiserver.defaults import pods

Json = dict[str, Any]


def deployment(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def replica_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    spec.setdefault("replicas", 1)


def _template(spec: Json) -> None:
    template = spec.setdefault("template", {})
    pods.pod_spec(template.setdefault("spec", {}))
