from typing import Any

import pytest

from controllers.model import Amend, Tell
from controllers.plan import evictions, nodes
from kube import labels
from kube.core import Node
from tests.unit.controllers.objects import NOW, ago, later, node, pod

NOT_READY, UNREACHABLE = labels.TAINT_NOT_READY, labels.TAINT_UNREACHABLE
OTHER = {"key": "mine", "effect": "NoSchedule", "value": "x"}


def taints(found: Node, *, evict: bool = True) -> list[str]:
    return [f"{t.key}:{t.effect}" for t in nodes.taints(found, NOW, evict=evict)]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (node(), []),
        (node(taints=(OTHER,)), ["mine:NoSchedule"]),
        (node(ready="False"), [f"{NOT_READY}:NoSchedule", f"{NOT_READY}:NoExecute"]),
        (node(ready="Unknown"), [f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute"]),
        (node(ready=None), [f"{NOT_READY}:NoSchedule"]),
        (node(unschedulable=True), [f"{labels.TAINT_UNSCHEDULABLE}:NoSchedule"]),
        (node(conditions={"MemoryPressure": "True"}), [f"{labels.TAINT_MEMORY_PRESSURE}:NoSchedule"]),
        (node(conditions={"NetworkUnavailable": "True"}), [f"{labels.TAINT_NETWORK_UNAVAILABLE}:NoSchedule"]),
        (node(conditions={"DiskPressure": "Unknown"}), []),
        (node(taints=({"key": NOT_READY, "effect": "NoSchedule"}, OTHER)), ["mine:NoSchedule"]),
        (
            node(ready="Unknown", taints=({"key": NOT_READY, "effect": "NoExecute"},)),
            [f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute"],
        ),
    ],
)
def test_taints_follow_conditions(found: Node, wanted: list[str]) -> None:
    assert taints(found) == wanted


def test_without_any_ready_node_nobody_is_evicted() -> None:
    lost = node(ready="Unknown")
    assert taints(lost, evict=False) == [f"{UNREACHABLE}:NoSchedule"]
    assert not nodes.may_evict([lost, node(ready="False")])
    assert nodes.may_evict([lost, node()])


def test_a_taint_keeps_the_time_it_was_added() -> None:
    old = {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": ago(100)}
    lost = node(ready="Unknown", taints=(old,))
    times = {t.effect: t.time_added for t in nodes.taints(lost, NOW, evict=True)}
    assert times == {"NoExecute": later(-100), "NoSchedule": NOW}
    (amend,) = nodes.retaint(lost, NOW, evict=True)
    assert isinstance(amend, Amend)
    assert amend.body["metadata"] == {"uid": "uid-n1", "resourceVersion": "7"}


def test_what_is_right_is_not_written() -> None:
    assert nodes.retaint(node(), NOW, evict=True) == ()
    tainted = node(taints=({"key": NOT_READY, "effect": "NoSchedule"},))
    (amend,) = nodes.retaint(tainted, NOW, evict=True)
    assert isinstance(amend, Amend)
    assert amend.body["spec"] == {"taints": None}


def test_silence_makes_every_condition_unknown_once() -> None:
    amend, tell = nodes.silent(node(conditions={"MemoryPressure": "False"}), NOW)
    assert isinstance(amend, Amend)
    assert isinstance(tell, Tell)
    words = {c["type"]: (c["status"], c["reason"]) for c in amend.body["status"]["conditions"]}
    assert words["Ready"] == words["MemoryPressure"] == ("Unknown", "NodeStatusUnknown")
    assert words["DiskPressure"] == ("Unknown", "NodeStatusNeverUpdated")
    assert tell.reason == "NodeNotReady"
    everything = dict.fromkeys(("MemoryPressure", "DiskPressure", "PIDPressure"), "Unknown")
    assert nodes.silent(node(ready="Unknown", conditions=everything), NOW) == ()


def test_pods_of_a_silent_node_are_not_ready() -> None:
    amend, _ = nodes.unready_pods([pod("up"), pod("down", ready=False)], NOW)
    assert isinstance(amend, Amend)
    assert amend.name == "up"
    (condition,) = amend.body["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "False")


def tolerating(*tolerations: dict[str, Any], came: float = 600) -> Any:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(came)}
    return pod(spec={"tolerations": list(tolerations)}, status={"conditions": [scheduled]})


LOST = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("who", "seconds"),
    [
        (tolerating(), -100),
        (tolerating(LOST), None),
        (tolerating({"operator": "Exists"}), None),
        (tolerating({**LOST, "tolerationSeconds": 300}), 200),
        (tolerating({**LOST, "tolerationSeconds": 300}, {"operator": "Exists", "tolerationSeconds": 30}), -70),
        (tolerating({**LOST, "tolerationSeconds": 300}, came=40), 260),
        (tolerating({**LOST, "tolerationSeconds": -5}), -100),
        (tolerating({**LOST, "effect": "NoSchedule"}), -100),
    ],
)
def test_when_a_pod_must_go(who: Any, seconds: float | None) -> None:
    added = {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": ago(100)}
    quiet = {"key": "other", "effect": "NoSchedule"}
    found = evictions.deadline(who, node(taints=(added, quiet)).spec.taints, NOW)
    assert found == (None if seconds is None else later(seconds))


def test_the_deadline_is_that_of_the_least_tolerated_taint() -> None:
    first = {"key": "a", "effect": "NoExecute", "timeAdded": ago(50)}
    second = {"key": "b", "effect": "NoExecute", "timeAdded": ago(10)}
    who = tolerating(
        {"key": "a", "operator": "Exists", "tolerationSeconds": 100},
        {"key": "b", "operator": "Exists", "tolerationSeconds": 20},
    )
    assert evictions.deadline(who, node(taints=(first, second)).spec.taints, NOW) == later(10)
