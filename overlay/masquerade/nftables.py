"""The rules as nf_tables' own (EnableNFTables): flannel's tables and chains.

    table ip flannel-ipv4, table ip6 flannel-ipv6
        chain postrtg    nat, postrouting, srcnat
        chain forward    filter, forward, filter

The table is ours whole. Each rule bears a comment: which it is, and the stamp of its chain. What the kernel tells of a chain is
learnt by reading once what was written and compared whole; until then, after a start, comments and expressions must be those
that we would write. One transaction empties and fills a chain, so no packet meets half of it. The kernel tells of every
change of others at once; a comparison that nobody asked for is one dump of eight rules.

An accept is the last word in its own chain only. Where another table's chain drops what it does not accept (docker's policy
in FORWARD), ours cannot help, and that is said once.
"""

import errno
import hashlib
import logging
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

from kube.errors import Retry
from linux.iptables.rules import Family
from linux.nftables import expressions as say
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Refused
from linux.nftables.elements import ACCEPT, RETURN
from linux.nftables.expressions import Comparison, Expression, Header, Meta
from linux.nftables.listener import Interest, Listener, Touch
from linux.nftables.objects import Hook, Rule
from linux.nftables.policies import Dropping, dropping
from linux.nftables.ruleset import Ruleset
from linux.wire import spans
from overlay.masquerade.rules import KUBE_MARK, Line, Match, Rules, Verdict, Written, forwarding, postrouting

TABLES = {Family.V4: "flannel-ipv4", Family.V6: "flannel-ipv6"}
POSTROUTING, FORWARD = "postrtg", "forward"
HOOKS = {POSTROUTING: Hook("nat", 4, 100), FORWARD: Hook("filter", 2, 0)}
_FAMILIES = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_SOURCE = {Family.V4: (12, 4), Family.V6: (8, 16)}
_DESTINATION = {Family.V4: (16, 4), Family.V6: (24, 16)}
_REGISTER = 1
_ABSENT = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EAFNOSUPPORT)

log = logging.getLogger(__name__)


def batch(rules: Rules, stale: Iterable[str] = ()) -> Batch:
    """The transaction that makes the table as wished; `stale`: the chains that it has and shall not have, or not so."""
    made = Batch(_FAMILIES[rules.family], TABLES[rules.family])
    made.add_table(comment="rules of the overlay network")
    for name in stale:
        made.flush_chain(name)
        made.delete_chain(name)
    for name, lines in chains(rules).items():
        made.add_chain(name, HOOKS[name])
        made.flush_chain(name)
        for expressions, comment in lines:
            made.add_rule(name, expressions, comment=comment)
    return made


def chains(rules: Rules) -> dict[str, list[tuple[list[bytes], str]]]:
    """By name, of each rule its expressions and its comment."""
    found: dict[str, list[tuple[list[bytes], str]]] = {}
    for name, lines in ((POSTROUTING, postrouting(rules)), (FORWARD, forwarding(rules))):
        if lines:
            packed = [_packed(line, rules) for line in lines]
            stamp = hashlib.blake2s(b"".join(b"".join(one) for one in packed), digest_size=6).hexdigest()
            found[name] = [(one, f"{number} wherry:{stamp}") for number, one in enumerate(packed, 1)]
    return found


def _packed(line: Line, rules: Rules) -> list[bytes]:
    packed: list[bytes] = []
    if line.marked:
        mark = KUBE_MARK.to_bytes(4, sys.byteorder)
        packed.append(say.meta(Meta.MARK, _REGISTER))
        packed.append(say.bitwise(_REGISTER, _REGISTER, mark, bytes(4)))
        packed.append(say.compare(_REGISTER, Comparison.EQUAL, mark))
    for places, match in ((_SOURCE, line.source), (_DESTINATION, line.destination)):
        if match is not None:
            packed += _address(places[rules.family], match)
    packed.append(say.counter())
    match line.verdict:
        case Verdict.RETURN:
            packed.append(say.verdict(RETURN))
        case Verdict.ACCEPT:
            packed.append(say.verdict(ACCEPT))
        case Verdict.MASQUERADE:
            packed.append(say.masquerade(say.RANDOM_FULLY if rules.random_fully else 0))
    return packed


