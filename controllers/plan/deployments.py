"""Deployments: from a template to ReplicaSets, one careful step at a time.

A pass looks at the Deployment and its ReplicaSets and makes at most one kind of step; the watch event of that step brings
the next pass:

    paused, or spec.replicas was changed   ->  scale what is there, in proportion when several sets are alive
    Recreate        old sets to 0  ->  their pods gone  ->  the new set made and grown
    RollingUpdate   the new set made  ->  grown as far as surge allows  ->  old ones shrunk as far as availability allows
    complete        ->  old sets beyond revisionHistoryLimit deleted

and always: the status. Which set is the new one is decided by its template (`plan.templates`), so a rollback to an earlier
template finds its old set. Upstream: kubernetes/pkg/controller/deployment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from controllers.model import Action, Amend, Create, Delete, Tell
from controllers.plan import progress
from controllers.plan.conditions import wire
from controllers.plan.pods import owner_reference
from controllers.plan.rollout import Limits, Size, first, grown, limits, proportional, shrunk
from controllers.plan.templates import canonical, template_hash
from kube.apps import Deployment, DeploymentStatus, ReplicaSet
from kube.events import Reference
from kube.labels import (
    DEPLOYMENT_DESIRED_REPLICAS,
    DEPLOYMENT_MAX_REPLICAS,
    DEPLOYMENT_REVISION,
    LAST_APPLIED,
    POD_TEMPLATE_HASH,
)
from kube.meta import to_wire
from kube.resources import DEPLOYMENTS, REPLICASETS

REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
_OURS = frozenset(
    {
        LAST_APPLIED,
        DEPLOYMENT_REVISION,
        REVISION_HISTORY,
        DEPLOYMENT_DESIRED_REPLICAS,
        DEPLOYMENT_MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)
"""Annotations of a Deployment that its ReplicaSets do not inherit."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A Deployment with its ReplicaSets, sorted out: `new` has the present template, `old` are the others, oldest first.
    `old_pods` says that pods of other sets are still there (Recreate waits for them)."""

    deployment: Deployment
    new: ReplicaSet | None
    old: tuple[ReplicaSet, ...]
    bounds: Limits
    old_pods: bool = False

    @property
    def sets(self) -> tuple[ReplicaSet, ...]:
        return (*self.old, self.new) if self.new else self.old

    @property
    def replicas(self) -> int:
        return self.bounds.replicas


@dataclass(frozen=True, slots=True)
class Steps:
    """What to write now, and in how many seconds time alone may change that."""

    actions: tuple[Action, ...]
    again: float | None = None


def sort_out(deployment: Deployment, sets: Sequence[ReplicaSet], *, old_pods: bool = False) -> Rollout:
    ordered = sorted(sets, key=_age)
    wanted = canonical(deployment.spec.template)
    new = next((s for s in ordered if canonical(s.spec.template) == wanted), None)
    return Rollout(deployment, new, tuple(s for s in ordered if s is not new), bounds_of(deployment), old_pods)


def _age(replica_set: ReplicaSet) -> tuple[bool, Any, str]:
    created = replica_set.metadata.creation_timestamp
    return (created is None, created, replica_set.metadata.name)


def bounds_of(deployment: Deployment) -> Limits:
    """Raises ValueError for a percentage that is none; the server's validation refuses those."""
    replicas = deployment.spec.replicas if deployment.spec.replicas is not None else 1
    if deployment.spec.strategy.type == "Recreate":
        return Limits(replicas, 0, 0)
    rolling = deployment.spec.strategy.rolling_update
    return limits(replicas, rolling.max_surge if rolling else None, rolling.max_unavailable if rolling else None)


def steps(rollout: Rollout, now: datetime) -> Steps:
    """The plan."""
    deployment = rollout.deployment
    selector = deployment.spec.selector
    if selector is None or not (selector.match_labels or selector.match_expressions):
        text = "This deployment is selecting all pods. A non-empty selector is required."
        status = msgspec.structs.replace(deployment.status, observed_generation=deployment.metadata.generation)
        return Steps((Tell(_about(deployment), "Warning", "SelectingAll", text), *_status(deployment, status)))
    if deployment.metadata.deletion_timestamp is not None:
        return Steps(_counted(rollout, now))
    if deployment.spec.paused or _is_scaling(rollout):
        cleanup = _cleanup(rollout) if deployment.spec.paused else ()
        return Steps((*_annotate(rollout), *_scale(rollout), *cleanup, *_counted(rollout, now)))
    if deployment.spec.strategy.type == "Recreate":
        return _recreate(rollout, now)
    return _roll(rollout, now)


