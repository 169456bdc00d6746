"""What counts as drift: that which was right and was changed behind our back, not a new wish and not a first start."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from overlay import drift, plan
from overlay.model import CreateDevice, DropRoute, Route, Seen
from tests.unit.overlay.test_plan import DEVICE, RIGHT, WANTED, lease


def mended(seen: Seen) -> dict[str, int]:
    found = drift.mended(plan.actions(WANTED, seen), WANTED)
    return {name: sum(drift.object_of(step) == name for step in found) for name in drift.OBJECTS}


def test_a_first_start_is_no_drift() -> None:
    assert drift.mended(plan.actions(WANTED, Seen()), None) == []


def test_a_deleted_device_counts_once_beside_all_that_hung_on_it() -> None:
    assert mended(Seen()) == {"device": 1, "address": 1, "neighbour": 2, "fdb": 2, "route": 2}


def test_strangers_on_our_device_are_drift() -> None:
    stranger = Route(IPv4Network("10.99.0.0/16"), None, onlink=False, protocol=3)
    damage = replace(
        RIGHT, routes=RIGHT.routes | {stranger}, addresses=RIGHT.addresses | {IPv4Interface("10.9.9.9/24")}
    )
    assert mended(damage) == {"device": 0, "address": 1, "neighbour": 0, "fdb": 0, "route": 1}


def test_a_new_wish_is_no_drift() -> None:
    for wanted in (
        replace(WANTED, peers=(lease(3), lease(4))),
        replace(WANTED, peers=(lease(2, mac=0x22), lease(3, host=33))),
        replace(WANTED, address=IPv4Address("10.244.77.0")),
        replace(WANTED, device=replace(DEVICE, mtu=1400)),
    ):
        steps = list(plan.actions(wanted, RIGHT))
        assert steps
        assert drift.mended(steps, WANTED) == []


def test_every_action_has_words() -> None:
    steps = [*plan.actions(WANTED, Seen(strays=((7, "old"),))), DropRoute(Route(IPv4Network("10.1.0.0/16"), None))]
    assert all(drift.words(step) for step in steps)
    assert drift.words(CreateDevice(DEVICE)) == "create device flannel.1 (02:00:00:00:00:01, MTU 1450, from 10.200.0.1)"


def test_a_crowd_is_summed_up() -> None:
    steps = [DropRoute(Route(IPv4Network(f"10.{n}.0.0/16"), None)) for n in range(8)]
    lines = drift.summary([CreateDevice(DEVICE), *steps])
    assert len(lines) == 7
    assert lines[-1] == "... and 3 more of the kind, the last: delete route 10.7.0.0/16 via None"
