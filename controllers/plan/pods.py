"""What controllers ask of a pod: is it active, ready, available? (kubernetes/pkg/api/v1/pod and controller_utils.go)"""

from datetime import datetime, timedelta

from kube.meta import Condition, ObjectMeta, Typed
from kube.pods import Pod


def is_over(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    return not is_over(pod) and pod.metadata.deletion_timestamp is None


def condition(pod: Pod, kind: str) -> Condition | None:
    return next((c for c in pod.status.conditions if c.type == kind), None)


def is_ready(pod: Pod) -> bool:
    ready = condition(pod, "Ready")
    return ready is not None and ready.status == "True"


def available_in(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """0 when the pod is available, the seconds until it will be if it stays ready, None while it is not ready."""
    ready = condition(pod, "Ready")
    if ready is None or ready.status != "True":
        return None
    if not min_ready_seconds:
        return 0.0
    if ready.last_transition_time is None:
        return None
    return max(0.0, (ready.last_transition_time + timedelta(seconds=min_ready_seconds) - now).total_seconds())


def controls(owner: Typed, obj: Typed) -> bool:
    reference = obj.metadata.controller
    return reference is not None and reference.uid == owner.metadata.uid


def owner_reference(meta: ObjectMeta, api_version: str, kind: str) -> dict[str, object]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
