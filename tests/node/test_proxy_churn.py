"""Endpoints that come and go many times a second under new connections all the time: none may fail.

Every endpoint is alive while a slice has it, and a while longer: those of most Services never die, and those of a few do, after
they have left the slice and had time to be left alone. So a connection that is refused, unanswered, or has lost a packet on its
way (TCP says so) met rules that were wrong.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube.client import Client
from kube.resources import ENDPOINTSLICES
from tests.node.proxy_world import Cluster, Kernel, Process, many
from tests.node.service_world import HERE, HERE_TOO, OUTSIDER, POD, THERE, THERE_TOO

ENDS = (HERE, HERE_TOO, THERE, THERE_TOO)
CHANGES_A_SECOND = 50
MORTALS = 5  # Services; their endpoints have a port of their own
MORTAL_PORT = 8081
DRAIN = 2.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`each_kernel`: in a short run without the legacy interface, which other tests meet."""
    if "each_kernel" in metafunc.fixturenames:
        short = [kernel for kernel in Kernel if kernel is not Kernel.IPTABLES_LEGACY]
        metafunc.parametrize("each_kernel", list(Kernel) if metafunc.config.getoption("--soak") else short)


@dataclass(slots=True)
class Churn:
    cluster: Cluster
    services: int
    seconds: float
    changes: int = 0
    deaths: int = 0

    def __call__(self) -> None:
        self.cluster.api(self._run)

    async def _run(self, client: Client) -> None:
        until = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._change(client, until))
            group.create_task(self._die(client, until))

    async def _change(self, client: Client, until: float) -> None:
        dice = random.Random(self.services)
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                index = dice.randrange(MORTALS, self.services)
                ends = dice.sample(ENDS, dice.randint(1, len(ENDS)))
                group.create_task(self._set(client, index, *ends))
                self.changes += 1
                await asyncio.sleep(begun + self.changes / CHANGES_A_SECOND - time.monotonic())

    async def _die(self, client: Client, until: float) -> None:
        """One endpoint of the mortal Services leaves their slices, drains, dies, is born again, and comes back."""
        while time.monotonic() < until:
            mortal = ENDS[self.deaths % len(ENDS)]
            for index in range(MORTALS):
                await self._set(client, index, *(end for end in ENDS if end != mortal))
            await asyncio.sleep(DRAIN)
            server = self.cluster.at(mortal), MORTAL_PORT
            await asyncio.to_thread(self.cluster.world.stop_serving, server)
            await asyncio.to_thread(self.cluster.world.serve, server)
            self.deaths += 1
            for index in range(MORTALS):
                await self._set(client, index, *ENDS)

    async def _set(self, client: Client, index: int, *ends: str) -> None:
        body = {"endpoints": self.cluster.slice_of(f"many{index}", ends)["endpoints"]}
        await client.patch(ENDPOINTSLICES, f"many{index}-1", body, "default")


def prepared(cluster: Cluster, services: int) -> None:
    cluster.make_services(services, *ENDS)
    cluster.world.serve(*((cluster.at(end), MORTAL_PORT) for end in ENDS))

    async def on_their_port(client: Client) -> None:
        for index in range(MORTALS):
            ports = [{"name": "http", "port": MORTAL_PORT, "protocol": "TCP"}]
            await client.patch(ENDPOINTSLICES, f"many{index}-1", {"ports": ports}, "default")

    cluster.api(on_their_port)


@pytest.mark.timeout(1200)  # ten minutes of it in a long run
def test_endpoints_that_change_all_the_time_lose_no_connection(
    cluster: Cluster, each_kernel: Kernel, trial: Callable[[int, int], int]
) -> None:
    kernel = each_kernel
    services = trial(100, 1000)
    prepared(cluster, services)
    proxy = cluster.start_proxy(kernel=kernel).ready()
    flows = [cluster.flow(POD, many(index), 80) for index in range(services)]
    flows += [cluster.flow(OUTSIDER, many(index), 80) for index in range(MORTALS)]
    random.Random(services).shuffle(flows)
    churn = Churn(cluster, services, trial(3, 600))
    before = resident(proxy)
    with cluster.world.streaming(*flows, workers=4) as stop:
        churn()
        talk = stop()
    assert talk.failures == [], (len(talk.failures), sum(talk.answers.values()))
    assert sum(talk.answers.values()) > 50 * churn.seconds
    assert churn.deaths > 0
    assert churn.changes > churn.seconds * CHANGES_A_SECOND / 2, "the machine is too busy for this trial"
    assert resident(proxy) - before < 30_000, "kB"
    # And in the end the rules are the last wish.
    cluster.set_endpoints("many7", HERE)
    cluster.answers(POD, many(7), 80, HERE)
    assert "Traceback" not in proxy.log
    print(f"{kernel}: {churn.changes} changes, {churn.deaths} deaths, {sum(talk.answers.values())} connections")


def resident(proxy: Process) -> int:
    """kB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{proxy.pid}/status").read_text())
    assert found is not None
    return int(found[1])
