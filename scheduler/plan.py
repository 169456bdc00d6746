"""Who goes where: pending pods and nodes in, decisions out.

Pods are taken by priority, then in the order given; each sees the nodes with all pods on them that were placed before it,
so that a burst is spread as it would be one by one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from scheduler.filters import objections
from scheduler.model import Bind, Decision, NodeView, PodView, Refuse
from scheduler.scores import best


def schedule(pending: Iterable[PodView], nodes: Sequence[NodeView]) -> list[Decision]:
    """One decision for each pending pod."""
    views = {node.name: node for node in nodes}
    decisions: list[Decision] = []
    for pod in sorted(pending, key=lambda p: -p.priority):
        against: Counter[str] = Counter()
        fitting = []
        for node in views.values():
            reasons = objections(pod, node)
            if reasons:
                against.update(reasons)
            else:
                fitting.append(node)
        if not fitting:
            decisions.append(Refuse(pod, message(len(views), against)))
            continue
        chosen = fitting[0] if len(fitting) == 1 else best(pod, fitting)
        views[chosen.name] = chosen.with_pod(pod)
        decisions.append(Bind(pod, chosen.name))
    return decisions


def message(nodes: int, against: Counter[str]) -> str:
    """Upstream's FitError: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
    if not nodes:
        return "no nodes available to schedule pods"
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in against.items()))
    return f"0/{nodes} nodes are available: {reasons}."