def _is_scaling(rollout: Rollout) -> bool:
    """Whether spec.replicas was changed since the live sets were last sized."""
    alive = [s for s in rollout.sets if s.spec.replicas]
    desired = [s.metadata.annotations.get(DEPLOYMENT_DESIRED_REPLICAS, "") for s in alive]
    return any(d.isdigit() and int(d) != rollout.replicas for d in desired)


def _roll(rollout: Rollout, now: datetime) -> Steps:
    new, old = rollout.new, [_size(s) for s in rollout.old]
    if new is None:
        return _made(rollout, first(old, rollout.bounds), now)
    wanted = grown(_size(new), old, rollout.bounds)
    if wanted != new.spec.replicas:
        return _with_status(rollout, (*_annotate(rollout), *_resize(rollout, new, wanted)), now)
    sizes = shrunk(_size(new), old, rollout.bounds)
    shrinking = [
        a for s in rollout.old if s.metadata.name in sizes for a in _resize(rollout, s, sizes[s.metadata.name])
    ]
    return _with_status(rollout, (*_annotate(rollout), *shrinking), now, settled=not shrinking)


def _recreate(rollout: Rollout, now: datetime) -> Steps:
    alive = [s for s in rollout.old if s.spec.replicas]
    if alive:
        stopping = tuple(a for s in alive for a in _resize(rollout, s, 0))
        return _with_status(rollout, (*_annotate(rollout), *stopping), now)
    if rollout.old_pods:
        return _with_status(rollout, _annotate(rollout), now)
    if rollout.new is None:
        return _made(rollout, rollout.replicas, now)
    if rollout.new.spec.replicas != rollout.replicas:
        return _with_status(rollout, (*_annotate(rollout), *_resize(rollout, rollout.new, rollout.replicas)), now)
    return _with_status(rollout, _annotate(rollout), now, settled=True)


def _with_status(rollout: Rollout, actions: Sequence[Action], now: datetime, *, settled: bool = False) -> Steps:
    deployment = rollout.deployment
    status = progress.counted(deployment, rollout.new, rollout.sets, rollout.bounds, now)
    if rollout.new and progress.has_deadline(deployment) and not progress.of(status.conditions, "Progressing"):
        found = f'Found new replica set "{rollout.new.metadata.name}"'
        condition = progress.make("Progressing", "True", "FoundNewReplicaSet", found, now)
        status = msgspec.structs.replace(status, conditions=progress.put(status.conditions, condition))
    status = progress.rolled(deployment, rollout.new, status, now)
    status = progress.with_failures(status, rollout.new, rollout.old)
    cleanup = _cleanup(rollout) if settled and progress.is_complete(deployment, status) else ()
    left = progress.deadline_left(deployment, progress.of(status.conditions, "Progressing"), now)
    return Steps((*actions, *cleanup, *_status(deployment, status)), left or None)


