"""healthCheckNodePort: what a load balancer hears, and where."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from linux.iptables.rules import Family
from proxy.healthchecks import HealthChecks
from proxy.model import Address, ServicePort
from tests.ports import free_port
from tests.unit.proxy.flows import HERE, service

LOOPBACK, LOOPBACK_6 = IPv4Address("127.0.0.1"), IPv6Address("::1")


def checked(port: int, ready: int, name: str = "ns1/web") -> dict[str, tuple[ServicePort, ...]]:
    return {name: (replace(service(HERE), name=f"{name}:http", health_check_node_port=port, ready_here=ready),)}


class World:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.healthy = True
        self.now = 0.0
        self.checks = HealthChecks(
            "node1", lambda *words: self.told.append(words), lambda: self.healthy, lambda: self.now
        )

    async def sync(
        self,
        services: dict[str, tuple[ServicePort, ...]],
        changed: set[str] | None = None,
        family: Family = Family.V4,
        addresses: tuple[Address, ...] | None = (LOOPBACK,),
    ) -> None:
        self.checks.note(family, services, changed, addresses)
        await self.checks.sync()


Trial = Callable[[World], Coroutine[Any, Any, None]]


def run(trial: Trial) -> None:
    async def go() -> None:
        world = World()
        async with world.checks:
            await trial(world)

    asyncio.run(go())


async def ask(port: int, host: str = "127.0.0.1", path: str = "/") -> tuple[int, str, dict[str, Any]] | None:
    """Status, weight and body; None where nobody listens."""

    def asking() -> tuple[int, str, dict[str, Any]] | None:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            weight = answer.headers["X-Load-Balancing-Endpoint-Weight"]
            return answer.status, weight, json.loads(answer.read())
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    return await asyncio.to_thread(asking)


def body(ready: int, *, healthy: bool = True) -> dict[str, Any]:
    return {"service": {"namespace": "ns1", "name": "web"}, "localEndpoints": ready, "serviceProxyHealthy": healthy}


def test_ready_endpoints_here_and_a_proxy_that_keeps_up() -> None:
    async def trial(world: World) -> None:
        port = free_port()
        await world.sync(checked(port, 2))
        assert await ask(port) == (200, "2", body(2))
        assert await ask(port, path="/healthz?any") == (200, "2", body(2))
        world.healthy = False
        assert await ask(port) == (503, "2", body(2, healthy=False))
        world.healthy = True
        await world.sync(checked(port, 0), {"ns1/web"})
        assert await ask(port) == (503, "0", body(0))

    run(trial)


def test_ports_come_change_and_go() -> None:
    async def trial(world: World) -> None:
        first, second = free_port(), free_port()
        await world.sync(checked(first, 1))
        await world.sync(checked(second, 1), {"ns1/web"})
        assert await ask(first) is None
        assert await ask(second) == (200, "1", body(1))
        await world.sync(checked(0, 0), {"ns1/web"})
        assert await ask(second) is None
        await world.sync(checked(second, 1))
        await world.sync({}, {"ns1/web"})
        assert await ask(second) is None

    run(trial)


def test_each_family_counts_its_own() -> None:
    async def trial(world: World) -> None:
        port = free_port()
        await world.sync(checked(port, 3), addresses=None)
        await world.sync(checked(port, 0), family=Family.V6, addresses=(LOOPBACK_6, IPv6Address("fe80::1")))
        assert await ask(port) == (200, "3", body(3))
        assert await ask(port, "::1") == (503, "0", body(0))
        assert world.told == []

    run(trial)


def test_a_taken_port_is_told_once_and_had_when_it_is_free() -> None:
    async def trial(world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for _ in range(3):
                await world.sync(checked(port, 1))
                world.now += 10
            message = f'node node1 failed to start healthcheck "ns1/web" on port {port}: cannot listen on 127.0.0.1: '
            assert [(key, reason, words[: len(message)]) for key, reason, words in world.told] == [
                ("ns1/web", "FailedToStartServiceHealthcheck", message)
            ]
        await world.sync(checked(port, 1), set())
        assert await ask(port) == (200, "1", body(1))

    run(trial)


def test_both_families_passes_may_come_at_once() -> None:
    async def trial(world: World) -> None:
        port = free_port()
        await asyncio.gather(
            world.sync(checked(port, 1), addresses=None), world.sync(checked(port, 2), family=Family.V6, addresses=None)
        )
        assert world.told == []
        assert await ask(port) == (200, "1", body(1))
        assert await ask(port, "::1") == (200, "2", body(2))

    run(trial)


def test_a_port_passes_from_one_service_to_another() -> None:
    async def trial(world: World) -> None:
        port = free_port()
        await world.sync(checked(port, 1))
        await world.sync(checked(port, 4, "ns1/other"), {"ns1/web", "ns1/other"})
        answer = await ask(port)
        assert answer is not None
        assert (answer[1], answer[2]["service"]["name"]) == ("4", "other")

    run(trial)


def test_a_kept_connection_hears_that_the_service_is_gone() -> None:
    async def trial(world: World) -> None:
        port = free_port()
        await world.sync(checked(port, 1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for services, status in ((checked(port, 1), b" 200 "), ({}, b" 503 ")):
            await world.sync(services)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert status in head
            length = next(line for line in head.splitlines() if line.startswith(b"Content-Length: "))
            await reader.readexactly(int(length.split()[1]))
        assert await reader.read() == b""
        writer.close()

    run(trial)
