"""Subresources: the parts of an object that have verbs of their own. Functions of values; `http.verbs` calls them.

Upstream: pkg/registry/core/pod/storage (binding, eviction), pkg/registry/apps/*/storage (scale),
pkg/registry/core/namespace/storage (finalize).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from apiserver import errors
from apiserver.managed import scale
from apiserver.pipeline import Obj, Target, rfc3339
from apiserver.schema import GVK

SCALE: Final = GVK("autoscaling", "v1", "Scale")
BINDING: Final = GVK("", "v1", "Binding")
EVICTION: Final = GVK("policy", "v1", "Eviction")
_OPERATORS: Final = {"In": "in", "NotIn": "notin"}


def scale_of(obj: Obj) -> Obj:
    """The autoscaling/v1 Scale of what has replicas."""
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Obj = {"replicas": obj.get("status", {}).get("replicas", 0)}
    given = obj["spec"].get("selector") or {}
    if selector := selector_text({"matchLabels": given} if obj["kind"] == "ReplicationController" else given):
        status["selector"] = selector
    metadata = {key: obj["metadata"][key] for key in kept if key in obj["metadata"]}
    if owners := scale.shown(obj["metadata"].get("managedFields")):
        metadata["managedFields"] = owners
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
        "status": status,
    }


def scaled(obj: Obj, scale: Obj) -> Obj:
    """`obj` with the replicas (and the pinned version) that `scale` asks for; raises 422."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if replicas < 0:
        cause = errors.cause("spec.replicas", errors.INVALID, replicas, "must be greater than or equal to 0")
        raise errors.invalid("autoscaling", "Scale", obj["metadata"]["name"], [cause])
    metadata = dict(obj["metadata"])
    for key in ("uid", "resourceVersion"):
        if asked := scale.get("metadata", {}).get(key):
            metadata[key] = asked
    return obj | {"metadata": metadata, "spec": obj["spec"] | {"replicas": replicas}}


def selector_text(selector: Obj) -> str:
    """A LabelSelector as the query string would spell it."""
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one["key"], one["operator"], ",".join(sorted(one.get("values") or ()))
        match operator:
            case "Exists":
                terms.append(key)
            case "DoesNotExist":
                terms.append(f"!{key}")
            case _:
                terms.append(f"{key} {_OPERATORS.get(operator, operator)} ({values})")
    return ",".join(terms)


def bound(pod: Obj, binding: Obj, target: Target, moment: datetime) -> Obj:
    """The pod assigned to the binding's node; raises 409 when it may not be, 422 when the binding names no node."""
    node = (binding.get("target") or {}).get("name")
    kind = (binding.get("target") or {}).get("kind", "")
    causes = [] if node else [errors.required("target.name")]
    if kind not in ("", "Node"):
        causes.append(errors.not_supported("target.kind", kind, ("Node", "<empty>")))
    if causes:
        raise errors.invalid("", "Binding", target.name, causes)
    metadata, spec = pod["metadata"], pod["spec"]
    uid = (binding.get("metadata") or {}).get("uid")
    if uid and uid != metadata["uid"]:
        raise target.conflict(f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}")
    if metadata.get("deletionTimestamp"):
        raise target.conflict(f"pod {target.name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        raise target.conflict(f'pod {target.name} is already assigned to node "{spec["nodeName"]}"')
    if spec.get("schedulingGates"):
        raise target.conflict(f"pod {target.name} has non-empty .spec.schedulingGates")
    annotations = (metadata.get("annotations") or {}) | ((binding.get("metadata") or {}).get("annotations") or {})
    labels = (metadata.get("labels") or {}) | ((binding.get("metadata") or {}).get("labels") or {})
    status = dict(pod.get("status") or {})
    status["conditions"] = _scheduled(status.get("conditions") or [], rfc3339(moment))
    return pod | {
        "metadata": metadata | _given(annotations=annotations, labels=labels),
        "spec": spec | {"nodeName": node},
        "status": status,
    }


def _given(**maps: Obj) -> Obj:
    return {key: value for key, value in maps.items() if value}


def _scheduled(conditions: list[Obj], moment: str) -> list[Obj]:
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": moment}
    return [one for one in conditions if one.get("type") != "PodScheduled"] + [condition]


def finalized(namespace: Obj, asked: Obj) -> Obj:
    """PUT finalize replaces spec.finalizers and nothing else."""
    finalizers = (asked.get("spec") or {}).get("finalizers") or []
    spec = {key: value for key, value in namespace.get("spec", {}).items() if key != "finalizers"}
    return namespace | {"spec": spec | ({"finalizers": finalizers} if finalizers else {})}


def success(code: int = 201, details: dict[str, Any] | None = None) -> dict[str, Any]:
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return status | ({"code": code} if code != 200 else {})
