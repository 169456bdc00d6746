"""The plan: entries of each peer, repairs of each kind of damage, convergence from anywhere and after any interruption."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import plan
from overlay.model import (
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Device,
    DropFdb,
    DropNeighbour,
    DropRoute,
    DropStrayRoute,
    Fdb,
    Lease,
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Route,
    Seen,
    SeenDevice,
    StrayRoute,
    Wanted,
)
from tests.unit.overlay import kernel

DEVICE = Device("flannel.1", 1, 8472, 2, IPv4Address("10.200.0.1"), 1450, "02:00:00:00:00:01")
NETWORK = IPv4Network("10.244.0.0/16")


def lease(number: int, *, mac: int | None = None, host: int | None = None, since: float = 0.0) -> Lease:
    return Lease(
        node=f"node{number}",
        subnet=IPv4Network(f"10.244.{number}.0/24"),
        public_ip=IPv4Address(f"10.200.0.{number if host is None else host}"),
        mac=f"02:00:00:00:00:{number if mac is None else mac:02x}",
        since=since,
    )


WANTED = Wanted(DEVICE, IPv4Address("10.244.1.0"), (lease(2), lease(3)))


def carried_out(seen: Seen, steps: list[Action]) -> Seen:
    for step in steps:
        seen = kernel.after(seen, step)
    return seen


RIGHT = carried_out(Seen(), list(plan.actions(WANTED, Seen())))


def test_a_first_start_makes_the_device_then_neighbour_fdb_and_route_of_each_peer() -> None:
    two, three = (next(iter(plan.entries([peer]))) for peer in WANTED.peers)
    assert list(plan.actions(WANTED, Seen())) == [
        CreateDevice(DEVICE),
        AdjustDevice(DEVICE),
        AddAddress(IPv4Address("10.244.1.0")),
        PutNeighbour(two[0]),
        PutFdb(two[1]),
        PutRoute(two[2]),
        PutNeighbour(three[0]),
        PutFdb(three[1]),
        PutRoute(three[2]),
    ]
    assert two == (
        Neighbour(IPv4Address("10.244.2.0"), "02:00:00:00:00:02"),
        Fdb("02:00:00:00:00:02", IPv4Address("10.200.0.2")),
        Route(IPv4Network("10.244.2.0/24"), IPv4Address("10.244.2.0")),
    )


def test_nothing_is_done_when_all_is_right() -> None:
    assert list(plan.actions(WANTED, RIGHT)) == []


_N, _F, _R = next(iter(plan.entries([lease(2)])))
_WRONG_ROUTE = Route(IPv4Network("10.244.9.0/24"), IPv4Address("10.244.9.0"), protocol=3)


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (replace(RIGHT, routes=RIGHT.routes - {_R}), [PutRoute(_R)]),
        (replace(RIGHT, fdb=RIGHT.fdb - {_F}), [PutFdb(_F)]),
        (replace(RIGHT, neighbours=RIGHT.neighbours - {_N}), [PutNeighbour(_N)]),
        (replace(RIGHT, addresses=frozenset()), [AddAddress(IPv4Address("10.244.1.0"))]),
        (
            replace(RIGHT, addresses=RIGHT.addresses | {IPv4Interface("10.9.9.9/24")}),
            [RemoveAddress(IPv4Interface("10.9.9.9/24"))],
        ),
        (replace(RIGHT, routes=RIGHT.routes | {_WRONG_ROUTE}), [DropRoute(_WRONG_ROUTE)]),
        (replace(RIGHT, routes=RIGHT.routes | {replace(_R, metric=50)}), [DropRoute(replace(_R, metric=50))]),
        (
            replace(RIGHT, routes=RIGHT.routes | {replace(_R, gateway=IPv4Address("10.244.7.0"))}),
            [DropRoute(replace(_R, gateway=IPv4Address("10.244.7.0")))],
        ),
        (replace(RIGHT, routes=RIGHT.routes - {_R} | {replace(_R, onlink=False)}), [PutRoute(_R)]),
        (replace(RIGHT, fdb=RIGHT.fdb - {_F} | {replace(_F, plain=False)}), [PutFdb(_F)]),
        (
            replace(RIGHT, stray_routes=(StrayRoute(NETWORK, None, 7),)),
            [DropStrayRoute(StrayRoute(NETWORK, None, 7))],
        ),
        (replace(RIGHT, device=replace(RIGHT.device, marked=False)), [AdjustDevice(DEVICE)]),
    ],
)
def test_each_kind_of_damage_is_mended_by_its_own_repair(damage: Seen, repair: list[Action]) -> None:
    assert list(plan.actions(WANTED, damage)) == repair
    assert carried_out(damage, repair) == RIGHT


@pytest.mark.parametrize(
    "other",
    [
        replace(DEVICE, vni=2),
        replace(DEVICE, port=4789),
        replace(DEVICE, underlay=9),
        replace(DEVICE, local=IPv4Address("10.200.0.77")),
        None,
    ],
)
def test_a_device_that_cannot_become_ours_is_made_anew_with_all_that_hung_on_it(other: Device | None) -> None:
    damage = replace(RIGHT, device=SeenDevice(5, other, up=True, marked=True))
    steps = list(plan.actions(WANTED, damage))
    assert steps[:3] == [DeleteLink(5, "flannel.1"), CreateDevice(DEVICE), AdjustDevice(DEVICE)]
    assert sum(isinstance(step, PutRoute) for step in steps) == 2
    assert kernel.settled(carried_out(damage, steps)) == RIGHT


def test_a_device_with_another_mac_loses_its_neighbours_but_not_its_routes() -> None:
    damage = replace(RIGHT, device=SeenDevice(99, replace(DEVICE, mac="02:00:00:00:00:ff"), up=True, marked=True))
    steps = list(plan.actions(WANTED, damage))
    assert [type(step) for step in steps] == [AdjustDevice, PutNeighbour, PutNeighbour]


def test_a_device_that_was_set_down_gets_its_routes_again() -> None:
    damage = kernel.settled(replace(RIGHT, device=SeenDevice(99, DEVICE, up=False, marked=True)))
    assert [type(step) for step in plan.actions(WANTED, damage)] == [AdjustDevice, PutRoute, PutRoute]


def test_a_node_that_is_gone_takes_its_entries_with_it_route_first() -> None:
    steps = list(plan.actions(replace(WANTED, peers=(lease(3),)), RIGHT))
    assert steps == [DropRoute(_R), DropFdb(_F), DropNeighbour(_N)]


def test_a_peer_with_a_new_mac_is_never_without_a_way() -> None:
    steps = list(plan.actions(replace(WANTED, peers=(lease(2, mac=0x22), lease(3))), RIGHT))
    new = Neighbour(IPv4Address("10.244.2.0"), "02:00:00:00:00:22")
    assert steps == [PutNeighbour(new), PutFdb(Fdb(new.mac, IPv4Address("10.200.0.2"))), DropFdb(_F)]


def test_a_peer_with_a_new_public_ip_changes_one_fdb_entry() -> None:
    steps = list(plan.actions(replace(WANTED, peers=(lease(2, host=222), lease(3))), RIGHT))
    assert steps == [PutFdb(Fdb("02:00:00:00:00:02", IPv4Address("10.200.0.222")))]


def test_our_device_under_another_name_is_removed_first() -> None:
    steps = list(plan.actions(WANTED, Seen(strays=((7, "renamed"),))))
    assert steps[:2] == [DeleteLink(7, "renamed"), CreateDevice(DEVICE)]


def test_the_older_of_two_nodes_with_one_public_ip_stays() -> None:
    found = plan.accepted([lease(2, since=5), lease(3, host=2, since=4), lease(4, since=1)], NETWORK)
    assert [one.node for one in found.leases] == ["node3", "node4"]
    assert "node3 and node2 both announce the public IP 10.200.0.2" in found.refused["node2"]


def test_rivals_for_a_mac_or_a_subnet_and_strangers_to_the_network_are_refused_in_words() -> None:
    overlapping = replace(lease(4), subnet=IPv4Network("10.244.2.128/25"), since=9)
    stranger = replace(lease(5), subnet=IPv4Network("10.9.0.0/24"))
    found = plan.accepted([lease(2), lease(3, mac=2, since=9), overlapping, stranger], NETWORK)
    assert [one.node for one in found.leases] == ["node2"]
    assert "VTEP MAC" in found.refused["node3"]
    assert "overlap" in found.refused["node4"]
    assert "outside the network 10.244.0.0/16" in found.refused["node5"]


def test_everything_of_ours_is_removed_without_memory() -> None:
    seen = Seen(strays=((4, "flannel.1"), (5, "flannel.2")), stray_routes=(StrayRoute(NETWORK, None, 3),))
    assert carried_out(seen, list(plan.removals(seen))) == Seen()


_numbers = st.integers(2, 5)
_peers = st.lists(
    st.builds(lambda n, m, h: lease(n, mac=m, host=h), _numbers, st.integers(2, 9), st.integers(2, 9)), max_size=4
).map(lambda leases: plan.accepted(leases, NETWORK).leases)
_wanted = st.builds(
    lambda mtu, peers: Wanted(replace(DEVICE, mtu=mtu), IPv4Address("10.244.1.0"), peers),
    st.sampled_from([1450, 8950]),
    _peers,
)
_devices = st.none() | st.builds(
    SeenDevice,
    st.just(5),
    st.none()
    | st.builds(
        lambda vni, mtu, mac, underlay: replace(DEVICE, vni=vni, mtu=mtu, mac=mac, underlay=underlay),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from([1450, 1400]),
        st.sampled_from([DEVICE.mac, "02:00:00:00:00:fe"]),
        st.sampled_from([2, 2, 3]),
    ),
    st.booleans(),
    st.booleans(),
)
_gateways = st.builds(lambda n: IPv4Address(f"10.244.{n}.0"), _numbers)
_macs = st.builds(lambda n: f"02:00:00:00:00:{n:02x}", st.integers(2, 9))
_seen = st.builds(
    Seen,
    device=_devices,
    strays=st.sampled_from([(), (), ((8, "other"),)]),
    stray_routes=st.sampled_from([(), (StrayRoute(IPv4Network("10.244.2.0/24"), None, 3),)]),
    addresses=st.frozensets(st.sampled_from([IPv4Interface("10.244.1.0/32"), IPv4Interface("10.244.1.1/24")])),
    neighbours=st.lists(st.builds(Neighbour, _gateways, _macs), max_size=5).map(
        lambda found: frozenset({one.address: one for one in found}.values())
    ),
    fdb=st.lists(
        st.builds(Fdb, _macs, st.builds(lambda n: IPv4Address(f"10.200.0.{n}"), st.integers(2, 9)), st.booleans()),
        max_size=5,
    ).map(lambda found: frozenset({one.mac: one for one in found}.values())),
    routes=st.frozensets(
        st.builds(
            lambda n, gateway, onlink, protocol, metric: Route(
                IPv4Network(f"10.244.{n}.0/24"), gateway, onlink, protocol, metric
            ),
            _numbers,
            _gateways,
            st.booleans(),
            st.sampled_from([87, 3]),
            st.sampled_from([0, 0, 100]),
        ),
        max_size=5,
    ),
).map(kernel.settled)


def converged(wanted: Wanted, seen: Seen) -> Seen:
    """Passes until nothing is left to do: one, or two where a route had two rivals."""
    for _ in range(4):
        steps = list(plan.actions(wanted, seen))
        if not steps:
            return seen
        seen = carried_out(seen, steps)
    raise AssertionError(f"still to do: {steps}")


def same(one: Seen, other: Seen) -> bool:
    """Equal but for the device's index."""
    return (
        replace(one, device=None) == replace(other, device=None)
        and one.device
        and other.device
        and (replace(one.device, index=0) == replace(other.device, index=0))
    )


@settings(max_examples=300, deadline=None)
@given(_wanted, _seen)
def test_from_any_kernel_state_and_cut_short_anywhere_the_same_end_is_reached(wanted: Wanted, seen: Seen) -> None:
    fresh = converged(wanted, Seen())
    assert same(converged(wanted, seen), fresh)
    steps = list(plan.actions(wanted, seen))
    for length in range(len(steps)):
        assert same(converged(wanted, carried_out(seen, steps[:length])), fresh)
