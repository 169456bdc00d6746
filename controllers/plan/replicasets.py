"""ReplicaSets: keep the number of pods.

    wanted = spec.replicas          active = ours, neither finished nor terminating
    active < wanted: create the difference, in batches that double while they succeed (1, 2, 4, ...)
    active > wanted: delete the difference, those first whose loss is felt least (`victims`)

Status counts what is there, not what was asked for. Upstream: kubernetes/pkg/controller/replicaset.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.model import Amend, Body
from controllers.plan.conditions import wire
from controllers.plan.pods import available_in, is_active, is_over, is_ready, owner_reference
from kube.apps import ReplicaSet, ReplicaSetStatus
from kube.meta import Condition
from kube.pods import Pod
from kube.resources import REPLICASETS
from kube.selectors import from_map

BURST = 500
"""At most this many creations or deletions in one pass."""

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "": 0, "Unknown": 1, "Running": 2}


def missing(replica_set: ReplicaSet, active: int) -> int:
    """How many pods to create; negative: to delete."""
    wanted = replica_set.spec.replicas if replica_set.spec.replicas is not None else 1
    return max(-BURST, min(BURST, wanted - active))


def batches(count: int) -> Iterable[int]:
    """1, 2, 4, ... adding up to `count`: a refusal (a quota, say) is met once, not `count` times."""
    size = 1
    while count > 0:
        yield min(size, count)
        count -= size
        size *= 2


def new_pod(replica_set: ReplicaSet) -> Body:
    """A pod of the template; every field of the template goes along."""
    template: dict[str, Any] = msgspec.json.decode(replica_set.spec.template)
    meta = template.get("metadata") or {}
    metadata = {
        "generateName": f"{replica_set.metadata.name[:242]}-",
        "ownerReferences": [owner_reference(replica_set.metadata, REPLICASETS.api_version, REPLICASETS.kind)],
    }
    for key in ("labels", "annotations", "finalizers"):
        if meta.get(key):
            metadata[key] = meta[key]
    return {"metadata": metadata, "spec": template.get("spec") or {}}


def victims(active: Sequence[Pod], count: int, related: Iterable[Pod], now: datetime) -> list[Pod]:
    """The `count` pods to delete. `related` are the active pods of the same Deployment, by which crowded nodes are known."""
    crowd = Counter(pod.spec.node_name for pod in related)
    return sorted(active, key=lambda pod: _rank(pod, crowd[pod.spec.node_name], now))[:count]


def _rank(pod: Pod, crowd: int, now: datetime) -> tuple[Any, ...]:
    """ActivePodsWithRanks: unassigned, pending, not ready, cheap, crowded, newly ready, often restarted, young ones first.
    Ages are compared by their magnitude only, so that not always the youngest node pays."""
    ready = next((c.last_transition_time for c in pod.status.conditions if c.type == "Ready"), None)
    return (
        bool(pod.spec.node_name),
        _PHASES.get(pod.status.phase, 2),
        is_ready(pod),
        _deletion_cost(pod),
        -crowd,
        _magnitude(ready, now) if is_ready(pod) else 0,
        -max((s.restart_count for s in pod.status.container_statuses), default=0),
        _magnitude(pod.metadata.creation_timestamp, now),
        pod.metadata.uid,
    )


def _deletion_cost(pod: Pod) -> int:
    text = pod.metadata.annotations.get(DELETION_COST, "0")
    return int(text) if text.removeprefix("-").isdigit() else 0


def _magnitude(since: datetime | None, now: datetime) -> int:
    seconds = (now - since).total_seconds() if since else 0.0
    return int(math.log2(seconds)) if seconds >= 1 else -1


def status(
    replica_set: ReplicaSet, pods: Sequence[Pod], failure: Condition | None, now: datetime
) -> tuple[ReplicaSetStatus, float | None]:
    """What the status should be, and in how many seconds time alone may change it (minReadySeconds)."""
    template = msgspec.json.decode(replica_set.spec.template)
    all_labels = from_map((template.get("metadata") or {}).get("labels") or {})
    active = [pod for pod in pods if is_active(pod)]
    waits = [available_in(pod, replica_set.spec.min_ready_seconds, now) for pod in active]
    wanted = ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=sum(all_labels.matches(pod.metadata.labels) for pod in active),
        ready_replicas=sum(is_ready(pod) for pod in active),
        available_replicas=waits.count(0.0),
        terminating_replicas=_terminating(replica_set, pods),
        observed_generation=replica_set.metadata.generation,
        conditions=_conditions(replica_set.status.conditions, failure),
    )
    return wanted, min((w for w in waits if w), default=None)


def _terminating(replica_set: ReplicaSet, pods: Sequence[Pod]) -> int | None:
    """A server that does not know the field yet never shows it; then zero is not worth a write."""
    count = sum(pod.metadata.deletion_timestamp is not None and not is_over(pod) for pod in pods)
    return count or (0 if replica_set.status.terminating_replicas is not None else None)


def _conditions(known: Sequence[Condition], failure: Condition | None) -> tuple[Condition, ...]:
    old = next((c for c in known if c.type == "ReplicaFailure"), None)
    others = tuple(c for c in known if c.type != "ReplicaFailure")
    if failure is None:
        return others
    if old and (old.status, old.reason) == (failure.status, failure.reason):
        return tuple(known)
    return (*others, failure)


def failed(reason: str, message: str, now: datetime) -> Condition:
    return Condition(type="ReplicaFailure", status="True", reason=reason, message=message, last_transition_time=now)


def status_patch(replica_set: ReplicaSet, wanted: ReplicaSetStatus) -> Amend | None:
    """None when the status says so already. Zeros are written out: in a merge patch what is left out stays."""
    if wanted == replica_set.status:
        return None
    body = {
        "replicas": wanted.replicas,
        "fullyLabeledReplicas": wanted.fully_labeled_replicas,
        "readyReplicas": wanted.ready_replicas,
        "availableReplicas": wanted.available_replicas,
        "terminatingReplicas": wanted.terminating_replicas,
        "observedGeneration": wanted.observed_generation,
        "conditions": wire(wanted.conditions) or None,
    }
    meta = replica_set.metadata
    return Amend(
        REPLICASETS, meta.namespace, meta.name, {"metadata": {"uid": meta.uid}, "status": body}, subresource="status"
    )
