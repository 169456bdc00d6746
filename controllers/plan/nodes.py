"""Node lifecycle: from silence to a condition, from conditions to taints.

    Lease and status unchanged for the grace period  ->  every condition Unknown, its pods not ready
    Ready False / Unknown                            ->  taint not-ready / unreachable, NoSchedule and NoExecute
    pressure, network, cordon                        ->  their NoSchedule taints
    back to normal                                   ->  our taints gone, others' untouched

One step a pass: taints are computed from conditions that the server has shown. When no node at all is ready, it is more
likely the centre that is cut off than every node that is dead: then nothing is evicted (NoExecute), as upstream does in
"full disruption". Upstream: kubernetes/pkg/controller/nodelifecycle.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from controllers.model import Action, Amend, Tell
from controllers.plan.conditions import wire
from kube import labels
from kube.core import Node, Taint
from kube.events import Reference
from kube.meta import Condition, to_wire
from kube.pods import Pod
from kube.resources import NODES, PODS

_UNKNOWN = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_NO_SCHEDULE = {
    ("Ready", "False"): labels.TAINT_NOT_READY,
    ("Ready", "Unknown"): labels.TAINT_UNREACHABLE,
    ("MemoryPressure", "True"): labels.TAINT_MEMORY_PRESSURE,
    ("DiskPressure", "True"): labels.TAINT_DISK_PRESSURE,
    ("PIDPressure", "True"): labels.TAINT_PID_PRESSURE,
    ("NetworkUnavailable", "True"): labels.TAINT_NETWORK_UNAVAILABLE,
}
_NO_EXECUTE = {"False": labels.TAINT_NOT_READY, "Unknown": labels.TAINT_UNREACHABLE}
_MANAGED = {(key, "NoSchedule") for key in (*_NO_SCHEDULE.values(), labels.TAINT_UNSCHEDULABLE)} | {
    (key, "NoExecute") for key in _NO_EXECUTE.values()
}


def ready_status(node: Node) -> str:
    """A node that has never said anything about itself is not ready yet."""
    return next((c.status for c in node.status.conditions if c.type == "Ready"), "False")


def has_reported(node: Node) -> bool:
    return any(c.type == "Ready" for c in node.status.conditions)


def silent(node: Node, now: datetime) -> tuple[Action, ...]:
    """What to write about a node that has been silent for its grace; empty when it is written already."""
    known = {c.type: c for c in node.status.conditions}
    changed = [
        Condition(
            type=kind,
            status="Unknown",
            reason="NodeStatusUnknown" if kind in known else "NodeStatusNeverUpdated",
            message="Kubelet stopped posting node status." if kind in known else "Kubelet never posted node status.",
            last_heartbeat_time=known[kind].last_heartbeat_time if kind in known else node.metadata.creation_timestamp,
            last_transition_time=now,
        )
        for kind in _UNKNOWN
        if kind not in known or known[kind].status != "Unknown"
    ]
    if not changed:
        return ()
    body = {"status": {"conditions": wire(changed)}}
    amend = Amend(NODES, "", node.metadata.name, body, kind="strategic", subresource="status")
    if "Ready" not in {c.type for c in changed}:
        return (amend,)
    return (
        amend,
        Tell(_about(node), "Normal", "NodeNotReady", f"Node {node.metadata.name} status is now: NodeNotReady"),
    )


def unready_pods(pods: Iterable[Pod], now: datetime) -> tuple[Action, ...]:
    """Pods of a node that nobody hears of are not to be sent traffic."""
    actions: list[Action] = []
    for pod in pods:
        if not any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions):
            continue
        condition = Condition(type="Ready", status="False", reason="NodeNotReady", last_transition_time=now)
        body = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": wire([condition])}}
        meta = pod.metadata
        actions.append(Amend(PODS, meta.namespace, meta.name, body, kind="strategic", subresource="status"))
        actions.append(Tell(Reference.of(pod, kind="Pod"), "Warning", "NodeNotReady", "Node is not ready"))
    return tuple(actions)


def taints(node: Node, now: datetime, *, evict: bool) -> tuple[Taint, ...]:
    """The node's taints as they should be; `evict` False withholds NoExecute."""
    wanted: dict[tuple[str, str], None] = {}
    for condition in node.status.conditions:
        if key := _NO_SCHEDULE.get((condition.type, condition.status)):
            wanted[key, "NoSchedule"] = None
    if not has_reported(node):
        wanted[labels.TAINT_NOT_READY, "NoSchedule"] = None
    if node.spec.unschedulable:
        wanted[labels.TAINT_UNSCHEDULABLE, "NoSchedule"] = None
    if evict and has_reported(node) and (key := _NO_EXECUTE.get(ready_status(node))):
        wanted[key, "NoExecute"] = None
    kept = [t for t in node.spec.taints if (t.key, t.effect) not in _MANAGED or (t.key, t.effect) in wanted]
    present = {(t.key, t.effect) for t in kept}
    added = [Taint(key=k, effect=e, time_added=now) for k, e in wanted if (k, e) not in present]
    return (*kept, *added)


def retaint(node: Node, now: datetime, *, evict: bool) -> tuple[Action, ...]:
    """Taints are one list: the write is refused when somebody else has changed the node since."""
    wanted = taints(node, now, evict=evict)
    if wanted == node.spec.taints:
        return ()
    meta = node.metadata
    body = {
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "spec": {"taints": [{"key": t.key, **to_wire(t), "effect": t.effect} for t in wanted] or None},
    }
    return (Amend(NODES, "", meta.name, body),)


def startup_left(node: Node, startup_grace: float, now: datetime) -> float:
    """Seconds in which a node that has never reported may still be starting."""
    created = node.metadata.creation_timestamp or now
    return max(0.0, (created + timedelta(seconds=startup_grace) - now).total_seconds())


def may_evict(nodes: Sequence[Node]) -> bool:
    return any(ready_status(n) == "True" for n in nodes)


def _about(node: Node) -> Reference:
    return Reference("v1", "Node", "", node.metadata.name, node.metadata.uid)
