"""A whole nf_tables ruleset as values, read from netlink messages: what a dump answers, or what a batch is about to ask for.

`Ruleset.take` accepts (message, family, attributes) one after another as the kernel would: new objects appear, deletions
take them away, a chain or set can be emptied. So the same reader shows what is in the kernel and what a transaction that
never met a kernel would have left there.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from linux.nftables import objects
from linux.nftables.elements import Counted, unpacked
from linux.nftables.wire import Message, as_number
from linux.wire import as_text, attributes, spans

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*


@dataclass(slots=True)
class SetContent:
    """A set or map with its elements. `find` answers as the kernel's lookup does."""

    about: objects.Set
    by_key: dict[bytes, Counted] = field(default_factory=dict)
    ends: dict[bytes, Counted] = field(default_factory=dict)
    otherwise: Counted | None = None
    _sorted: list[tuple[bytes, bool, Counted]] | None = None

    def put(self, counted: Counted) -> None:
        element = counted.element
        self._sorted = None
        if element.catch_all:
            self.otherwise = counted
        elif element.interval_end:
            self.ends[element.key] = counted
        else:
            self.by_key[element.key + (element.key_end or b"")] = counted

    def drop(self, counted: Counted) -> None:
        element = counted.element
        self._sorted = None
        if element.catch_all:
            self.otherwise = None
        elif element.interval_end:
            self.ends.pop(element.key, None)
        else:
            self.by_key.pop(element.key + (element.key_end or b""), None)

    def clear(self) -> None:
        self.by_key.clear()
        self.ends.clear()
        self.otherwise = self._sorted = None

    def find(self, key: bytes) -> Counted | None:
        if not self.about.flags & objects.INTERVAL:
            found = self.by_key.get(key)
        elif len(self.about.fields) > 1:
            found = self._in_ranges(key)
        else:
            found = self._in_interval(key)
        return found or self.otherwise

    def _in_ranges(self, key: bytes) -> Counted | None:
        """Concatenations: each field within its own range."""
        for counted in self.by_key.values():
            low, high = counted.element.key, counted.element.key_end or counted.element.key
            start = 0
            for length in self.about.fields:
                part = slice(start, start + length)
                if not low[part] <= key[part] <= high[part]:
                    break
                start += (length + 3) & ~3
            else:
                return counted
        return None

    def _in_interval(self, key: bytes) -> Counted | None:
        """One field: an element opens an interval and the next one, opening or ending, closes it."""
        if self._sorted is None:
            opening = [(each.element.key, True, each) for each in self.by_key.values()]
            ending = [(key, False, each) for key, each in self.ends.items()]
            self._sorted = sorted(opening + ending, key=lambda each: (each[0], each[1]))
        position = bisect_right(self._sorted, key, key=lambda each: each[0]) - 1
        if position < 0 or not self._sorted[position][1]:
            return None
        return self._sorted[position][2]

    def __iter__(self) -> Iterator[Counted]:
        yield from self.by_key.values()
        if self.otherwise is not None:
            yield self.otherwise


@dataclass(slots=True)
class ChainContent:
    about: objects.Chain
    rules: list[objects.Rule] = field(default_factory=list)


@dataclass(slots=True)
class TableContent:
    family: int
    name: str
    comment: str | None = None
    chains: dict[str, ChainContent] = field(default_factory=dict)
    sets: dict[str, SetContent] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return f"{FAMILIES.get(self.family, self.family)} {self.name}"


@dataclass(slots=True)
class Ruleset:
    tables: dict[tuple[int, str], TableContent] = field(default_factory=dict)

    def take(self, messages: Iterable[tuple[Message, int, bytes]]) -> Ruleset:
        """The ruleset after these messages (itself)."""
        for message, family, body in messages:
            match message:
                case Message.NEWTABLE:
                    made = objects.table(family, body)
                    self.tables.setdefault((family, made.name), TableContent(family, made.name)).comment = made.comment
                case Message.DELTABLE:
                    self.tables.pop((family, as_text(attributes(body)[1])), None)
                case _:
                    found = attributes(body)
                    _taken(self.tables[family, as_text(found[1])], message, family, body, found)
        return self


def _taken(table: TableContent, message: Message, family: int, body: bytes, found: dict[int, bytes]) -> None:
    match message:
        case Message.NEWCHAIN:
            chain = objects.chain(family, body)
            if chain.name in table.chains:
                return
            table.chains[chain.name] = ChainContent(chain)
        case Message.DELCHAIN:
            table.chains.pop(as_text(found[3]), None)
        case Message.NEWRULE:
            rule = _rule(family, body)
            table.chains[rule.chain].rules.append(rule)
        case Message.DELRULE:
            _rules_deleted(table, as_text(found.get(2)), as_number(found.get(3)))
        case Message.NEWSET:
            made = objects.set_of(family, body)
            table.sets.setdefault(made.name, SetContent(made))
        case Message.DELSET:
            table.sets.pop(as_text(found[2]), None)
        case Message.NEWSETELEM | Message.DELSETELEM:
            _elements(table.sets[as_text(found[2])], message, body)
        case _:
            pass


_rule = functools.lru_cache(maxsize=1 << 12)(objects.rule)  # a ruleset repeats itself, and tests repeat rulesets


def _rules_deleted(table: TableContent, chain: str, handle: int) -> None:
    for content in table.chains.values():
        if chain in ("", content.about.name):
            content.rules = [rule for rule in content.rules if handle and rule.handle != handle]


def _elements(content: SetContent, message: Message, body: bytes) -> None:
    lists = [(start, end) for number, start, end in spans(body, 0, len(body)) if number == 3]
    if message is Message.DELSETELEM and not lists:
        content.clear()
    for start, end in lists:
        for counted in unpacked(body, start, end):
            if message is Message.NEWSETELEM:
                content.put(counted)
            else:
                content.drop(counted)
