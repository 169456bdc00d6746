"""The record of who has which ClusterIP and which NodePort: what makes two API servers on one store agree.

    /registry/ipaddresses/10.96.0.5      IPAddress: made in the transaction that stores its Service, and only where there is
                                         none; so of two servers that chose the same address one has to choose again
    /registry/ranges/servicenodeports    RangeAllocation: a bit a port, rewritten with every Service that takes or leaves
                                         one; whoever has not seen the newest version has to look again

Both are upstream's layout. Where they disagree with the Services, the Services are right: `repair` puts the record in order,
at each start and every few minutes. Upstream: pkg/registry/core/service/{ipallocator,portallocator,allocator/storage}.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from apiserver.cache import Cache, Describe, Entry, storage_bytes
from apiserver.ranges import Obj, Ranges, addresses_of, ports_of
from apiserver.registry import Registry
from apiserver.store import Op, Store, StoreFailed
from kube.errors import Retry
from kube.reconcile import Wake, forever

log = logging.getLogger(__name__)

ROOT: Final = "/registry/ranges/"
PORTS: Final = "servicenodeports"
DESCRIBERS: Final[dict[str, Describe]] = {ROOT: lambda _: {}}
REPAIR_SECONDS: Final = 180.0
MANAGED_BY: Final = "ipaddress.kubernetes.io/managed-by"
FAMILY: Final = "ipaddress.kubernetes.io/ip-family"
ALLOCATOR: Final = "ipallocator.k8s.io"


class Books:
    def __init__(self, cache: Cache, registry: Registry, ranges: Ranges) -> None:
        self.ranges = ranges
        self.services = cache.shelf(registry.core("services").prefix)
        resource = registry.find("networking.k8s.io", "v1", "ipaddresses")
        assert resource is not None
        self._addresses = resource
        self.addresses = cache.shelf(resource.prefix)
        self._ranges = cache.shelf(ROOT)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, new: Obj | None, old: Obj | None) -> AsyncIterator[None]:
        """Writers of Services with ports take turns, and choose in their turn: who chose before and wrote after another
        server's write was seen would overwrite the newest record without having chosen by it."""
        if not (may_have_ports(new) or may_have_ports(old)):
            yield
            return
        async with self._turn:
            yield

    def ops(self, new: Obj | None, old: Obj | None) -> list[Op]:
        """The writes that go with a Service's, from what the cache shows now."""
        after, before = ports_of(new or {}), ports_of(old or {})
        found = list(self._address_ops(new or {}, old or {}))
        return found if after == before else [*found, self.port_op(self.ports() - (before - after) | (after - before))]

    def _address_ops(self, new: Obj, old: Obj) -> Iterator[Op]:
        for address in sorted(addresses_of(new) - addresses_of(old)):
            if self.ranges.contains(address):
                yield self.taken(address, new["metadata"])
        for address in sorted(addresses_of(old) - addresses_of(new)):
            entry = self.addresses.get("", address)
            if entry is not None and parent(entry.parse()) == key_of(old):
                yield Op(self._addresses.key("", address), None, entry.rv)

    def taken(self, address: str, service: Obj) -> Op:
        return Op(self._addresses.key("", address), storage_bytes(record(address, service)), 0)

    def left(self, entry: Entry) -> Op:
        return Op(self._addresses.key("", entry.name), None, entry.rv)

    def ports(self) -> set[int]:
        entry = self._ranges.get("", PORTS)
        if entry is None:
            return set()
        book = entry.parse()
        bits = base64.b64decode(book.get("data", ""))
        first = int(str(book["range"]).partition("-")[0])
        return {first + n for n in range(len(bits) * 8) if bits[n // 8] >> n % 8 & 1}

    def port_op(self, ports: set[int]) -> Op:
        entry = self._ranges.get("", PORTS)
        first, last = self.ranges.first_port, self.ranges.last_port
        bits = bytearray((last - first) // 8 + 1)
        for port in ports:
            if first <= port <= last:
                bits[(port - first) // 8] |= 1 << (port - first) % 8
        book = {
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": {"name": PORTS},
            "range": f"{first}-{last}",
            "data": base64.b64encode(bits).decode(),
        }
        return Op(ROOT + PORTS, storage_bytes(book), entry.rv if entry else 0)


def may_have_ports(service: Obj | None) -> bool:
    if service is None:
        return False
    return bool(ports_of(service)) or service["spec"].get("type") in ("NodePort", "LoadBalancer")


def key_of(service: Obj) -> tuple[str, str]:
    return service["metadata"]["namespace"], service["metadata"]["name"]


def parent(address: Obj) -> tuple[str, str]:
    reference = (address.get("spec") or {}).get("parentRef") or {}
    return reference.get("namespace", ""), reference.get("name", "")


def record(address: str, service: Obj) -> Obj:
    return {
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": address,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": {FAMILY: f"IPv{ip_address(address).version}", MANAGED_BY: ALLOCATOR},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": service["namespace"], "name": service["name"]}},
    }


async def repair(store: Store, books: Books) -> int:
    """Brings the record in line with the Services; answers how many entries it wrote. A lost race means that somebody
    changed the record meanwhile: the next repair looks again."""
    ops = list(_repairs(books))
    for op in ops:
        await store.txn([op])
    return len(ops)


async def repairing(store: Store, books: Books) -> None:
    """For ever. Raises StoreLost."""

    async def sync() -> None:
        try:
            if wrote := await repair(store, books):
                log.warning("put %d entries of the record of ClusterIPs and NodePorts in order", wrote)
        except StoreFailed as error:
            raise Retry(f"the record of ClusterIPs and NodePorts: {error}") from error

    await forever(sync, Wake(), resync=REPAIR_SECONDS, name="allocations")


def _repairs(books: Books) -> Iterator[Op]:
    ports: set[int] = set()
    owners: dict[str, Obj] = {}
    for entry in books.services.entries():
        service = entry.parse()
        ports |= ports_of(service)
        owners |= {one: service for one in addresses_of(service) if books.ranges.contains(one)}
    for address, service in owners.items():
        if books.addresses.get("", address) is None:
            yield books.taken(address, service["metadata"])
    for entry in books.addresses.entries():
        owner = owners.get(entry.name)
        if entry.labels.get(MANAGED_BY) == ALLOCATOR and (owner is None or key_of(owner) != parent(entry.parse())):
            yield books.left(entry)
    first, last = books.ranges.first_port, books.ranges.last_port
    if books.ports() != {port for port in ports if first <= port <= last}:
        yield books.port_op(ports)
