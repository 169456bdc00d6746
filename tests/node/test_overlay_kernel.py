"""What the overlay reads of a kernel and writes to it: a thousand peers, one more, faults in the middle of a pass."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kube.errors import Retry
from linux import wireguard
from linux.iptables.rules import Family
from linux.netlink import Conversation
from linux.route_monitor import Monitor, Notice
from overlay.apply import Incomplete, apply, forget
from overlay.model import (
    DEVICE_ALIAS,
    METRIC,
    Action,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Fdb,
    PutFdb,
    PutNeighbour,
    PutRoute,
    Route,
    RouteKind,
    Tunnel,
    Wanted,
    WireGuardDevice,
    WireGuardPeer,
)
from tests.conftest import Netns
from tests.node.peers_world import NAMES, UNDER, PeersWorld, entries, look, subnet, tunnel_of
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge")


@pytest.fixture
def world(netns: Callable[[str], Netns]) -> PeersWorld:
    return PeersWorld(netns("kernel"))


@pytest.fixture(params=list(Family), ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def test_a_thousand_peers_and_one_more(world: PeersWorld, family: Family) -> None:
    """All are made, read back as they were wanted, and nobody announces anything while nothing changes. One more peer is
    three writes."""
    tunnel, name = tunnel_of(family), NAMES[family]
    wanted = world.wanted(family, 1000)
    steps = world.make_true(wanted, tunnel)
    assert len(steps) == 3003, "device twice (made, set up), address, three for each peer"
    assert not world.steps(wanted, tunnel)
    shown = ("dev", name)
    assert len(world.json("ip", "-j", f"-{family.value}", "route", "show", *shown, "proto", "87")) == 1000
    assert len(world.json("ip", "-j", f"-{family.value}", "neigh", "show", *shown, "nud", "permanent")) == 1000
    assert len(world.json("bridge", "-j", "fdb", "show", *shown)) == 1000
    more = world.wanted(family, 1001)
    additional = entries(family, 1001)

    async def one_more(ip: Conversation) -> tuple[list[Action], list[Notice | None], list[Notice | None]]:
        heard: list[Notice | None] = []
        async with Monitor(heard.append):
            await asyncio.sleep(0.3)  # for as long as this nothing may be said; there is no condition to wait for
            quiet, heard[:] = list(heard), []
            found = await look(ip, more, tunnel)
            await apply(ip, tunnel, found)
            async with asyncio.timeout(20):
                while len(heard) < 3:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0)
        return found, quiet, heard

    found, quiet, heard = world.do(one_more)
    assert quiet == []
    neighbour, fdb, route = additional
    assert found == [PutFdb(fdb), PutNeighbour(neighbour), PutRoute(route)]
    assert sorted(one.kind for one in heard if one) == ["neighbour", "neighbour", "route"], "FDB and ARP, and the route"
    assert not world.steps(more, tunnel)


def test_both_families_beside_each_other_and_all_forgotten(world: PeersWorld) -> None:
    for family in Family:
        world.make_true(world.wanted(family, 5), tunnel_of(family))
    for family in Family:
        assert not world.steps(world.wanted(family, 5), tunnel_of(family)), "neither sees a stray in the other"
    hole = Route(subnet(Family.V4, 0), None, kind=RouteKind.BLACKHOLE)
    elsewhere = Route(subnet(Family.V6, 9), ip_address("fd00:200::9"), world.underlay, metric=1024)
    nowhere = Tunnel("", tuple(Family))
    world.do(lambda ip: apply(ip, nowhere, [PutRoute(hole), PutRoute(elsewhere)]))
    removed = world.do(forget)
    assert {one.name for one in removed if isinstance(one, DeleteLink)} == set(NAMES.values())
    assert len(removed) == 4
    assert not world.do(forget), "there is nothing left to remove"
    for number in (4, 6):
        assert not world.json("ip", "-j", f"-{number}", "route", "show", "proto", "87")
    assert not world.json("ip", "-j", "link", "show", "type", "vxlan")


def test_no_address_is_made_up_and_ours_outlives_a_flap(world: PeersWorld) -> None:
    tunnel = tunnel_of(Family.V6)
    wanted = world.wanted(Family.V6, 2)
    world.make_true(wanted, tunnel)
    name = NAMES[Family.V6]
    world.space.run("ip", "link", "set", name, "down")
    world.space.run("ip", "link", "set", name, "up")
    world.make_true(wanted, tunnel)
    (shown,) = world.json("ip", "-6", "-j", "addr", "show", "dev", name)
    assert [one["local"] for one in shown["addr_info"]] == [str(subnet(Family.V6, 0).network_address)]
    sysctl = f"/proc/sys/net/ipv6/conf/{name}"
    assert world.space.run("cat", f"{sysctl}/accept_ra", f"{sysctl}/keep_addr_on_down").split() == ["0", "1"]


def test_a_device_that_goes_between_looking_and_writing(world: PeersWorld, family: Family) -> None:
    tunnel, name = tunnel_of(family), NAMES[family]
    wanted = world.wanted(family, 3)
    world.make_true(replace(wanted, neighbours=(), fdb=(), routes=()), tunnel)
    steps = world.steps(wanted, tunnel)
    world.space.run("ip", "link", "del", name)
    with pytest.raises(Retry, match=f"{name} has gone while it was being set up"):
        world.do(lambda ip: apply(ip, tunnel, steps))
    made = world.make_true(wanted, tunnel)
    assert [type(step) for step in made[:2]] == [CreateDevice, AdjustDevice]
    assert not world.steps(wanted, tunnel)


def test_what_the_kernel_will_not_have_is_named_and_the_rest_is_done(world: PeersWorld, family: Family) -> None:
    tunnel = tunnel_of(family)
    wanted = world.wanted(family, 300)
    nobody = Fdb("00:00:00:00:00:00", UNDER[family] + 7)  # no unicast MAC: replacing is refused
    wrong = replace(wanted, fdb=(*wanted.fdb[:150], nobody, *wanted.fdb[150:]))
    with pytest.raises(Incomplete, match="cannot set the FDB entry 00:00:00:00:00:00 to") as refused:
        world.make_true(wrong, tunnel)
    assert [action for action, _ in refused.value.refused] == [PutFdb(nobody)]
    assert refused.value.refused[0][1].errno == errno.EOPNOTSUPP
    assert world.steps(wrong, tunnel) == [PutFdb(nobody)], "all else was done"


def test_a_pass_that_is_cut_short_is_caught_up_with(world: PeersWorld, family: Family) -> None:
    tunnel = tunnel_of(family)
    wanted = world.wanted(family, 400)
    steps = world.steps(wanted, tunnel)

    async def cut(ip: Conversation) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(apply(ip, tunnel, steps))
            for _ in range(3):  # the loop's turns: device and some hundreds of entries
                await asyncio.sleep(0)
            task.cancel()

    world.do(cut)
    left = world.steps(wanted, tunnel)
    assert 0 < len(left) < len(steps)
    world.make_true(wanted, tunnel)
    assert not world.steps(wanted, tunnel)


def test_what_bears_our_name_or_our_alias(world: PeersWorld) -> None:
    """A bridge under our name gives way, and so does a device with our alias under another; the name may take any form."""
    family, tunnel = Family.V4, tunnel_of(Family.V4)
    wanted = world.wanted(family, 2)
    world.space.run("ip", "link", "add", NAMES[family], "type", "bridge")
    world.space.run("ip", "link", "add", "other", "type", "vxlan", "id", "5", "dstport", "4789", "dev", "eth0")
    world.space.run("ip", "link", "set", "other", "alias", DEVICE_ALIAS)
    steps = world.make_true(wanted, tunnel)
    assert {one.name for one in steps if isinstance(one, DeleteLink)} == {NAMES[family], "other"}
    assert not world.steps(wanted, tunnel)
    (shown,) = world.json("ip", "-d", "-j", "link", "show", NAMES[family])
    assert (shown["linkinfo"]["info_kind"], shown["ifalias"]) == ("vxlan", DEVICE_ALIAS)


def test_a_device_of_somebody_else_with_our_vni_is_named_and_left_alone(world: PeersWorld) -> None:
    family = Family.V4
    make = ("ip", "link", "add", "theirs", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0")
    world.space.run(*make, "local", str(UNDER[family]))
    with pytest.raises(Retry, match=r"theirs has this VNI and port: delete it \(ip link del theirs\), or set another"):
        world.make_true(world.wanted(family, 1), tunnel_of(family))
    assert [one["ifname"] for one in world.json("ip", "-j", "link", "show", "type", "vxlan")] == ["theirs"]


def test_ipv6_routes_past_a_route_of_somebody_else(world: PeersWorld) -> None:
    tunnel = tunnel_of(Family.V6)
    wanted = world.wanted(Family.V6, 3)
    world.space.run("ip", "-6", "route", "add", "fd10::/16", "dev", "eth0")
    world.space.run("ip", "-6", "route", "add", str(subnet(Family.V6, 2)), "dev", "eth0")
    world.make_true(wanted, tunnel)
    assert not world.steps(wanted, tunnel)
    shown = world.json("ip", "-6", "-j", "route", "show", "proto", "87")
    assert {one["dst"] for one in shown} == {str(subnet(Family.V6, number)) for number in (1, 2, 3)}


def test_wireguard_or_words_that_say_what_is_missing(world: PeersWorld) -> None:
    """Where the kernel has it, a device with two peers is made and read back; elsewhere the refusal names the remedy."""
    tunnel = Tunnel("flannel-wg", tuple(Family), frozenset({"flannel-wg"}))
    here, there, other = (wireguard.fresh_key() for _ in range(3))
    device = WireGuardDevice("flannel-wg", 51820, 1420, here)
    subnets = [subnet(family, 1) for family in Family]
    peer = WireGuardPeer(
        wireguard.public_key(there), (ip_address("10.200.0.2"), 51820), frozenset(subnets), psk=other, keepalive=25
    )
    hidden = WireGuardPeer(wireguard.public_key(other), None, frozenset())
    ways = tuple(Route(one, None, metric=METRIC[family]) for family, one in zip(Family, subnets, strict=True))
    wanted = Wanted(device, peers=(peer, hidden), routes=ways)
    try:
        world.make_true(wanted, tunnel)
    except Retry as refused:
        said = str(refused)
    else:
        said = ""
    if said:
        assert "this kernel has no WireGuard (module wireguard)" in said
        assert "use the Backend type vxlan" in said
        return
    assert not world.steps(wanted, tunnel)
    fewer = replace(wanted, peers=(replace(peer, psk="", keepalive=0, allowed=frozenset(subnets[:1])),))
    world.make_true(fewer, tunnel)
    assert not world.steps(fewer, tunnel)
