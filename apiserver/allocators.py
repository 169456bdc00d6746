"""ClusterIPs and NodePorts: who has which, and which is free.

What is taken is what the cached Services and IPAddresses say, plus what writes in flight have reserved. A crash between
reservation and commit therefore leaks nothing. `assigning` reserves, lets the caller commit, and releases when the cache
shows the outcome. That two servers on one store never give out the same is decided by the store: see `allocations`.

Upstream sources of texts and rules: pkg/registry/core/service/storage/alloc.go, .../ipallocator, .../portallocator.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from apiserver import errors
from apiserver.allocations import Books
from apiserver.cache import Event, Frames, Shelf
from apiserver.errors import Cause
from apiserver.ranges import NONE, Address, Obj, Ranges, addresses_of, ports_of
from apiserver.registry import Resource
from apiserver.store import Op, StoreUnsure

UNSURE_SECONDS: Final = 10.0
_TRIES: Final = 64
_WITH_PORTS: Final = ("NodePort", "LoadBalancer")


@dataclass(slots=True)
class Taken:
    """How many Services and writes in flight hold each address and port."""

    addresses: Counter[str] = field(default_factory=Counter)
    ports: Counter[int] = field(default_factory=Counter)

    def add(self, service: Obj, sign: int = 1) -> None:
        for address in addresses_of(service):
            self.addresses[address] += sign
            if not self.addresses[address]:
                del self.addresses[address]
        for port in ports_of(service):
            self.ports[port] += sign
            if not self.ports[port]:
                del self.ports[port]


class Allocators:
    def __init__(self, ranges: Ranges, books: Books, *, rng: random.Random | None = None) -> None:
        self.ranges = ranges
        self.books = books
        self._taken = Taken()
        self._rng = rng or random.SystemRandom()

    @contextmanager
    def following(self, services: Shelf) -> Iterator[None]:
        """Open it once, when the cache is loaded."""
        for entry in services.entries():
            self._taken.add(entry.parse())
        for entry in self.books.addresses.entries():
            self._taken.addresses[entry.name] += 1
        with services.watched(self._observe), self.books.addresses.watched(self._observe_address):
            yield

    @asynccontextmanager
    async def writing(self, resource: Resource, new: Obj | None, old: Obj | None) -> AsyncIterator[list[Op]]:
        """Around the commit of a Service (`new` None: of its end): fills in what it lacks; yields what is written with it."""
        async with self.books.turn(new, old):
            if new is None:
                yield self.books.ops(None, old)
                return
            with self.assigning(resource, new, old):
                yield self.books.ops(new, old)

    def _observe(self, event: Event, _frames: Frames) -> None:
        if event.new:
            self._taken.add(event.new.parse())
        if event.old:
            self._taken.add(event.old.parse(), -1)

    def _observe_address(self, event: Event, _frames: Frames) -> None:
        if event.new and not event.old:
            self._taken.addresses[event.new.name] += 1
        if event.old and not event.new:
            self._taken.addresses[event.old.name] -= 1
            if not self._taken.addresses[event.old.name]:
                del self._taken.addresses[event.old.name]

    @contextmanager
    def assigning(self, resource: Resource, new: Obj, old: Obj | None) -> Iterator[None]:
        """Fills in what a Service lacks and holds it until the write is done; nothing for other kinds.

        Raises 422 when what it asks for is taken or out of range.
        """
        if resource.plural != "services":
            yield
            return
        before = old or {}
        causes = [
            *_wrong_family(new, old, self.ranges),
            *_claim_addresses(new, addresses_of(before), self.ranges, self._taken, self._rng),
            *_claim_ports(new, ports_of(before), self.ranges, self._taken, self._rng),
        ]
        if causes:
            raise errors.invalid("", "Service", new["metadata"].get("name", ""), causes)
        held = _difference(new, before)
        self._taken.add(held)
        try:
            yield
        except (asyncio.CancelledError, StoreUnsure):
            # The client has gone or the store has, but the write may be on its way to the disk: held until the cache must
            # have shown it.
            asyncio.get_running_loop().call_later(UNSURE_SECONDS, self._taken.add, held, -1)
            raise
        except BaseException:
            self._taken.add(held, -1)
            raise
        self._taken.add(held, -1)


def _difference(new: Obj, old: Obj) -> Obj:
    """A Service that holds just what `new` has and `old` has not."""
    ports = [{"nodePort": port} for port in ports_of(new) - ports_of(old)]
    return {"spec": {"clusterIPs": sorted(addresses_of(new) - addresses_of(old)), "ports": ports}}


def drop_foreign(new: Obj, old: Obj) -> None:
    """What a changed type no longer has goes, unless the client changed it too (dropTypeDependentFields)."""
    spec, before = new["spec"], old["spec"]
    kind, kind_before = spec.get("type", "ClusterIP"), before.get("type", "ClusterIP")
    if kind == "ExternalName" and kind_before != "ExternalName":
        for group in (("clusterIP", "clusterIPs"), ("ipFamilies",), ("ipFamilyPolicy",)):
            if spec.get(group[0]) == before.get(group[0]):
                for name in group:
                    spec.pop(name, None)
    if kind_before in _WITH_PORTS and kind not in _WITH_PORTS:
        gone = ports_of(old)
        for port in spec.get("ports") or ():
            if port.get("nodePort") in gone:
                del port["nodePort"]
        for name in ("healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"):
            if name in spec and spec[name] == before.get(name):
                del spec[name]


def _wrong_family(new: Obj, old: Obj | None, ranges: Ranges) -> list[Cause]:
    """Of the families that a Service may ask for, the cluster has one, which is also what it gets that asks for none.
    Endpoints that somebody else keeps may have both."""
    spec = new["spec"]
    if spec.get("type") != "ExternalName" and not spec.get("ipFamilies"):
        spec["ipFamilies"] = [ranges.family]
    outside = spec.get("type") == "ExternalName" or (spec.get("clusterIP") == NONE and not spec.get("selector"))
    if outside or (old is not None and spec.get("ipFamilies") == old["spec"].get("ipFamilies")):
        return []
    causes: list[Cause] = []
    if spec.get("ipFamilyPolicy") == "RequireDualStack":
        why = "this cluster is not configured for dual-stack services"
        causes.append(errors.cause("spec.ipFamilyPolicy", errors.INVALID, "RequireDualStack", why))
    for index, family in enumerate(spec.get("ipFamilies") or ()):
        if family in ("IPv4", "IPv6") and family != ranges.family:
            where = f"spec.ipFamilies[{index}]"
            causes.append(errors.cause(where, errors.INVALID, family, "not configured on this cluster"))
    return causes


def _claim_addresses(service: Obj, own: set[str], ranges: Ranges, taken: Taken, rng: random.Random) -> list[Cause]:
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return []
    asked = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
    if asked == NONE:
        spec["clusterIP"], spec["clusterIPs"] = NONE, [NONE]
        return []
    if not asked:
        found = _free_address(ranges, taken, rng)
        if found is None:
            raise errors.internal("failed to allocate a serviceIP: range is full")
        asked = str(found)
    elif asked not in own and (why := _refused_address(asked, ranges, taken)):
        detail = f"failed to allocate IP {asked}: {why}"
        return [errors.cause("spec.clusterIPs[0]", errors.INVALID, [asked], detail)]
    spec["clusterIP"] = asked
    spec["clusterIPs"] = [asked, *(spec.get("clusterIPs") or ())[1:]]
    return []


def _refused_address(text: str, ranges: Ranges, taken: Taken) -> str | None:
    try:
        address = ip_address(text)
    except ValueError:
        return "must be a valid IP address"
    if not ranges.holds(address):
        return f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {ranges.addresses}"
    if taken.addresses[str(address)]:
        return "provided IP is already allocated"
    return None


def _free_address(ranges: Ranges, taken: Taken, rng: random.Random) -> Address | None:
    """At random, above the lowest part of the range, which is left to those who choose their address (KEP-3070)."""
    size = ranges.addresses.num_addresses
    reserved = min(max(16, size // 16), 256) if size > 32 else 2
    for _ in range(_TRIES):
        address = ranges.addresses[rng.randrange(reserved, size)]
        if ranges.holds(address) and not taken.addresses[str(address)]:
            return address
    candidates: Iterable[Address] = (ranges.addresses[n] for n in (*range(reserved, size), *range(2, reserved)))
    return next((one for one in candidates if ranges.holds(one) and not taken.addresses[str(one)]), None)


def _claim_ports(service: Obj, own: set[int], ranges: Ranges, taken: Taken, rng: random.Random) -> list[Cause]:
    spec = service["spec"]
    kind = spec.get("type")
    if kind not in _WITH_PORTS:
        return []
    causes: list[Cause] = []
    mine: dict[int, set[str]] = {}
    wanting = kind == "NodePort" or spec.get("allocateLoadBalancerNodePorts", True)
    for index, port in enumerate(spec.get("ports") or ()):
        asked, protocol = port.get("nodePort"), port.get("protocol", "TCP")
        if asked:
            shared = asked in mine and protocol not in mine[asked]
            if asked not in own and not shared and (why := _refused_port(asked, ranges, taken, mine)):
                causes.append(errors.cause(f"spec.ports[{index}].nodePort", errors.INVALID, asked, why))
        elif wanting:
            port["nodePort"] = asked = _free_port(ranges, taken, mine, rng)
        if asked:
            mine.setdefault(asked, set()).add(protocol)
    if kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local" and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = _free_port(ranges, taken, mine, rng)
    return causes


def _refused_port(port: int, ranges: Ranges, taken: Taken, mine: dict[int, set[str]]) -> str | None:
    if not ranges.first_port <= port <= ranges.last_port:
        return f"provided port is not in the valid range. The range of valid ports is {ranges.first_port}-{ranges.last_port}"
    return "provided port is already allocated" if taken.ports[port] or port in mine else None


def _free_port(ranges: Ranges, taken: Taken, mine: dict[int, set[str]], rng: random.Random) -> int:
    size = ranges.last_port - ranges.first_port + 1
    chosen = min(max(16, size // 32), 128) if size > 32 else 0  # left to those who choose their port (KEP-3668)
    for _ in range(_TRIES):
        port = rng.randint(ranges.first_port + chosen, ranges.last_port)
        if not taken.ports[port] and port not in mine:
            return port
    free = (n for n in range(ranges.first_port, ranges.last_port + 1) if not taken.ports[n] and n not in mine)
    found = next(free, None)
    if found is None:
        raise errors.internal("failed to allocate a nodePort: range is full")
    return found
