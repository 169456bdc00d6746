"""TaintNodesByCondition: no pod may land on a node before its kubelet has said that it is ready."""

from __future__ import annotations

from apiserver.admission.attributes import Attributes, Plugin, Rule
from kube.labels import TAINT_NOT_READY


def plugin() -> Plugin:
    return Plugin("TaintNodesByCondition", mutating=(Rule(taint_new_node, frozenset({"nodes"})),))


def taint_new_node(attributes: Attributes) -> None:
    taints = attributes.new.setdefault("spec", {}).setdefault("taints", [])
    wanted = {"key": TAINT_NOT_READY, "effect": "NoSchedule"}
    if not any(taint.get("key") == TAINT_NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
        taints.append(wanted)
