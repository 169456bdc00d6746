"""The rules through iptables: flannel's chains, under flannel's names.

    nat     POSTROUTING -> FLANNEL-POSTRTG (last, once)
    filter  FORWARD     -> FLANNEL-FWD     (last, once)

Jumps are appended, as flannel does: kube-proxy puts its own first, and must see a packet before we return it. A jump that is
not the last any more is moved, but seldom: whoever else insists on the end shall have it now and then.

Chains are ours whole and are compared whole: the stamp in the first rule, the number of rules, and the rules as
iptables-save prints them. It spells them in its own way, which is learnt by reading once what was written; until then, after a
start, they are compared by meaning.

nf_tables tells of every change at once, legacy tables are asked for their shape once a second. A comparison nobody asked for
is made when it is due, and it is due so seldom that all of them take a twentieth of the time at most: the nat table
of a large node takes seconds to print.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from kube.errors import Retry
from linux.iptables import backend
from linux.iptables.backend import Flavor
from linux.iptables.changes import Key, removals
from linux.iptables.matches import parsed
from linux.iptables.restore import Iptables, PacketFilter, Refused
from linux.iptables.rules import Chain, Family, Jump, Position, Rule, Section, Snapshot, Survey, Table, target_of
from linux.iptables.watch import LegacyWatch, NftWatch, Watch
from linux.process import CommandFailed
from overlay.masquerade.rules import KUBE_MARK, Line, Match, Rules, Verdict, Written, forwarding, postrouting

NAT_CHAIN = "FLANNEL-POSTRTG"
FILTER_CHAIN = "FLANNEL-FWD"
TABLES = (Table.NAT, Table.FILTER)
_OWN = {(Table.NAT, NAT_CHAIN), (Table.FILTER, FILTER_CHAIN)}
_SHOWN = frozenset(["POSTROUTING", "FORWARD", NAT_CHAIN, FILTER_CHAIN])
_JUMPS = {
    NAT_CHAIN: Jump(Table.NAT, "POSTROUTING", Rule(f"-j {NAT_CHAIN}", "flanneld masq"), Position.LAST),
    FILTER_CHAIN: Jump(Table.FILTER, "FORWARD", Rule(f"-j {FILTER_CHAIN}", "flanneld forward"), Position.LAST),
}
_NO_NF_TABLES = re.compile(
    "(Failed to initialize nft|Could not fetch rule set generation id): (Invalid argument|.* not supported)"
)
_MOVED_AT_MOST = 60.0
"""Seconds from one moving of a jump to the end to the next."""
_SHARE = 20
"""A comparison that took a second is not made again, unasked, for so many seconds."""

log = logging.getLogger(__name__)


def chains(rules: Rules) -> tuple[Chain, ...]:
    """Those of our chains that shall be there."""
    made = []
    for table, name, lines in (
        (Table.NAT, NAT_CHAIN, postrouting(rules)),
        (Table.FILTER, FILTER_CHAIN, forwarding(rules)),
    ):
        if lines:
            comment = _JUMPS[name].rule.comment
            made.append(Chain(table, name, tuple(Rule(_spec(line, rules), comment) for line in lines)))
    return tuple(made)


def _spec(line: Line, rules: Rules) -> str:
    words: list[str] = []
    for option, match in (("-s", line.source), ("-d", line.destination)):
        words += _words(option, match)
    if line.marked:
        words.append(f"-m mark --mark {KUBE_MARK:#x}/{KUBE_MARK:#x}")
    words.append(f"-j {line.verdict}")
    if line.verdict is Verdict.MASQUERADE and rules.random_fully:
        words.append("--random-fully")
    return " ".join(words)


def _words(option: str, match: Match | None) -> Iterable[str]:
    if match is not None:
        yield from (("!",) if match.inverted else ())
        yield f"{option} {match.range}"


@dataclass(frozen=True, slots=True)
class _Learnt:
    """How iptables-save prints a chain that is right."""

    chain: Chain
    lines: tuple[str, ...]


class IptablesWriter:
    """Of one family and flavor. `packets` writes; `watch` tells of others' changes from `watching` on; `reader` reads where that
    is not the same (what is written has an author, what is read none)."""

    def __init__(
        self,
        packets: PacketFilter,
        *,
        watch: Watch | None = None,
        reader: PacketFilter | None = None,
        random_fully: bool = True,
        flavor: Flavor | None = None,
        words: str = "iptables rules",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._packets = packets
        self._reader = reader or packets
        self._watch = watch
        self._random_fully = random_fully
        self.flavor = flavor
        self.words = words
        self._clock = clock
        self._stack = AsyncExitStack()
        self._learnt: dict[Key, _Learnt] = {}
        self._wish: tuple[Chain, ...] | None = None
        self._doubted = True
        self._due = 0.0
        self._moved = -_MOVED_AT_MOST

    async def watching(self, touched: Callable[[], None]) -> None:
        """From now until `close`, `touched` is called when somebody else changed rules of ours."""

        def heard(what: str) -> None:
            log.debug("%s: %s", self.words, what)
            self._doubted = True
            touched()

        if self._watch is not None:
            await self._stack.enter_async_context(self._watch.watching(heard))

    async def close(self) -> None:
        await self._stack.aclose()

    async def sync(self, rules: Rules) -> Written:
        wish = chains(rules if self._random_fully else _plain(rules))
        begun = self._clock()
        if wish == self._wish and not self._doubted and begun < self._due:
            return Written()
        self._doubted = False
        try:
            survey = await self._reader.survey(TABLES, _SHOWN)
            sections, words = self._differences(wish, survey)
            if sections:
                await self._write(sections)
                survey = await self._reader.survey(TABLES, _SHOWN)
        except Refused as error:
            self._doubted = True
            raise Retry(f"{self.words}: {error}") from error
        except BaseException:
            self._doubted = True
            raise
        self._learn(wish, survey)
        again, self._wish = wish == self._wish, wish
        now = self._clock()
        self._due = now + _SHARE * (now - begun)
        return Written(repaired=words) if again else Written(written=words)

    async def _write(self, sections: tuple[Section, ...]) -> None:
        if self._watch is None:
            await self._packets.write(sections)
            return
        async with self._watch.writing(len(sections), TABLES) as committed:
            await self._packets.write(sections)
            committed(len(sections))

    def _differences(self, wish: tuple[Chain, ...], survey: Survey) -> tuple[tuple[Section, ...], tuple[str, ...]]:
        """What to write, and what of it there is in words. Of a chain that is not wished for only our own is taken away: a
        stock flannel's has its names, but not our stamp."""
        sections: list[Section] = []
        words: list[str] = []
        wished = {chain.key: chain for chain in wish}
        for key in sorted(_OWN):
            table, name = key
            chain, jump = wished.get(key), _JUMPS[name]
            if chain is None:
                mark = survey.marks.get(key)
                if mark is not None and mark.stamp:
                    sections += _removals(survey.snapshot, {key})
                    words.append(f"superfluous chain {name} of table {table}")
                continue
            wrong = not self._right(chain, survey)
            jumps, dropped = self._jump(jump, survey.snapshot)
            if wrong or jumps:
                sections.append(Section(table, (chain,) if wrong else (), (), jumps, dropped))
            words += [f"chain {name} of table {table}"] if wrong else []
            words += [f"jump from {jump.chain} to {name}"] if jumps else []
        return tuple(sections), tuple(words)

    def _right(self, chain: Chain, survey: Survey) -> bool:
        if survey.marks.get(chain.key) != chain.mark:
            return False
        lines = survey.snapshot.lines(*chain.key)
        learnt = self._learnt.get(chain.key)
        if learnt is not None and learnt.chain == chain:
            return lines == learnt.lines
        return [_meaning(line) for line in lines] == [_meaning(rule.text()) for rule in chain.rules]

    def _jump(self, jump: Jump, snapshot: Snapshot) -> tuple[tuple[Jump, ...], tuple[tuple[str, str], ...]]:
        """The jump where it must be written, and the rules that lead to our chain and must go."""
        lines = snapshot.lines(jump.table, jump.chain)
        leading = [line for line in lines if target_of(line) == jump.rule.target]
        right = len(leading) == 1 and _meaning(leading[0]) == _meaning(jump.rule.text())
        if right and lines[-1] != leading[0]:
            right = self._clock() - self._moved < _MOVED_AT_MOST
            self._moved = self._moved if right else self._clock()
        return ((), ()) if right else ((jump,), tuple((jump.chain, line) for line in leading))

    def _learn(self, wish: tuple[Chain, ...], survey: Survey) -> None:
        """What is there now is right by our own hand or by its meaning; unless somebody was quicker than the reading."""
        self._learnt = {
            chain.key: _Learnt(chain, survey.snapshot.lines(*chain.key))
            for chain in wish
            if survey.marks.get(chain.key) == chain.mark
        }
        self._doubted |= len(self._learnt) != len(wish)

    async def differences(self, rules: Rules) -> list[str]:
        try:
            survey = await self._reader.survey(TABLES, _SHOWN)
        except Refused as error:
            raise Retry(f"{self.words}: {error}") from error
        return list(self._differences(chains(rules if self._random_fully else _plain(rules)), survey)[1])

    async def forget(self) -> list[str]:
        return await forget(self._packets, self.words)


