"""The iptables mode: one family's rules, kept as the wish wants them by writing only what differs.

What is kept of 10,000 Services is the name and the mark of each chain and the lines in the shared chains, never the text of
chains: a changed Service is rendered again, and only the chains whose marks differ are written. So one Service's endpoint
change costs the KUBE-SEP and KUBE-SVC chains it touches and nothing that grows with the number of Services; the shared
chains are written when a line in them comes, goes or differs.

A small pass is one run of iptables-restore: filter, then nat with what is stale deleted at its end. A large one (more chains
than fit one transaction: iptables-nft needs time quadratic in them) goes in steps, each safe to stop after:

    1. what depends on no Service            2. the Services' own chains, in batches, referees before referrers
    3. the chains that publish the Services  4. jumps from the kernel's chains     5. stale chains: emptied, then deleted

The memory is a shortcut, never the truth: it is empty at the start and thrown away after any refusal and whenever somebody
else touched our rules, and then the kernel is surveyed and marks are compared. So a restarted proxy rewrites nothing that is
right, and a proxy killed between two transactions goes on where it stopped.

What the kernel will not take is told apart (`writing`): the Service port at fault keeps what it had, or nothing, and everything
else goes in.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from kube.errors import Retry
from linux import nfacct
from linux.iptables import backend as commands
from linux.iptables.changes import missing, removals
from linux.iptables.legacy_reader import LegacyTables
from linux.iptables.restore import Iptables, PacketFilter, Refused
from linux.iptables.rules import Family, Mark, Snapshot, Survey, Table
from linux.iptables.watch import LegacyWatch, NftWatch, Unwatched, Watch
from linux.process import CommandFailed
from proxy.backend import Applied, Wish
from proxy.iptables import chains, plan
from proxy.iptables.fragments import COUNTERS, Style
from proxy.iptables.parts import Parts
from proxy.iptables.writing import TABLES, Key, Writing

_NO_NF_TABLES = re.compile(
    "(Failed to initialize nft|Could not fetch rule set generation id): (Invalid argument|.* not supported)"
)
_LARGE, _SMALL_AGAIN = 1000, 800  # endpoints; the first is upstream's largeClusterEndpointsThreshold
_NAMED = 4  # things named in one sentence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why, by service port name, and when it was tried."""

    reasons: Mapping[str, str]
    at: float


