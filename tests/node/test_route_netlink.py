"""rtnetlink in batches against the kernel and against iproute2: every kind of message in both families, what the kernel says
to what is there already or no more, tables that change while they are read, announcements that overflow."""

import asyncio
import errno
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

import pytest
import uvloop

from linux import link_changes, links, neighbours, netns, routes
from linux.iptables.rules import Family
from linux.links import Vxlan
from linux.neighbours import FdbEntry, Neighbour
from linux.netlink import Conversation, RefusedError, Request
from linux.route_monitor import Monitor, Notice
from linux.routes import Route
from linux.turns import gathered, whole
from tests.conftest import Netns
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge")

Result = TypeVar("Result")
MAC, OTHER = "02:00:00:00:00:02", "02:00:00:00:00:03"
UNDER = {Family.V4: "10.200.0.{}", Family.V6: "fd00:200::{:x}"}
PODS = {Family.V4: "10.244.{}.0/24", Family.V6: "fd10:244:{:x}::/64"}
METRIC = {Family.V4: 0, Family.V6: 1024}


class World:
    """A namespace with an underlay interface and, per family, a VXLAN device that we made."""

    def __init__(self, space: Netns) -> None:
        self.space = space
        space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        for family, under in UNDER.items():
            length = 24 if family is Family.V4 else 64
            space.run("ip", "addr", "add", f"{under.format(1)}/{length}", "dev", "eth0", *_nodad(family))
        space.run("ip", "link", "set", "eth0", "up")
        space.run("ip", "link", "set", "far", "up")

    def do(self, work: Callable[[Conversation], Coroutine[Any, Any, Result]]) -> Result:
        """Inside, over a conversation of its own."""

        async def whole_work() -> Result:
            with Conversation() as ip:
                return await asyncio.wait_for(work(ip), 30)

        return netns.call(self.space.path, lambda: asyncio.run(whole_work()))

    def ask(self, question: Callable[[Conversation], Result]) -> Result:
        async def work(ip: Conversation) -> Result:
            return question(ip)

        return self.do(work)

    def order(self, *requests: Request) -> list[RefusedError]:
        async def work(ip: Conversation) -> list[RefusedError]:
            return [error for _, error in await gathered(ip.carry_out(requests))]

        return self.do(work)

    def device(self, family: Family) -> int:
        """Made anew by us, up."""

        def make(ip: Conversation) -> int:
            under = links.link(ip, "eth0")
            assert under is not None
            local = ip_address(UNDER[family].format(1))
            link_changes.create_vxlan(ip, "vx", Vxlan(7, 8472, under.index, local), mac=MAC, mtu=1400)
            made = links.link(ip, "vx")
            assert made is not None
            link_changes.change_link(ip, made.index, link_local=False, alias="of ours")
            link_changes.change_link(ip, made.index, up=True)
            return made.index

        return self.ask(make)

    def json(self, *argv: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.space.run(*argv) or "[]")
        return [one for one in found if one]


def _nodad(family: Family) -> list[str]:
    return ["nodad"] if family is Family.V6 else []


def flag(family: Family) -> str:
    return f"-{family.value}"


@pytest.fixture
def world(netns: Callable[[str], Netns]) -> World:
    return World(netns("rtnl"))


