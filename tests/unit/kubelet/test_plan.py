"""The plan of a pod's life, as dialogues, and its promise to converge wherever it was cut short."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.pods import Container
from kubelet.plan import container_hash
from kubelet.plan.restarts import changed
from kubelet.runtime import CONTAINER_HASH, ContainerState, ContainerStatus, PodIdentity
from tests.unit.kubelet.dialogue import make_pod, speak, spoken
from tests.unit.kubelet.world import World

DIALOGUES = Path(__file__).parent / "dialogues"
PATHS = sorted(DIALOGUES.glob("*.txt"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_dialogue(path: Path, golden: Callable[[Path, str], None]) -> None:
    golden(path, spoken(path.read_text()))


def _summary(world: World) -> tuple[object, ...]:
    """Where a pod stands once nothing waits any more."""
    world.refusing.clear()
    for _ in range(3):
        world.now = world.now.replace(year=world.now.year + 1)
        list(speak(world, "pass"))
    running = sorted(c.name for c in world.containers if c.state is ContainerState.RUNNING)
    return (world.status.phase, running, len(world.seen().ready_sandboxes))


# That a container was stopped in order to be started again is known to the kubelet that stopped it and to no other, as upstream.
FORGETFUL = ("liveness_of_one_that_exits_well",)


@pytest.mark.parametrize("path", [p for p in PATHS if p.stem not in FORGETFUL], ids=lambda path: path.stem)
def test_cut_short_at_each_deed_it_comes_to_the_same_end(path: Path) -> None:
    text, whole = path.read_text(), World()
    spoken(text, whole)
    deeds, end = whole.deeds, _summary(whole)
    for cut in range(1, deeds + 1):
        world = World(cut=cut)
        spoken(text, world)
        assert _summary(world) == end, f"killed after deed {cut}"


@given(
    st.lists(
        st.sampled_from(
            [
                "pass",
                "step 1",
                "exit a 0",
                "exit a 1",
                "exit b 1",
                "exit i 0",
                "exit i 1",
                "exit s 1",
                "sandbox dies",
                "advance 15",
                "fail a liveness",
                "fail s liveness",
                "wipe a",
                "wipe s",
                "debug e a",
            ]
        ),
        max_size=14,
    ),
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.sampled_from(["", "i", "s+", "s+,i", "i,s+"]),
)
def test_whatever_happens_it_comes_to_rest_and_counts_never_fall(lines: list[str], policy: str, init: str) -> None:
    world = World(pod=make_pod(restart=policy, init=init, containers="a,b"))
    counts: dict[str, int] = {}
    guests = 0
    for line in ["pass", *lines, "pass"]:
        verb, *words = line.split()
        if verb in ("exit", "fail") and not any(c.name == words[0] for c in world.containers):
            continue
        if verb == "sandbox" and not world.sandboxes:
            continue
        if verb == "debug":
            guests += 1
            line = f"debug e{guests} a"
        before = world.status.phase
        list(speak(world, line))
        for status in (*world.status.container_statuses, *world.status.init_container_statuses):
            assert status.restart_count >= counts.get(status.name, 0)
            counts[status.name] = status.restart_count
        assert before not in ("Succeeded", "Failed") or world.status.phase == before
    _comes_to_rest(world, policy, init)


def _comes_to_rest(world: World, policy: str, init: str) -> None:
    for _ in range(4):
        world.now = world.now.replace(year=world.now.year + 1)
        list(speak(world, "pass"))
        if init and any(c.name == "i" and c.state is ContainerState.RUNNING for c in world.containers):
            list(speak(world, "exit i 0"))
    running = {c.name for c in world.containers if c.state is ContainerState.RUNNING}
    if world.status.phase in ("Succeeded", "Failed"):
        assert not running
    elif policy == "Always":
        assert running >= {"a", "b"}
        assert ("s" in running) == ("s+" in init)


def test_the_hash_of_a_container_is_a_stock_kubelets() -> None:
    """The value that upstream's own TestHashContainer has."""
    assert container_hash(Container(name="test_container", image="foo/image:v1")) == "8e45cbd0"


@pytest.mark.parametrize(
    ("known", "other"), [("6e5075152e9d03e4", False), ("6e5075152e9d03e5", True), ("8e45cbd0", True)]
)
def test_what_this_kubelet_wrote_before_counts_as_the_same(known: str, other: bool) -> None:
    """An upgrade restarts nothing."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    there = ContainerStatus(
        id="c1",
        sandbox_id="s1",
        pod=PodIdentity("p", "default", "u1"),
        name="a",
        attempt=0,
        state=ContainerState.RUNNING,
        created_at=when,
        annotations={CONTAINER_HASH: known},
    )
    assert changed(Container(name="a", image="i:1"), there) is other
