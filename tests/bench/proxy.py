"""The proxy's rows: from API objects to rules in the kernel, against a bare iptables-restore of the same text.

Each run has a fresh network namespace. `ours` is a whole first pass: reading objects, planning, rendering, asking the kernel
what is there, writing. The floor is one `iptables-nft-restore --noflush` fed the very sections that ours wrote; for a change
of one endpoint it is the restore of the chains that change.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from kube.core import Service
from kube.discovery import EndpointSlice
from linux import netns
from linux.iptables import backend
from linux.iptables.restore import Iptables
from linux.iptables.rules import Family, Section
from proxy.iptables import plan
from proxy.iptables.apply import Rules
from proxy.model import PodNetwork, Policy
from proxy.observe import Services
from tests.requirements import missing

SERVICES, ENDPOINTS, RUNS = 1000, 5, 5
POLICY = Policy(pods=PodNetwork(IPv4Network("10.244.0.0/16")))


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows whose names begin with `only`; none where the machine cannot run them."""
    names = ("proxy.iptables-nft.full.1000", "proxy.iptables-nft.change.1000")
    if not any(name.startswith(only or "") for name in names) or missing("netns", "iptables-nft-restore"):
        return
    full: list[tuple[float, float]] = []
    change: list[tuple[float, float]] = []
    for _ in range(RUNS):
        recorded = _in_fresh_namespace(_ours)
        floor = _in_fresh_namespace(_floor, recorded.full, recorded.change)
        full.append((recorded.full_seconds, floor[0]))
        change.append((recorded.change_seconds, floor[1]))
    note = f"{SERVICES} Services x {ENDPOINTS} endpoints"
    for name, pairs, about in zip(names, (full, change), (note, f"one endpoint more, at {note}"), strict=True):
        if name.startswith(only or ""):
            ours, bare = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
            yield {
                "name": name,
                "unit": "ms",
                "ours": round(ours, 1),
                "floor": round(bare, 1),
                "ratio": round(ours / bare, 2),
                "runs": len(pairs),
                "note": about,
            }


class Recorder(Iptables):
    """The real packet filter that also keeps what was written."""

    written: list[Section]

    async def write(self, sections: Any) -> None:
        self.written = [*getattr(self, "written", []), *sections]
        await super().write(sections)


class Run(msgspec.Struct):
    full: str
    full_seconds: float
    change: str
    change_seconds: float


def _ours() -> Run:
    async def passes() -> Run:
        packets = Recorder(await backend.named(Family.V4, backend.Flavor.NFT))
        services, slices = _objects()
        view, rules, fragments = Services("node1"), Rules(packets), plan.Fragments()

        async def one() -> tuple[float, str]:
            packets.written = []
            begun = time.perf_counter()
            await rules.apply(plan.tree(view.ports(services, slices), POLICY, fragments))
            return time.perf_counter() - begun, "".join(section.text() for section in packets.written)

        full = await one()
        slices[0] = _slice(0, ENDPOINTS + 1)
        change = await one()
        return Run(full[1], full[0], change[1], change[0])

    return asyncio.run(passes())


def _floor(full: str, change: str) -> tuple[float, float]:
    return _restore(full), _restore(change)


def _restore(text: str) -> float:
    begun = time.perf_counter()
    subprocess.run(["iptables-nft-restore", "--noflush"], input=text.encode(), check=True)
    return time.perf_counter() - begun


def _in_fresh_namespace(function: Any, *args: Any) -> Any:
    space = netns.create(f"wb-{uuid.uuid4().hex[:8]}")
    try:
        with netns.enter(space.path):
            return function(*args)
    finally:
        netns.delete(space.name)


def _objects() -> tuple[list[Service], list[EndpointSlice]]:
    services = [
        msgspec.convert(
            {
                "metadata": {"name": f"svc-{index}", "namespace": f"ns-{index % 10}", "resourceVersion": "1"},
                "spec": {
                    "clusterIP": str(IPv4Address("10.96.0.10") + index),
                    "type": "ClusterIP",
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                },
            },
            Service,
        )
        for index in range(SERVICES)
    ]
    return services, [_slice(index, ENDPOINTS) for index in range(SERVICES)]


def _slice(index: int, count: int) -> EndpointSlice:
    base = IPv4Address("10.244.0.0") + index * (ENDPOINTS + 1)
    return msgspec.convert(
        {
            "metadata": {
                "name": f"svc-{index}-x",
                "namespace": f"ns-{index % 10}",
                "labels": {"kubernetes.io/service-name": f"svc-{index}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [str(base + each)], "nodeName": f"node{each % 3}", "conditions": {"ready": True}}
                for each in range(count)
            ],
        },
        EndpointSlice,
    )
