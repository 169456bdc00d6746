"""What the node's door knows of the node."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from kube.core import Node
from kube.informer import Informer
from kube.pods import Pod
from kubelet.admission import gate
from kubelet.admission.fit import Ground
from kubelet.admission.gate import Gate
from kubelet.nodestatus.machine import Pressure

OWN = Ground(name="n1", labels={"own": "yes"}, allocatable={"cpu": "2"})
POD = msgspec.convert({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}, Pod)
STATIC = msgspec.convert({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.source": "file"}}}, Pod)


class Nodes:
    """As much of an informer as the door asks."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self.known: list[Node] = []

    def items(self) -> list[Node]:
        return self.known


def a_gate(nodes: Nodes, pressure: Callable[[], Pressure] = Pressure) -> Gate:
    return Gate(OWN, cast("Informer[Node]", nodes), pressure)


def a_node(name: str, **more: Any) -> Node:
    return msgspec.convert({"metadata": {"name": name, "labels": {"api": name}}, **more}, Node)


def test_pods_of_the_api_wait_for_the_node_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes()
    door = a_gate(nodes)
    assert door.ready(STATIC)
    assert not door.ready(POD)
    monkeypatch.setattr(gate, "PATIENCE", 0.0)
    assert a_gate(nodes).ready(POD)
    nodes.synced.set()
    assert door.ready(POD)


def test_the_api_s_word_goes_before_the_node_s_own() -> None:
    nodes = Nodes()
    door = a_gate(nodes, lambda: Pressure(disk=True, pids=True))
    assert door.ground().labels == {"own": "yes"}
    assert door.ground().pressure == ("DiskPressure", "PIDPressure")
    taint = {"key": "k", "effect": "NoExecute"}
    nodes.known = [a_node("other"), a_node("n1", spec={"taints": [taint]}, status={"allocatable": {"cpu": "1"}})]
    ground = door.ground()
    assert (ground.labels, ground.allocatable, ground.taints[0].key) == ({"api": "n1"}, {"cpu": "1"}, "k")
    nodes.known = [a_node("n1")]
    assert door.ground().allocatable == {"cpu": "2"}, "it has registered, and not yet said what it can carry"