async def opened(family: Family) -> IptablesWriter:
    """The iptables of this machine, of the flavor that others on it use. Raises Unusable, CommandFailed."""
    chosen = await backend.detect(family)
    words = f"{family.command} ({chosen.flavor}) rules"
    nft = chosen.flavor is Flavor.NFT
    watch = NftWatch(family, TABLES, (NAT_CHAIN, FILTER_CHAIN)) if nft else LegacyWatch(family, TABLES)
    packets = Iptables(chosen, started=watch.started)
    return IptablesWriter(
        packets,
        watch=watch,
        reader=Iptables(chosen),
        random_fully=chosen.random_fully,
        flavor=chosen.flavor,
        words=words,
    )


async def forget(packets: PacketFilter, words: str) -> list[str]:
    """Remove our chains and every jump to them, whoever wrote them; in words. Raises Retry."""
    try:
        snapshot = await packets.read(*TABLES)
        sections = _removals(snapshot, _OWN)
        await packets.write(sections)
    except Refused as error:
        if _NO_NF_TABLES.search(str(error)):
            return []  # what the kernel has not got holds nothing
        raise Retry(f"{words} cannot be removed: {error}") from error
    names = [name for table, name in sorted(_OWN) if name in snapshot.tables.get(table, {})]
    return [f"removed {' and '.join(names)} ({words})"] if names else []


async def forget_all(family: Family, but: Flavor | None = None) -> list[str]:
    """The same in both of the kernel's two iptables, where the machine has commands for them; not in those of `but`."""
    done: list[str] = []
    for flavor in Flavor:
        if flavor is but or (
            flavor is Flavor.LEGACY and not set(backend.present(family)) & {table.value for table in TABLES}
        ):
            continue
        try:
            chosen = await backend.named(family, flavor)
        except (backend.Unusable, CommandFailed) as error:
            log.debug("%s tables of IPv%d are left alone: %s", flavor, family, error)
            continue
        done += await forget(Iptables(chosen), f"{family.command} ({flavor}) rules")
    return done


def _removals(snapshot: Snapshot, keys: set[Key]) -> tuple[Section, ...]:
    return removals(snapshot, keys.__contains__, chains_per_section=len(_OWN))


def _plain(rules: Rules) -> Rules:
    """For an iptables that does not know --random-fully."""
    return Rules(rules.family, rules.networks, rules.subnet, rules.masquerade, rules.forward, random_fully=False)


def _meaning(line: str) -> object:
    rule = parsed(line)
    return frozenset(rule.options), rule.target, rule.goto, tuple(sorted(rule.arguments.items())), rule.comment