@pytest.fixture(params=list(Family), ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def test_a_vxlan_device_is_what_was_asked_for(world: World, family: Family) -> None:
    index = world.device(family)
    (seen,) = world.json("ip", "-d", "-j", "link", "show", "vx")
    data = seen["linkinfo"]["info_data"]
    local = UNDER[family].format(1)
    assert (seen["ifindex"], seen["address"], seen["mtu"], seen["ifalias"]) == (index, MAC, 1400, "of ours")
    assert "UP" in seen["flags"]
    assert seen["inet6_addr_gen_mode"] == "none"
    assert (data["id"], data["port"], data["link"], data["learning"]) == (7, 8472, "eth0", False)
    assert data.get("local", data.get("local6")) == local
    link = world.ask(lambda ip: links.link(ip, "vx"))
    assert link is not None
    assert (link.kind, link.alias, link.up, link.mac, link.mtu) == ("vxlan", "of ours", True, MAC, 1400)
    under = world.ask(lambda ip: links.link(ip, "eth0"))
    assert under is not None
    assert links.vxlan(link.data) == Vxlan(7, 8472, under.index, ip_address(local))
    assert not world.json("ip", "-j", "-6", "addr", "show", "dev", "vx", "scope", "link"), "it gave itself no address"


def test_options_of_a_foreign_device_are_seen(world: World) -> None:
    make = (
        "ip",
        "link",
        "add",
        "odd",
        "type",
        "vxlan",
        "id",
        "9",
        "dstport",
        "4789",
        "dev",
        "eth0",
        "local",
        "10.200.0.1",
    )
    world.space.run(*make, "group", "239.1.1.1", "l2miss", "gbp")
    link = world.ask(lambda ip: links.link(ip, "odd"))
    assert link is not None
    found = links.vxlan(link.data)
    assert (found.learning, found.gbp, found.options) == (True, True, frozenset({"group", "l2miss"}))
    assert [one.name for one in world.ask(lambda ip: links.links(ip, "vxlan"))] == ["odd"]
    assert world.ask(lambda ip: links.links(ip, "no-such-kind")) == []


def test_refusals_of_links_have_the_kernels_words(world: World) -> None:
    def twice(ip: Conversation) -> None:
        for _ in range(2):
            link_changes.create_vxlan(ip, "vx", Vxlan(7, 8472, 0, ip_address("10.200.0.1")), mac=MAC, mtu=1400)

    with pytest.raises(
        RefusedError, match=r"cannot create the VXLAN device vx \(VNI 7, UDP port 8472.*File exists"
    ) as no:
        world.ask(twice)
    assert no.value.errno == errno.EEXIST
    with pytest.raises(RefusedError, match="cannot set mtu 70000 of link number 1000"):
        world.ask(lambda ip: link_changes.change_link(ip, 1000, mtu=70000))
    world.ask(lambda ip: link_changes.delete_link(ip, 1000))  # gone is gone


def test_addresses(world: World, family: Family) -> None:
    index = world.device(family)
    length = 32 if family is Family.V4 else 128
    address = ip_interface(f"{ip_network(PODS[family].format(1)).network_address}/{length}")
    assert not world.order(links.put_address(index, address), links.put_address(index, address)), "there is there"
    assert [one.interface for one in world.ask(lambda ip: links.addresses(ip, index, family))] == [address]
    everywhere = world.ask(lambda ip: links.all_addresses(ip, family))
    assert {(one.device, one.interface) for one in everywhere} > {(index, address)}
    assert any(one.host_only for one in everywhere), "the loopback's, or eth0's own of link scope"
    main = world.json("ip", "-j", flag(family), "route", "show", "dev", "vx")
    assert not main, "no route came with it"
    assert not world.order(links.drop_address(index, address), links.drop_address(index, address))
    assert not world.ask(lambda ip: links.addresses(ip, index, family))
    (refused,) = world.order(links.put_address(1000, address))
    assert f"cannot add the address {address} to link number 1000" in str(refused)


def test_neighbours(world: World, family: Family) -> None:
    index = world.device(family)
    gateway = ip_network(PODS[family].format(2)).network_address
    read = lambda: world.do(lambda ip: neighbours.neighbours(ip, index, family))  # noqa: E731
    put = neighbours.put_neighbour(index, Neighbour(gateway, OTHER))
    assert not world.order(put, put)
    (seen,) = world.json("ip", "-j", flag(family), "neigh", "show", "dev", "vx")
    assert (seen["dst"], seen["lladdr"], seen["state"]) == (str(gateway), OTHER, ["PERMANENT"])
    assert read() == [Neighbour(gateway, OTHER)]
    assert not world.order(neighbours.put_neighbour(index, Neighbour(gateway, MAC))), "it moves"
    assert read() == [Neighbour(gateway, MAC)]
    learned = ("neigh", "replace", str(gateway), "lladdr", OTHER, "dev", "vx", "nud", "reachable")
    world.space.run("ip", flag(family), *learned)
    assert read() == [], "what is not permanent is nobody's word"
    assert not world.order(put), "and becomes permanent again"
    assert read() == [Neighbour(gateway, OTHER)]
    drop = neighbours.drop_neighbour(index, gateway)
    assert not world.order(drop, drop)
    assert read() == []
    (refused,) = world.order(neighbours.put_neighbour(1000, Neighbour(gateway, MAC)))
    assert refused.errno == errno.ENODEV
    assert f"cannot set the neighbour {gateway} to {MAC} on link number 1000" in str(refused)


def test_a_mac_that_moved_to_another_host(world: World, family: Family) -> None:
    index = world.device(family)
    first, second = (ip_address(UNDER[family].format(number)) for number in (2, 3))
    read = lambda: world.do(lambda ip: neighbours.fdb_entries(ip, index))  # noqa: E731
    assert not world.order(neighbours.put_fdb(index, OTHER, first), neighbours.put_fdb(index, OTHER, first))
    (seen,) = world.json("bridge", "-j", "fdb", "show", "dev", "vx")
    assert (seen["mac"], seen["dst"], seen["state"], seen["flags"]) == (OTHER, str(first), "permanent", ["self"])
    assert not world.order(neighbours.put_fdb(index, OTHER, second)), "replaced, where adding would be refused"
    assert read() == [FdbEntry(OTHER, second)]
    world.space.run("bridge", "fdb", "append", OTHER, "dev", "vx", "dst", str(first), "self", "permanent")
    assert read() == [FdbEntry(OTHER, second)], "appending says nothing and does nothing"
    drop = neighbours.drop_fdb(index, OTHER)
    assert not world.order(drop, drop)
    assert read() == []
    nobody = "00:00:00:00:00:00"
    for host in (first, second):
        world.space.run("bridge", "fdb", "append", nobody, "dev", "vx", "dst", str(host), "self", "permanent")
    assert sorted(read()) == [FdbEntry(nobody, first), FdbEntry(nobody, second)]
    assert not world.order(neighbours.drop_fdb(index, nobody)), "all its hosts"
    assert read() == []
    odd = ("bridge", "fdb", "append", MAC, "dev", "vx", "dst", str(first), "port", "4790", "self", "permanent")
    world.space.run(*odd)
    assert read() == [FdbEntry(MAC, first, plain=False)]


def test_routes(world: World, family: Family) -> None:
    index = world.device(family)
    destination = ip_network(PODS[family].format(2))
    route = Route(destination, destination.network_address, index, onlink=True, protocol=87, metric=METRIC[family])
    shown = ("ip", "-j", "-d", flag(family), "route", "show", str(destination))
    assert not world.order(routes.put_route(route), routes.put_route(route))
    (seen,) = world.json(*shown)
    assert (seen["gateway"], seen["dev"], seen["protocol"]) == (str(destination.network_address), "vx", "87")
    assert "onlink" in seen["flags"]
    read = lambda: [one for one in world.do(lambda ip: routes.routes(ip, family)) if one.protocol == 87]  # noqa: E731
    assert read() == [route]
    elsewhere = ip_address(UNDER[family].format(9))
    moved = replace(route, gateway=elsewhere, device=_index(world, "eth0"), onlink=False)
    assert not world.order(routes.put_route(moved)), "in the place of the other"
    assert read() == [moved]
    worse = replace(moved, metric=METRIC[family] + 5)
    assert not world.order(routes.put_route(worse))
    assert sorted(one.metric for one in read()) == [METRIC[family], METRIC[family] + 5]
    assert not world.order(routes.drop_route(moved))
    assert read() == [worse]
    assert not world.order(routes.drop_route(worse), routes.drop_route(worse))
    hole = Route(destination, None, 0, onlink=False, protocol=87, metric=METRIC[family], kind=routes.BLACKHOLE)
    assert not world.order(routes.put_route(hole), routes.put_route(hole))
    assert world.json(*shown)[0]["type"] == "blackhole"
    assert read() == [hole]
    assert not world.order(routes.drop_route(hole), routes.drop_route(hole))
    assert read() == []
    (refused,) = world.order(routes.put_route(replace(route, device=1000)))
    assert f"cannot set the route {destination} via {route.gateway} on link number 1000 onlink" in str(refused)


def test_a_route_of_several_hops_is_seen_as_what_it_is(world: World, family: Family) -> None:
    destination = ip_network(PODS[family].format(2))
    one, two = (UNDER[family].format(number) for number in (2, 3))
    hops = ("nexthop", "via", one, "dev", "eth0", "nexthop", "via", two, "dev", "eth0")
    world.space.run("ip", flag(family), "route", "add", str(destination), "proto", "87", *hops)
    read = lambda: [route for route in world.do(lambda ip: routes.routes(ip, family)) if route.protocol == 87]  # noqa: E731
    (seen, *_) = read()
    assert (seen.destination, seen.gateway, seen.device) == (destination, ip_address(one), _index(world, "eth0"))
    assert not seen.plain
    for _ in range(2):  # IPv6 takes its hops away one by one
        assert not world.order(routes.drop_route(seen))
    assert read() == []


def test_a_gateway_of_which_another_route_says_that_it_is_elsewhere(world: World) -> None:
    index = world.device(Family.V6)
    destination = ip_network(PODS[Family.V6].format(2))
    route = Route(destination, destination.network_address, index, onlink=True, protocol=87, metric=1024)
    for foreign in (str(destination), "fd10::/16"):
        world.space.run("ip", "-6", "route", "add", foreign, "dev", "eth0", "metric", "1024")
        (refused,) = world.order(routes.put_route(route))
        assert refused.errno == errno.EINVAL
        assert "Nexthop has invalid gateway or device mismatch" in str(refused), "the kernel's own words"
        assert not world.order(*routes.put_past_others(route))
        inside = [one for one in world.do(lambda ip: routes.routes(ip, Family.V6)) if one.destination == destination]
        assert inside == [route], "and no host route is left"
        world.space.run("ip", "-6", "route", "flush", "root", "fd10::/16")


def test_the_way_to_an_address(world: World, family: Family) -> None:
    under = UNDER[family]
    world.space.run("ip", flag(family), "route", "add", "default", "via", under.format(9), "dev", "eth0")
    near = world.ask(lambda ip: routes.path_to(ip, ip_address(under.format(2))))
    far = world.ask(lambda ip: routes.path_to(ip, ip_network(PODS[family].format(7)).network_address))
    own = world.ask(lambda ip: routes.path_to(ip, ip_address(under.format(1))))
    assert near is not None
    assert far is not None
    assert own is not None
    eth0 = _index(world, "eth0")
    assert (near.device, near.gateway, near.source, near.local) == (eth0, None, ip_address(under.format(1)), False)
    assert (far.device, far.gateway) == (eth0, ip_address(under.format(9)))
    assert own.local
    world.space.run("ip", flag(family), "route", "replace", "unreachable", PODS[family].format(7))
    target = ip_network(PODS[family].format(7)).network_address
    assert world.ask(lambda ip: routes.path_to(ip, target)) is None


def test_of_a_large_batch_only_what_is_wrong_is_refused(world: World, family: Family) -> None:
    index = world.device(family)
    addresses = [ip_network(PODS[family].format(2)).network_address + number for number in range(1000)]
    good = [neighbours.put_neighbour(index, Neighbour(address, OTHER)) for address in addresses]
    wrong = {
        number: neighbours.put_neighbour(1000, Neighbour(addresses[number], OTHER))
        for number in (0, 199, 200, 777, 999)
    }
    batch = [wrong.get(number, one) for number, one in enumerate(good)]

    async def carry_out(ip: Conversation) -> list[tuple[int, RefusedError]]:
        return await gathered(ip.carry_out(batch))

    refused = world.do(carry_out)
    assert [at for at, _ in refused] == sorted(wrong)
    assert all(f"cannot set the neighbour {addresses[at]} " in str(error) for at, error in refused)
    seen = world.do(lambda ip: neighbours.neighbours(ip, index, family))
    assert {one.address for one in seen} == {one for number, one in enumerate(addresses) if number not in wrong}
    to, length = ip_network(PODS[family].format(3)), 32 if family is Family.V4 else 128
    nowhere = Route(
        to, ip_address("192.0.2.1" if family is Family.V4 else "2001:db8::1"), index, onlink=False, protocol=87
    )
    everything = [
        routes.put_route(replace(nowhere, destination=ip_network((to.network_address + number, length))))
        for number in range(1000)
    ]
    words = [str(error) for error in world.order(*everything)]
    assert len(words) == 1000, "a thousand refusals fit, 200 at a time"
    if family is Family.V4:
        assert all("(Nexthop has invalid gateway)" in one for one in words), "with the kernel's own sentence each"


def test_a_table_that_changes_while_it_is_read_is_read_again(world: World) -> None:
    some = [ip_interface(f"10.9.{number >> 8}.{number & 255}/32") for number in range(1500)]
    eth0 = _index(world, "eth0")
    assert not world.order(*(links.put_address(eth0, one) for one in some))
    extra = ip_interface("10.8.0.1/32")
    reads: list[int] = []

    async def read(ip: Conversation) -> list[bytes]:
        with Conversation() as other:
            asked = bytes([2, 0, 0, 0, 0, 0, 0, 0])  # struct ifaddrmsg; of one link alone the kernel would not notice

            def turns() -> Iterator[list[bytes]]:
                reads.append(0)
                for data, places in ip.turns(22, asked, "list the addresses"):
                    reads[-1] += 1
                    if len(reads) == 1 and reads[-1] == 1:
                        other.order(links.put_address(eth0, extra))
                    yield [data[start:end] for start, end in places]

            return await whole(turns, "list the addresses")

    found = world.do(read)
    assert len(reads) == 2, "the first time it changed"
    assert reads[0] > 1, "in several datagrams"
    assert len(found) == 1503, "whole: lo's, eth0's own, 1,500 and the one that came"
    assert len(world.ask(lambda ip: links.addresses(ip, eth0, Family.V4))) == 1502


def test_announcements(world: World, family: Family) -> None:
    """Others' changes are told, ours are not, and neither is kept from us what follows from ours."""
    index = world.device(family)
    destination = ip_network(PODS[family].format(2))
    route = Route(destination, destination.network_address, index, onlink=True, protocol=87, metric=METRIC[family])
    neighbour = Neighbour(destination.network_address, OTHER)

    async def listen(ip: Conversation) -> list[list[Notice | None]]:
        heard: list[Notice | None] = []
        told: list[list[Notice | None]] = []

        async def take(enough: Callable[[], bool]) -> None:
            async with asyncio.timeout(20):
                while not enough():
                    await asyncio.sleep(0.01)
            told.append(list(heard))
            heard.clear()

        async with Monitor(heard.append) as monitor:
            with Conversation() as other:
                await gathered(other.carry_out([routes.put_route(route), neighbours.put_neighbour(index, neighbour)]))
                await take(lambda: {"route", "neighbour"} <= {one.kind for one in heard if one})
                monitor.mine = {ip.port}
                again = neighbours.put_neighbour(index, Neighbour(neighbour.address, MAC))
                await gathered(ip.carry_out([routes.drop_route(route), again, routes.put_route(route)]))
                other.order(routes.drop_route(route))
                await take(lambda: bool(heard))
            link_changes.change_link(ip, index, up=False)
            await take(lambda: any(one and one.kind == "link" for one in heard))
        return told

    others, ours, after = world.do(listen)
    said = [one for one in others if one and one.kind == "route"]
    assert [(one.protocol, one.device, one.about) for one in said] == [(87, index, destination)]
    assert [(one.kind, one.about) for one in ours if one] == [("route", destination)], "the last, which was not ours"
    assert any(one and one.kind == "link" and one.device == index for one in after)
    died = [one for one in after if one and one.kind == "neighbour"]
    assert died, "our neighbour died with the device, and nobody had asked for that"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_announcements_that_overflow_are_one_word_and_later_ones_are_heard(
    world: World, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    index = world.device(Family.V4)
    some = [
        neighbours.put_neighbour(index, Neighbour(ip_address("10.9.0.0") + number, OTHER)) for number in range(2000)
    ]
    heard: list[Notice | None] = []

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def listen() -> None:
        with Conversation() as ip:
            async with Monitor(heard.append, room=4096):
                for _ in ip.carry_out(some):  # all in one turn of the loop: nobody reads meanwhile
                    pass
                await until(lambda: None in heard)
                assert len(heard) < 2000
                heard.clear()
                ip.order(neighbours.drop_neighbour(index, ip_address("10.9.0.7")))
                await until(lambda: bool(heard))
                assert None not in heard, "it is over"

    netns.call(world.space.path, lambda: run(listen()))


def _index(world: World, name: str) -> int:
    found = world.ask(lambda ip: links.link(ip, name))
    assert found is not None
    return found.index
