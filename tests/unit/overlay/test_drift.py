"""What counts as drift: that which was right and was changed behind our back, not a new wish and not a first start."""

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network, ip_interface

import pytest

from linux.iptables.rules import Family
from overlay import drift
from overlay.model import (
    Action,
    CreateDevice,
    DropFdb,
    DropNeighbour,
    DropPeer,
    DropRoute,
    LocalAddress,
    RemoveAddress,
    Route,
    RouteKind,
    Seen,
    SeenDevice,
    Wanted,
    WireGuardDevice,
)
from tests.unit.overlay import kernel, nodes
from tests.unit.overlay.nodes import BACKENDS, WIREGUARD, lease, wanted
from tests.unit.overlay.test_plan import DEVICE, RIGHT, WANTED, carried_out, steps_to


def mended(seen: Seen, wish: Wanted = WANTED) -> dict[str, int]:
    return dict(Counter(drift.object_of(step) for step in drift.mended(steps_to(wish, seen), wish)))


def test_a_first_start_is_no_drift() -> None:
    assert drift.mended(steps_to(WANTED, Seen()), None) == []


def test_a_deleted_device_counts_once_beside_all_that_hung_on_it() -> None:
    assert mended(Seen()) == {"device": 1, "address": 1, "neighbour": 2, "fdb": 2, "route": 2}


@pytest.mark.parametrize(
    "damage",
    [
        SeenDevice(5, replace(DEVICE, vni=9), up=True, marked=True),
        SeenDevice(5, None, up=True, marked=False),
    ],
)
def test_another_device_in_the_place_of_ours_counts_once(damage: SeenDevice) -> None:
    assert mended(replace(RIGHT, device=damage))["device"] == 1


def test_a_renamed_device_counts_once_and_a_second_one_with_our_alias_too() -> None:
    assert mended(Seen(strays=((7, "mine"),)))["device"] == 1
    assert mended(replace(RIGHT, strays=((8, "twin"),))) == {"device": 1}


def test_strangers_on_our_device_and_rivals_elsewhere_are_drift() -> None:
    strangers = {
        Route(IPv4Network("10.99.0.0/16"), None, protocol=3),
        Route(nodes.subnet(2), nodes.host(9), 7, protocol=3),
        Route(IPv4Network("10.244.2.9/32"), None, protocol=3, kind=RouteKind.BLACKHOLE),
    }
    odd = {LocalAddress(ip_interface("10.9.9.9/24")), LocalAddress(ip_interface("10.244.1.0/32"), 7)}
    damage = replace(RIGHT, routes=RIGHT.routes | strangers, addresses=RIGHT.addresses | odd)
    assert mended(damage) == {"address": 2, "route": 3}


def test_an_entry_in_the_place_of_ours_counts_once() -> None:
    wrong = replace(WANTED.fdb[0], remote=nodes.host(9))
    assert mended(replace(RIGHT, fdb=RIGHT.fdb - {WANTED.fdb[0]} | {wrong})) == {"fdb": 1}
    wide = LocalAddress(ip_interface("10.244.1.0/24"))
    assert mended(kernel.settled(replace(RIGHT, addresses=frozenset({wide})))) == {"address": 1}


@pytest.mark.parametrize(
    "wish",
    [
        wanted([lease(3), lease(4)]),
        wanted([lease(2, data=0x22), lease(3, at=33)]),
        replace(WANTED, addresses=(LocalAddress(ip_interface("10.244.77.0/32")),)),
        replace(WANTED, device=replace(DEVICE, mtu=1400)),
        replace(WANTED, device=replace(DEVICE, mac=nodes.mac(0x77))),
        replace(WANTED, device=replace(DEVICE, local=nodes.host(77))),
        replace(WANTED, device=replace(DEVICE, underlay=9)),
    ],
)
def test_a_new_wish_is_no_drift_nor_is_what_a_device_loses_by_it(wish: Wanted) -> None:
    steps = steps_to(wish, RIGHT)
    assert steps
    assert drift.mended(steps, WANTED) == []


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_action_has_words_and_an_object(backend: str, family: Family) -> None:
    settings = BACKENDS[backend]
    wish = nodes.wished([lease(2, family, settings)], settings, family, blackhole=True).wanted
    seen = carried_out(Seen(), steps_to(wish, Seen()))
    steps = [*steps_to(wish, Seen(strays=((7, "old"),))), *steps_to(replace(wanted([]), device=wish.device), seen)]
    assert all(drift.words(step) for step in steps)
    assert {drift.object_of(step) for step in steps} <= set(drift.OBJECTS)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (CreateDevice(DEVICE), "create device flannel.1 (02:00:00:00:00:01, MTU 1450, from 10.200.0.1)"),
        (CreateDevice(WireGuardDevice("w", 9, 1420, "secret")), "create device w (UDP port 9, MTU 1420)"),
        (RemoveAddress(LocalAddress(ip_interface("10.0.0.1/8"), 7)), "remove address 10.0.0.1/8 of interface 7"),
        (DropNeighbour(WANTED.neighbours[0]), "delete neighbour 10.244.2.0 at 02:00:00:00:00:02"),
        (DropFdb(WANTED.fdb[0]), "delete FDB entry 02:00:00:00:00:02 to 10.200.0.2"),
        (
            DropPeer(wanted([lease(2, Family.V6, WIREGUARD)], WIREGUARD, Family.V6).peers[0]),
            "delete peer key2 at [fd00:200::2]:51821",
        ),
        (DropRoute(WANTED.routes[0]), "delete route 10.244.2.0/24 via 10.244.2.0"),
        (
            DropRoute(Route(nodes.subnet(2), nodes.host(2), 7)),
            "delete route 10.244.2.0/24 via 10.200.0.2 on interface 7",
        ),
        (DropRoute(Route(nodes.subnet(2), None, kind=RouteKind.BLACKHOLE)), "delete route blackhole 10.244.2.0/24"),
    ],
)
def test_the_words_say_what_and_where(step: Action, words: str) -> None:
    assert drift.words(step) == words


def test_a_crowd_is_summed_up() -> None:
    steps = [DropRoute(Route(IPv4Network(f"10.{n}.0.0/16"), None)) for n in range(8)]
    lines = drift.summary([CreateDevice(DEVICE), *steps])
    assert len(lines) == 7
    assert lines[-1] == "... and 3 more of the kind, the last: delete route 10.7.0.0/16"
