"""TaintNodesByCondition: no pod may land on a node before its kubelet has said that it is ready. PodTopologyLabels: a pod
that is bound gets its node's zone and region as labels, for containers to read.
"""

from __future__ import annotations

from typing import Final

from apiserver.admission.attributes import PODS, Attributes, Plugin, Rule
from apiserver.admission.sight import Sight
from kube.labels import TAINT_NOT_READY

TOPOLOGY: Final = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


def plugin() -> Plugin:
    return Plugin("TaintNodesByCondition", mutating=(Rule(taint_new_node, frozenset({"nodes"})),))


def taint_new_node(attributes: Attributes) -> None:
    taints = attributes.new.setdefault("spec", {}).setdefault("taints", [])
    wanted = {"key": TAINT_NOT_READY, "effect": "NoSchedule"}
    if not any(taint.get("key") == TAINT_NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
        taints.append(wanted)


def topology_labels(sight: Sight) -> Plugin:
    def ask(attributes: Attributes) -> None:
        node = sight.entry("nodes", "", attributes.new["spec"].get("nodeName") or "")
        found = {key: node.labels[key] for key in TOPOLOGY if key in node.labels} if node is not None else {}
        if found:
            metadata = attributes.new["metadata"]
            metadata["labels"] = (metadata.get("labels") or {}) | found

    rule = Rule(ask, PODS, frozenset({"UPDATE"}), frozenset({"binding"}))
    return Plugin("PodTopologyLabels", mutating=(rule,))
