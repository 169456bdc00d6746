import msgspec

from kube.client import Client, Connection
from kube.core import Node, Service
from kube.meta import Typed
from kube.pods import Pod
from kube.reconcile import Wake
from scheduler.observe import Observed, group_of, pod_view, requests

MI = 2**20


def a_pod(name: str = "p", node: str = "", phase: str = "Pending", version: str = "1", **spec: object) -> Pod:
    body = {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": version},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}], "nodeName": node, **spec},
        "status": {"phase": phase},
    }
    return msgspec.convert(body, Pod)


def test_requests_are_containers_and_sidecars_or_the_highest_init_plus_overhead() -> None:
    def container(cpu: str, **more: str) -> dict[str, object]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}, **more}

    pod = a_pod(
        containers=[container("100m"), container("0.2")],
        initContainers=[
            container("50m", restartPolicy="Always"),
            container("1"),
            container("10m", restartPolicy="Always"),
        ],
        overhead={"cpu": "5m"},
    )
    assert requests(pod, {}) == {"cpu": 1050 + 5, "memory": 4 * MI}


def test_a_container_that_asks_for_nothing_is_scored_as_a_little() -> None:
    view = pod_view(a_pod(containers=[{"name": "c"}, {"name": "d", "resources": {"requests": {"cpu": "1"}}}]))
    assert view.requests == {"cpu": 1000}
    assert view.scored == {"cpu": 1100, "memory": 400 * MI}


def test_a_pod_is_grouped_by_controller_else_by_the_services_that_select_it() -> None:
    def service(name: str, **selector: str) -> Service:
        return msgspec.convert(
            {"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": selector}}, Service
        )

    services = [service("b", app="x"), service("a", app="x", tier="y"), service("all")]
    bare = msgspec.convert(
        {"metadata": {"name": "p", "namespace": "default", "labels": {"app": "x", "tier": "y"}}}, Pod
    )
    assert group_of(bare, services) == "default/a,default/b"
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
    owned = msgspec.convert({"metadata": {"name": "p", "namespace": "default", "ownerReferences": [reference]}}, Pod)
    assert group_of(owned, services) == "u"


class Shown:
    """Observed, with the informers' events given by hand."""

    def __init__(self) -> None:
        self.wake = Wake()
        self.observed = Observed(Client(Connection("http://localhost:1")), self.wake)

    def show(self, new: Typed, old: Typed | None = None, *, gone: bool = False) -> bool:
        informer = self.observed.nodes if isinstance(new, Node) else self.observed.pods
        informer._replace(new.metadata.key, None if gone else new)  # type: ignore[arg-type]
        woken = self.wake.is_set()
        self.wake._event.clear()
        return woken


def a_node(cpu: str = "2", version: str = "1") -> Node:
    body = {
        "metadata": {"name": "n1", "resourceVersion": version},
        "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}},
    }
    return msgspec.convert(body, Node)


def used(observed: Observed) -> int:
    (node,) = observed._node_views()
    return node.requested.get("cpu", 0)


def test_a_bound_pod_counts_until_the_informer_shows_it() -> None:
    shown = Shown()
    shown.show(a_node())
    assert shown.show(a_pod())
    pending, views, _ = shown.observed.read()
    assert [p.metadata.name for p in pending] == ["p"]
    shown.observed.assume(views[0], "n1")
    assert shown.observed.read() == ([], [], [])
    assert used(shown.observed) == 1000
    assert not shown.show(a_pod(version="2"))  # the condition's echo, still without a node
    assert used(shown.observed) == 1000
    assert not shown.show(a_pod(node="n1", version="3"))
    assert used(shown.observed) == 1000
    assert shown.show(a_pod(node="n1", phase="Succeeded", version="4"))
    assert used(shown.observed) == 0


def test_an_assumed_pod_that_is_gone_or_another_one_is_forgotten() -> None:
    shown = Shown()
    shown.show(a_node())
    shown.show(a_pod())
    shown.observed.assume(pod_view(a_pod()), "n1")
    shown.show(a_pod(), gone=True)
    assert used(shown.observed) == 0


def test_a_binding_that_the_watch_told_of_before_its_answer_counts_once() -> None:
    shown = Shown()
    shown.show(a_node())
    shown.show(a_pod())
    shown.show(a_pod(node="n1", version="2"))
    shown.observed.assume(pod_view(a_pod()), "n1")
    assert used(shown.observed) == 1000
    shown.show(a_pod(node="n1", version="2"), gone=True)
    shown.observed.assume(pod_view(a_pod()), "n1")
    assert used(shown.observed) == 0


def test_only_what_may_change_a_decision_wakes() -> None:
    shown = Shown()
    assert shown.show(a_node())
    assert not shown.show(a_node(version="2"))  # a heartbeat
    assert shown.show(a_node(cpu="4", version="3"))
    assert not shown.show(a_pod("other", schedulerName="somebody-else"))
    assert shown.show(a_pod())
    assert not shown.show(a_pod(version="2"))
    assert shown.show(a_pod("bound", node="n1")) is False
    assert shown.show(a_pod("bound", node="n1"), gone=True)


def test_other_schedulers_pods_and_finished_ones_are_not_pending() -> None:
    shown = Shown()
    shown.show(a_pod("other", schedulerName="somebody-else"))
    shown.show(a_pod("done", phase="Failed"))
    assert shown.observed.read() == ([], [], [])
