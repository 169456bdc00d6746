"""The plan: repairs of each kind of damage, for every backend and family convergence from anywhere and after any interruption."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, ip_network

import pytest

from linux.iptables.rules import Family
from overlay import plan
from overlay.model import (
    LOOPBACK,
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Device,
    DropFdb,
    DropNeighbour,
    DropPeer,
    DropRoute,
    Fdb,
    LocalAddress,
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutPeer,
    PutRoute,
    RemoveAddress,
    Route,
    RouteKind,
    Seen,
    SeenDevice,
    Wanted,
    WireGuardDevice,
)
from tests.unit.overlay import kernel, nodes
from tests.unit.overlay.nodes import BACKENDS, DIRECT, HOST_GW, WIREGUARD, lease, mac, wanted

WANTED = wanted([lease(2), lease(3)])
DEVICE = nodes.vxlan_device(WANTED)


def steps_to(wish: Wanted, seen: Seen) -> list[Action]:
    return list(plan.actions(wish, seen))


def carried_out(seen: Seen, steps: Sequence[Action]) -> Seen:
    for step in steps:
        seen = kernel.after(seen, step)
    return seen


RIGHT = carried_out(Seen(), steps_to(WANTED, Seen()))
_N, _F, _R = WANTED.neighbours[0], WANTED.fdb[0], WANTED.routes[0]
_OWN = WANTED.addresses[0]


def test_a_first_start_makes_the_device_then_fdb_entries_neighbours_and_at_last_routes() -> None:
    assert steps_to(WANTED, Seen()) == [
        CreateDevice(DEVICE),
        AdjustDevice(DEVICE),
        AddAddress(_OWN),
        *(PutFdb(entry) for entry in WANTED.fdb),
        *(PutNeighbour(neighbour) for neighbour in WANTED.neighbours),
        *(PutRoute(route) for route in WANTED.routes),
    ]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_done_when_all_is_right(backend: str, family: Family) -> None:
    wish = wanted([lease(2, family, BACKENDS[backend])], BACKENDS[backend], family)
    assert steps_to(wish, carried_out(Seen(), steps_to(wish, Seen()))) == []


def with_route(route: Route) -> Seen:
    return replace(RIGHT, routes=RIGHT.routes | {route})


_STRANGER = Route(IPv4Network("10.244.9.0/24"), IPv4Network("10.244.9.0/24")[0], onlink=True, protocol=3)
_HIJACK = Route(_R.destination, nodes.host(9), 7, protocol=3)
_NARROWER = Route(ip_network("10.244.2.128/25"), nodes.host(9), 7, protocol=4, metric=500)
_NOWHERE = Route(ip_network("10.244.2.7/32"), None, protocol=3, kind=RouteKind.BLACKHOLE)
_COPY = LocalAddress(IPv4Interface("10.244.1.0/24"), 7)
_PEERS = LocalAddress(IPv4Interface("10.244.2.0/32"), LOOPBACK)
_PODS = LocalAddress(IPv4Interface("10.244.3.7/32"), LOOPBACK)
_ODD = LocalAddress(IPv4Interface("10.9.9.9/24"))


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (replace(RIGHT, routes=RIGHT.routes - {_R}), [PutRoute(_R)]),
        (replace(RIGHT, fdb=RIGHT.fdb - {_F}), [PutFdb(_F)]),
        (replace(RIGHT, neighbours=RIGHT.neighbours - {_N}), [PutNeighbour(_N)]),
        (replace(RIGHT, addresses=frozenset()), [AddAddress(_OWN)]),
        (replace(RIGHT, addresses=RIGHT.addresses | {_ODD}), [RemoveAddress(_ODD)]),
        (replace(RIGHT, addresses=RIGHT.addresses | {_COPY}), [RemoveAddress(_COPY)]),
        (replace(RIGHT, addresses=RIGHT.addresses | {_PEERS}), [RemoveAddress(_PEERS)]),
        (kernel.settled(replace(RIGHT, addresses=RIGHT.addresses | {_PODS})), [RemoveAddress(_PODS)]),
        (with_route(_STRANGER), [DropRoute(_STRANGER)]),
        (with_route(replace(_R, metric=50)), [DropRoute(replace(_R, metric=50))]),
        (with_route(_HIJACK), [DropRoute(_HIJACK)]),
        (with_route(_NARROWER), [DropRoute(_NARROWER)]),
        (with_route(_NOWHERE), [DropRoute(_NOWHERE)]),
        (with_route(replace(_R, gateway=_STRANGER.gateway)), [DropRoute(replace(_R, gateway=_STRANGER.gateway))]),
        (replace(with_route(replace(_R, onlink=False)), routes=RIGHT.routes - {_R}), [PutRoute(_R)]),
        (replace(with_route(_HIJACK), routes=RIGHT.routes - {_R} | {_HIJACK}), [PutRoute(_R)]),
        (
            replace(RIGHT, routes=RIGHT.routes - {_R} | {Route(_R.destination, None, kind=RouteKind.BLACKHOLE)}),
            [PutRoute(_R)],
        ),
        (replace(RIGHT, fdb=RIGHT.fdb - {_F} | {replace(_F, plain=False)}), [PutFdb(_F)]),
        (replace(RIGHT, fdb=RIGHT.fdb | {Fdb(_F.mac, nodes.host(9))}), [DropFdb(_F), PutFdb(_F)]),
        (
            with_route(Route(ip_network("172.16.0.0/12"), None, 7)),
            [DropRoute(Route(ip_network("172.16.0.0/12"), None, 7))],
        ),
        (replace(RIGHT, device=SeenDevice(kernel.INDEX, DEVICE, up=True, marked=False)), [AdjustDevice(DEVICE)]),
        (replace(RIGHT, strays=((8, "other"),)), [DeleteLink(8, "other")]),
    ],
)
def test_each_kind_of_damage_is_mended_by_its_own_repair(damage: Seen, repair: list[Action]) -> None:
    assert steps_to(WANTED, damage) == repair
    assert carried_out(damage, repair) == RIGHT


@pytest.mark.parametrize(
    "foreign",
    [
        Route(_R.destination, nodes.host(9), 7, protocol=3, metric=100),  # somebody's second way loses
        Route(nodes.subnet(1), None, 7, protocol=2),  # our own pods' bridge
        Route(ip_network("10.244.0.0/16"), None, protocol=4, metric=1000, kind=RouteKind.UNREACHABLE),
    ],
)
def test_routes_of_others_that_rival_none_of_ours_are_left_alone(foreign: Route) -> None:
    assert steps_to(WANTED, with_route(foreign)) == []


@pytest.mark.parametrize(
    ("address", "device"),
    [
        ("10.244.1.1/24", 7),  # the pods' bridge
        ("10.244.2.15/24", 8),  # another network card, a VPN, an address that moves between hosts
        ("10.244.2.15/32", 8),
        ("10.244.2.15/24", LOOPBACK),
    ],
)
def test_other_interfaces_keep_their_addresses(address: str, device: int) -> None:
    other = LocalAddress(IPv4Interface(address), device)
    assert steps_to(WANTED, replace(RIGHT, addresses=RIGHT.addresses | {other})) == []


def test_two_rivals_without_the_right_route_are_both_dropped_once_it_is_there() -> None:
    other = Route(_R.destination, nodes.host(8), 6, protocol=3)
    damage = replace(RIGHT, routes=RIGHT.routes - {_R} | {_HIJACK, other})
    assert steps_to(WANTED, damage) == [PutRoute(_R), DropRoute(other), DropRoute(_HIJACK)]
    assert carried_out(damage, steps_to(WANTED, damage)) == RIGHT


@pytest.mark.parametrize(
    "other",
    [
        replace(DEVICE, vni=2),
        replace(DEVICE, port=4789),
        replace(DEVICE, underlay=9),
        replace(DEVICE, local=nodes.host(77)),
        replace(DEVICE, learning=True),
        replace(DEVICE, gbp=True),
        WireGuardDevice("flannel.1", 51820, 1420, "key"),
        None,
    ],
)
def test_a_device_that_cannot_become_ours_is_made_anew_with_all_that_hung_on_it(other: Device | None) -> None:
    damage = replace(RIGHT, device=SeenDevice(5, other, up=True, marked=True))
    steps = steps_to(WANTED, damage)
    assert steps[:3] == [DeleteLink(5, "flannel.1"), CreateDevice(DEVICE), AdjustDevice(DEVICE)]
    assert sum(isinstance(step, PutRoute) for step in steps) == 2
    assert carried_out(damage, steps) == RIGHT


def test_a_device_with_another_mac_loses_its_neighbours_but_not_its_routes() -> None:
    damage = replace(RIGHT, device=SeenDevice(kernel.INDEX, replace(DEVICE, mac=mac(0xFF)), up=True, marked=True))
    assert [type(step) for step in steps_to(WANTED, damage)] == [AdjustDevice, PutNeighbour, PutNeighbour]


def test_a_device_that_was_set_down_gets_its_routes_again() -> None:
    damage = kernel.settled(replace(RIGHT, device=SeenDevice(kernel.INDEX, DEVICE, up=False, marked=True)))
    assert [type(step) for step in steps_to(WANTED, damage)] == [AdjustDevice, PutRoute, PutRoute]


def test_a_node_that_is_gone_takes_its_entries_with_it_route_first() -> None:
    assert steps_to(wanted([lease(3)]), RIGHT) == [DropRoute(_R), DropFdb(_F), DropNeighbour(_N)]


def test_one_new_peer_is_three_writes() -> None:
    assert [type(step) for step in steps_to(wanted([lease(2), lease(3), lease(4)]), RIGHT)] == [
        PutFdb,
        PutNeighbour,
        PutRoute,
    ]


def test_a_peer_with_a_new_mac_gets_its_new_fdb_entry_first() -> None:
    new = Neighbour(_N.address, mac(0x22))
    steps = steps_to(wanted([lease(2, data=0x22), lease(3)]), RIGHT)
    assert steps == [PutFdb(Fdb(new.mac, _F.remote)), PutNeighbour(new), DropFdb(_F)]


def test_a_peer_with_a_new_public_ip_changes_one_fdb_entry() -> None:
    assert steps_to(wanted([lease(2, at=222), lease(3)]), RIGHT) == [PutFdb(Fdb(mac(2), nodes.host(222)))]


def test_a_peer_that_becomes_direct_changes_its_route_and_then_loses_its_entries_and_back() -> None:
    def of(direct: Sequence[int]) -> Wanted:
        return nodes.wished([lease(2)], DIRECT, direct=direct).wanted

    wrapped, straight = of([]), of([2])
    seen = carried_out(Seen(), steps_to(wrapped, Seen()))
    steps = steps_to(straight, seen)
    assert steps == [PutRoute(straight.routes[0]), DropFdb(_F), DropNeighbour(_N)]
    assert steps_to(wrapped, carried_out(seen, steps)) == [PutFdb(_F), PutNeighbour(_N), PutRoute(_R)]


def test_our_device_under_another_name_is_removed_first() -> None:
    damage = replace(Seen(), strays=((7, "renamed"),), routes=frozenset(replace(one, device=7) for one in RIGHT.routes))
    steps = steps_to(WANTED, damage)
    assert steps[:2] == [DeleteLink(7, "renamed"), CreateDevice(DEVICE)]
    assert not [step for step in steps if isinstance(step, DropRoute)]
    assert carried_out(damage, steps) == RIGHT


def test_going_from_vxlan_to_host_gw_routes_change_before_the_device_goes() -> None:
    wish = wanted([lease(2, settings=HOST_GW)], HOST_GW)
    left_behind = Seen(strays=((5, "flannel.1"),), routes=frozenset({replace(_R, device=5)}))
    assert steps_to(wish, left_behind) == [PutRoute(wish.routes[0]), DeleteLink(5, "flannel.1")]


def test_the_blackhole_of_our_own_pods_stands_behind_their_bridge() -> None:
    wish = nodes.wished([lease(2)], blackhole=True).wanted
    bridge = Route(nodes.subnet(1), None, 7, protocol=2)
    hasty = Route(nodes.subnet(1), None, protocol=3, kind=RouteKind.BLACKHOLE)  # stock flannel's, with metric 0
    seen = carried_out(Seen(), steps_to(wish, Seen()))
    assert steps_to(wish, replace(seen, routes=seen.routes | {bridge, hasty})) == [DropRoute(hasty)]


def test_a_wireguard_peer_that_has_answered_from_elsewhere_is_right_and_a_silent_one_is_not() -> None:
    wish = wanted([lease(2, settings=WIREGUARD)], WIREGUARD)
    right = carried_out(Seen(), steps_to(wish, Seen()))
    (peer,) = wish.peers
    moved = replace(peer, endpoint=(nodes.host(9), 4500))
    assert steps_to(wish, replace(right, peers=frozenset({replace(moved, answered=True)}))) == []
    assert steps_to(wish, replace(right, peers=frozenset({moved}))) == [PutPeer(peer)]
    robbed = replace(moved, answered=True, allowed=frozenset())
    assert steps_to(wish, replace(right, peers=frozenset({robbed}))) == [PutPeer(peer)]


def test_a_wireguard_peer_with_a_new_key_is_there_before_the_old_one_goes() -> None:
    right = carried_out(Seen(), steps_to(wanted([lease(2, settings=WIREGUARD)], WIREGUARD), Seen()))
    wish = wanted([lease(2, settings=WIREGUARD, data=7)], WIREGUARD)
    assert [type(step) for step in steps_to(wish, right)] == [PutPeer, DropPeer]


def test_everything_of_ours_is_removed_without_memory() -> None:
    seen = Seen(
        strays=((4, "flannel.1"), (5, "flannel-v6.1")),
        routes=frozenset({Route(nodes.subnet(2), None, 3), Route(nodes.subnet(3), None, 4), _HIJACK}),
    )
    assert carried_out(seen, steps_to(Wanted(), seen)) == Seen(routes=frozenset({_HIJACK}))
