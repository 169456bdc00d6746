"""Deployments, ReplicaSets and the Scale of either as rows."""

from datetime import datetime
from typing import Any

from apiserver.printers import text

Json = dict[str, Any]


def deployment(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [
        text.name(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        text.age(obj, now),
        *_template(obj),
        text.selector(spec.get("selector", {})),
    ]


def replica_set(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [
        text.name(obj),
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        text.age(obj, now),
        *_template(obj),
        text.selector(spec.get("selector", {})),
    ]


def _template(obj: Json) -> list[str]:
    """Names and images of the template's containers."""
    containers = obj.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    return [",".join(one.get(field, "") for one in containers) for field in ("name", "image")]


def scale(obj: Json, now: datetime) -> list[Any]:
    desired, available = obj.get("spec", {}).get("replicas", 0), obj.get("status", {}).get("replicas", 0)
    return [text.name(obj), desired, available, text.age(obj, now)]
