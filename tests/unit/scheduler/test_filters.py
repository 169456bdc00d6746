from dataclasses import replace

import pytest

from kube.pods import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from scheduler.filters import objections
from scheduler.model import NodeView, PodView
from tests.unit.scheduler.views import GI, node, pod, port, taint, tolerate


def affinity(*terms: list[tuple[str, str, list[str]]], fields: bool = False) -> NodeSelector:
    def requirements(term: list[tuple[str, str, list[str]]]) -> tuple[NodeSelectorRequirement, ...]:
        return tuple(NodeSelectorRequirement(key=k, operator=o, values=tuple(v)) for k, o, v in term)

    return NodeSelector(
        node_selector_terms=tuple(
            NodeSelectorTerm(match_fields=requirements(t))
            if fields
            else NodeSelectorTerm(match_expressions=requirements(t))
            for t in terms
        )
    )


AFFINITY = ("node(s) didn't match Pod's node affinity/selector",)
PORTS = ("node(s) didn't have free ports for the requested pod ports",)


def untolerated(key: str, value: str = "") -> tuple[str, ...]:
    return (f"node(s) had untolerated taint {{{key}: {value}}}",)


CASES: list[tuple[str, PodView, NodeView, tuple[str, ...]]] = [
    ("an idle node takes a pod without wishes", pod(), node(), ()),
    ("requests that just fit", pod(cpu=4000, memory=8 * GI), node(), ()),
    ("one millicore too many", pod(cpu=4001), node(), ("Insufficient cpu",)),
    ("several resources at once", pod(cpu=5000, memory=9 * GI), node(), ("Insufficient cpu", "Insufficient memory")),
    ("what others took counts", pod(cpu=3000), node().with_pod(pod("o", cpu=2000)), ("Insufficient cpu",)),
    ("a full node", pod(), node(pods=1).with_pod(pod("o")), ("Too many pods",)),
    (
        "a resource the node lacks",
        replace(pod(), requests={"example.com/gpu": 1}),
        node(),
        ("Insufficient example.com/gpu",),
    ),
    ("a request of nothing fits a node that is overcommitted in it", pod(), node(cpu=1).with_pod(pod("o", cpu=2)), ()),
    ("a cordon", pod(), node(unschedulable=True), ("node(s) were unschedulable",)),
    (
        "a cordon tolerated",
        pod(tolerations=(tolerate("node.kubernetes.io/unschedulable", "Exists"),)),
        node(unschedulable=True),
        (),
    ),
    ("a taint", pod(), node(taints=(taint("a", value="b"),)), untolerated("a", "b")),
    ("NoExecute keeps out too", pod(), node(taints=(taint("a", "NoExecute"),)), untolerated("a")),
    ("PreferNoSchedule does not", pod(), node(taints=(taint("a", "PreferNoSchedule"),)), ()),
    ("tolerated by value", pod(tolerations=(tolerate("a", value="b"),)), node(taints=(taint("a", value="b"),)), ()),
    (
        "another value",
        pod(tolerations=(tolerate("a", value="c"),)),
        node(taints=(taint("a", value="b"),)),
        untolerated("a", "b"),
    ),
    ("tolerated by existence", pod(tolerations=(tolerate("a", "Exists"),)), node(taints=(taint("a", value="b"),)), ()),
    (
        "everything tolerated",
        pod(tolerations=(tolerate(operator="Exists"),)),
        node(taints=(taint("a"), taint("b"))),
        (),
    ),
    (
        "another effect tolerated",
        pod(tolerations=(tolerate("a", "Exists", effect="NoExecute"),)),
        node(taints=(taint("a"),)),
        untolerated("a"),
    ),
    ("an empty key needs Exists", pod(tolerations=(tolerate(),)), node(taints=(taint("a"),)), untolerated("a")),
    ("a node asked for by name", pod(node_name="n2"), node(), ("node(s) didn't match the requested node name",)),
    ("node selector", pod(node_selector={"disk": "ssd"}), node(labels={"disk": "ssd"}), ()),
    ("node selector unmet", pod(node_selector={"disk": "ssd"}), node(), AFFINITY),
    ("In", pod(affinity=affinity([("disk", "In", ["ssd", "nvme"])])), node(labels={"disk": "nvme"}), ()),
    ("In, no label", pod(affinity=affinity([("disk", "In", ["ssd"])])), node(), AFFINITY),
    ("NotIn, no label", pod(affinity=affinity([("disk", "NotIn", ["ssd"])])), node(), ()),
    ("Exists", pod(affinity=affinity([("disk", "Exists", [])])), node(), AFFINITY),
    ("DoesNotExist", pod(affinity=affinity([("disk", "DoesNotExist", [])])), node(), ()),
    ("Gt", pod(affinity=affinity([("cores", "Gt", ["3"])])), node(labels={"cores": "4"}), ()),
    ("Lt", pod(affinity=affinity([("cores", "Lt", ["3"])])), node(labels={"cores": "4"}), AFFINITY),
    (
        "terms are alternatives",
        pod(affinity=affinity([("a", "Exists", [])], [("b", "Exists", [])])),
        node(labels={"b": ""}),
        (),
    ),
    (
        "a term's expressions are not",
        pod(affinity=affinity([("a", "Exists", []), ("b", "Exists", [])])),
        node(labels={"b": ""}),
        AFFINITY,
    ),
    ("an empty term selects nothing", pod(affinity=affinity([])), node(), AFFINITY),
    ("the node's name as a field", pod(affinity=affinity([("metadata.name", "In", ["n1"])], fields=True)), node(), ()),
    ("host port taken", pod(host_ports=(port(80),)), node(host_ports=(port(80, "10.0.0.1"),)), PORTS),
    (
        "host port on another address",
        pod(host_ports=(port(80, "10.0.0.2"),)),
        node(host_ports=(port(80, "10.0.0.1"),)),
        (),
    ),
    ("host port of another protocol", pod(host_ports=(port(80, protocol="UDP"),)), node(host_ports=(port(80),)), ()),
    (
        "the first filter that objects is the one that is heard",
        pod(cpu=9000, node_selector={"disk": "ssd"}),
        node(taints=(taint("a"),)),
        untolerated("a"),
    ),
]


@pytest.mark.parametrize(("pod_", "node_", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_objections(pod_: PodView, node_: NodeView, wanted: tuple[str, ...]) -> None:
    assert objections(pod_, node_) == wanted
