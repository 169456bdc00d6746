"""The overlay's masquerade rules in a kernel: whose source address a packet bears, and how soon what somebody broke is whole.

pod 10.244.1.2 -- node -- world 198.51.100.2       the world knows no pods
                       -- peer  10.244.2.2         a pod of another node
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TypeVar

import pytest

from linux import netns
from linux.iptables.rules import Family
from overlay import masquerade
from overlay.masquerade import Masquerade, Rules
from tests.conftest import Netns
from tests.requirements import requires

T = TypeVar("T")
Make = Callable[[str], Netns]

DEADLINE = 20.0
WAYS = ["iptables-nft", "iptables-legacy", "nftables"]
RULES = {
    4: Rules(Family.V4, (ip_network("10.244.0.0/16"),), ip_network("10.244.1.0/24")),
    6: Rules(Family.V6, (ip_network("fd10:244::/48"),), ip_network("fd10:244:0:1::/64")),
}
POD = {4: "10.244.1.2", 6: "fd10:244:0:1::2"}
PEER = {4: "10.244.2.2", 6: "fd10:244:0:2::2"}
WORLD = {4: "198.51.100.2", 6: "2001:db8::2"}
NODE_OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}
NODE_INSIDE = {4: "10.244.2.1", 6: "fd10:244:0:2::1"}


@dataclass
class Trial:
    node: Netns
    way: str
    version: int

    @property
    def rules(self) -> Rules:
        return RULES[self.version]

    @property
    def command(self) -> str:
        return {4: "iptables", 6: "ip6tables"}[self.version] + "-" + self.way.removeprefix("iptables-")

    @property
    def table(self) -> str:
        return {4: "ip flannel-ipv4", 6: "ip6 flannel-ipv6"}[self.version]

    def run(self, scenario: Callable[[], Awaitable[T]]) -> T:
        """A coroutine in the node's namespace."""
        return netns.call(self.node.path, lambda: asyncio.run(scenario()))  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def masquerade(self) -> AsyncIterator[tuple[Masquerade, asyncio.Event]]:
        told = asyncio.Event()
        async with Masquerade(Family(self.version), nftables=self.way == "nftables", touched=told.set) as made:
            yield made, told

    def kernel(self) -> str:
        """All rules of all ways, without what counts or changes."""
        listed = self.node.run("nft", "-s", "-n", "list", "ruleset") if self.way != "iptables-legacy" else ""
        saved = self.node.run(self.command.replace("nftables", "nft") + "-save")
        return "\n".join(line for line in (listed + saved).splitlines() if line[:1] not in "#:")


@pytest.fixture(params=[(way, version) for way in WAYS for version in (4, 6)], ids=lambda one: f"{one[0]}-{one[1]}")
def trial(request: pytest.FixtureRequest, netns: Make) -> Trial:
    requires("netns", "nsenter", "ip", "nft", "iptables-nft-restore", "iptables-legacy-restore")
    way, version = request.param
    node = netns("masq")
    made = Trial(node, way, version)
    if way == "iptables-legacy":
        node.run(made.command, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    return made


def wired(node: Netns, make: Make, version: int) -> dict[str, Netns]:
    """The neighbours of the node, by name."""
    spaces = {name: make(name) for name in ("pod", "peer", "world")}
    bits, nodad = ("/24", ()) if version == 4 else ("/64", ("nodad",))
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    places = {
        "pod": (POD[version], {4: "10.244.1.1", 6: "fd10:244:0:1::1"}[version]),
        "peer": (PEER[version], NODE_INSIDE[version]),
        "world": (WORLD[version], NODE_OUTSIDE[version]),
    }
    for name, (theirs, ours) in places.items():
        space = spaces[name]
        node.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space.name)
        for where, device, address in ((node, name, ours), (space, "eth0", theirs)):
            where.run("ip", "addr", "add", address + bits, "dev", device, *nodad)
            where.run("ip", "link", "set", device, "up")
        space.run("ip", "route", "add", "default", "via", ours)
    return spaces


