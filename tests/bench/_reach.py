"""A Service is created; when is it reached? Through the whole system: API server, controllers (its slice), watch, proxy, rules.

All daemons are processes in one network namespace. 10.244.0.0/16 is local there, so one listening socket is every pod; a ready
pod stands in the API. The answer is the time from just before the POST to the first connection through the cluster IP, and of
the stations between: the answer to the POST, the slice as a watcher sees it, the kernel's notice of new rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube.client import Client, Connection, Patch
from kube.resources import ENDPOINTSLICES, NODES, PODS, SERVICES
from linux import netns
from tests.bench._services import locked_in
from tests.node.apiserver import Server, prepared

ADDRESS, POD_IP, CLUSTER_IPS, PORT = "10.200.0.1", "10.244.0.7", "10.96.0.0/16", 8080
QUIET = 0.5
"""Seconds between two Services: a quiet system."""


@dataclass(slots=True)
class Stations:
    """Seconds after the POST began."""

    answered: float = 0.0
    slice: float = 0.0
    rules: float = 0.0
    reached: float = 0.0
    seen: asyncio.Event = field(default_factory=asyncio.Event)


def measured(mode: str, home: Path, runs: int) -> list[Stations]:
    """`mode`: iptables or nftables. In a namespace of its own; leaves nothing."""
    space = netns.create(f"wb-reach-{os.getpid()}")
    try:
        return netns.call(space.path, lambda: asyncio.run(_measured(mode, home, runs)))
    finally:
        netns.delete(space.name)


async def _measured(mode: str, home: Path, runs: int) -> list[Stations]:
    for words in (
        "link set lo up",
        f"addr add {ADDRESS}/32 dev lo",
        "route add local 10.244.0.0/16 dev lo",
        f"route add {CLUSTER_IPS} dev lo src {ADDRESS}",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    server = prepared(home)
    with socket.create_server(("0.0.0.0", PORT), backlog=512), contextlib.ExitStack() as stack:
        await server.start()
        assert server.process is not None
        stack.callback(_end, server.process)
        stack.enter_context(_daemon(home, "controllers", server, "--bind-address=127.0.0.1", "--leader-elect=false"))
        connection = Connection.from_kubeconfig(str(server.kubeconfig))
        async with Client(connection, user_agent="bench") as client:
            await _cluster(client)
            flags = [f"--proxy-mode={mode}", "--hostname-override=node1", "--cluster-cidr=10.244.0.0/16"]
            flags += ["--healthz-bind-address=", "--metrics-bind-address="]
            with locked_in(home), _daemon(home, "proxy", server, *flags):
                async with _watched(client) as expect:
                    await _one(client, expect, "warm")
                    return [await _one(client, expect, f"web-{number}") for number in range(runs)]


@contextlib.contextmanager
def _daemon(home: Path, module: str, server: Server, *flags: str) -> Iterator[None]:
    argv = [sys.executable, "-m", module, f"--kubeconfig={server.kubeconfig}", *flags]
    with (home / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


async def _cluster(client: Client) -> None:
    """A node and a pod that is ready."""
    ready = [{"type": "Ready", "status": "True"}]
    address = [{"type": "InternalIP", "address": ADDRESS}]
    await client.create(NODES, {"metadata": {"name": "node1"}})
    await client.patch(
        NODES, "node1", {"status": {"addresses": address, "conditions": ready}}, kind=Patch.MERGE, subresource="status"
    )
    spec = {"nodeName": "node1", "containers": [{"name": "web", "image": "web", "ports": [{"containerPort": PORT}]}]}
    await client.create(PODS, {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec}, "default")
    status = {"phase": "Running", "podIP": POD_IP, "podIPs": [{"ip": POD_IP}], "conditions": ready}
    await client.patch(PODS, "web", {"status": status}, "default", kind=Patch.MERGE, subresource="status")


@contextlib.asynccontextmanager
async def _watched(client: Client) -> AsyncIterator[dict[str, tuple[float, Stations]]]:
    """What is expected, by Service: the slice's and the rules' times are filled in."""
    expect: dict[str, tuple[float, Stations]] = {}
    version = (await client.list(ENDPOINTSLICES)).resource_version

    async def slices() -> None:
        async for event in client.watch(ENDPOINTSLICES, resource_version=version):
            name = event.object.metadata.labels.get("kubernetes.io/service-name", "")
            if name in expect and event.object.endpoints:
                began, stations = expect[name]
                stations.slice = stations.slice or time.perf_counter() - began
                stations.seen.set()

    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    kernel.setblocking(False)
    kernel.bind((0, 1 << (7 - 1)))  # NFNLGRP_NFTABLES

    def commit() -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while kernel.recv(1 << 18):
                for began, stations in expect.values():
                    stations.rules = time.perf_counter() - began  # the last one before it is reached counts

    loop = asyncio.get_running_loop()
    loop.add_reader(kernel, commit)
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(slices())
            yield expect
            watching.cancel()
    finally:
        loop.remove_reader(kernel)
        kernel.close()


async def _one(client: Client, expect: dict[str, tuple[float, Stations]], name: str) -> Stations:
    await asyncio.sleep(QUIET)
    body = {
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]},
    }
    stations = Stations()
    expect[name] = time.perf_counter(), stations
    made = await client.create(SERVICES, body, "default")
    began = expect[name][0]
    stations.answered = time.perf_counter() - began
    async with asyncio.timeout(20):
        while not await _connects(made.spec.cluster_ip):
            pass
        stations.reached = time.perf_counter() - began
        await stations.seen.wait()
    del expect[name]
    return stations


async def _connects(address: str) -> bool:
    """One SYN; who does not answer within a millisecond is asked anew."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as asked:
        asked.setblocking(False)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().sock_connect(asked, (address, 80))
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            await asyncio.sleep(0.001)
            return False
        return True


def medians(found: list[Stations]) -> dict[str, float]:
    """Milliseconds."""
    return {
        name: statistics.median(getattr(each, name) for each in found) * 1000
        for name in ("answered", "slice", "rules", "reached")
    }


def report(found: list[Stations]) -> dict[str, Any]:
    return {name: round(value, 1) for name, value in medians(found).items()}
