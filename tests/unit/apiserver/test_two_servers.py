"""Two API servers on one store: each has a cache of its own, and what must not be given out twice is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from apiserver import allocations
from apiserver.ranges import addresses_of, ports_of
from tests.fakes.store import MemoryStore
from tests.unit.apiserver.calls import Calls, Response, serving

Obj = dict[str, Any]
SERVICES = "/api/v1/namespaces/default/services"
QUOTAS = "/api/v1/namespaces/default/resourcequotas"


async def service(calls: Calls, name: str, **spec: Any) -> Response:
    body = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}}
    return await calls.post(SERVICES, body | {"spec": {"ports": [{"port": 80}], **spec}})


async def all_of(calls: Calls) -> list[Obj]:
    items: list[Obj] = (await calls.get(SERVICES)).json["items"]
    return items


def test_addresses_and_ports_are_given_out_once() -> None:
    async def trial() -> None:
        store = MemoryStore()
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving(store)) for _ in range(2)]
            rush = (service(servers[n % 2], f"s{n}", type="NodePort") for n in range(60))
            assert {answer.code for answer in await asyncio.gather(*rush)} == {201}
            await settled(servers)
            found = await all_of(servers[0])
            assert len(found) == 61
            addresses = Counter(one for each in found for one in addresses_of(each))
            ports = Counter(port for each in found for port in ports_of(each))
            assert set(addresses.values()) == set(ports.values()) == {1}
            books = servers[1].writer.allocators.books
            assert books.ports() == set(ports)
            assert {entry.name for entry in books.addresses.entries()} == set(addresses)
            gone = (servers[n % 2].call("DELETE", f"{SERVICES}/s{n}") for n in range(60))
            assert {answer.code for answer in await asyncio.gather(*gone)} == {200}
            await settled(servers)
            assert books.ports() == set()
            assert [entry.name for entry in books.addresses.entries()] == ["10.96.0.1"]
            assert await allocations.repair(store, books) == 0

    asyncio.run(trial())


async def settled(servers: list[Calls]) -> None:
    for calls in servers:
        assert await calls.cache.reached(await calls.store.current(), 5)


def test_of_two_that_ask_for_one_address_or_port_one_gets_it() -> None:
    async def trial() -> None:
        store = MemoryStore()
        async with serving(store) as one, serving(store) as other:
            answers = await asyncio.gather(
                *(service(calls, f"s{n}", clusterIP="10.96.7.7") for n, calls in enumerate((one, other)))
            )
            assert sorted(answer.code for answer in answers) == [201, 422]
            refused = next(answer for answer in answers if answer.code == 422)
            assert "provided IP is already allocated" in refused.json["message"]
            asked = {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30777}]}
            answers = await asyncio.gather(*(service(calls, f"t{n}", **asked) for n, calls in enumerate((one, other))))
            assert sorted(answer.code for answer in answers) == [201, 422]
            refused = next(answer for answer in answers if answer.code == 422)
            assert "provided port is already allocated" in refused.json["message"]

    asyncio.run(trial())


def test_the_record_is_put_in_order() -> None:
    async def trial() -> None:
        store = MemoryStore()
        async with serving(store) as calls:
            made = await service(calls, "s", type="NodePort")
            books = calls.writer.allocators.books
            path = "/apis/networking.k8s.io/v1/ipaddresses"
            address = made.json["spec"]["clusterIP"]
            assert (await calls.call("DELETE", f"{path}/{address}")).code == 200  # somebody meddled
            stray = allocations.record("10.96.9.9", {"namespace": "default", "name": "never"})
            assert (await calls.post(path, stray)).code == 201
            assert await allocations.repair(store, books) == 2
            await settled([calls])
            names = {one["metadata"]["name"] for one in (await calls.get(path)).json["items"]}
            assert names == {"10.96.0.1", address}

    asyncio.run(trial())


def test_dry_runs_record_nothing() -> None:
    async def trial() -> None:
        async with serving() as calls:
            body = {
                "kind": "Service",
                "apiVersion": "v1",
                "metadata": {"name": "s"},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]},
            }
            answer = await calls.post(f"{SERVICES}?dryRun=All", body)
            assert answer.json["spec"]["clusterIP"]
            books = calls.writer.allocators.books
            assert books.ports() == set()
            assert [entry.name for entry in books.addresses.entries()] == ["10.96.0.1"]

    asyncio.run(trial())


def test_a_quota_is_never_exceeded() -> None:
    async def trial() -> None:
        store = MemoryStore()
        async with serving(store) as one, serving(store) as other:
            hard = {"count/configmaps": "7", "configmaps": "50"}
            quota = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "q"}, "spec": {"hard": hard}}
            assert (await one.post(QUOTAS, quota)).code == 201
            counted = {"status": {"hard": hard, "used": {"count/configmaps": "0", "configmaps": "0"}}}
            assert (await one.patch(f"{QUOTAS}/q/status", counted)).code == 200
            await settled([one, other])

            async def make(calls: Calls, name: str) -> Response:
                body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}}
                return await calls.post("/api/v1/namespaces/default/configmaps", body)

            answers = await asyncio.gather(*(make((one, other)[n % 2], f"c{n}") for n in range(30)))
            assert Counter(answer.code for answer in answers) == {201: 7, 403: 23}
            refused = next(answer for answer in answers if answer.code == 403)
            words = "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=7, limited: count/configmaps=7"
            assert words in refused.json["message"]
            await settled([one, other])
            assert (await other.get(f"{QUOTAS}/q")).json["status"]["used"] == {
                "count/configmaps": "7",
                "configmaps": "7",
            }
            assert len((await one.get("/api/v1/namespaces/default/configmaps")).json["items"]) == 7

    asyncio.run(trial())