def _address(place: tuple[int, int], match: Match) -> list[bytes]:
    offset, length = place
    net = match.range
    how = Comparison.UNEQUAL if match.inverted else Comparison.EQUAL
    return [
        say.payload(Header.NETWORK, offset, length, _REGISTER),
        say.bitwise(_REGISTER, _REGISTER, net.netmask.packed, bytes(length)),
        say.compare(_REGISTER, how, net.network_address.packed),
    ]


_Told = tuple[str, frozenset[tuple[int, bytes]]]
_Line = tuple[str | None, tuple[_Told, ...]]
_Shape = tuple[_Line, ...]


class NftablesWriter:
    """Of one family, in the network namespace of this process."""

    def __init__(self, family: Family) -> None:
        """Raises OSError."""
        self.words = f"nftables rules of IPv{int(family)}"
        self._family = family
        self._number = _FAMILIES[family]
        self._table = TABLES[family]
        self._stack = AsyncExitStack()
        self._kernel = self._stack.enter_context(Connection())
        self._listener: Listener | None = None
        self._learnt: tuple[Rules, dict[str, _Shape]] | None = None
        self._wish: Rules | None = None
        self._told: frozenset[Dropping] = frozenset()

    async def watching(self, touched: Callable[[], None]) -> None:
        def heard(touch: Touch) -> None:
            log.debug("%s: %s", self.words, touch)
            touched()

        listener = await self._stack.enter_async_context(Listener([Interest(self._number, self._table)], heard))
        listener.own(self._kernel.port)

    async def close(self) -> None:
        await self._stack.aclose()

    async def sync(self, rules: Rules) -> Written:
        try:
            written = self._sync(rules)
        except Refused as error:
            raise Retry(f"{self.words}: {error}{_remedy(error.errno)}") from error
        if written.written or written.repaired:
            await self._look_at_others(rules)
        return written

    async def differences(self, rules: Rules) -> list[str]:
        try:
            wrong, extra = self._compared(rules, self._there())
        except Refused as error:
            raise Retry(f"{self.words}: {error}{_remedy(error.errno)}") from error
        return self._words(wrong, extra)

    def _compared(self, rules: Rules, there: dict[str, _Shape]) -> tuple[list[str], list[str]]:
        """The chains that are not as they should be, and those that should not be."""
        wanted = chains(rules)
        wrong = sorted(name for name in wanted if not self._right(rules, name, there))
        return wrong, sorted(there.keys() - wanted.keys())

    def _words(self, wrong: list[str], extra: list[str]) -> list[str]:
        where = f"of table {self._table}"
        return [*(f"chain {name} {where}" for name in wrong), *(f"superfluous chain {name} {where}" for name in extra)]

    def _sync(self, rules: Rules) -> Written:
        there = self._there()
        wanted = chains(rules)
        if not wanted:
            self._wish = rules
            return Written(written=tuple(self._forget(there)))
        wrong, extra = self._compared(rules, there)
        if wrong or extra:
            elsewhere = [name for name in wrong if name in there and there[name][0] != _place(HOOKS[name])]
            self._kernel.commit(batch(rules, (*extra, *elsewhere)))
            there = self._there()
        self._learnt = rules, {name: there[name] for name in wanted if name in there}
        again, self._wish = rules == self._wish, rules
        words = tuple(self._words(wrong, extra))
        return Written(repaired=words) if again else Written(written=words)

    def _right(self, rules: Rules, name: str, there: dict[str, _Shape]) -> bool:
        if self._learnt is not None and self._learnt[0] == rules and name in self._learnt[1]:
            return there.get(name) == self._learnt[1][name]
        asked = Ruleset().take(batch(rules).contents()).tables[self._number, self._table].chains
        found = there.get(name, ())
        wanted = _shape(HOOKS[name], asked[name].rules)
        return len(found) == len(wanted) and all(map(_says, found, wanted))

    def _there(self) -> dict[str, _Shape]:
        """The table's chains, by name. A chain at another hook is of another shape."""
        rules: dict[str, list[Rule]] = {}
        for rule in self._kernel.rules(self._number, self._table):
            rules.setdefault(rule.chain, []).append(rule)
        found = self._kernel.chains(self._number, self._table)
        return {chain.name: _shape(chain.hook, rules.get(chain.name, [])) for chain in found}

    async def _look_at_others(self, rules: Rules) -> None:
        if not rules.forward:
            return
        others = await self._kernel.aside(dropping, self._kernel, self._number, tuple(TABLES.values()))
        found = frozenset(one for one in others if one.hook == "forward")
        for one in sorted(found - self._told, key=str):
            log.warning(
                "%s: it must accept what goes to and from pods itself, no other table can (see `%s`); with"
                " EnableNFTables false the overlay's accept stands in iptables' own FORWARD",
                one,
                one.listing,
            )
        self._told = found

    async def forget(self) -> list[str]:
        try:
            return self._forget(self._there())
        except Refused as error:
            raise Retry(f"{self.words} cannot be removed: {error}") from error

    def _forget(self, there: dict[str, _Shape]) -> list[str]:
        if not there and not any(table.name == self._table for table in self._kernel.tables(self._number)):
            return []
        gone = Batch(self._number, self._table)
        gone.add_table()  # so that deleting cannot fail where somebody was quicker
        gone.delete_table()
        self._kernel.commit(gone)
        self._learnt = None
        return [f"removed table {self._table}"]


