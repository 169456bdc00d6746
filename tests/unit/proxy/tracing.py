"""Every mode's rules as they would be in the kernel, made by its backend without one, and packets traced through them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from linux.iptables import tracer as iptables_tracer
from linux.iptables.rules import Snapshot, Table
from linux.packets import Address, Ending, Packet
from proxy.backend import Wish
from proxy.iptables.backend import IptablesBackend
from proxy.model import Policy, ServicePort
from tests.fakes.iptables import FakeIptables
from tests.unit.proxy.cases import Mode

Tracer = Callable[[Packet, frozenset[Address]], frozenset[Ending]]


def wish(services: Sequence[ServicePort], policy: Policy) -> Wish:
    keyed: dict[str, tuple[ServicePort, ...]] = {}
    for service in services:
        key = service.name.split(":")[0]
        keyed[key] = (*keyed.get(key, ()), service)
    return Wish(keyed, None, policy)


def snapshot(services: Sequence[ServicePort], policy: Policy) -> Snapshot:
    """What iptables-save would print."""

    async def written() -> Snapshot:
        packets = FakeIptables()
        await IptablesBackend(packets).apply(wish(services, policy))
        return await packets.read(*(Table.MANGLE, Table.NAT, Table.FILTER))

    return asyncio.run(written())


def tracer(mode: Mode, services: Sequence[ServicePort], policy: Policy) -> Tracer:
    match mode:
        case Mode.IPTABLES:
            rules = snapshot(services, policy)
            return lambda packet, addresses: iptables_tracer.trace(rules, packet, addresses)
        case Mode.NFTABLES:
            raise NotImplementedError
