"""What holds of every end of a pod, whatever it is made of and whatever happens meanwhile. That nobody is stopped before his
turn has come is asserted in the world itself."""

import re

from hypothesis import given
from hypothesis import strategies as st

from kubelet import plan
from kubelet.model import Seen
from tests.unit.kubelet.dialogue import make_pod, spoken
from tests.unit.kubelet.world import World

LINE = re.compile(r"    \+(\d+)s (stop|preStop|start) (?!sandbox)(\w+) (\w+)(?: within (\d+)s)?")
NAMES = ("a", "b", "one", "two", "setup")

seconds = st.integers(0, 40)


@st.composite
def ends(draw: st.DrawFn) -> tuple[str, int]:
    """A dialogue that ends a pod, and the grace."""
    grace = draw(st.integers(0, 30))
    inits = draw(st.sampled_from(["", "one+", "one+,two+", "one+,setup", "setup,one+,two+"]))
    hooks = draw(st.dictionaries(st.sampled_from(NAMES[:4]), seconds, max_size=3))
    slow = draw(st.dictionaries(st.sampled_from(NAMES), seconds, max_size=5))
    lines = [f"slow {name} {takes}" for name, takes in slow.items()]
    hooked = f" hooks={','.join(f'{n}:{t}' for n, t in hooks.items())}" if hooks else ""
    lines += [f"pod containers=a,b{' init=' + inits if inits else ''}{hooked}", "pass"]
    if inits.startswith("setup") and draw(st.booleans()):
        lines += ["exit setup 0", "pass"]
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        lines.append(f"later {draw(seconds)} exit {name} 1")
    if draw(st.booleans()):
        sooner = draw(st.integers(0, 30))
        lines.append(f"later {draw(st.integers(1, 20))} grace {sooner}")
    return "\n".join([*lines, f"delete {grace}"]), grace


@given(ends())
def test_every_end_is_in_order_and_in_time(end: tuple[str, int]) -> None:
    text, grace = end
    world = World(lenient=True)
    said = spoken(text, world)
    told = [(int(at), what, name, identity, within) for at, what, name, identity, within in LINE.findall(said)]
    begun = said.index("delete")
    assert "terminated" in said[begun:]
    assert not world.seen().live
    assert not world.seen().ready_sandboxes
    last = max(1, grace)
    for at, what, _name, _identity, within in told:
        if what == "stop":
            assert int(within) >= 2, "nobody gets less than two seconds between SIGTERM and SIGKILL"
            assert at + int(within) <= last + 2
    assert world.deadline_passed <= 2.0, said
    _hooks_come_first(told)


def _hooks_come_first(told: list[tuple[int, str, str, str, str]]) -> None:
    warned = [identity for _, what, _, identity, _ in told if what == "preStop"]
    assert len(warned) == len(set(warned)), "a hook runs once"
    for identity in warned:
        steps = [what for _, what, _, other, _ in told if other == identity and what != "start"]
        assert steps[0] == "preStop"


def test_grace_only_shrinks_and_never_below_a_second() -> None:
    assert plan.shrunk(None, 30) == 30
    assert plan.shrunk(30, 5) == 5
    assert plan.shrunk(5, 30) == 5
    assert plan.shrunk(5, 0) == 1
    assert plan.shrunk(5, None) == 5


def test_nothing_seen_nothing_to_stop() -> None:
    world = World(pod=make_pod())
    ending = plan.Ending(seen=Seen(), deadline=world.now, now=world.now)
    assert plan.termination(ending).finished
