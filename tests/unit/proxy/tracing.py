"""Every mode's rules as they would be in the kernel, made without one, and packets traced through them."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence

from linux.iptables import tracer as iptables_tracer
from linux.iptables.rules import Snapshot, Table
from linux.nftables import tracer as nftables_tracer
from linux.nftables.ruleset import Ruleset
from linux.packets import Address, Ending, Packet
from proxy.backend import Wish
from proxy.iptables.backend import IptablesBackend
from proxy.model import Policy, ServicePort
from proxy.nftables.fallback import Fallback
from proxy.nftables.kernel import batch
from proxy.nftables.plan import Flat, Layout
from proxy.nftables.shadow import Seen, Shadow
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


def ruleset(services: Sequence[ServicePort], policy: Policy, layout: Layout) -> Ruleset:
    """The table as the backend's first transaction would make it."""
    delta = Shadow(layout, policy).whole(wish(services, policy).services, Seen("nothing there"), None)
    return Ruleset().take(batch(delta, policy.family, layout).contents())


class Writer(enum.StrEnum):
    """Each way of writing rules."""

    IPTABLES = "iptables"
    FLAT = "nftables"
    FALLBACK = "nftables-fallback"

    @property
    def mode(self) -> Mode:
        return Mode.IPTABLES if self is Writer.IPTABLES else Mode.NFTABLES


def tracer(writer: Writer, services: Sequence[ServicePort], policy: Policy) -> Tracer:
    match writer:
        case Writer.IPTABLES:
            rules = snapshot(services, policy)
            return lambda packet, addresses: iptables_tracer.trace(rules, packet, addresses)
        case Writer.FLAT:
            return _table_tracer(ruleset(services, policy, Flat()))
        case Writer.FALLBACK:
            return _table_tracer(ruleset(services, policy, Fallback()))


def _table_tracer(table: Ruleset) -> Tracer:
    return lambda packet, addresses: nftables_tracer.trace(table, packet, addresses)