class IptablesBackend:
    """Satisfies proxy.backend.Backend. One pass at a time."""

    def __init__(
        self,
        packets: PacketFilter,
        watch: Watch | None = None,
        *,
        words: str = "iptables rules",
        random_fully: bool = True,
        accounted: frozenset[str] = frozenset(),
        auditor: PacketFilter | None = None,
        elsewhere: Callable[[], Awaitable[int]] | None = None,
        audit_after: float = 3600.0,
        retry_after: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`words` say for the log which rules these are; `random_fully`: the tool knows MASQUERADE --random-fully;
        `accounted`: the nfacct counters that are there; `auditor` reads what `watch` may miss, every `audit_after`
        seconds; `elsewhere` forgets what is in the other of the two iptables; `retry_after`: seconds until a refused
        Service that stayed as it was is tried again."""
        self._packets = packets
        self._watch = watch or Unwatched()
        self.words = words
        self._random_fully = random_fully
        self._accounted = accounted
        self._auditor = auditor
        self._elsewhere = elsewhere
        self._audit_after = audit_after
        self._surveyed = clock()
        self._retry_after = retry_after
        self._clock = clock
        self._style: Style | None = None
        self._parts = Parts()
        self._fixed: dict[Key, Mark] = {}  # the chains that are no Service's
        self._refused: dict[str, _Refusal] = {}
        self._doubted = True

    @property
    def sees_changes(self) -> bool:
        return not isinstance(self._watch, Unwatched)

    @contextlib.asynccontextmanager
    async def watching(self, touched: Callable[[], None]) -> AsyncIterator[None]:
        def told(what: str) -> None:
            log.info("%s: %s", self.words, what)
            self.doubt()
            touched()

        async with self._watch.watching(told):
            yield

    def doubt(self) -> None:
        self._doubted = True

    async def apply(self, wish: Wish) -> Applied:
        """Raises Retry when it is no Service's fault that the rules are not taken."""
        style = self._styled(wish)
        if style != self._style:
            self._doubted = True
        full, self._doubted = self._doubted, False
        try:
            survey = await self._survey(doubted=full)
            full = survey is not None
            repaired = self._repaired(survey) if survey is not None and self._style is not None else ()
            writing = Writing(
                self._packets,
                self._watch,
                style,
                self._parts,
                self._fixed,
                survey,
                random_fully=self._random_fully,
            )
            keys = self._keys(wish, full=full)
            await writing.run(wish.services, keys)
        except Refused as error:
            self._doubted = True
            if not error.blameless:  # maybe the counters are there, but rules cannot use them
                self._accounted = frozenset()
            raise Retry(f"{self.words}: {error}") from error
        except BaseException:
            self._doubted = True  # cancelled half-way: what was committed is unknown
            raise
        self._style = style
        self._doubted |= writing.unsure
        now = self._clock()
        for key in keys:
            self._refused.pop(key, None)
        self._refused.update({key: _Refusal(reasons, now) for key, reasons in writing.refused.items()})
        return Applied(
            full=full,
            repaired=repaired,
            written=writing.written,
            deleted=writing.deleted,
            rules=self._rules(),
            rules_written=dict(writing.rules_written),
            refused={name: reason for one in self._refused.values() for name, reason in one.reasons.items()},
        )

    async def forget(self) -> int:
        """Delete every chain of ours and every jump to one; how many chains there were. Rules of others stay, and so does
        KUBE-FIREWALL, which the kubelet shares. Raises Retry when the kernel refuses."""
        self._doubted = True
        self._parts, self._style = Parts(), None
        return await forget(self._packets)

    async def forget_others(self) -> int:
        return await self._elsewhere() if self._elsewhere else 0

    def close(self) -> None:
        """Nothing is held between two passes."""

    async def _survey(self, *, doubted: bool) -> Survey | None:
        """What the kernel holds, when that is in doubt or an audit is due. The auditor is thorough, not fast."""
        if doubted:
            reader = self._packets
        elif self._auditor is not None and self._clock() - self._surveyed >= self._audit_after:
            reader = self._auditor
        else:
            return None
        found = await reader.survey(TABLES, plan.SHOWN)
        self._surveyed = self._clock()
        return found

    def _styled(self, wish: Wish) -> Style:
        endpoints = self._parts.endpoints
        if wish.changed is None or self._doubted:
            endpoints = sum(len(port.endpoints.cluster) for ports in wish.services.values() for port in ports)
        large = endpoints > (_SMALL_AGAIN if self._style is not None and self._style.large else _LARGE)
        return Style(wish.policy, large, self._accounted)

    def _keys(self, wish: Wish, *, full: bool) -> list[str]:
        if full or wish.changed is None:
            return sorted({*wish.services, *self._parts})
        due = self._clock() - self._retry_after
        return sorted(wish.changed | {key for key, refusal in self._refused.items() if refusal.at <= due})

    def _repaired(self, survey: Survey) -> tuple[str, ...]:
        """What somebody else changed since we wrote it."""
        absent = [
            f"the jump from {jump.table} {jump.chain} to {jump.rule.target}"
            for jump in missing(plan.JUMPS, survey.snapshot)
        ]
        wrote = [*self._fixed.items(), *(((Table.NAT, name), mark) for name, mark in self._parts.marks())]
        lost = [
            f"{table} {name}"
            for (table, name), mark in wrote
            if chains.is_ours((table, name)) and survey.marks.get((table, name)) != mark
        ]
        found = [*absent, *lost]
        return (*found[:_NAMED], f"{len(found) - _NAMED} more") if len(found) > _NAMED else tuple(found)

    def _rules(self) -> dict[str, int]:
        totals = {Table.NAT.value: self._parts.rules, Table.FILTER.value: 0}
        for (table, name), mark in self._fixed.items():
            if chains.is_ours((table, name)) and table.value in totals:
                totals[table.value] += mark.length
        return totals


async def opened(family: Family) -> IptablesBackend:
    """The iptables of this machine, of the flavor that others on it use. Raises linux.iptables.backend.Unusable or
    linux.process.CommandFailed."""
    chosen = await commands.detect(family)
    await commands.nat_works(chosen)
    return of(chosen, accounted=nfacct.ensure(COUNTERS))


def of(chosen: commands.Backend, *, accounted: frozenset[str] = frozenset()) -> IptablesBackend:
    words = f"{chosen.family.command} ({chosen.flavor}) rules"
    if chosen.flavor is commands.Flavor.NFT:
        watch = NftWatch(chosen.family, TABLES, chains.PREFIXES)
        packets = Iptables(chosen, started=watch.started)
        return IptablesBackend(
            packets,
            watch,
            words=words,
            random_fully=chosen.random_fully,
            accounted=accounted,
            elsewhere=partial(_forget_in, chosen.family, commands.Flavor.LEGACY),
        )
    packets = Iptables(chosen)
    return IptablesBackend(
        packets,
        LegacyWatch(chosen.family, TABLES),
        words=words,
        random_fully=chosen.random_fully,
        accounted=accounted,
        auditor=LegacyTables(packets, chosen.family),
        elsewhere=partial(_forget_in, chosen.family, commands.Flavor.NFT),
    )


async def forget(packets: PacketFilter) -> int:
    """Delete every chain of ours and every jump to one; how many chains there were. Raises Retry."""
    try:
        marks = (await packets.survey(TABLES, ())).marks
        if not any(map(chains.is_ours, marks)):
            return 0
        others = {name for table, name in marks if not chains.is_ours((table, name))}
        shown = (await packets.survey(TABLES, others)).snapshot.tables
        tables: dict[Table, dict[str, tuple[str, ...]]] = {}
        for table, name in marks:
            tables.setdefault(table, {})[name] = shown.get(table, {}).get(name, ())
        sections = removals(Snapshot(tables), chains.is_ours, chains_per_section=packets.chains_per_section)
        await packets.write(sections)
    except Refused as error:
        raise Retry(f"deleting the rules: {error}") from error
    return sum(len(section.deleted) for section in sections)


async def forget_all(families: Iterable[Family]) -> int:
    """Delete what a proxy, ours or a stock one, left in either of the kernel's two iptables; how many chains. A flavor without
    commands, or without its side of the kernel, is passed over, and so is a node without iptables. Raises Retry, when all have
    been tried."""
    deleted, failed = 0, []
    for family in families:
        for flavor in commands.Flavor:
            try:
                deleted += await _forget_in(family, flavor)
            except Retry as error:
                failed.append(error)
    nfacct.forget(COUNTERS)
    if failed:
        raise failed[0]
    return deleted


async def _forget_in(family: Family, flavor: commands.Flavor) -> int:
    if flavor is commands.Flavor.LEGACY and not commands.present(family):
        return 0
    try:
        chosen = await commands.named(family, flavor)
    except (commands.Unusable, CommandFailed) as error:
        log.info("%s tables of IPv%d are left alone: %s", flavor, family, error)
        return 0
    packets: PacketFilter = Iptables(chosen)
    if flavor is commands.Flavor.LEGACY:
        packets = LegacyTables(packets, family)
    try:
        return await forget(packets)
    except Retry as error:
        if _NO_NF_TABLES.search(str(error)) is None:
            raise
        return 0  # what the kernel has not got holds nothing
