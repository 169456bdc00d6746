"""A Deployment's status: what is there, and whether it gets anywhere.

Conditions as upstream words them (kubernetes/pkg/controller/deployment/{progress,sync}.go): Available says whether the
promise `replicas - maxUnavailable` is kept; Progressing says that the rollout has moved, is complete, or has not moved for
progressDeadlineSeconds, counted from the condition's lastUpdateTime, so a restarted controller counts on.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from controllers.plan.rollout import Limits
from kube.apps import Deployment, DeploymentStatus, ReplicaSet
from kube.meta import Condition

FOREVER = 2**31 - 1
"""A progressDeadlineSeconds that means none (MaxInt32)."""


def of(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((c for c in conditions if c.type == kind), None)


def without(conditions: Sequence[Condition], kind: str) -> tuple[Condition, ...]:
    return tuple(c for c in conditions if c.type != kind)


def put(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """With `new` in place of its predecessor; same status and reason: nothing changes; same status: it keeps its time."""
    old = of(conditions, new.type)
    if old and (old.status, old.reason) == (new.status, new.reason):
        return tuple(conditions)
    if old and old.status == new.status:
        new = msgspec.structs.replace(new, last_transition_time=old.last_transition_time)
    return (*without(conditions, new.type), new)


def make(kind: str, status: str, reason: str, message: str, now: datetime) -> Condition:
    return msgspec.convert(
        {"type": kind, "status": status, "reason": reason, "message": message,
         "lastTransitionTime": now, "lastUpdateTime": now},
        Condition,
    )  # fmt: skip


def has_deadline(deployment: Deployment) -> bool:
    seconds = deployment.spec.progress_deadline_seconds
    return seconds is not None and seconds != FOREVER


def counted(
    deployment: Deployment, new: ReplicaSet | None, sets: Sequence[ReplicaSet], bounds: Limits, now: datetime
) -> DeploymentStatus:
    """The status without the Progressing condition's movement."""
    available = sum(s.status.available_replicas for s in sets)
    if available >= bounds.least:
        words = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        words = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    known = deployment.status
    terminating = [s.status.terminating_replicas for s in sets if s.status.terminating_replicas is not None]
    return DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=sum(s.status.replicas for s in sets),
        updated_replicas=new.status.replicas if new else 0,
        ready_replicas=sum(s.status.ready_replicas for s in sets),
        available_replicas=available,
        unavailable_replicas=max(0, sum(s.spec.replicas or 0 for s in sets) - available),
        terminating_replicas=sum(terminating) if terminating else None,
        collision_count=known.collision_count,
        conditions=put(known.conditions, make("Available", *words, now)),
    )


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    wanted = deployment.spec.replicas or 0
    return (
        status.updated_replicas == status.replicas == status.available_replicas == wanted
        and status.observed_generation >= deployment.metadata.generation
    )


def _has_moved(old: DeploymentStatus, new: DeploymentStatus) -> bool:
    return (
        new.updated_replicas > old.updated_replicas
        or new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        or new.ready_replicas > old.ready_replicas
        or new.available_replicas > old.available_replicas
    )


def deadline_left(deployment: Deployment, progressing: Condition | None, now: datetime) -> float | None:
    """Seconds until the rollout counts as stuck, 0 when it does; None when nothing is being waited for."""
    if progressing is None or not has_deadline(deployment) or progressing.reason == "NewReplicaSetAvailable":
        return None
    if progressing.reason == "ProgressDeadlineExceeded":
        return 0.0
    since = progressing.last_update_time or progressing.last_transition_time
    if since is None:
        return None
    limit = since + timedelta(seconds=deployment.spec.progress_deadline_seconds or 0)
    return max(0.0, (limit - now).total_seconds())


def rolled(deployment: Deployment, new: ReplicaSet | None, status: DeploymentStatus, now: datetime) -> DeploymentStatus:
    """`status` with the Progressing and ReplicaFailure conditions brought up to date."""
    conditions = status.conditions
    current = of(conditions, "Progressing")
    if not has_deadline(deployment):
        conditions = without(conditions, "Progressing")
    elif not (status.replicas == status.updated_replicas and current and current.reason == "NewReplicaSetAvailable"):
        name = f'ReplicaSet "{new.metadata.name}"' if new else f'Deployment "{deployment.metadata.name}"'
        if is_complete(deployment, status):
            text = f"{name} has successfully progressed."
            conditions = put(conditions, make("Progressing", "True", "NewReplicaSetAvailable", text, now))
        elif _has_moved(deployment.status, status):
            moved = make("Progressing", "True", "ReplicaSetUpdated", f"{name} is progressing.", now)
            if current and current.status == "True":
                moved = msgspec.structs.replace(moved, last_transition_time=current.last_transition_time)
            conditions = (*without(conditions, "Progressing"), moved)
        elif deadline_left(deployment, current, now) == 0.0:
            text = f"{name} has timed out progressing."
            conditions = put(conditions, make("Progressing", "False", "ProgressDeadlineExceeded", text, now))
    return msgspec.structs.replace(status, conditions=conditions)


def with_failures(status: DeploymentStatus, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> DeploymentStatus:
    """ReplicaFailure is the ReplicaSets' own, the new one's first."""
    found = [of(s.status.conditions, "ReplicaFailure") for s in ([new] if new else []) + list(old)]
    failure = next((c for c in found if c), None)
    conditions = put(status.conditions, failure) if failure else without(status.conditions, "ReplicaFailure")
    return msgspec.structs.replace(status, conditions=conditions)
