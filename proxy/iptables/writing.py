"""One pass: from what changed to transactions, and from a refusal to the one Service port that it is about.

Quick, when all chains to write fit one transaction: everything in one run of iptables-restore. Otherwise, and again after a
refusal of the quick way, in steps (see `backend`), each of which is right to stop after.

The kernel refuses a transaction as a whole. iptables usually names the line, and a line names a chain, and that a Service port;
where it does not (legacy tables at COMMIT) the batch is halved until the culprit is alone. What a culprit had before stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from linux.iptables.changes import deletions, missing
from linux.iptables.restore import PacketFilter, Refused
from linux.iptables.rules import Chain, Jump, Mark, Rendered, Section, Survey, Table
from linux.iptables.watch import Watch
from proxy.iptables import chains, plan
from proxy.iptables.fragments import Shared, Style, Unfit, fragment
from proxy.iptables.parts import WRITTEN, Item, Part, Parts
from proxy.model import ServicePort

Key = tuple[Table, str]

TABLES = (Table.MANGLE, Table.FILTER, Table.NAT)

_SECTIONS_A_RUN = 6
_CHAINS_A_TURN = 500  # rendered before the event loop has a turn: 5 ms
_MOST_GUESSES = 50  # culprits that are found by halving; after so many the rest of a batch is left out with the next

log = logging.getLogger(__name__)


class Writing:
    """`fixed`: the marks in the kernel of the chains that are no Service's; kept up to date here, as `parts` is. `survey` is None
    when the kernel holds what `parts` and `fixed` say."""

    def __init__(
        self,
        packets: PacketFilter,
        watch: Watch,
        style: Style,
        parts: Parts,
        fixed: dict[Key, Mark],
        survey: Survey | None,
        *,
        random_fully: bool,
    ) -> None:
        self._packets = packets
        self._watch = watch
        self._style = style
        self._parts = parts
        self._fixed = fixed
        self._survey = survey
        self._jumps: tuple[Jump, ...] = ()
        if survey is not None:
            fixed.clear()
            fixed.update((key, mark) for key, mark in survey.marks.items() if not chains.is_per_service(key))
            self._jumps = missing(plan.jumps(style), survey.snapshot)
        foundation = plan.foundation(style, random_fully=random_fully) if survey is not None else ()
        self._foundation = [chain for chain in foundation if fixed.get(chain.key) != chain.mark]
        self._limit = packets.chains_per_section
        self._fresh: dict[str, tuple[Part, ...]] = {}  # whose chains are in the kernel, but maybe not published yet
        self._tried: set[str] = set()  # Services' chains that may have been written
        self._stepped = False
        self._guesses = 0
        self.refused: dict[str, dict[str, str]] = {}
        self.unsure = False  # whether the kernel has to be surveyed again
        self.rules_written: Counter[str] = Counter()
        self.written = 0
        self.deleted = 0

    async def run(self, services: Mapping[str, tuple[ServicePort, ...]], keys: Iterable[str]) -> None:
        """Write the Services of `keys`, or delete them where `services` has them no more. With a survey `keys` must be all.
        Raises Refused when no Service is to blame."""
        rest = await self._all_but_the_last(services, keys)
        if (
            not self._stepped
            and sum(len(item.fragment.chains) for item in rest) <= self._limit
            and await self._quick(rest)
        ):
            return
        await self._step(rest)
        held = self._held()  # before the new is taken for what there is
        await self._publish(sorted(self._fresh))
        await self._write(
            [Section(table, (), self._undeclared(jumps), jumps) for table, jumps in self._jumps_by_table()]
        )
        await self._delete(self._stale(held))

    async def _all_but_the_last(
        self, services: Mapping[str, tuple[ServicePort, ...]], keys: Iterable[str]
    ) -> list[Item]:
        """Render, and write what is a batch while the next is rendered: the kernel's work and ours are about the same. What is
        left is less than a batch."""
        batch: list[Item] = []
        size = turn = 0
        previous: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for key in keys:
                    self._fresh[key] = ()
                    for item in self._items(key, services.get(key, ())):
                        batch.append(item)
                        size += len(item.fragment.chains)
                    if size - turn >= _CHAINS_A_TURN:
                        turn = size
                        await asyncio.sleep(0)
                    if size > self._limit * _SECTIONS_A_RUN:
                        if previous is not None:
                            await previous
                        previous = group.create_task(self._step(batch))
                        batch, size, turn = [], 0, 0
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return batch

    def _items(self, key: str, ports: Sequence[ServicePort]) -> Iterator[Item]:
        for port in ports:
            try:
                yield Item(key, port, fragment(port, self._style))
            except Unfit as error:
                self._refuse(key, port, str(error))

    # The quick way

    async def _quick(self, items: Sequence[Item]) -> bool:
        """Everything in one run; whether it was taken."""
        fresh = self._fresh | _grouped(items, self._fresh)
        shared = self._shared(fresh)
        own = [chain for item in items for chain in self._differing(item)]
        self._tried.update(chain.name for chain in own)
        before, self._fresh = self._fresh, fresh
        stale = self._stale(self._held())
        sections = self._sections([*self._foundation, *shared, *own], stale)
        try:
            await self._write(sections)
        except Refused as error:
            if error.blameless:
                raise
            log.info("the rules go in by steps: %s", error)
            self._fresh = before
            await self._unsure([*self._foundation, *shared])
            return False
        self.deleted += len(stale)
        self._settled(shared)
        self._parts.accept(fresh)
        return True

    async def _unsure(self, some: Iterable[Chain | Rendered]) -> None:
        """After a refusal nobody knows whether the sections before it were committed. A chain is written again; a jump that
        is there must not be."""
        for chain in some:
            self._fixed.pop(chain.key, None)
        if self._jumps:
            self._jumps = missing(self._jumps, (await self._packets.survey(TABLES, plan.SHOWN)).snapshot)

    def _sections(self, some: Sequence[Chain | Rendered], stale: Sequence[str]) -> list[Section]:
        """One a table, with the jumps that are missing there and, in nat, the end of what is stale."""
        made = []
        jumps = dict(self._jumps_by_table())
        chains_of = {section.table: section.chains for section in _by_table(some)}
        for table in TABLES:
            mine, here = chains_of.get(table, ()), jumps.get(table, ())
            gone = tuple(stale) if table is Table.NAT else ()
            if mine or here or gone:
                made.append(Section(table, mine, (*self._undeclared(here), *gone), here, deleted=gone))
        return made

    def _jumps_by_table(self) -> list[tuple[Table, tuple[Jump, ...]]]:
        found = [(table, tuple(jump for jump in self._jumps if jump.table is table)) for table in TABLES]
        return [(table, jumps) for table, jumps in found if jumps]

    def _undeclared(self, jumps: Sequence[Jump]) -> tuple[str, ...]:
        """KUBE-FIREWALL is nobody's to empty: it is declared only where it is not there."""
        needed = any(jump.chain == chains.FIREWALL for jump in jumps)
        return (chains.FIREWALL,) if needed and (Table.FILTER, chains.FIREWALL) not in self._fixed else ()

    # In steps

    async def _step(self, items: Sequence[Item]) -> None:
        """The chains of these Services, which nothing leads to yet, or which are right by themselves."""
        self._stepped = True
        if self._foundation:
            await self._write(_by_table(self._foundation))
            self._settled(())
        own = [self._differing(item) for item in items]
        self._tried.update(chain.name for some in own for chain in some)
        sections = [Section(Table.NAT, some) for some in _packed(own, self._limit)]
        try:
            await self._write(sections)
        except Refused as error:
            if error.blameless:
                raise
            await self._isolate(items, error)
            return
        self._fresh.update(_grouped(items, self._fresh))

    async def _isolate(self, items: Sequence[Item], error: Refused) -> None:
        named = {line.split(" ", 2)[1] for line in error.lines if line.startswith("-A ")}
        guilty = [item for item in items if any(chain.name in named for chain in item.fragment.chains)]
        if not guilty and (len(items) == 1 or self._guesses >= _MOST_GUESSES):
            guilty = [*items]
            await self._guess()
        if not guilty:
            middle = len(items) // 2
            await self._step(items[:middle])
            await self._step(items[middle:])
            return
        for item in guilty:
            self.unsure |= len(item.fragment.chains) > self._limit  # some of it may have been taken
            self._refuse(item.key, item.port, str(error))
        if rest := [item for item in items if item not in guilty]:
            await self._step(rest)

    async def _publish(self, keys: Sequence[str]) -> None:
        """The shared chains with these Services as they are now; the others as they were."""
        fresh = {key: self._fresh[key] for key in keys}
        shared = self._shared(fresh)
        try:
            await self._write(_by_table(shared))
        except Refused as error:
            if error.blameless or not keys:
                raise
            await self._unsure(shared)
            await self._withdraw(keys, error)
            return
        self._settled(shared)
        self._parts.accept(fresh)

    async def _withdraw(self, keys: Sequence[str], error: Refused) -> None:
        """A line of one of these Services was refused."""
        told = [line.partition(' -m comment --comment "')[2].partition(" wherry:")[0] for line in error.lines]
        guilty = [
            (key, part)
            for key in keys
            for part in self._fresh[key]
            if any(text and f'"{text}' in lines for text in told for lines in part.lines)
        ]
        if not guilty and (len(keys) == 1 or self._guesses >= _MOST_GUESSES):
            guilty = [(key, part) for key in keys for part in self._fresh[key]]
            if not guilty:
                raise error
            await self._guess()
        if not guilty:
            middle = len(keys) // 2
            await self._publish(keys[:middle])
            await self._publish(keys[middle:])
            return
        for key, part in guilty:
            kept = tuple(part.withdrawn(old) for old in self._before(key, part) if old.lines != part.lines)
            self._fresh[key] = tuple(one for one in self._fresh[key] if one is not part) + kept
            self.refused.setdefault(key, {})[part.name] = str(error)
            log.warning("Service port %s is left as it was: %s", part.name, error)
        await self._publish(keys)

    async def _delete(self, stale: Sequence[str]) -> None:
        """What nobody wants. Where somebody's own rule leads to such a chain, it is emptied and stays: nobody gets to an
        endpoint that is gone."""
        try:
            await self._write(list(deletions(((Table.NAT, name) for name in stale), self._limit)))
            self.deleted += len(stale)
        except Refused as refused:
            if refused.blameless:
                raise
            await self._write([Section(Table.NAT, flushed=some) for some in _chunks(stale, self._limit)])
            await self._delete_emptied(stale)

    async def _delete_emptied(self, names: Sequence[str]) -> None:
        try:
            await self._write([Section(Table.NAT, deleted=some) for some in _chunks(names, self._limit)])
            self.deleted += len(names)
        except Refused as again:
            if again.blameless:
                raise
            if len(names) == 1:
                log.warning("%s is emptied but stays, because a rule of somebody else leads to it: %s", names[0], again)
                return
            middle = len(names) // 2
            await self._delete_emptied(names[:middle])
            await self._delete_emptied(names[middle:])

    # What both ways need

    def _differing(self, item: Item) -> list[Rendered]:
        """Those of its chains that the kernel does not hold so."""
        if self._survey is not None:
            seen = self._survey.marks
            return [chain for chain in item.fragment.chains if seen.get((Table.NAT, chain.name)) != chain.mark]
        old = self._parts.port(item.key, item.port.name, item.port.protocol)
        known = dict(zip(old.chains, old.marks, strict=True)) if old is not None else {}
        return [chain for chain in item.fragment.chains if known.get(chain.name) != chain.mark]

    def _shared(self, fresh: Mapping[str, tuple[Part, ...]]) -> list[Rendered]:
        """The shared chains that have to be written."""
        made = []
        for where in WRITTEN:
            known = self._survey is None and (where.table, where.chain) in self._fixed
            if known and not self._parts.differs(where, fresh):
                continue
            end = plan.to_node_ports(self._style) if where is Shared.NAT_SERVICES else ""
            chain = self._parts.shared(where, fresh, end)
            if self._fixed.get(chain.key) != chain.mark:
                made.append(chain)
        return made

    def _held(self) -> set[str]:
        """Chains of the Services of this pass that were there when it began."""
        if self._survey is not None:
            return {name for table, name in self._survey.marks if chains.is_per_service((table, name))}
        return {name for key in self._fresh for part in self._parts.of(key) for name in part.chains}

    def _stale(self, held: set[str]) -> list[str]:
        """Those of them, and of those that were written, that no Service has any more."""
        kept = (part.chains for parts in self._fresh.values() for part in parts)
        return sorted((held | self._tried).difference(*kept))

    def _settled(self, shared: Sequence[Rendered]) -> None:
        now: list[Chain | Rendered] = [*self._foundation, *shared]
        for chain in now:
            self._fixed[chain.key] = chain.mark
        self._foundation = []

    def _before(self, key: str, part: Part | ServicePort) -> tuple[Part, ...]:
        """What the port had, if the kernel still holds it."""
        old = self._parts.port(key, part.name, part.protocol)
        if old is None or (
            self._survey is not None
            and any(
                self._survey.marks.get((Table.NAT, name)) != mark
                for name, mark in zip(old.chains, old.marks, strict=True)
            )
        ):
            return ()
        return (old,)

    def _refuse(self, key: str, port: ServicePort, reason: str) -> None:
        log.warning("Service port %s is left as it was: %s", port.name, reason)
        self.refused.setdefault(key, {})[port.name] = reason
        self._fresh[key] = (*self._fresh[key], *self._before(key, port))

    async def _guess(self) -> None:
        """Nobody says who it is, and what is left is about to be left out. Raises Refused where it can be no Service's fault,
        because not even an empty chain is taken."""
        self._guesses += 1
        await self._write([Section(Table.NAT, (Chain(Table.NAT, chains.CANARY),))])

    async def _write(self, sections: Sequence[Section]) -> None:
        if not sections:
            return
        count = sum(len(section.chains) + len(section.deleted) for section in sections)
        tables = {section.table for section in sections}
        async with self._watch.writing(count, tables) as committed:
            await self._packets.write(sections)
            committed(len(sections))
        for section in sections:
            self.written += len(section.chains)
            self.rules_written[section.table.value] += sum(chain.mark.length for chain in section.chains)
            if section.jumps:
                self._jumps = tuple(jump for jump in self._jumps if jump.table is not section.table)