def seen_from(listener: Netns, sender: Netns, target: str) -> str:
    """The source address that a datagram to the target bears when it arrives."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with netns.enter(listener.path):
        server = socket.socket(family, socket.SOCK_DGRAM)
    with netns.enter(sender.path):
        client = socket.socket(family, socket.SOCK_DGRAM)
    with server, client:
        server.bind((target, 0))
        server.settimeout(0.5)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            client.sendto(b"who am I", server.getsockname()[:2])
            with contextlib.suppress(TimeoutError):
                return str(server.recvfrom(100)[1][0])
    raise AssertionError(f"nothing arrived at {target}")


def test_who_a_packet_comes_from(trial: Trial, netns: Make) -> None:
    version = trial.version
    spaces = wired(trial.node, netns, version)

    async def write() -> None:
        async with trial.masquerade() as (made, _):
            await made.sync(trial.rules)

    trial.run(write)
    pod, peer, world, node = spaces["pod"], spaces["peer"], spaces["world"], trial.node
    assert seen_from(world, pod, WORLD[version]) == NODE_OUTSIDE[version], "a pod to the world: the node's address"
    assert seen_from(peer, pod, PEER[version]) == POD[version], "pod to pod: its own"
    assert seen_from(pod, peer, POD[version]) == PEER[version]
    assert seen_from(pod, world, POD[version]) == WORLD[version], "the world to our pod: its own"
    assert seen_from(peer, world, PEER[version]) == NODE_INSIDE[version], "the world to a pod elsewhere: by this node"
    command = trial.command.replace("nftables", "nft")
    node.run(command, "-t", "mangle", "-A", "PREROUTING", "-s", POD[version], "-j", "MARK", "--set-mark", "0x14001")
    assert seen_from(world, pod, WORLD[version]) == POD[version], "kube-proxy's mark, among other bits: not ours"


def test_what_somebody_breaks_is_told_and_mended(trial: Trial) -> None:
    if trial.way == "nftables":
        damages = [
            f"nft flush chain {trial.table} postrtg",
            f"nft delete table {trial.table}",
            f"nft insert rule {trial.table} postrtg accept",
            f"nft delete chain {trial.table} forward",
            "nft flush ruleset",
        ]
    else:
        damages = [
            f"{trial.command} -t nat -F FLANNEL-POSTRTG",
            f"{trial.command} -t nat -F",
            f"{trial.command} -t nat -D POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG",
            f"{trial.command} -t filter -I FLANNEL-FWD -j DROP",
            f"{trial.command} -t filter -I FORWARD -j FLANNEL-FWD",
        ]

    async def scenario() -> None:
        async with trial.masquerade() as (made, told):
            assert (await made.sync(trial.rules)).written
            good = trial.kernel()
            for damage in damages:
                told.clear()
                begun = time.monotonic()
                await asyncio.to_thread(trial.node.run, "sh", "-c", damage)
                async with asyncio.timeout(DEADLINE):
                    await told.wait()
                    assert (await made.sync(trial.rules)).repaired, damage
                assert trial.kernel() == good, damage
                print(f"{damage}: {time.monotonic() - begun:.3f} s")
                assert await made.sync(trial.rules) == masquerade.Written()

    trial.run(scenario)


def test_a_restart_writes_nothing_and_another_subnet_all(trial: Trial) -> None:
    async def scenario() -> None:
        async with trial.masquerade() as (made, _):
            await made.sync(trial.rules)
        good = trial.kernel()
        async with trial.masquerade() as (made, _):
            assert await masquerade.differences(trial.rules, nftables=trial.way == "nftables") == []
            assert await made.sync(trial.rules) == masquerade.Written()
            assert trial.kernel() == good
            shorter = replace(trial.rules, random_fully=False, forward=False)
            assert await masquerade.differences(shorter, nftables=trial.way == "nftables")
            assert (await made.sync(shorter)).written
            assert "random" not in trial.kernel()
            assert await made.sync(shorter) == masquerade.Written()
            assert (await made.sync(replace(shorter, masquerade=False))).written
        assert await masquerade.forget() == [], "nothing of ours was left"

    trial.run(scenario)


def test_the_other_ways_rules_go_and_cleanup_takes_all(trial: Trial) -> None:
    """EnableNFTables switched, or a stock flannel before us in the other iptables."""
    command = trial.command.replace("nftables", "nft")
    trial.node.run(command, "-t", "nat", "-N", "OTHERS")
    trial.node.run(command, "-t", "nat", "-A", "POSTROUTING", "-j", "OTHERS")

    async def scenario() -> None:
        async with Masquerade(Family(trial.version), nftables=trial.way != "nftables", touched=lambda: None) as other:
            await other.sync(trial.rules)
        async with trial.masquerade() as (made, _):
            await made.sync(trial.rules)
        text = trial.kernel()
        assert ("flannel-ipv" in text) == (trial.way == "nftables")
        assert ("FLANNEL-POSTRTG" in text) == (trial.way != "nftables")
        assert await masquerade.forget()
        text = trial.kernel()
        assert "lannel" not in text.lower()
        assert "OTHERS" in text
        assert await masquerade.forget() == []

    trial.run(scenario)


def test_a_firewall_that_drops_what_we_accept_is_named(netns: Make, caplog: pytest.LogCaptureFixture) -> None:
    node = netns("masq")
    node.run("iptables-nft", "-P", "FORWARD", "DROP")

    async def scenario() -> None:
        async with Masquerade(Family.V4, nftables=True, touched=lambda: None) as made:
            await made.sync(RULES[4])

    Trial(node, "nftables", 4).run(scenario)
    assert "chain FORWARD of table ip filter drops what it does not accept" in caplog.text
