"""May this pod be evicted? A PodDisruptionBudget's answer, and the budget with the eviction booked. Functions of values.

The controller (`controllers.disruption`) counts how many disruptions a budget allows; each eviction takes one with a
compare-and-swap and names its pod in `disruptedPods`, so that the controller does not count it as healthy while it goes.
Upstream: pkg/registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from apiserver import errors
from apiserver.errors import StatusError
from kube.meta import LabelSelector
from kube.selectors import from_label_selector

Obj = dict[str, Any]
MOST_DISRUPTED: Final = 2000
VIOLATED: Final = "Cannot evict pod as it would violate the pod's disruption budget."
SEVERAL: Final = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
_OVER: Final = ("Succeeded", "Failed")


def ignores_budgets(pod: Obj) -> bool:
    """A pod that runs nothing (yet, or any more) disrupts nobody by going."""
    return phase(pod) in (*_OVER, "Pending") or bool(pod["metadata"].get("deletionTimestamp"))


def is_ending(pod: Obj) -> bool:
    return phase(pod) in _OVER or bool(pod["metadata"].get("deletionTimestamp"))


def phase(pod: Obj) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def is_ready(pod: Obj) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def covering(pod: Obj, budgets: Iterable[Obj]) -> list[Obj]:
    """Of a namespace's budgets those that are about the pod; an empty selector selects every pod (policy/v1)."""
    labels = pod["metadata"].get("labels") or {}
    found = []
    for budget in budgets:
        given = (budget.get("spec") or {}).get("selector")
        if given is None:
            continue
        selector = from_label_selector(msgspec.convert(given, LabelSelector))
        if selector.matches(labels):
            found.append(budget)
    return found


def needs_no_room(pod: Obj, budget: Obj) -> bool:
    """A pod that is not ready does not count as healthy: it may go while enough others are, or always if the budget says."""
    if is_ready(pod):
        return False
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    desired = status.get("desiredHealthy", 0)
    return bool(status.get("currentHealthy", 0) >= desired > 0)


def booked(budget: Obj, pod: str, moment: datetime) -> Obj:
    """The budget with one disruption less; raises 429 when it allows none, 403 when it cannot be right."""
    name, status = budget["metadata"]["name"], budget.get("status") or {}
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        raise still_processed(name)
    allowed, disrupted = status.get("disruptionsAllowed", 0), status.get("disruptedPods") or {}
    if allowed < 0:
        raise errors.forbidden("policy", "poddisruptionbudget", name, "pdb disruptions allowed is negative")
    if len(disrupted) > MOST_DISRUPTED:
        why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise errors.forbidden("policy", "poddisruptionbudget", name, why)
    if allowed == 0:
        raise _refused(f"The disruption budget {name} {_reason(status)}")
    at = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    new = status | {"disruptionsAllowed": allowed - 1, "disruptedPods": disrupted | {pod: at}}
    if allowed == 1:
        new["conditions"] = [_exhausted(one, at) for one in status.get("conditions") or ()]
    return budget | {"status": new}


def _reason(status: Obj) -> str:
    for one in status.get("conditions") or ():
        if one.get("type") == "DisruptionAllowed" and one.get("reason") == "SyncFailed":
            return f"does not allow evicting pods currently because it failed sync: {one.get('message', '')}"
    desired, current = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
    return f"needs {desired} healthy pods and has {current} currently"


def _exhausted(condition: Obj, at: str) -> Obj:
    if condition.get("type") != "DisruptionAllowed" or condition.get("status") == "False":
        return condition
    return condition | {"status": "False", "reason": "InsufficientPods", "lastTransitionTime": at}


def _refused(why: str, retry_after: int = 0) -> StatusError:
    details: Obj = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if retry_after:
        details["retryAfterSeconds"] = retry_after
    return StatusError(429, "TooManyRequests", VIOLATED, details)


def still_processed(name: str) -> StatusError:
    return _refused(f"The disruption budget {name} is still being processed by the server.", 10)
