"""What both subnet managers owe the daemon, over a real API server and a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from kube.client import Client, Patch
from kube.errors import ApiError, Retry
from kube.etcd import Access
from kube.resources import NODES
from linux.iptables.rules import Family
from overlay import netconf
from overlay.config import annotation_prefix
from overlay.model import Address, Backend, NotYet, Vtep
from overlay.registry import etcd
from overlay.registry.kube import KubeSubnets
from overlay.subnets import Announced, Offer, Own, Subnets
from tests.etcd import EtcdServer
from tests.node.apiserver import Server, prepared
from tests.requirements import requires

T = TypeVar("T")

DEADLINE = 30.0
NET = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}
KEY = "/coreos.com/network"
PREFIX = annotation_prefix("flannel.alpha.coreos.com")


class World(Protocol):
    """A registry, and what a test may do to it."""

    def manager(self, number: int) -> contextlib.AbstractAsyncContextManager[Subnets]:
        """Node `number`'s, not yet running."""
        ...

    async def spoil(self, own: Own) -> None:
        """Somebody else writes something wrong into what this node has announced."""
        ...

    async def text(self, own: Own) -> str:
        """What the registry says of the node."""
        ...

    async def stop(self) -> None:
        """The registry is away for good."""
        ...


class KubeWorld:
    def __init__(self, server: Server, client: Client) -> None:
        self._server, self._client = server, client

    @asynccontextmanager
    async def manager(self, number: int) -> AsyncIterator[Subnets]:
        name = f"node{number}"
        spec = {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"]}
        with contextlib.suppress(ApiError):
            await self._client.create(NODES, {"metadata": {"name": name}, "spec": spec})
        async with Client(self._server.connection()) as client:
            net = netconf.parse(json.dumps(NET), "test")
            yield KubeSubnets(client, net, PREFIX, node=name)

    async def spoil(self, own: Own) -> None:
        body = {"metadata": {"annotations": {f"{PREFIX}public-ip": "1.2.3.4"}}}
        await self._client.patch(NODES, own.leases[Family.V4].node, body, kind=Patch.MERGE)

    async def text(self, own: Own) -> str:
        return str((await self._client.get(NODES, own.leases[Family.V4].node)).metadata.annotations)

    async def stop(self) -> None:
        assert self._server.process
        self._server.process.kill()
        await asyncio.to_thread(self._server.process.wait, 10)


class EtcdWorld:
    def __init__(self, server: EtcdServer) -> None:
        self._server = server

    async def ctl(self, *argv: str) -> str:
        def run() -> str:
            environment = {**os.environ, "ETCDCTL_API": "3"}
            command = ["etcdctl", "--endpoints", self._server.url, *argv]
            return subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=True, env=environment
            ).stdout

        return await asyncio.to_thread(run)

    @asynccontextmanager
    async def manager(self, number: int) -> AsyncIterator[Subnets]:
        async with etcd.opened(Access((self._server.url,)), KEY) as subnets:
            yield subnets

    async def spoil(self, own: Own) -> None:
        await self.ctl("put", f"{KEY}/subnets/{own.leases[Family.V4].node}", '{"PublicIP":"1.2.3.4"}')

    async def text(self, own: Own) -> str:
        return await self.ctl("get", f"{KEY}/subnets/{own.leases[Family.V4].node}")

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.kill)