def _grouped(items: Iterable[Item], fresh: Mapping[str, tuple[Part, ...]]) -> dict[str, tuple[Part, ...]]:
    """The items' parts by Service, behind those that `fresh` has."""
    made: dict[str, list[Part]] = {}
    for item in items:
        made.setdefault(item.key, [*fresh[item.key]]).append(item.part)
    return {key: tuple(parts) for key, parts in made.items()}


def _by_table(some: Iterable[Chain | Rendered]) -> list[Section]:
    made: dict[Table, list[Chain | Rendered]] = {table: [] for table in TABLES}
    for chain in some:
        made[chain.table].append(chain)
    return [Section(table, tuple(mine)) for table, mine in made.items() if mine]


def _packed(groups: Iterable[Sequence[Rendered]], size: int) -> Iterator[tuple[Rendered, ...]]:
    """Transactions of at most `size` chains. A Service port's stay together, so that it is refused or taken as a whole, unless
    they are too many for that."""
    pending: list[Rendered] = []
    for group in groups:
        if pending and len(pending) + len(group) > size:
            yield tuple(pending)
            pending = []
        pending += group
        while len(pending) > size:
            yield tuple(pending[:size])
            pending = pending[size:]
    if pending:
        yield tuple(pending)


def _chunks(names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(names), size):
        yield tuple(names[start : start + size])
