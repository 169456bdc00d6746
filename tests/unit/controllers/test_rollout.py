"""The arithmetic in tables, and its two promises under every interleaving that hypothesis can think of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.plan.pods import is_active
from controllers.plan.rollout import Limits, Size, grown, limits, proportional, resolve, shrunk
from tests.unit.controllers.paper import Paper, Stale, deployment


@pytest.mark.parametrize(
    ("value", "total", "up", "wanted"),
    [
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        (None, 4, True, 1),
        (3, 10, True, 3),
        ("0%", 5, True, 0),
        ("100%", 3, False, 3),
    ],
)
def test_resolve(value: int | str | None, total: int, up: bool, wanted: int) -> None:
    assert resolve(value, total, up=up) == wanted


@pytest.mark.parametrize("value", ["x", "5", "-1%", "1.5%"])
def test_what_is_no_percentage_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="neither a number nor a percentage"):
        resolve(value, 1, up=True)


def test_with_nothing_allowed_one_may_be_lost() -> None:
    assert limits(3, 0, "0%") == Limits(3, 0, 1)
    assert limits(1, "25%", "25%") == Limits(1, 1, 0)


def test_growth_is_bounded_by_what_is_there_not_only_by_what_is_asked_for() -> None:
    bounds = Limits(4, 1, 1)
    assert grown(Size("new", 0, 0), [Size("old", 3, 3, actual=4)], bounds) == 1
    assert grown(Size("new", 1, 0), [Size("old", 3, 3, actual=4)], bounds) == 1
    assert grown(Size("new", 1, 0), [Size("old", 3, 3, actual=3)], bounds) == 2
    assert grown(Size("new", 1, 0), [Size("old", 3, 3, actual=3, observed=False)], bounds) == 1
    assert grown(Size("new", 9, 9), [], bounds) == 4


def test_unhealthy_old_pods_go_first_and_cost_nothing() -> None:
    bounds = Limits(4, 0, 1)
    assert shrunk(Size("new", 0, 0), [Size("a", 2, 2), Size("b", 2, 1)], bounds) == {"b": 1}
    assert shrunk(Size("new", 1, 0), [Size("a", 3, 3)], bounds) == {}
    assert shrunk(Size("new", 2, 2), [Size("a", 2, 2)], bounds) == {"a": 1}


def test_proportions_add_up() -> None:
    sets = [Size("old", 8, 8, allowed=13), Size("new", 5, 0, allowed=13)]
    assert proportional(sets, Limits(15, 3, 2), 13) == {"old": 11, "new": 7}
    assert proportional(sets, Limits(0, 0, 0), 13) == {"old": 0, "new": 0}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 60), st.integers(0, 10), st.integers(1, 40))
def test_proportional_sizes_are_never_negative_and_never_too_many(
    specs: list[int], replicas: int, surge: int, allowed: int
) -> None:
    sets = [Size(str(i), n, n, allowed=allowed) for i, n in enumerate(specs)]
    bounds = Limits(replicas, surge, 1)
    sizes = proportional(sets, bounds, sum(specs))
    assert all(n >= 0 for n in sizes.values())
    assert sum(sizes.values()) == (bounds.most if replicas else 0)


class Interleaving:
    """A rollout on paper in which anything may happen next, and reports may be late."""

    def __init__(self, replicas: int, surge: int, unavailable: int) -> None:
        self.paper = Paper()
        rolling = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
        self.paper.create("Deployment", deployment(replicas, strategy={"type": "RollingUpdate", **rolling}))
        self.bounds = limits(replicas, surge, unavailable)
        self.settle()

    def act(self, number: int) -> None:
        sets = self.paper.sets()
        chosen = sets[number // 8 % len(sets)]
        match number % 8:
            case 0 | 1:  # a pass, perhaps cut short by a crash
                actions = self.paper.plan().actions
                self.apply(actions[: 1 + number // 8] if number % 8 else actions)
            case 2 | 3:
                self.paper.count(chosen)
            case 4 | 5:
                self.paper.report(chosen)
            case _:
                waiting = [p for p in self.paper.pods(chosen) if not p.status.conditions]
                if waiting:
                    self.paper.ready(waiting[0])

    def apply(self, actions: object) -> None:
        try:
            self.paper.carry_out(actions)  # type: ignore[arg-type]
        except Stale:
            return

    def settle(self) -> None:
        """Everybody does their work, in turn, until nothing changes."""
        for _ in range(60):
            before = dict(self.paper.objects)
            self.apply(self.paper.plan().actions)
            self.check()
            for replica_set in self.paper.sets():
                self.paper.count(replica_set)
                self.check()
                self.paper.report(replica_set)
                for waiting in [p for p in self.paper.pods(replica_set) if not p.status.conditions]:
                    self.paper.ready(waiting)
            if before == self.paper.objects:
                return
        raise AssertionError("it does not settle")

    def check(self) -> None:
        pass


class Promising(Interleaving):
    def check(self) -> None:
        asked = sum(s.spec.replicas or 0 for s in self.paper.sets())
        there = sum(is_active(p) for p in self.paper.pods())
        assert asked <= self.bounds.most
        assert there <= self.bounds.most


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.lists(st.integers(0, 63), max_size=25), min_size=1, max_size=3),
)
def test_a_rolling_update_keeps_its_promises_whatever_happens_when(
    replicas: int, surge: int, unavailable: int, versions: list[list[int]]
) -> None:
    rollout = Promising(replicas, surge, unavailable)
    assert rollout.paper.available == replicas
    for version, happenings in enumerate(versions, start=2):
        spec = deployment(image=f"web:{version}")["spec"]
        rollout.paper.amend("Deployment", "web", {"spec": {"template": spec["template"]}})
        for number in happenings:
            rollout.act(number)
            rollout.check()
            assert rollout.paper.available >= rollout.bounds.least
    rollout.settle()
    last = f"web:{len(versions) + 1}"
    assert [p.spec.containers[0].image for p in rollout.paper.pods()] == [last] * replicas
    assert rollout.paper.available == replicas
