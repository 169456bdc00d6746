"""How many of a PodDisruptionBudget's pods may be evicted now.

    expected    how many pods there should be: what their controllers want; for a plain count, the pods there are
    desired     how many of them must stay healthy: minAvailable, or expected - maxUnavailable (percentages round up)
    current     pods that are ready, not being deleted, and not already granted an eviction
    allowed     current - desired, never below zero

An eviction that was granted (`disruptedPods`) counts as gone for two minutes; a pod that is still there then was not deleted
after all. Upstream: kubernetes/pkg/controller/disruption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from controllers.model import Amend, Tell
from controllers.plan.conditions import wire
from controllers.plan.pods import is_ready
from kube.events import Reference
from kube.meta import Condition, timestamp
from kube.pods import Pod
from kube.policy import PodDisruptionBudget
from kube.resources import PODDISRUPTIONBUDGETS

DELETION_TIMEOUT = timedelta(minutes=2)
CONDITION = "DisruptionAllowed"


@dataclass(frozen=True, slots=True)
class Scales:
    """What the pods' controllers want in all; `failure` says why that cannot be known, `unmanaged` pods have no controller."""

    total: int = 0
    unmanaged: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    expected: int
    desired: int
    current: int
    disrupted: Mapping[str, datetime]

    @property
    def allowed(self) -> int:
        return max(0, self.current - self.desired) if self.expected > 0 else 0


def needs_scales(budget: PodDisruptionBudget) -> bool:
    return budget.spec.max_unavailable is not None or isinstance(budget.spec.min_available, str)


def count(budget: PodDisruptionBudget, pods: Sequence[Pod], scales: Scales, now: datetime) -> Count:
    spec = budget.spec
    if spec.max_unavailable is not None:
        expected = scales.total
        desired = max(0, expected - _scaled(spec.max_unavailable, expected))
    elif isinstance(spec.min_available, str):
        expected = scales.total
        desired = _scaled(spec.min_available, expected)
    else:
        expected, desired = len(pods), spec.min_available or 0
    disrupted = still_disrupted(budget, pods, now)
    current = sum(
        1
        for pod in pods
        if pod.metadata.deletion_timestamp is None and pod.metadata.name not in disrupted and is_ready(pod)
    )
    return Count(expected, desired, current, disrupted)


def _scaled(value: int | str, total: int) -> int:
    if isinstance(value, int):
        return value
    percent = value.removesuffix("%")
    return ceil(int(percent) * total / 100) if percent.isdigit() else 0


def still_disrupted(budget: PodDisruptionBudget, pods: Sequence[Pod], now: datetime) -> dict[str, datetime]:
    granted = budget.status.disrupted_pods
    alive = {pod.metadata.name for pod in pods if pod.metadata.deletion_timestamp is None}
    return {name: at for name, at in granted.items() if name in alive and at + DELETION_TIMEOUT > now}


def again_in(found: Count, now: datetime) -> float | None:
    """The seconds after which the first granted eviction is no longer believed."""
    moments = [at + DELETION_TIMEOUT for at in found.disrupted.values()]
    return max(0.0, (min(moments) - now).total_seconds()) if moments else None


def condition(found: Count, budget: PodDisruptionBudget, now: datetime) -> Condition:
    allowed = found.allowed > 0
    return Condition(
        type=CONDITION,
        status="True" if allowed else "False",
        reason="SufficientPods" if allowed else "InsufficientPods",
        observed_generation=budget.metadata.generation,
        last_transition_time=now,
    )


def report(budget: PodDisruptionBudget, found: Count, now: datetime) -> Amend | None:
    """The status patch; None when it says so already. Refused when an eviction was booked since the budget was read."""
    status, meta = budget.status, budget.metadata
    wanted = _timed(condition(found, budget, now), budget)
    known = next((c for c in status.conditions if c.type == CONDITION), None)
    same = (
        status.observed_generation == meta.generation
        and (status.expected_pods, status.desired_healthy) == (found.expected, found.desired)
        and (status.current_healthy, status.disruptions_allowed) == (found.current, found.allowed)
        and status.disrupted_pods.keys() == found.disrupted.keys()
        and known is not None
        and (known.status, known.reason) == (wanted.status, wanted.reason)
    )
    if same:
        return None
    gone: dict[str, str | None] = dict.fromkeys(status.disrupted_pods.keys() - found.disrupted.keys())
    kept = {name: timestamp(at) for name, at in found.disrupted.items()}
    return _amend(
        budget,
        {
            "observedGeneration": meta.generation,
            "expectedPods": found.expected,
            "desiredHealthy": found.desired,
            "currentHealthy": found.current,
            "disruptionsAllowed": found.allowed,
            "disruptedPods": gone | kept,
            "conditions": _with(budget, wanted),
        },
    )


def failed(budget: PodDisruptionBudget, why: str, now: datetime) -> tuple[Amend | Tell, ...]:
    """What cannot be counted allows nothing."""
    wanted = _timed(
        Condition(
            type=CONDITION,
            status="False",
            reason="SyncFailed",
            message=why,
            observed_generation=budget.metadata.generation,
            last_transition_time=now,
        ),
        budget,
    )
    known = next((c for c in budget.status.conditions if c.type == CONDITION), None)
    if known and (known.reason, known.message) == ("SyncFailed", why) and not budget.status.disruptions_allowed:
        return ()
    patch = _amend(budget, {"disruptionsAllowed": 0, "conditions": _with(budget, wanted)})
    words = f"Failed to calculate the number of expected pods: {why}"
    about = Reference.of(budget, kind="PodDisruptionBudget")
    return (Tell(about, "Warning", "CalculateExpectedPodCountFailed", words), patch)


def _timed(wanted: Condition, budget: PodDisruptionBudget) -> Condition:
    known = next((c for c in budget.status.conditions if c.type == wanted.type), None)
    if known is None or known.status != wanted.status or known.last_transition_time is None:
        return wanted
    return Condition(
        type=wanted.type,
        status=wanted.status,
        reason=wanted.reason,
        message=wanted.message,
        observed_generation=wanted.observed_generation,
        last_transition_time=known.last_transition_time,
    )


def _with(budget: PodDisruptionBudget, wanted: Condition) -> list[dict[str, object]]:
    others = [one for one in budget.status.conditions if one.type != wanted.type]
    return [{"message": "", **one} for one in wire([*others, wanted])]


def _amend(budget: PodDisruptionBudget, status: Mapping[str, object]) -> Amend:
    meta = budget.metadata
    body = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "status": status}
    return Amend(PODDISRUPTIONBUDGETS, meta.namespace, meta.name, body, subresource="status")
