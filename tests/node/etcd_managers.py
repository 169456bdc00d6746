"""EtcdSubnets as the daemon has one, on a real etcd, and etcdctl beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from kube.errors import Retry
from kube.etcd import Access
from linux.iptables.rules import Family
from overlay.model import Address, Backend, NotYet, Vtep
from overlay.registry import etcd
from overlay.registry.etcd import EtcdSubnets
from overlay.subnets import Announced, Offer, Own
from tests.etcd import EtcdServer

DEADLINE = 30.0
PREFIX = "/coreos.com/network"
CONFIG: dict[str, Any] = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
DUAL: dict[str, Any] = {**CONFIG, "EnableIPv6": True, "IPv6Network": "fc00::/48"}
MAC = "8e:1b:10:4f:22:{:02x}"


def offer(number: int, *, dual: bool = False, mac: int | None = None) -> Offer:
    families = tuple(Family) if dual else (Family.V4,)
    addresses: dict[Family, Address] = {
        Family.V4: IPv4Address(f"192.168.0.{number}"),
        Family.V6: IPv6Address(f"fd00::{number}"),
    }
    data = Vtep(1, MAC.format(number if mac is None else mac))
    return Offer(Backend.VXLAN, {one: addresses[one] for one in families}, dict.fromkeys(families, data))


class Etcdctl:
    def __init__(self, server: EtcdServer) -> None:
        self.server = server

    def __call__(self, *argv: str) -> str:
        done = subprocess.run(
            ["etcdctl", "--endpoints", self.server.url, *argv],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        return done.stdout

    def put(self, name: str, value: str, *more: str) -> None:
        self("put", *more, "--", f"{PREFIX}/{name}", value)

    def config(self, value: dict[str, Any] = CONFIG) -> None:
        self.put("config", json.dumps(value))

    def subnets(self) -> dict[str, str]:
        lines = self("get", "--prefix", f"{PREFIX}/subnets/").splitlines()
        return {key.rpartition("/")[2]: value for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def lease_of(self, name: str) -> int:
        found = json.loads(self("get", "-w", "json", f"{PREFIX}/subnets/{name}"))
        return int(found["kvs"][0].get("lease", 0))


class Manager:
    """A registry as the daemon has one, running; `woken` counts what it was told."""

    def __init__(self, subnets: EtcdSubnets) -> None:
        self.subnets = subnets
        self.woken = 0
        self._moved = asyncio.Event()

    def changed(self) -> None:
        self.woken += 1
        self._moved.set()

    async def own(self, what: Offer) -> Own:
        """As the daemon asks: again and again until there is something."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(NotYet):
                    return await self.subnets.own(what)
                await asyncio.sleep(0.02)

    async def announced(self, own: Own) -> Announced:
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(Retry):
                    return await self.subnets.announce(own.leases)
                await asyncio.sleep(0.02)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._moved.wait()

    def peers(self) -> dict[str, str]:
        return {str(lease.subnet): str(lease.public_ip) for lease in self.subnets.claims().leases}


@contextlib.asynccontextmanager
async def manager(*urls: str, **options: Any) -> AsyncIterator[Manager]:
    access = Access(urls, flag="--etcd-endpoints")
    async with etcd.opened(access, PREFIX, **options) as subnets, asyncio.TaskGroup() as group:
        made = Manager(subnets)
        task = group.create_task(subnets.run(made.changed))
        async with asyncio.timeout(DEADLINE):
            await subnets.synced.wait()
            await subnets.network()
        yield made
        task.cancel()


def subnet(own: Own, family: Family = Family.V4) -> Any:
    return own.leases[family].subnet
