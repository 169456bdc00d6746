"""Two API servers, two processes, one etcd: nothing is given out twice, no quota is exceeded, and either may be killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from kube.client import Client
from kube.errors import ApiError, ApiUnreachable, Forbidden
from kube.meta import Typed
from kube.resources import CONFIGMAPS, ENDPOINTS, ENDPOINTSLICES, RESOURCEQUOTAS, SERVICES, Resource
from tests.etcd import running as etcd_running
from tests.fakes.centre import eventually
from tests.node.apiserver import running
from tests.requirements import requires

NS = "default"
ADVERTISED = ("192.0.2.1", "192.0.2.2")
ADDRESSES = Resource("networking.k8s.io", "v1", "ipaddresses", "IPAddress", False, Typed)


def service(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}


async def made(client: Client, name: str) -> bool:
    try:
        await client.create(SERVICES, service(name), NS)
    except (ApiError, ApiUnreachable):
        return False
    return True


async def test_two_servers_on_one_etcd(tmp_path: Path) -> None:
    requires("etcd")
    with etcd_running(tmp_path / "etcd") as store:
        async with AsyncExitStack() as stack:
            servers = []
            flags = [(f"--etcd-servers={store.url}", f"--advertise-address={address}") for address in ADVERTISED]
            for name, given in zip(("one", "two"), flags, strict=True):
                (tmp_path / name).mkdir()
                servers.append(await stack.enter_async_context(running(tmp_path / name, *given)))
            one, two = [await stack.enter_async_context(Client(server.connection())) for server in servers]
            rush = (made((one, two)[n % 2], f"s{n}") for n in range(80))
            assert all(await asyncio.gather(*rush))
            await _agree(one, two)
            assert await _leads_to(one, *ADVERTISED)

            killed = asyncio.gather(*(made((one, two)[n % 2], f"k{n}") for n in range(40)))
            await asyncio.sleep(0)
            servers[1].kill(signal.SIGKILL)
            await killed
            await _agree(one)
            await eventually(
                "the dead server is no endpoint any more", lambda: _leads_to(one, *ADVERTISED[:1]), timeout=60
            )
            await servers[1].start(*flags[1])
            await _agree(one, two)
            await eventually("the new one is", lambda: _leads_to(one, *ADVERTISED), timeout=60)
            await _quota(one, two)


async def _agree(*clients: Client) -> None:
    """Every address and port belongs to one Service, and the record says the same on each server."""
    for client in clients:
        services = (await client.list(SERVICES)).items
        addresses = Counter(one.spec.cluster_ip for one in services)
        ports = Counter(port.node_port for one in services for port in one.spec.ports if port.node_port)
        assert max(addresses.values()) == max(ports.values()) == 1
        record = {one.metadata.name for one in (await client.list(ADDRESSES)).items}
        assert record == set(addresses)


async def _leads_to(client: Client, *addresses: str) -> bool:
    """Service kubernetes, in both forms of its endpoints."""
    (subset,) = (await client.get(ENDPOINTS, "kubernetes", NS)).subsets
    found = await client.get(ENDPOINTSLICES, "kubernetes", NS)
    listed = [endpoint.addresses[0] for endpoint in found.endpoints or ()]
    return [one.ip for one in subset.addresses] == listed == list(addresses)


async def _quota(one: Client, two: Client) -> None:
    hard = {"count/configmaps": "5"}
    await one.create(RESOURCEQUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}}, NS)
    counted = {"status": {"hard": hard, "used": {"count/configmaps": "0"}}}  # what a controller would write
    await one.patch(RESOURCEQUOTAS, "q", counted, NS, subresource="status")
    await two.get(RESOURCEQUOTAS, "q", NS)
    rush = ((one, two)[n % 2].create(CONFIGMAPS, {"metadata": {"name": f"c{n}"}}, NS) for n in range(20))
    answers = Counter(type(answer).__name__ for answer in await asyncio.gather(*rush, return_exceptions=True))
    assert answers == {"ConfigMap": 5, Forbidden.__name__: 15}
