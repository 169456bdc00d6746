"""Where a new packet would go, told from iptables rules as text: ours before they are written, or what iptables-save printed.

Where chance decides (`statistic`), both ways are followed, so the answer is the set of all possible endings, each with its
share. What remembers earlier packets does not match (`recent --rcheck`), because this is the first one. A match or target
that is not known here raises `Unknown`, or, where `lenient`, is taken both ways and becomes a doubt of the ending.

A chain of thousands of rules that each want one address or port (KUBE-SERVICES, KUBE-NODEPORTS) is indexed by them, so one
packet costs what its own rules cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from linux.iptables.matches import Rule, matches, parsed
from linux.iptables.rules import Snapshot, Table
from linux.iptables.targets import changed
from linux.packets import Address, Base, Ending, Hook, Node, Packet, Unknown, Walk, Ways, follow

_MOST_DEPTH = 64  # the kernel refuses loops; a snapshot may be of anything
_INDEXED_FROM = 32
_PRIORITY = {Table.RAW: -300, Table.MANGLE: -150, Table.NAT: -100, Table.FILTER: 0, Table.SECURITY: 50}
_ADDRESS = re.compile(r"(?<!! )-d ([0-9a-fA-F.:]+)(?:/32|/128)?(?: |$)")
_PORT = re.compile(r"(?<!! )--dport (\d+)(?: |$)")


def trace(
    snapshot: Snapshot, packet: Packet, node_addresses: frozenset[Address], *, lenient: bool = False
) -> frozenset[Ending]:
    """Every way `packet` may end on a node that has `node_addresses` (loopback is the node's in any case)."""
    node = Node(node_addresses)
    return follow(IptablesRules(snapshot, node, lenient=lenient).bases(), packet, node)


@dataclass(slots=True)
class _Chain:
    """A chain's rules, parsed when they are first met, and which of them a packet could match at all."""

    lines: Sequence[str]
    rules: dict[int, Rule] = field(default_factory=dict)
    general: list[int] = field(default_factory=list)
    by_address: dict[str, list[int]] = field(default_factory=dict)
    by_port: dict[str, list[int]] = field(default_factory=dict)
    indexed: bool = False

    def __post_init__(self) -> None:
        if len(self.lines) < _INDEXED_FROM:
            return
        self.indexed = True
        for position, line in enumerate(self.lines):
            if found := _ADDRESS.search(line):
                self.by_address.setdefault(found[1], []).append(position)
            elif found := _PORT.search(line):
                self.by_port.setdefault(found[1], []).append(position)
            else:
                self.general.append(position)

    def for_packet(self, packet: Packet) -> Iterator[Rule]:
        if not self.indexed:
            positions: Sequence[int] = range(len(self.lines))
        else:
            exact = self.by_address.get(str(packet.destination), []), self.by_port.get(str(packet.port), [])
            positions = sorted([*self.general, *exact[0], *exact[1]])
        for position in positions:
            rule = self.rules.get(position)
            if rule is None:
                rule = self.rules[position] = parsed(self.lines[position])
            yield rule


class IptablesRules:
    """A snapshot's tables as chains at the hooks."""

    def __init__(self, snapshot: Snapshot, node: Node, *, lenient: bool = False) -> None:
        self._snapshot = snapshot
        self._node = node
        self._lenient = lenient
        self._chains: dict[tuple[Table, str], _Chain] = {}

    def bases(self) -> Iterator[Base]:
        for table, chains in self._snapshot.tables.items():
            for hook in Hook:
                if chains.get(hook.value) or (table, hook.value) in self._snapshot.policies:
                    yield Base(hook, _PRIORITY[table], self._from(table, hook.value), nat=table is Table.NAT)

    def _from(self, table: Table, chain: str) -> _Run:
        policy = self._snapshot.policies.get((table, chain), "ACCEPT")
        return _Run(self, table, chain, "" if policy == "ACCEPT" else policy)

    def chain(self, table: Table, name: str, walk: Walk, said: str = "", depth: int = 0) -> Ways:
        """(verdict, walk) pairs; an empty verdict is the end of the chain, RETURN a rule that said so."""
        if depth > _MOST_DEPTH:
            raise Unknown(f"more than {_MOST_DEPTH} chains deep at {name}: rules in a circle?")
        chain = self._chains.get((table, name))
        if chain is None:
            chain = self._chains[table, name] = _Chain(self._snapshot.lines(table, name))
        pending = [walk.entering(table, name, said)]
        for rule in chain.for_packet(walk.packet):
            going_on: list[Walk] = []
            for each in pending:
                likely, doubt = self._matches(table, name, rule, each)
                if likely < 1.0 or doubt:
                    going_on.append((each.doubting(doubt) if doubt else each).likely(1.0 if doubt else 1.0 - likely))
                if likely == 0.0:
                    continue
                taken = each.doubting(doubt) if doubt else each if likely == 1.0 else each.likely(likely)
                for verdict, after in self._target(table, name, rule, taken, said, depth):
                    if verdict == "":
                        going_on.append(after)
                    else:
                        yield verdict, after
            pending = going_on
        for each in pending:
            yield "", each

    def _matches(self, table: Table, chain: str, rule: Rule, walk: Walk) -> tuple[float, str]:
        """(how likely the rule matches, what about it is not understood)."""
        try:
            return matches(rule, walk, self._node), ""
        except Unknown as error:
            where = f"table {table}, chain {chain}: {error}"
            if self._lenient:
                return 1.0, where
            raise Unknown(where) from None

    def _target(self, table: Table, chain: str, rule: Rule, walk: Walk, led: str, depth: int) -> Ways:
        """`led`: what was said where the chain was entered."""
        name = rule.target
        if name in ("DROP", "REJECT"):
            yield name, walk._replace(why=rule.comment or led or f"table {table}, chain {chain}")
        elif name in ("ACCEPT", "RETURN"):
            yield name, _why(walk, rule)
        elif name in self._snapshot.tables.get(table, {}):
            for verdict, after in self.chain(table, name, _why(walk, rule), rule.comment, depth + 1):
                # After a goto, the end of the chain is the end of this one too.
                inner = "" if verdict == "RETURN" else verdict
                yield ("RETURN" if rule.goto and inner == "" else inner), after
        else:
            try:
                yield changed(rule, walk)
            except Unknown as error:
                where = f"table {table}, chain {chain}: {error}"
                if not self._lenient:
                    raise Unknown(where) from None
                yield "", walk.doubting(where)


def _why(walk: Walk, rule: Rule) -> Walk:
    return walk._replace(why=rule.comment) if rule.comment else walk


@dataclass(frozen=True, slots=True)
class _Run:
    """A built-in chain, with its policy at the end."""

    rules: IptablesRules
    table: Table
    name: str
    policy: str

    def __call__(self, walk: Walk) -> Ways:
        for verdict, after in self.rules.chain(self.table, self.name, walk):
            if verdict not in ("", "RETURN"):
                yield verdict, after
            elif self.policy:
                where = f"table {self.table}, chain {self.name}, policy {self.policy}"
                yield self.policy, after._replace(why=where)
            else:
                yield "", after
