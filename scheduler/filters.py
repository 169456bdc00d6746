"""Filters: may this pod run on this node at all? Each answers with the reasons against it, none when there are none.

They are asked in upstream's order, and the first that objects is the one that is heard (kube-scheduler's
RunFilterPlugins): NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit. The words are
upstream's, because people and their alerts read them in FailedScheduling Events.
"""

from collections.abc import Callable, Mapping

from kube.core import Taint
from kube.labels import TAINT_UNSCHEDULABLE
from kube.pods import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from kube.selectors import Requirement
from kube.taints import tolerated
from scheduler.model import PODS, NodeView, PodView

Filter = Callable[[PodView, NodeView], tuple[str, ...]]


def node_unschedulable(pod: PodView, node: NodeView) -> tuple[str, ...]:
    cordon = Taint(key=TAINT_UNSCHEDULABLE, effect="NoSchedule")
    if node.unschedulable and not tolerated(cordon, pod.tolerations):
        return ("node(s) were unschedulable",)
    return ()


def node_name(pod: PodView, node: NodeView) -> tuple[str, ...]:
    if pod.node_name and pod.node_name != node.name:
        return ("node(s) didn't match the requested node name",)
    return ()


def taint_toleration(pod: PodView, node: NodeView) -> tuple[str, ...]:
    for taint in node.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not tolerated(taint, pod.tolerations):
            return (f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}",)
    return ()


def node_affinity(pod: PodView, node: NodeView) -> tuple[str, ...]:
    labels = node.labels
    if any(labels.get(key) != value for key, value in pod.node_selector.items()) or (
        pod.affinity is not None and not selects(pod.affinity, labels, node.name)
    ):
        return ("node(s) didn't match Pod's node affinity/selector",)
    return ()


def selects(selector: NodeSelector, labels: Mapping[str, str], name: str) -> bool:
    """The terms are alternatives; a term without expressions and fields selects nothing."""
    return any(_term(term, labels, name) for term in selector.node_selector_terms)


def _term(term: NodeSelectorTerm, labels: Mapping[str, str], name: str) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": name}
    return all(_holds(r, labels) for r in term.match_expressions) and all(_holds(r, fields) for r in term.match_fields)


def _holds(requirement: NodeSelectorRequirement, values: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" as operator:
            return Requirement(requirement.key, operator, frozenset(requirement.values)).matches(values)
        case _:
            return False  # an operator of a later version: better no node than a wrong one


def node_ports(pod: PodView, node: NodeView) -> tuple[str, ...]:
    if any(mine.conflicts(taken) for mine in pod.host_ports for taken in node.host_ports):
        return ("node(s) didn't have free ports for the requested pod ports",)
    return ()


def node_resources_fit(pod: PodView, node: NodeView) -> tuple[str, ...]:
    reasons = []
    if node.pods + 1 > node.allocatable.get(PODS, 0):
        reasons.append("Too many pods")
    for name, amount in pod.requests.items():
        if amount > node.allocatable.get(name, 0) - node.requested.get(name, 0):
            reasons.append(f"Insufficient {name}")
    return tuple(reasons)


FILTERS: tuple[Filter, ...] = (
    node_unschedulable,
    node_name,
    taint_toleration,
    node_affinity,
    node_ports,
    node_resources_fit,
)


def objections(pod: PodView, node: NodeView) -> tuple[str, ...]:
    """The first filter's reasons against the node; empty when the pod may run there."""
    for check in FILTERS:
        if reasons := check(pod, node):
            return reasons
    return ()