def _counted(rollout: Rollout, now: datetime) -> tuple[Action, ...]:
    """The status while paused, scaled or deleted: counts, no progress."""
    deployment = rollout.deployment
    status = progress.counted(deployment, rollout.new, rollout.sets, rollout.bounds, now)
    status = progress.with_failures(status, rollout.new, rollout.old)
    known = progress.of(status.conditions, "Progressing")
    if progress.has_deadline(deployment) and not (known and known.reason == "ProgressDeadlineExceeded"):
        paused = known is not None and known.reason == "DeploymentPaused"
        if deployment.spec.paused and not paused:
            words = ("Unknown", "DeploymentPaused", "Deployment is paused")
            condition = progress.make("Progressing", *words, now)
            status = msgspec.structs.replace(status, conditions=progress.put(status.conditions, condition))
        elif paused and not deployment.spec.paused:
            condition = progress.make("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now)
            status = msgspec.structs.replace(status, conditions=progress.put(status.conditions, condition))
    return _status(deployment, status)


def _made(rollout: Rollout, replicas: int, now: datetime) -> Steps:
    """The new set, and the status that says so. Its name is the template's hash: made twice it is one."""
    deployment = rollout.deployment
    digest = template_hash(deployment.spec.template, deployment.status.collision_count or 0)
    template: dict[str, Any] = msgspec.json.decode(deployment.spec.template)
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), POD_TEMPLATE_HASH: digest}
    selector = to_wire(deployment.spec.selector)
    selector["matchLabels"] = {**selector.get("matchLabels", {}), POD_TEMPLATE_HASH: digest}
    name = f"{deployment.metadata.name}-{digest}"
    revision = str(_next_revision(rollout.old))
    annotations = {k: v for k, v in deployment.metadata.annotations.items() if k not in _OURS}
    body = {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {**annotations, **_sized(rollout), DEPLOYMENT_REVISION: revision},
            "ownerReferences": [owner_reference(deployment.metadata, DEPLOYMENTS.api_version, DEPLOYMENTS.kind)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": {**template, "metadata": {**meta, "labels": labels}},
        },
    }
    actions: list[Action] = [Create(REPLICASETS, deployment.metadata.namespace, body)]
    if replicas:
        actions.append(_told(deployment, name, 0, replicas))
    actions += _revise(deployment, revision)
    status = progress.counted(deployment, None, rollout.old, rollout.bounds, now)
    if progress.has_deadline(deployment):
        condition = progress.make(
            "Progressing", "True", "NewReplicaSetCreated", f'Created new replica set "{name}"', now
        )
        status = msgspec.structs.replace(status, conditions=progress.put(status.conditions, condition))
    return Steps((*actions, *_status(deployment, status)))


def _revision(replica_set: ReplicaSet) -> int:
    text = replica_set.metadata.annotations.get(DEPLOYMENT_REVISION, "")
    return int(text) if text.isdigit() else 0


def _next_revision(old: Sequence[ReplicaSet]) -> int:
    return max((_revision(s) for s in old), default=0) + 1


def _annotate(rollout: Rollout) -> tuple[Action, ...]:
    """The new set carries the Deployment's annotations, minReadySeconds and the highest revision; a set that comes back
    by rollback remembers the revisions it had."""
    new, deployment = rollout.new, rollout.deployment
    if new is None:
        return ()
    have = new.metadata.annotations
    wanted = {k: v for k, v in deployment.metadata.annotations.items() if k not in _OURS}
    revision = max(_revision(new), _next_revision(rollout.old))
    if str(revision) != have.get(DEPLOYMENT_REVISION):
        wanted[DEPLOYMENT_REVISION] = str(revision)
        if before := have.get(DEPLOYMENT_REVISION):
            wanted[REVISION_HISTORY] = ",".join(filter(None, (have.get(REVISION_HISTORY), before)))
    changed = {k: v for k, v in wanted.items() if have.get(k) != v}
    actions: list[Action] = []
    body: dict[str, Any] = {"metadata": {"uid": new.metadata.uid}}
    if changed:
        body["metadata"]["annotations"] = changed
    if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds:
        body["spec"] = {"minReadySeconds": deployment.spec.min_ready_seconds}
    if changed or "spec" in body:
        actions.append(Amend(REPLICASETS, new.metadata.namespace, new.metadata.name, body))
    return (*actions, *_revise(deployment, str(revision)))


def _revise(deployment: Deployment, revision: str) -> tuple[Action, ...]:
    meta = deployment.metadata
    if meta.annotations.get(DEPLOYMENT_REVISION) == revision:
        return ()
    body = {"metadata": {"uid": meta.uid, "annotations": {DEPLOYMENT_REVISION: revision}}}
    return (Amend(DEPLOYMENTS, meta.namespace, meta.name, body),)


def _size(replica_set: ReplicaSet) -> Size:
    allowed = replica_set.metadata.annotations.get(DEPLOYMENT_MAX_REPLICAS, "")
    return Size(
        replica_set.metadata.name,
        replica_set.spec.replicas or 0,
        replica_set.status.available_replicas,
        actual=replica_set.status.replicas,
        allowed=int(allowed) if allowed.isdigit() else 0,
        observed=replica_set.status.observed_generation >= replica_set.metadata.generation,
    )


def _sized(rollout: Rollout) -> dict[str, str]:
    return {DEPLOYMENT_DESIRED_REPLICAS: str(rollout.replicas), DEPLOYMENT_MAX_REPLICAS: str(rollout.bounds.most)}


