"""Disruption budgets: what must stay, what may go, and what is believed for how long."""

from typing import Any

import pytest

from controllers.model import Amend, Tell
from controllers.plan import disruption as plan
from controllers.plan.disruption import Scales
from kube.pods import Pod
from kube.policy import PodDisruptionBudget
from tests.unit.controllers.objects import NOW, ago, decode, pod


def budget(status: dict[str, Any] | None = None, **spec: Any) -> PodDisruptionBudget:
    meta = {"name": "b", "namespace": "default", "uid": "u", "resourceVersion": "9", "generation": 3}
    body = {"metadata": meta, "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}, "status": status or {}}
    found: PodDisruptionBudget = decode(PodDisruptionBudget, body)
    return found


def several(ready: int, unready: int = 0) -> list[Pod]:
    return [pod(f"p{n}", ready=n < ready) for n in range(ready + unready)]


@pytest.mark.parametrize(
    ("spec", "ready", "unready", "scale", "expected"),
    [
        ({"minAvailable": 2}, 3, 0, 0, (3, 2, 3, 1)),
        ({"minAvailable": 3}, 3, 0, 0, (3, 3, 3, 0)),
        ({"minAvailable": "50%"}, 3, 0, 3, (3, 2, 3, 1)),
        ({"maxUnavailable": 1}, 3, 0, 3, (3, 2, 3, 1)),
        ({"maxUnavailable": 1}, 2, 1, 3, (3, 2, 2, 0)),
        ({"maxUnavailable": "30%"}, 10, 0, 10, (10, 7, 10, 3)),
        ({"maxUnavailable": 5}, 2, 0, 2, (2, 0, 2, 2)),
        ({"maxUnavailable": 1}, 2, 0, 0, (0, 0, 2, 0)),
    ],
)
def test_counts(spec: dict[str, Any], ready: int, unready: int, scale: int, expected: tuple[int, ...]) -> None:
    found = plan.count(budget(**spec), several(ready, unready), Scales(scale), NOW)
    assert (found.expected, found.desired, found.current, found.allowed) == expected


def test_granted_evictions_are_gone_for_two_minutes() -> None:
    granted = {"p0": ago(30), "p1": ago(121), "gone": ago(5)}
    found = plan.count(budget({"disruptedPods": granted}, minAvailable=1), several(3), Scales(), NOW)
    assert set(found.disrupted) == {"p0"}
    assert found.current == 2
    assert plan.again_in(found, NOW) == 90


def carried(before: PodDisruptionBudget, patch: Amend) -> PodDisruptionBudget:
    """The budget as the patch leaves it."""
    status = {key: value for key, value in patch.body["status"].items() if key != "disruptedPods"}
    status["disruptedPods"] = {k: v for k, v in patch.body["status"]["disruptedPods"].items() if v is not None}
    return budget(status, minAvailable=before.spec.min_available)


def test_a_report_says_all_and_then_nothing() -> None:
    first = budget({"disruptedPods": {"gone": ago(5)}}, minAvailable=2)
    found = plan.count(first, several(3), Scales(), NOW)
    patch = plan.report(first, found, NOW)
    assert patch is not None
    assert patch.body["metadata"] == {"uid": "u", "resourceVersion": "9"}
    assert patch.body["status"]["disruptedPods"] == {"gone": None}
    (condition,) = patch.body["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == (
        "DisruptionAllowed",
        "True",
        "SufficientPods",
    )
    after = carried(first, patch)
    assert plan.report(after, plan.count(after, several(3), Scales(), NOW), NOW) is None


def test_what_cannot_be_counted_allows_nothing() -> None:
    tell, patch = plan.failed(budget({"disruptionsAllowed": 1}, maxUnavailable=1), "why", NOW)
    assert isinstance(tell, Tell)
    assert isinstance(patch, Amend)
    assert (tell.reason, patch.body["status"]["disruptionsAllowed"]) == ("CalculateExpectedPodCountFailed", 0)
    assert patch.body["status"]["conditions"][0]["reason"] == "SyncFailed"
