"""Two programs that both insist: who is answered at once, who is made to wait, and for how long."""

from dataclasses import replace

from overlay.model import Action, CreateDevice, DropRoute, PutFdb, PutRoute
from overlay.rivals import PAUSE, Rivals
from tests.unit.overlay import nodes

WANTED = nodes.wanted([nodes.lease(2), nodes.lease(3)])
assert WANTED.device
OURS, THEIRS = PutRoute(WANTED.routes[0]), DropRoute(WANTED.routes[1])
ANOTHER = PutFdb(WANTED.fdb[0])
STEPS: list[Action] = [OURS, THEIRS]


def fight(rivals: Rivals, steps: list[Action], *, times: int, began: float = 0.0, gap: float = 0.1) -> list[str]:
    """Mended as often as it is allowed; what was said."""
    said = []
    for turn in range(times):
        now = began + turn * gap
        said += rivals.note(rivals.sift(steps, now)[0], now, [replace(WANTED.routes[0], protocol=99)])
    return said


def test_who_insists_is_named_once_and_answered_seldom() -> None:
    rivals = Rivals()
    said = fight(rivals, STEPS, times=600)
    assert len(said) == 2
    assert "mended once in 5 s from now on: set route" in said[0]
    assert "the other's route has protocol 99 (`ip -4 route show proto 99`)" in said[0]
    now = 59.9
    mended = []
    for turn in range(200):
        now = 60.0 + turn * 0.1
        steps, _ = rivals.sift(STEPS, now)
        rivals.note(steps, now)
        mended += steps
    assert len(mended) == 2 * 20 / PAUSE
    assert rivals.sift([*STEPS, ANOTHER], now) == ([ANOTHER], STEPS), "all else is mended at once"


def test_what_comes_now_and_then_is_mended_at_once_for_ever() -> None:
    rivals = Rivals()
    for turn in range(200):
        now = turn * 2.5
        assert rivals.sift(STEPS, now) == (STEPS, [])
        assert rivals.note(STEPS, now) == []


def test_one_pass_with_many_alike_is_no_fight() -> None:
    rivals = Rivals()
    assert rivals.note([OURS] * 100, 0.0) == []
    assert rivals.sift(STEPS, 0.1) == (STEPS, [])


def test_a_rival_that_rests_is_forgotten() -> None:
    rivals = Rivals()
    assert fight(rivals, STEPS, times=20)
    assert rivals.sift(STEPS, 2.0) == ([], STEPS)
    assert rivals.sift(STEPS, 10.0) == (STEPS, [])
    assert rivals.note(STEPS, 10.0) == []
    assert rivals.sift(STEPS, 10.1) == (STEPS, [])


def test_nothing_is_written_for_a_device_that_waits() -> None:
    rivals = Rivals()
    device = CreateDevice(WANTED.device)
    fight(rivals, [device], times=20)
    assert rivals.sift([device, ANOTHER], 2.0) == ([], [device, ANOTHER])
