from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scheduler import scores
from scheduler.filters import objections
from scheduler.model import Bind, NodeView, PodView, Refuse
from scheduler.plan import schedule
from tests.unit.scheduler.views import GI, node, pod, taint


def placed(pods: list[PodView], nodes: list[NodeView]) -> dict[str, str]:
    return {d.pod.name: d.node if isinstance(d, Bind) else d.message for d in schedule(pods, nodes)}


def test_the_pods_of_one_controller_are_spread() -> None:
    nodes = [node("n1"), node("n2"), node("n3")]
    where = placed([pod(f"p{i}", group="rs") for i in range(6)], nodes)
    assert Counter(where.values()) == {"n1": 2, "n2": 2, "n3": 2}


def test_spreading_counts_the_pods_that_are_there_and_stay() -> None:
    crowded = node("n1").with_pod(pod("a", group="rs"))
    leaving = node("n2").with_pod(pod("b", group="rs"), staying=False)
    assert placed([pod(group="rs")], [crowded, leaving]) == {"p": "n2"}


def test_of_two_nodes_the_emptier_one() -> None:
    busy = node("n1").with_pod(pod("x", cpu=2000, memory=4 * GI))
    assert placed([pod(cpu=100)], [busy, node("n2")]) == {"p": "n2"}


def test_cpu_and_memory_are_kept_in_balance() -> None:
    cpu_heavy = node("n1").with_pod(pod("x", cpu=2000, memory=1 * GI))
    memory_heavy = node("n2").with_pod(pod("y", cpu=500, memory=4 * GI))
    assert placed([pod(cpu=100, memory=3 * GI)], [cpu_heavy, memory_heavy]) == {"p": "n1"}


def test_higher_priority_is_served_first() -> None:
    nodes = [node("n1", pods=1)]
    where = placed([pod("low"), pod("high", priority=10)], nodes)
    assert where == {"high": "n1", "low": "0/1 nodes are available: 1 Too many pods."}


def test_the_message_is_upstreams() -> None:
    nodes = [
        node("n1", taints=(taint("node.kubernetes.io/unreachable"),)),
        node("n2", cpu=100),
        node("n3", cpu=100, memory=1),
    ]
    (decision,) = schedule([pod(cpu=200, memory=GI)], nodes)
    assert decision == Refuse(
        pod(cpu=200, memory=GI),
        "0/3 nodes are available: 1 Insufficient memory, "
        "1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 2 Insufficient cpu.",
    )


def test_no_nodes_at_all() -> None:
    assert placed([pod()], []) == {"p": "no nodes available to schedule pods"}


def test_scores_lie_between_0_and_100() -> None:
    full = node("n2", cpu=0, memory=0).with_pod(pod("x", cpu=1, group="g"))
    for score, _ in scores.WEIGHTS:
        assert all(0 <= s <= 100 for s in score(pod(cpu=10**6, memory=2**50, group="g"), [node(), full]))


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 6), st.sampled_from(["", "a", "b"])), max_size=25),
    st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 6), st.integers(0, 6)), max_size=5),
)
def test_what_is_bound_fits_and_what_is_refused_fits_nowhere(
    wishes: list[tuple[int, int, str]], sizes: list[tuple[int, int, int]]
) -> None:
    pods = [pod(f"p{i}", cpu=cpu, memory=memory * GI, group=group) for i, (cpu, memory, group) in enumerate(wishes)]
    nodes = {f"n{i}": node(f"n{i}", cpu=c, memory=m * GI, pods=n) for i, (c, m, n) in enumerate(sizes)}
    for decision in schedule(pods, list(nodes.values())):
        match decision:
            case Bind(placed_pod, name):
                assert not objections(placed_pod, nodes[name])
                nodes[name] = nodes[name].with_pod(placed_pod)
            case Refuse(refused, _):
                assert all(objections(refused, n) for n in nodes.values())
