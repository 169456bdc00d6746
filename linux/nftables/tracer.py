"""Where a new packet would go by an nf_tables ruleset: the bytecode itself is run, with all outcomes of its dice.

The rules need not have been written in nft's language, and nothing depends on how the tool prints them. Sets are asked as
the kernel asks them, with what they hold now: a client that an affinity map remembers goes where it went before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from linux.nftables.elements import ACCEPT, BREAK, CONTINUE, DROP, GOTO, JUMP, RETURN, Verdict
from linux.nftables.machine import REJECTED, State, step
from linux.nftables.objects import HOOKS, Rule
from linux.nftables.ruleset import ChainContent, Ruleset, TableContent
from linux.nftables.unsure import possible
from linux.packets import Address, Base, Ending, Hook, Node, Packet, Unknown, Walk, Ways, follow

_MOST_DEPTH = 32  # the kernel's own limit is 16
_FAMILIES = {4: (1, 2), 6: (1, 10)}  # inet and the packet's own
_STAMP = re.compile(r"(?:; )?\bwherry:[0-9a-f]{12}$")  # says what a chain is, not what a rule does
_VERDICTS = {DROP: "DROP", ACCEPT: "ACCEPT", REJECTED: "REJECT"}


def trace(
    ruleset: Ruleset, packet: Packet, node_addresses: frozenset[Address], *, lenient: bool = False
) -> frozenset[Ending]:
    """Every way `packet` may end on a node that has `node_addresses`. Raises Unknown, unless `lenient`: then a rule with
    something unknown is taken both ways and becomes a doubt of the ending."""
    node = Node(node_addresses)
    rules = NftablesRules(ruleset.tables.values(), packet.source.version, node, lenient=lenient)
    return follow(rules.bases(), packet, node)


class NftablesRules:
    """The tables that packets of one family meet, as chains at the hooks."""

    def __init__(self, tables: Iterable[TableContent], version: int, node: Node, *, lenient: bool = False) -> None:
        self._tables = [table for table in tables if table.family in _FAMILIES[version]]
        self._node = node
        self._lenient = lenient

    def bases(self) -> Iterator[Base]:
        for table in self._tables:
            for content in table.chains.values():
                hook = content.about.hook
                if hook is not None and hook.number < len(HOOKS) and (content.rules or hook.drops):
                    run = _Run(self, table, content, drops=hook.drops)
                    yield Base(Hook(hook.name.upper()), hook.priority, run, nat=hook.kind == "nat")

    def chain(self, table: TableContent, content: ChainContent, walk: Walk, said: str = "", depth: int = 0) -> Ways:
        """(verdict, walk) pairs; an empty verdict is the end of the chain, RETURN a rule that said so.

        Rules may throw one die again and again until it shows a side that means something: a rule that says what the one
        before it said to a packet that it left as it was has the same outcomes, and is not run again.
        """
        if depth > _MOST_DEPTH:
            raise Unknown(f"more than {_MOST_DEPTH} chains deep at {content.about.name}: rules in a circle?")
        pending = [walk.entering(table.words, content.about.name, said or content.about.comment or "")]
        decided: dict[int, tuple[list[tuple[str, Walk]], float]] = {}
        before: tuple[Rule, Walk] | None = None
        outcomes: tuple[list[tuple[str, Walk]], list[Walk]] = ([], [])
        for rule in content.rules:
            going_on: list[Walk] = []
            for each in pending:
                whole = each._replace(share=1.0)
                if before is None or before[1] != whole or before[0].expressions != rule.expressions:
                    before, outcomes = (rule, whole), self._outcomes(table, rule, whole, said, depth)
                ends, passing = outcomes
                if ends:
                    decided[id(ends)] = ends, decided.get(id(ends), (ends, 0.0))[1] + each.share
                going_on.extend(after if each.share == 1.0 else after.likely(each.share) for after in passing)
            pending = [each for _, each in _merged([("", each) for each in going_on])]
        for ends, share in decided.values():
            for word, after in ends:
                yield word, after if share == 1.0 else after.likely(share)
        for each in pending:
            yield "", each

    def _outcomes(
        self, table: TableContent, rule: Rule, walk: Walk, led: str, depth: int
    ) -> tuple[list[tuple[str, Walk]], list[Walk]]:
        """(what the rule decides, what goes on to the next one). `led`: what was said where the chain was entered."""
        decided: list[tuple[str, Walk]] = []
        going_on: list[Walk] = []
        passing: dict[int, tuple[Walk, float]] = {}  # many sides of a die leave a packet as it was
        for verdict, state in self._rule(table, rule, walk):
            if verdict.code in (CONTINUE, BREAK):
                share = passing.get(id(state.walk), (state.walk, 0.0))[1] + state.share
                passing[id(state.walk)] = state.walk, share
                continue
            for word, after in self._decided(table, rule, verdict, state, led, depth):
                if word == "":
                    going_on.append(after)
                else:
                    decided.append((word, after))
        going_on.extend(after if share == 1.0 else after.likely(share) for after, share in passing.values())
        return _merged(decided), going_on

    def _rule(self, table: TableContent, rule: Rule, walk: Walk) -> Iterator[tuple[Verdict, State]]:
        states = [State(walk)]
        for position, expression in enumerate(rule.expressions):
            following: list[State] = []
            for state in states:
                try:
                    outcomes = list(step(expression, state, table.sets, self._node))
                except Unknown as error:
                    where = f"table {table.words}, chain {rule.chain}: {error}"
                    if not self._lenient:
                        raise Unknown(where) from None
                    doubting = state.walk.doubting(where)
                    yield Verdict(BREAK), State(doubting)
                    yield from possible(rule.expressions[position + 1 :], doubting, table.sets, self._node)
                    continue
                for verdict, after in outcomes:
                    if verdict.code == CONTINUE:
                        following.append(after)
                    else:
                        yield verdict, after
            states = following
        for state in states:
            yield Verdict(CONTINUE), state

    def _decided(self, table: TableContent, rule: Rule, verdict: Verdict, state: State, led: str, depth: int) -> Ways:
        said = state.said or _STAMP.sub("", rule.comment or "")
        walk = state.walk._replace(why=said or state.walk.why, share=state.walk.share * state.share)
        match verdict.code:
            case code if code == ACCEPT:
                yield _VERDICTS[code], walk
            case code if code in _VERDICTS:
                yield _VERDICTS[code], walk._replace(why=said or led or f"table {table.words}, chain {rule.chain}")
            case code if code == RETURN:
                yield "RETURN", walk
            case code if code in (JUMP, GOTO):
                content = table.chains.get(verdict.chain)
                if content is None:
                    raise Unknown(f"table {table.words}: a jump to {verdict.chain}, which is not there")
                for word, after in self.chain(table, content, walk, said, depth + 1):
                    inner = "" if word == "RETURN" else word
                    # After a goto, the end of that chain is the end of this one too.
                    yield ("RETURN" if code == GOTO and inner == "" else inner), after
            case code:
                raise Unknown(f"table {table.words}, chain {rule.chain}: verdict {code} is not known here")


def _merged(ways: list[tuple[str, Walk]]) -> list[tuple[str, Walk]]:
    """Dice that decided nothing, or decided the same in several throws, are forgotten: equal ways become one, their shares
    added."""
    if len(ways) < 2:
        return ways
    shares: dict[tuple[str, Walk], float] = {}
    for word, walk in ways:
        alike = word, walk._replace(share=0.0)
        shares[alike] = shares.get(alike, 0.0) + walk.share
    return [(word, walk._replace(share=share)) for (word, walk), share in shares.items()]


class _Run:
    """A base chain, with its policy at the end."""

    def __init__(self, rules: NftablesRules, table: TableContent, content: ChainContent, *, drops: bool) -> None:
        self._rules, self._table, self._content = rules, table, content
        self._policy = "DROP" if drops else ""

    def __call__(self, walk: Walk) -> Ways:
        for verdict, after in self._rules.chain(self._table, self._content, walk):
            if verdict not in ("", "RETURN"):
                yield verdict, after
            elif self._policy:
                where = f"table {self._table.words}, chain {self._content.about.name}, policy drop"
                yield self._policy, after._replace(why=where)
            else:
                yield "", after
