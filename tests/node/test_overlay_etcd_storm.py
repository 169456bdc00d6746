"""Five nodes and an etcd that is killed, stopped and written into, in any order: in the end each node has a subnet of its own,
etcd says so, and all know of all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from kube import etcd as client
from kube.errors import Retry
from linux.iptables.rules import Family
from overlay.model import NotYet
from tests.etcd import EtcdServer
from tests.node.etcd_managers import CONFIG, Etcdctl, Manager, manager, offer, subnet
from tests.requirements import requires

NODES = 5
QUICK = {"grpc.keepalive_time_ms": 2000, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}


class Node:
    """What the daemon does with a manager: ask for what is ours, announce it, and again. Goes through restarts."""

    def __init__(self, url: str, number: int, chance: Random) -> None:
        self.url, self.number, self.chance = url, number, chance
        self.manager: Manager | None = None
        self.own = ""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.chance.uniform(1.0, 4.0)), manager(self.url, ttl=5) as made:
                    self.manager = made
                    await self.keep(made)

    async def keep(self, made: Manager) -> None:
        while True:
            try:
                own = await made.subnets.own(offer(self.number))
                self.own = str(subnet(own))
                await made.subnets.announce(own.leases)
            except (NotYet, Retry):
                pass
            await asyncio.sleep(0.05)


async def damage(server: EtcdServer, ctl: Etcdctl, chance: Random) -> None:
    """One of what happens to an etcd; it runs again afterwards."""
    match chance.randrange(4):
        case 0:
            server.kill()
            await asyncio.sleep(chance.random())
            await asyncio.to_thread(server.start)
        case 1:
            server.kill(signal.SIGSTOP)
            await asyncio.sleep(chance.random() * 3)
            server.kill(signal.SIGCONT)
        case _:
            names = list(await asyncio.to_thread(ctl.subnets))
            if names:
                name = chance.choice(names)
                if chance.random() < 0.5:
                    await asyncio.to_thread(ctl, "del", f"/coreos.com/network/subnets/{name}")
                else:
                    value = json.dumps({"PublicIP": f"192.168.0.{chance.randrange(20, 20 + NODES)}"})
                    with contextlib.suppress(subprocess.CalledProcessError):  # it expired in between
                        await asyncio.to_thread(ctl.put, f"subnets/{name}", value, "--ignore-lease")


async def test_whatever_happens_each_node_ends_with_a_subnet_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: Callable[[int, int], int]
) -> None:
    requires("etcd", "etcdctl")
    monkeypatch.setattr(client, "_OPTIONS", tuple((key, QUICK.get(key, value)) for key, value in client._OPTIONS))
    seed = 20_261_121
    chance = Random(seed)
    seconds = trial(6, 120)
    server = EtcdServer(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        ctl = Etcdctl(server)
        await asyncio.to_thread(ctl.config, {**CONFIG, "SubnetMax": "10.5.8.0"})
        nodes = [Node(server.url, 20 + number, Random(seed + number)) for number in range(NODES)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.run()) for node in nodes]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while True:
                        await damage(server, ctl, chance)
                        await asyncio.sleep(chance.random() / 2)
            server.kill(signal.SIGCONT)
            if server.process is None or server.process.poll() is not None:
                await asyncio.to_thread(server.start)
            for task in tasks:
                task.cancel()
        await settled(server, ctl, nodes)
    finally:
        server.kill(signal.SIGCONT)
        server.kill()


async def settled(server: EtcdServer, ctl: Etcdctl, nodes: list[Node]) -> None:
    """All start once more, and nothing happens any longer."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        made = [await stack.enter_async_context(manager(server.url, ttl=5)) for _ in nodes]
        tasks = [group.create_task(node.keep(one)) for node, one in zip(nodes, made, strict=True)]
        last: object = None
        try:
            async with asyncio.timeout(60):
                while True:
                    there = await asyncio.to_thread(ctl.subnets)
                    last = there, [node.own for node in nodes], [one.peers() for one in made]
                    mine = {str(json.loads(value).get("PublicIP")): name for name, value in there.items()}
                    own = {f"192.168.0.{node.number}": node.own.replace("/", "-") for node in nodes}
                    known = [set(one.peers().values()) | {address} for one, address in zip(made, own, strict=True)]
                    if mine == own and len(there) == len(nodes) and all(one == set(own) for one in known):
                        break
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not settled: {last}") from None
        assert len({node.own for node in nodes}) == len(nodes)
        assert {lease.family for one in made for lease in one.subnets.claims().leases} == {Family.V4}
        for task in tasks:
            task.cancel()