async def opened(family: Family) -> NftablesWriter:
    """Raises Retry where the kernel has no nf_tables."""
    try:
        return NftablesWriter(family)
    except OSError as error:
        raise Retry(f"EnableNFTables: {error.strerror}{_remedy(error.errno)}") from error


async def forget_all(family: Family) -> list[str]:
    """Remove the table, if there is one; in words. Raises Retry."""
    try:
        writer = NftablesWriter(family)
    except OSError:
        return []  # what the kernel has not got holds nothing
    try:
        return await writer.forget()
    except Retry as error:
        cause = error.__cause__
        if isinstance(cause, Refused) and cause.errno in _ABSENT:
            return []
        raise
    finally:
        await writer.close()


def _shape(hook: Hook | None, rules: list[Rule]) -> _Shape:
    """What makes two chains equal: hook, and of each rule comment and expressions, counters aside."""
    told = ((rule.comment, tuple(_told(one) for one in rule.expressions if one.name != "counter")) for rule in rules)
    return (_place(hook), *told)


def _told(one: Expression) -> _Told:
    """An expression's attributes. A verdict is an attribute in an attribute in one, and the kernel does not mark its nests."""
    found = dict(one.attributes)
    if one.name == "immediate" and int.from_bytes(found[1], "big") == say.VERDICT_REGISTER:
        found[2] = b"".join(found[2][start:end] for _, start, end in spans(found[2], 0, len(found[2])))
    return one.name, frozenset(found.items())


def _says(found: _Line, asked: _Line) -> bool:
    """Whether a rule of the kernel's is what was asked for; it tells more than it was told."""
    if found[0] != asked[0] or len(found[1]) != len(asked[1]):
        return False
    return all(one == other and less <= more for (one, more), (other, less) in zip(found[1], asked[1], strict=True))


def _place(hook: Hook | None) -> _Line:
    return str(hook), ()


def _remedy(code: int | None) -> str:
    return "; with EnableNFTables false the rules are written through iptables" if code in _ABSENT else ""
