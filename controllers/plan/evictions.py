"""NoExecute taints: who must go, and when.

A pod stays while each NoExecute taint of its node is tolerated, for as long as the shortest tolerationSeconds among the
tolerations that match it allows. The time counts from the taint's timeAdded (or from when the pod came, if that was later),
both of which are in the API: a restarted controller evicts at the very same moment.
Upstream: kubernetes/pkg/controller/tainteviction.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from controllers.model import Action, Amend, Delete, Tell
from controllers.plan.pods import condition
from kube.core import Taint
from kube.events import Reference
from kube.meta import timestamp
from kube.pods import Pod
from kube.resources import PODS
from kube.taints import tolerates


def deadline(pod: Pod, taints: Sequence[Taint], now: datetime) -> datetime | None:
    """When the pod must go; None when it may stay."""
    moments = []
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        matching = [t for t in pod.spec.tolerations if tolerates(t, taint)]
        since = max(filter(None, (taint.time_added, _arrived(pod))), default=now)
        if not matching:
            moments.append(since)
        seconds = [t.toleration_seconds for t in matching if t.toleration_seconds is not None]
        if seconds:
            moments.append(since + timedelta(seconds=max(0, min(seconds))))
    return min(moments, default=None)


def _arrived(pod: Pod) -> datetime | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled and scheduled.status == "True" and scheduled.last_transition_time:
        return scheduled.last_transition_time
    return pod.metadata.creation_timestamp


def evict(pod: Pod, now: datetime) -> tuple[Action, ...]:
    meta = pod.metadata
    return (
        Tell(Reference.of(pod, kind="Pod"), "Normal", "TaintManagerEviction", f"Marking for deletion Pod {meta.key}"),
        disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now),
        Delete(PODS, meta.namespace, meta.name, meta.uid),
    )


def disrupted(pod: Pod, reason: str, message: str, now: datetime, phase: str = "") -> Amend:
    """The pod's own record of why it was ended (condition DisruptionTarget)."""
    words = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    status: dict[str, object] = {"conditions": [{**words, "lastTransitionTime": timestamp(now)}]}
    if phase:
        status["phase"] = phase
    body = {"metadata": {"uid": pod.metadata.uid}, "status": status}
    return Amend(PODS, pod.metadata.namespace, pod.metadata.name, body, kind="strategic", subresource="status")
