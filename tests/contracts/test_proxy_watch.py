"""From a real API server to Service ports: what the proxy watches, and what it makes of objects that come under its eyes and
leave them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kube import resources
from kube.client import Client, Patch
from kube.reconcile import Wake
from linux.iptables.rules import Family
from proxy.config import Config
from proxy.informed import Informed
from proxy.metrics import Metrics
from proxy.observe import Tracker
from tests.contracts.kubelet_rig import NODE, api

NAMESPACE = "default"
SERVICE: dict[str, Any] = {
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
}


@dataclass
class Seen:
    """The tracker behind informers, asked after each change that came."""

    client: Client
    tracker: Tracker
    wake: Wake

    async def until(self, wanted: dict[str, str], seconds: float = 10.0) -> None:
        """`wanted`: each Service's endpoints, in one word."""
        seen: dict[str, str] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    services = self.tracker.take().services
                    seen = {
                        key.removeprefix(f"{NAMESPACE}/"): " ".join(
                            end.text for port in ports for end in port.endpoints.all
                        )
                        for key, ports in services.items()
                        if key.startswith(f"{NAMESPACE}/") and key != f"{NAMESPACE}/kubernetes"
                    }
                    if seen == wanted:
                        return
                    await self.wake.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds:.0f} s: {wanted}; seen: {seen}") from None

    async def patch_service(self, body: dict[str, Any], name: str = "web") -> None:
        await self.client.patch(resources.SERVICES, name, body, NAMESPACE, kind=Patch.MERGE)

    async def create_slice(self, name: str, *ips: str, service: str = "web", kind: str = "IPv4") -> None:
        body = {
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": kind,
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in ips],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
        await self.client.create(resources.ENDPOINTSLICES, body, NAMESPACE)

    async def label_slice(self, name: str, **labels: str | None) -> None:
        names = {"service": "kubernetes.io/service-name", "headless": "service.kubernetes.io/headless"}
        body = {"metadata": {"labels": {names[key]: value for key, value in labels.items()}}}
        await self.client.patch(resources.ENDPOINTSLICES, name, body, NAMESPACE, kind=Patch.MERGE)


@asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[Seen]:
    async with api(folder) as connection, Client(connection) as client:
        tracker, wake = Tracker(NODE, Family.V4), Wake()
        informed = Informed(client, Config(), NODE, [tracker], Metrics("iptables", ["IPv4"]), lambda *_: wake.set())
        async with asyncio.TaskGroup() as group:
            own = group.create_task(_running(informed))
            await informed.synced()
            try:
                yield Seen(client, tracker, wake)
            finally:
                own.cancel()


async def _running(informed: Informed) -> None:
    async with asyncio.TaskGroup() as group:
        informed.start(group)


async def test_labels_take_services_and_slices_out_of_sight_and_back(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        await seen.client.create(resources.SERVICES, SERVICE, NAMESPACE)
        await seen.create_slice("web-a", "10.244.0.1")
        await seen.until({"web": "10.244.0.1:8080"})
        proxied = "service.kubernetes.io/service-proxy-name"
        await seen.patch_service({"metadata": {"labels": {proxied: "other"}}})
        await seen.until({})
        await seen.create_slice("web-b", "10.244.0.2")
        await seen.patch_service({"metadata": {"labels": {proxied: None}}})
        await seen.until({"web": "10.244.0.1:8080 10.244.0.2:8080"})
        await seen.label_slice("web-a", headless="")
        await seen.until({"web": "10.244.0.2:8080"})
        await seen.label_slice("web-a", headless=None)
        await seen.until({"web": "10.244.0.1:8080 10.244.0.2:8080"})


async def test_types_change_slices_move_and_names_are_used_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        await seen.create_slice("web-a", "10.244.0.1")
        await seen.create_slice("web-b", "fd01::1", kind="IPv6")
        await seen.client.create(resources.SERVICES, SERVICE, NAMESPACE)
        await seen.until({"web": "10.244.0.1:8080"})
        away = {
            "type": "ExternalName",
            "externalName": "example.org",
            "clusterIP": None,
            "clusterIPs": None,
            "ports": None,
        }
        await seen.patch_service({"spec": away})
        await seen.until({})
        await seen.patch_service(
            {"spec": {"type": "NodePort", "externalName": None, "ports": SERVICE["spec"]["ports"]}}
        )
        await seen.until({"web": "10.244.0.1:8080"})
        assert seen.tracker.services[f"{NAMESPACE}/web"][0].node_port
        await seen.client.delete(resources.SERVICES, "web", NAMESPACE)
        await seen.client.create(resources.SERVICES, {**SERVICE, "metadata": {"name": "new"}}, NAMESPACE)
        await seen.until({"new": ""})
        await seen.label_slice("web-a", service="new")
        await seen.until({"new": "10.244.0.1:8080"})
        await seen.client.create(resources.SERVICES, SERVICE, NAMESPACE)
        await seen.until({"new": "10.244.0.1:8080", "web": ""})
        headless = {"metadata": {"name": "bare"}, "spec": {**SERVICE["spec"], "clusterIP": "None"}}
        await seen.client.create(resources.SERVICES, headless, NAMESPACE)
        await seen.client.delete(resources.ENDPOINTSLICES, "web-a", NAMESPACE)
        await seen.until({"new": "", "web": ""})


async def test_large_and_odd_objects_that_a_server_takes(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        ports = [{"name": f"p{number}", "port": 1000 + number} for number in range(1000)]
        await seen.client.create(
            resources.SERVICES, {"metadata": {"name": "wide"}, "spec": {"ports": ports}}, NAMESPACE
        )
        await seen.client.create(resources.SERVICES, SERVICE, NAMESPACE)
        await seen.create_slice("web-a", *(f"10.244.{number // 250}.{number % 250 + 1}" for number in range(1000)))
        await seen.create_slice("web-b", "10.244.0.1", "10.244.9.1")  # the first one for the second time
        odd: dict[str, Any] = {
            "metadata": {"name": "web-c", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
        }
        odd |= {"endpoints": [{"addresses": ["10.244.9.2"]}], "ports": [{"name": "http", "protocol": "TCP"}]}
        await seen.client.create(resources.ENDPOINTSLICES, odd, NAMESPACE)
        everyone = {f"10.244.{number // 250}.{number % 250 + 1}:8080" for number in range(1000)} | {"10.244.9.1:8080"}
        await seen.until({"wide": "", "web": " ".join(sorted(everyone))})
        assert len(seen.tracker.services[f"{NAMESPACE}/wide"]) == 1000