def _resize(rollout: Rollout, replica_set: ReplicaSet, replicas: int) -> tuple[Action, ...]:
    """Refused by the server when the set is not as it was seen: sizes are computed from each other."""
    meta = replica_set.metadata
    size = replica_set.spec.replicas or 0
    sized = _sized(rollout)
    if size == replicas and sized.items() <= meta.annotations.items():
        return ()
    body = {
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "annotations": sized},
        "spec": {"replicas": replicas},
    }
    amend = Amend(REPLICASETS, meta.namespace, meta.name, body)
    return (amend,) if size == replicas else (amend, _told(rollout.deployment, meta.name, size, replicas))


def _told(deployment: Deployment, name: str, before: int, after: int) -> Tell:
    way = "up" if after > before else "down"
    text = f"Scaled {way} replica set {name} from {before} to {after}"
    return Tell(_about(deployment), "Normal", "ScalingReplicaSet", text)


def _about(deployment: Deployment) -> Reference:
    return Reference.of(deployment, kind=DEPLOYMENTS.kind, api_version=DEPLOYMENTS.api_version)


def _scale(rollout: Rollout) -> tuple[Action, ...]:
    """Sizes after spec.replicas was changed (or while paused): the one live set, or each live one in proportion."""
    alive = [s for s in rollout.sets if s.spec.replicas]
    if len(alive) <= 1:
        target = alive[0] if alive else rollout.new or (rollout.old[-1] if rollout.old else None)
        return _resize(rollout, target, rollout.replicas) if target else ()
    if rollout.new and _is_saturated(rollout.new, rollout.replicas):
        return tuple(a for s in rollout.old if s.spec.replicas for a in _resize(rollout, s, 0))
    if rollout.deployment.spec.strategy.type == "Recreate":
        return ()
    growing = rollout.bounds.most > sum(s.spec.replicas or 0 for s in alive)
    ordered = sorted(alive, key=_age, reverse=growing)
    sizes: Mapping[str, int] = proportional(
        [_size(s) for s in ordered], rollout.bounds, rollout.deployment.status.replicas
    )
    return tuple(a for s in ordered for a in _resize(rollout, s, sizes[s.metadata.name]))


def _is_saturated(new: ReplicaSet, replicas: int) -> bool:
    desired = new.metadata.annotations.get(DEPLOYMENT_DESIRED_REPLICAS)
    return new.spec.replicas == replicas == new.status.available_replicas and desired == str(replicas)


def _cleanup(rollout: Rollout) -> tuple[Action, ...]:
    """Old sets beyond the history limit, those of the lowest revision first, and only when nothing is left in them."""
    limit = rollout.deployment.spec.revision_history_limit
    if limit is None or limit == progress.FOREVER:
        return ()
    kept = [s for s in rollout.old if s.metadata.deletion_timestamp is None]
    surplus = sorted(kept, key=_revision)[: max(0, len(kept) - limit)]
    return tuple(
        Delete(REPLICASETS, s.metadata.namespace, s.metadata.name, s.metadata.uid)
        for s in surplus
        if not s.spec.replicas and not s.status.replicas and s.status.observed_generation >= s.metadata.generation
    )


def _status(deployment: Deployment, wanted: DeploymentStatus) -> tuple[Action, ...]:
    """Zeros are written out: in a merge patch what is left out stays."""
    if wanted == deployment.status:
        return ()
    body = {
        "observedGeneration": wanted.observed_generation,
        "replicas": wanted.replicas,
        "updatedReplicas": wanted.updated_replicas,
        "readyReplicas": wanted.ready_replicas,
        "availableReplicas": wanted.available_replicas,
        "unavailableReplicas": wanted.unavailable_replicas,
        "conditions": wire(wanted.conditions),
    }
    if wanted.terminating_replicas is not None:
        body["terminatingReplicas"] = wanted.terminating_replicas
    meta = deployment.metadata
    patch = {"metadata": {"uid": meta.uid}, "status": body}
    return (Amend(DEPLOYMENTS, meta.namespace, meta.name, patch, subresource="status"),)


def collided(deployment: Deployment) -> Amend:
    """The name of the new set is taken by another one's: the hash takes one more into account."""
    meta = deployment.metadata
    body = {"metadata": {"uid": meta.uid}, "status": {"collisionCount": (deployment.status.collision_count or 0) + 1}}
    return Amend(DEPLOYMENTS, meta.namespace, meta.name, body, subresource="status")