@pytest.fixture(params=["kube", "etcd"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "kube":
        server = prepared(tmp_path)
        try:
            await server.start()
            async with Client(server.connection()) as client:
                yield KubeWorld(server, client)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
        return
    requires("etcd", "etcdctl")
    made = EtcdServer(tmp_path)
    try:
        await asyncio.to_thread(made.start)
        world = EtcdWorld(made)
        await world.ctl("put", f"{KEY}/config", json.dumps(NET))
        yield world
    finally:
        made.kill()


class Running:
    """A manager as the daemon has one."""

    def __init__(self, subnets: Subnets) -> None:
        self.subnets = subnets
        self.woken = 0

    def changed(self) -> None:
        self.woken += 1

    async def own(self, what: Offer) -> Own:
        return await self._in_time(lambda: self.subnets.own(what), NotYet)

    async def announced(self, what: Offer) -> Announced:
        async def announce() -> Announced:
            return await self.subnets.announce((await self.subnets.own(what)).leases)

        return await self._in_time(announce, NotYet, Retry, ApiError)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.02)

    async def _in_time(self, ask: Callable[[], Awaitable[T]], *passing: type[Exception]) -> T:
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(*passing):
                    return await ask()
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(world: World, *numbers: int) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        made = [Running(await stack.enter_async_context(world.manager(number))) for number in numbers]
        tasks = [group.create_task(one.subnets.run(one.changed)) for one in made]
        async with asyncio.timeout(DEADLINE):
            for one in made:
                await one.subnets.synced.wait()
                await one.subnets.network()
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def offer(number: int, families: tuple[Family, ...] = tuple(Family), mac: int | None = None) -> Offer:
    four, six = IPv4Address(f"192.168.0.{number}"), IPv6Address(f"fd00::{number}")
    addresses: dict[Family, Address] = {Family.V4: four, Family.V6: six}
    data = Vtep(1, f"8e:1b:10:4f:22:{number if mac is None else mac:02x}")
    return Offer(Backend.VXLAN, {one: addresses[one] for one in families}, dict.fromkeys(families, data))


async def test_before_it_has_heard_anything_it_says_so(world: World) -> None:
    async with world.manager(1) as subnets:
        assert not subnets.synced.is_set()
        assert subnets.claims().leases == ()
        with pytest.raises(NotYet):
            await subnets.own(offer(1))
        assert subnets.where
        assert all("://" in peer for peer in subnets.peers)
        assert subnets.peers


async def test_what_one_announces_another_is_told(world: World) -> None:
    async with running(world, 1, 2) as (one, two):
        assert one.subnets.claims().leases == ()
        own = await one.own(offer(1))
        assert set(own.leases) == set(Family)
        said = await one.announced(offer(1))
        assert said.said or said.since
        seen = two.woken
        await two.until(lambda: len(two.subnets.claims().leases) == 2)
        assert seen or two.woken
        theirs = {lease.family: lease for lease in two.subnets.claims().leases}
        for family, lease in own.leases.items():
            assert (theirs[family].subnet, theirs[family].public_ip) == (lease.subnet, lease.public_ip)
            assert (theirs[family].backend, theirs[family].data) == (lease.backend, lease.data)
            assert (theirs[family].node, theirs[family].since) == (lease.node, lease.since)
        assert one.subnets.claims().leases == (), "one's own is no claim of others"
        mine = await two.own(offer(2))
        assert {lease.subnet for lease in mine.leases.values()}.isdisjoint(
            lease.subnet for lease in own.leases.values()
        )


async def test_the_same_again_writes_nothing(world: World) -> None:
    async with running(world, 1) as (one,):
        await one.announced(offer(1))
        text = await world.text(await one.own(offer(1)))
        again = await one.announced(offer(1))
        assert (again.said, again.mended) == ((), ())
        assert await world.text(await one.own(offer(1))) == text


async def test_a_new_address_is_told_and_the_vtep_kept(world: World) -> None:
    async with running(world, 1, 2) as (one, two):
        await one.announced(offer(1))
        await two.until(lambda: len(two.subnets.claims().leases) == 2)
        before = await one.own(offer(1))
        moved = Offer(
            Backend.VXLAN, {**offer(1).addresses, Family.V4: IPv4Address("192.168.9.9")}, offer(1, mac=99).data
        )
        assert (await one.announced(moved)).said
        await two.until(lambda: any(str(one.public_ip) == "192.168.9.9" for one in two.subnets.claims().leases))
        after = await one.own(moved)
        assert [lease.data for lease in after.leases.values()] == [lease.data for lease in before.leases.values()]
        assert [lease.subnet for lease in after.leases.values()] == [lease.subnet for lease in before.leases.values()]


async def test_a_restart_goes_on_with_what_was_announced(world: World) -> None:
    async with running(world, 1) as (one,):
        await one.announced(offer(1))
        before = await one.own(offer(1))
    async with running(world, 1) as (one,):
        after = await one.own(offer(1, mac=99))
        assert after == before


async def test_what_somebody_spoils_is_mended_and_named(world: World) -> None:
    async with running(world, 1) as (one,):
        await one.announced(offer(1))
        own = await one.own(offer(1))
        good = await world.text(own)
        seen = one.woken
        await world.spoil(own)
        await one.until(lambda: one.woken > seen)
        said = await one.announced(offer(1))
        assert said.mended
        assert await world.text(own) == good


async def test_a_family_without_an_underlay_does_not_hold_up_the_other(world: World) -> None:
    async with running(world, 1) as (one,):
        await one.announced(offer(1))
        both = await world.text(await one.own(offer(1)))
        half = await one.own(offer(1, (Family.V4,)))
        assert list(half.leases) == [Family.V4]
        await one.announced(offer(1, (Family.V4,)))
        assert await world.text(half) == both, "what is away for a moment is not taken from the others"
        assert not (await one.own(offer(1, ()))).leases


async def test_what_is_known_stays_when_the_registry_goes_away(world: World) -> None:
    async with running(world, 1, 2) as (one, two):
        await one.announced(offer(1))
        await two.announced(offer(2))
        await one.until(lambda: len(one.subnets.claims().leases) == 2)
        own, claims = await one.own(offer(1)), one.subnets.claims()
        await world.stop()
        async with asyncio.timeout(DEADLINE):
            for _ in range(3):
                assert (await one.own(offer(1))).leases == own.leases
        assert set(one.subnets.claims().leases) == set(claims.leases)
        assert (await one.subnets.network()).families == tuple(Family)
