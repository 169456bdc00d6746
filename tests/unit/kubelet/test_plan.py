"""The plan of a pod's life, as dialogues, and its promise to converge wherever it was cut short."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet import plan
from kubelet.model import Seen
from kubelet.runtime import ContainerState
from tests.unit.kubelet.world import World, make_pod, speak

DIALOGUES = Path(__file__).parent / "dialogues"


def spoken(text: str) -> str:
    """The dialogue with the answers as they are: lines said by the world are indented."""
    world, out = World(), []
    for line in text.splitlines():
        if not line.strip() or line.startswith(" "):
            continue
        out.append(line)
        if not line.startswith("#"):
            out += [f"    {answer}" for answer in speak(world, line)]
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", sorted(DIALOGUES.glob("*.txt")), ids=lambda path: path.stem)
def test_dialogue(path: Path, golden: Callable[[Path, str], None]) -> None:
    golden(path, spoken(path.read_text()))


def _summary(world: World) -> tuple[object, ...]:
    running = sorted(c.name for c in world.containers if c.state is ContainerState.RUNNING)
    return (world.status.phase, running, len(world.seen().ready_sandboxes))


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
@pytest.mark.parametrize("cut", range(8))
def test_cut_short_at_each_step_it_comes_to_the_same_end(policy: str, cut: int) -> None:
    def life(cuts: int | None) -> World:
        world = World(pod=make_pod(restart=policy, init="i", containers="a,b"))

        def go() -> None:
            nonlocal cuts
            if cuts is not None:
                for _ in zip(range(cuts), world.passes(), strict=False):
                    pass
                world.forget()
            list(world.passes())

        go()
        world.end(world.newest("i").id, 0)
        go()
        world.end(world.newest("a").id, 1)
        go()
        return world

    assert _summary(life(cut)) == _summary(life(None))


@given(
    st.lists(
        st.sampled_from(
            [
                "pass",
                "step 1",
                "exit a 0",
                "exit a 1",
                "exit b 1",
                "sandbox dies",
                "advance 15",
                "fail a liveness",
                "wipe a",
            ]
        ),
        max_size=12,
    ),
    st.sampled_from(["Always", "OnFailure", "Never"]),
)
def test_whatever_happens_it_comes_to_rest_and_counts_never_fall(lines: list[str], policy: str) -> None:
    world = World(pod=make_pod(restart=policy, init="", containers="a,b"))
    counts: dict[str, int] = {}
    for line in ["pass", *lines, "pass"]:
        verb, *words = line.split()
        if verb in ("exit", "fail") and not any(c.name == words[0] for c in world.containers):
            continue
        if verb == "exit" and world.newest(words[0]).state is not ContainerState.RUNNING:
            continue
        if verb == "sandbox" and not world.sandboxes:
            continue
        before = world.status.phase
        list(speak(world, line))
        for status in world.status.container_statuses:
            assert status.restart_count >= counts.get(status.name, 0)
            counts[status.name] = status.restart_count
        assert before not in ("Succeeded", "Failed") or world.status.phase == before
    if world.status.phase not in ("Succeeded", "Failed"):
        world.now = world.now.replace(year=2027)
        list(speak(world, "pass"))
        running = {c.name for c in world.containers if c.state is ContainerState.RUNNING}
        if policy == "Always":
            assert running == {"a", "b"}


def test_grace_only_shrinks_and_never_below_a_second() -> None:
    assert plan.shrunk(None, 30) == 30
    assert plan.shrunk(30, 5) == 5
    assert plan.shrunk(5, 30) == 5
    assert plan.shrunk(5, 0) == 1
    assert plan.shrunk(5, None) == 5


def test_nothing_seen_nothing_to_stop() -> None:
    assert plan.termination_actions(Seen(), 30) == ()
