"""A node's namespace with an underlay interface of both families, and the wish of any number of simulated peers: what the
overlay makes of them in the kernel is real, only nobody is behind it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from typing import Any, TypeVar

from linux import links, netns
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay import observe, plan
from overlay.apply import apply
from overlay.model import (
    METRIC,
    OURS,
    Action,
    Fdb,
    LocalAddress,
    Neighbour,
    Range,
    Route,
    Tunnel,
    VxlanDevice,
    Wanted,
)
from tests.conftest import Netns

Result = TypeVar("Result")
NAMES = {Family.V4: "flannel.1", Family.V6: "flannel-v6.1"}
UNDER = {Family.V4: ip_address("10.200.0.1"), Family.V6: ip_address("fd00:200::1")}
POD_NETWORKS: dict[Family, Range] = {Family.V4: IPv4Network("10.128.0.0/10"), Family.V6: IPv6Network("fd10::/16")}
_LENGTH = {Family.V4: 24, Family.V6: 64}


def tunnel_of(family: Family) -> Tunnel:
    return Tunnel(NAMES[family], (family,), frozenset(NAMES.values()))


def subnet(family: Family, number: int) -> Range:
    network, length = POD_NETWORKS[family], _LENGTH[family]
    base = int(network.network_address) + (number << network.max_prefixlen - length)
    return type(network)((base, length))


def entries(family: Family, number: int) -> tuple[Neighbour, Fdb, Route]:
    """Of the peer of this number; the same for ever."""
    pods = subnet(family, number)
    mac = f"02:0{family.value}:00:00:{number >> 8:02x}:{number & 255:02x}"
    gateway = pods.network_address
    route = Route(pods, gateway, OURS, onlink=True, metric=METRIC[family])
    return Neighbour(gateway, mac), Fdb(mac, UNDER[family] + 1000 + number), route


async def look(ip: Conversation, wanted: Wanted, tunnel: Tunnel) -> list[Action]:
    """The steps of a pass."""
    return list(plan.actions(wanted, await observe.kernel(ip, tunnel, tuple(POD_NETWORKS.values()))))


class PeersWorld:
    def __init__(self, space: Netns) -> None:
        self.space = space
        space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        space.run("ip", "addr", "add", "10.200.0.1/16", "dev", "eth0")
        space.run("ip", "addr", "add", "fd00:200::1/64", "dev", "eth0", "nodad")
        space.run("ip", "link", "set", "eth0", "up")
        space.run("ip", "link", "set", "far", "up")
        self.underlay = self.do(_index_of_eth0)

    def do(self, work: Callable[[Conversation], Coroutine[Any, Any, Result]]) -> Result:
        """Inside, on a loop and over a conversation of its own."""

        async def whole_work() -> Result:
            with Conversation() as ip:
                return await asyncio.wait_for(work(ip), 60)

        return netns.call(self.space.path, lambda: asyncio.run(whole_work()))

    def wanted(self, family: Family, peers: int) -> Wanted:
        """This node has the pods of number 0."""
        own = subnet(family, 0)
        mtu = 1450 if family is Family.V4 else 1430
        device = VxlanDevice(NAMES[family], 1, 8472, self.underlay, UNDER[family], mtu, "02:00:00:00:00:01")
        address = LocalAddress(ip_interface((own.network_address, own.max_prefixlen)))
        of_peers = [entries(family, number) for number in range(1, peers + 1)]
        return Wanted(
            device,
            (address,),
            tuple(neighbour for neighbour, _, _ in of_peers),
            tuple(fdb for _, fdb, _ in of_peers),
            (),
            tuple(route for _, _, route in of_peers),
            tuple(route.destination for _, _, route in of_peers),
        )

    def steps(self, wanted: Wanted, tunnel: Tunnel) -> list[Action]:
        return self.do(lambda ip: look(ip, wanted, tunnel))

    def make_true(self, wanted: Wanted, tunnel: Tunnel) -> list[Action]:
        steps = self.steps(wanted, tunnel)
        self.do(lambda ip: apply(ip, tunnel, steps))
        return steps

    def json(self, *argv: str) -> list[dict[str, Any]]:
        return [one for one in json.loads(self.space.run(*argv) or "[]") if one]


async def _index_of_eth0(ip: Conversation) -> int:
    found = links.link(ip, "eth0")
    assert found is not None
    return found.index
