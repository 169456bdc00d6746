"""ReplicaSets: who goes first, and the right number of pods though informers lag and passes are cut short."""

from datetime import timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.observe import OwnWrites
from controllers.plan import replicasets as plan
from controllers.plan.claims import claims
from controllers.plan.pods import available_in, is_active
from kube.apps import ReplicaSet
from kube.client import Client, Connection
from kube.informer import Informer
from kube.pods import Pod
from kube.resources import PODS
from kube.selectors import parse_labels
from tests.unit.controllers.paper import START

NOW = START + timedelta(hours=1)


def pod(name: str, node: str = "n1", phase: str = "Running", ready: int | None = 600, **meta: object) -> Pod:
    """`ready`: seconds ago, None when it is not."""
    conditions = []
    if ready is not None:
        conditions.append(
            {"type": "Ready", "status": "True", "lastTransitionTime": (NOW - timedelta(seconds=ready)).isoformat()}
        )
    restarts = meta.pop("restarts", 0)
    body = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": (NOW - timedelta(seconds=700)).isoformat(),
            **meta,
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"name": "c", "restartCount": restarts}],
        },
    }
    return msgspec.convert(body, Pod)


def replica_set(replicas: int = 3, **meta: object) -> ReplicaSet:
    template = {"metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}}, "spec": {"unknownField": 1}}
    body = {
        "metadata": {"name": "rs", "namespace": "default", "uid": "rs-uid", **meta},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    return msgspec.json.decode(msgspec.json.encode(body), type=ReplicaSet)


def test_the_pods_whose_loss_is_felt_least_go_first() -> None:
    in_order = [
        pod("unassigned", node="", phase="Pending", ready=None),
        pod("pending", phase="Pending", ready=None),
        pod("unready", ready=None),
        pod("cheap", annotations={plan.DELETION_COST: "-5"}),
        pod("crowded-fresh", ready=10),
        pod("crowded-restarted", restarts=3),
        pod("crowded"),
        pod("alone", node="n2"),
        pod("dear", annotations={plan.DELETION_COST: "100"}),
    ]
    related = [pod("another", node="n1"), *in_order]
    victims = plan.victims(list(reversed(in_order)), len(in_order), related, NOW)
    assert [p.metadata.name for p in victims] == [p.metadata.name for p in in_order]
    assert len(plan.victims(in_order, 2, related, NOW)) == 2


def test_a_pod_is_made_of_the_whole_template() -> None:
    body = plan.new_pod(replica_set())
    assert body["metadata"]["generateName"] == "rs-"
    assert body["metadata"]["annotations"] == {"a": "b"}
    assert body["spec"] == {"unknownField": 1}
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("ReplicaSet", "rs-uid", True)


def test_batches_double() -> None:
    assert list(plan.batches(0)) == []
    assert list(plan.batches(10)) == [1, 2, 4, 3]


def test_missing_is_bounded_by_the_burst() -> None:
    assert plan.missing(replica_set(3), 5) == -2
    assert plan.missing(replica_set(10_000), 0) == plan.BURST


def test_availability_takes_its_time() -> None:
    assert available_in(pod("p", ready=10), 0, NOW) == 0.0
    assert available_in(pod("p", ready=10), 30, NOW) == 20.0
    assert available_in(pod("p", ready=None), 30, NOW) is None


def test_status_counts_what_is_there() -> None:
    pods = [pod("a", labels={"app": "web"}), pod("b", ready=None), pod("c", deletionTimestamp=NOW.isoformat())]
    status, again = plan.status(replica_set(3, generation=4), pods, None, NOW)
    assert (status.replicas, status.ready_replicas, status.available_replicas) == (2, 1, 1)
    assert (status.fully_labeled_replicas, status.terminating_replicas, status.observed_generation) == (1, 1, 4)
    assert again is None


def test_whose_pods() -> None:
    def owned_by(uid: str) -> dict[str, object]:
        return {
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": True}
            ]
        }

    ours, theirs = owned_by("rs-uid"), owned_by("other")
    labels = {"labels": {"app": "web"}}
    pods = [
        pod("owned", **ours, **labels),
        pod("left", **ours),
        pod("orphan", **labels),
        pod("theirs", **theirs, **labels),
    ]
    found = claims(replica_set(), parse_labels("app=web"), pods)
    names = [[p.metadata.name for p in group] for group in (found.owned, found.adopted, found.released)]
    assert names == [["owned"], ["orphan"], ["left"]]
    going = replica_set(deletionTimestamp=NOW.isoformat())
    assert claims(going, parse_labels("app=web"), pods).adopted == ()


class Lagging:
    """A ReplicaSet whose controller sees the world through an informer that is behind."""

    def __init__(self, replicas: int) -> None:
        self.wanted = replicas
        self.live: dict[str, Pod] = {}
        self.history: list[tuple[str, Pod | None]] = []
        self.made = 0
        self.restart()

    def restart(self) -> None:
        """kill -9: what was in memory is gone, the first list is the truth."""
        client = Client(Connection("http://localhost:1"))
        self.informer: Informer[Pod] = Informer(client, PODS)
        self.writes = OwnWrites(client, PODS, self.informer)
        self.history = []
        for key, found in self.live.items():
            self.informer._replace(key, found)

    def sync(self, cut: int) -> None:
        """One pass, of which only the first `cut` writes happen before the process dies."""
        active = [p for p in self.writes.over(self.informer.items(), lambda _: True) if is_active(p)]
        count = plan.missing(replica_set(self.wanted), len(active))
        victims = plan.victims(active, max(0, -count), active, NOW)
        for number in range(abs(count)):
            if number >= cut:
                self.restart()
                return
            if count > 0:
                self.made += 1
                self.put(made := pod(f"p{self.made}", ready=None))
                self.writes.created(made)
            else:
                self.put(pod(victims[number].metadata.name, deletionTimestamp=NOW.isoformat()))
                self.writes.deleted(victims[number])

    def put(self, new: Pod) -> None:
        key = new.metadata.key
        if new.metadata.deletion_timestamp is not None and key not in self.live:
            return
        self.live[key] = new
        self.history.append((key, new))

    def finish(self) -> None:
        """Kubelets end what is terminating."""
        for key in [k for k, p in self.live.items() if p.metadata.deletion_timestamp is not None]:
            del self.live[key]
            self.history.append((key, None))

    def catch_up(self, events: int) -> None:
        for key, new in self.history[:events]:
            self.informer._replace(key, new)
        self.history = self.history[events:]

    @property
    def active(self) -> int:
        return sum(is_active(p) for p in self.live.values())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40), st.integers(0, 6))
def test_never_one_pod_too_many_though_the_informer_lags(happenings: list[tuple[int, int]], last: int) -> None:
    world = Lagging(3)
    for what, number in happenings:
        match what:
            case 0:
                world.sync(cut=100)
            case 1:
                world.sync(cut=number)
            case 2:
                world.catch_up(number)
            case 3:
                world.finish()
            case _:
                world.wanted = number
                while world.history:  # a new size is seen after what was written under the old one
                    world.catch_up(1)
        assert world.active <= max(world.wanted, 6)
    most = max(world.wanted, world.active)
    world.wanted = last
    for _ in range(4):
        world.sync(cut=100)
        assert world.active <= max(most, last)
        world.finish()
        world.catch_up(3)
    world.catch_up(1000)
    world.sync(cut=100)
    assert world.active == last


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=30), st.integers(1, 8))
def test_with_a_fixed_size_there_are_never_more(happenings: list[tuple[int, int]], replicas: int) -> None:
    world = Lagging(replicas)
    for what, number in happenings:
        (world.sync, world.sync, world.catch_up, lambda _: world.finish())[what](number if what != 1 else 100)
        assert world.active <= replicas
    world.catch_up(1000)
    world.sync(cut=100)
    assert world.active == replicas
