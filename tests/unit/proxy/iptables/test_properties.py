"""For random histories of a small cluster: what was written bit by bit is exactly what one full write gives, at any interruption;
and the rules always hold together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from kube.errors import Retry
from linux.iptables.rules import Family, Table, comment_of, stamp_of, target_of
from proxy.backend import Wish
from proxy.iptables import chains
from proxy.iptables.backend import IptablesBackend
from proxy.model import ServicePort
from tests.fakes.iptables import FakeIptables
from tests.unit.proxy.flows import POLICY
from tests.unit.proxy.iptables.test_backend import Picky
from tests.unit.proxy.strategies import Action, Cluster, histories

Services = Mapping[str, tuple[ServicePort, ...]]


async def full(services: Services) -> FakeIptables:
    packets = FakeIptables()
    applied = await IptablesBackend(packets).apply(Wish(services, None, POLICY))
    assert not applied.refused
    return packets


class Rerun:
    """A history, taken now and then, written into one packet filter."""

    def __init__(self, size: int, family: Family = Family.V4) -> None:
        self.packets = FakeIptables(chains_per_section=size)
        self.backend = IptablesBackend(self.packets)
        self.cluster = Cluster(family)
        self._changed: set[str] = set()

    async def write(self, cut: int | None) -> None:
        """As a pass does: what is not known to be written stays changed. A cut is followed by a pass that is not."""
        taken = self.cluster.take()
        self._changed |= taken.changed
        self.packets.cut = cut
        try:
            await self.backend.apply(Wish(taken.services, frozenset(self._changed), POLICY))
        except Retry:
            self.packets.cut = None
            await self.backend.apply(Wish(taken.services, frozenset(self._changed), POLICY))
        self._changed.clear()
        assert self.packets.tables == (await full(taken.services)).tables


_moments = st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 12)), min_size=13, max_size=13)


@settings(max_examples=60, deadline=None)
@given(histories(longest=8), _moments, st.sampled_from([1, 5, 600]))
def test_bit_by_bit_is_as_good_as_at_once(
    history: list[Action], moments: list[tuple[bool, int | None]], size: int
) -> None:
    """`moments`: whether there is a pass after each action, and after how many transactions it is cut off."""

    async def run() -> None:
        rerun = Rerun(size)
        for action, (taken, cut) in zip(history, moments, strict=False):
            rerun.cluster.do(action)
            if taken:
                await rerun.write(cut)
        await rerun.write(None)

    asyncio.run(run())


@settings(max_examples=30, deadline=None)
@given(
    histories(longest=8),
    st.sampled_from(["10.244.0.4", "-d 10.96.0.1", "--dport 30021", "-p udp", "-j REJECT", "loadbalancer"]),
    st.booleans(),
    st.sampled_from([4, 600]),
)
def test_what_the_kernel_refused_for_a_while_is_right_as_soon_as_it_takes_it(
    history: list[Action], bad: str, telling: bool, size: int
) -> None:
    async def run() -> None:
        now = 0.0
        packets = Picky(bad, telling=telling, chains_per_section=size)
        backend = IptablesBackend(packets, clock=lambda: now)
        cluster = Cluster(Family.V4)
        for action in history:
            cluster.do(action)
            taken = cluster.take()
            await backend.apply(Wish(taken.services, taken.changed, POLICY))
            assert not any(
                bad in rule for chains in packets.tables.values() for rules in chains.values() for rule in rules
            )
            now += 10
        packets.bad, now = (), now + 31
        assert not (await backend.apply(Wish(taken.services, frozenset(), POLICY))).refused
        assert packets.tables == (await full(taken.services)).tables

    asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(histories(longest=8), st.sampled_from(Family))
def test_every_chain_is_declared_used_and_not_empty(history: list[Action], family: Family) -> None:
    cluster = Cluster(family)
    for action in history:
        cluster.do(action)
    tables = asyncio.run(full(cluster.take().services)).tables
    for table in (Table.NAT, Table.FILTER):
        declared = {name for name in tables[table] if name.startswith("KUBE-")}
        used = {target_of(rule) for rules in tables[table].values() for rule in rules}
        assert {name for name in used if name and name.startswith("KUBE-")} <= declared
        for name in declared:
            rules = tables[table][name]
            assert name in used or name in (chains.CANARY, chains.MARK_MASQ)
            assert rules or not chains.is_per_service((table, name))
            assert all(not stamp_of(rule) for rule in rules[1:])
            assert not rules or stamp_of(rules[0])
            assert all(len(comment_of(rule)) <= 230 for rule in rules)


@settings(max_examples=10, deadline=None)
@given(histories(odd=True))
def test_odd_objects_are_written_or_left_out_and_never_an_error(history: list[Action]) -> None:
    cluster = Cluster(Family.V4)
    for action in history:
        cluster.do(action)
    asyncio.run(full(cluster.take().services))
