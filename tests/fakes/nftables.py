"""nf_tables in memory, behind the methods of `linux.nftables.connection.Connection` that the proxy's backend uses. It reads
the very messages that the kernel would get, and refuses what the kernel refuses: `tests/node/test_proxy_nftables.py` holds
it to that.

What a test may do to it: `cut = n` refuses the nth transaction from now on, as a kill before it would; `refuse` names keys of
elements that are not taken; `others(batch)` commits behind the proxy's back. `commits` counts what went in,
`readings` how often somebody began to read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from linux.nftables import objects
from linux.nftables.batch import Batch
from linux.nftables.connection import Failure, Refused
from linux.nftables.elements import GOTO, JUMP, Counted, Element, Verdict, unpacked, unpacked_data
from linux.nftables.objects import Chain, Rule, Set, Table
from linux.nftables.ruleset import Ruleset
from linux.nftables.wire import Message
from linux.wire import as_text, attributes, spans

T = TypeVar("T")
_ERESTART = 85


class _No(Exception):
    """(errno, element)"""


@dataclass(slots=True)
class _Content:
    table: Table
    chains: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)
    elements: dict[str, dict[bytes, Element]] = field(default_factory=dict)

    def copy(self) -> _Content:
        rules = {name: list(rules) for name, rules in self.rules.items()}
        elements = {name: dict(held) for name, held in self.elements.items()}
        return _Content(self.table, dict(self.chains), rules, dict(self.sets), elements)


class FakeNftables:
    def __init__(self) -> None:
        self.held: dict[tuple[int, str], _Content] = {}
        self.port = 0
        self.commits = 0
        self.readings = 0
        self.cut: int | None = None
        self.refuse: set[bytes] = set()
        self.interfere: Callable[[], None] | None = None
        self._generation = 1
        self._told: list[tuple[Message, int, bytes]] = []

    def close(self) -> None:
        return

    def ruleset(self) -> Ruleset:
        """For the tracer: all transactions, read again."""
        return Ruleset().take(self._told)

    def generation(self) -> int:
        return self._generation

    def tables(self, family: int) -> list[Table]:
        self.readings += 1
        return [content.table for (number, _), content in self.held.items() if number == family]

    def chains(self, family: int, table: str) -> list[Chain]:
        return list(self.held[family, table].chains.values())

    def rules(self, family: int, table: str, *, decoded: bool = True) -> list[Rule]:
        return [rule for rules in self.held[family, table].rules.values() for rule in rules]

    def sets(self, family: int, table: str) -> list[Set]:
        return list(self.held[family, table].sets.values())

    def elements(self, family: int, table: str, name: str) -> list[Counted]:
        if self.interfere is not None:
            interfere, self.interfere = self.interfere, None
            interfere()
        return [Counted(element, None) for element in self.held[family, table].elements[name].values()]

    def sift(
        self, family: int, table: str, name: str, wanted: Callable[[bytes, bytes], bool]
    ) -> tuple[list[bytes], bool]:
        return [key for key, value in self.pairs(family, table, name).items() if wanted(key, value)], True

    def pairs(self, family: int, table: str, name: str) -> dict[bytes, bytes]:
        found = (element for element, _ in self.elements(family, table, name))
        return {element.key: element.data for element in found if isinstance(element.data, bytes)}

    async def aside(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        return function(*args, **keywords)

    async def write(self, batch: Batch, *, generation: int | None = None) -> None:
        self.commit(batch, generation=generation)

    def commit(self, batch: Batch, *, generation: int | None = None) -> None:
        if not batch:
            return
        if self.cut is not None:
            if self.cut == 0:
                raise Refused((Failure(errno.EINTR, "killed"),))
            self.cut -= 1
        if generation not in (None, self._generation):
            raise Refused((Failure(_ERESTART, "the transaction"),))
        self.others(batch)
        self.commits += 1

    def others(self, batch: Batch) -> None:
        """A transaction, all or nothing."""
        before = {place: content.copy() for place, content in self.held.items()}
        for kind, family, body in batch.contents():
            try:
                self._carry_out(kind, family, body)
            except _No as no:
                self.held = before
                code, element = no.args
                name = as_text(attributes(body).get(2))
                raise Refused((Failure(code, f"{kind.name} {name}", name=name, element=element),)) from None
        self._generation += 1
        self._told.extend(batch.contents())

    def _carry_out(self, kind: Message, family: int, body: bytes) -> None:
        found = attributes(body)
        place = family, as_text(found[1])
        if kind is Message.NEWTABLE:
            self.held.setdefault(place, _Content(objects.table(family, body)))
            return
        if place not in self.held:
            raise _No(errno.ENOENT, None)
        content = self.held[place]
        match kind:
            case Message.DELTABLE:
                del self.held[place]
            case Message.NEWCHAIN:
                chain = objects.chain(family, body)
                if content.chains.setdefault(chain.name, chain).hook != chain.hook and chain.hook is not None:
                    raise _No(errno.EEXIST, None)
                content.rules.setdefault(chain.name, [])
            case Message.NEWSET:
                wanted = objects.set_of(family, body)
                if content.sets.setdefault(wanted.name, wanted).key_length != wanted.key_length:
                    raise _No(errno.EEXIST, None)
                content.elements.setdefault(wanted.name, {})
            case Message.NEWRULE:
                rule = objects.rule(family, body)
                self._named(content.rules, rule.chain).append(rule)
                for expression in rule.expressions:
                    _check(content, expression.name, expression.attributes)
            case Message.DELRULE:
                self._named(content.rules, as_text(found[2])).clear()
            case Message.DELCHAIN:
                name = as_text(found[3])
                if self._named(content.rules, name) or _leads_to(content, name):
                    raise _No(errno.EBUSY, None)
                del content.chains[name], content.rules[name]
            case Message.DELSET:
                name = as_text(found[2])
                self._named(content.sets, name)
                if any(_names(rule, name) for rules in content.rules.values() for rule in rules):
                    raise _No(errno.EBUSY, None)
                del content.sets[name], content.elements[name]
            case Message.NEWSETELEM | Message.DELSETELEM:
                self._elements(content, kind, as_text(found[2]), body)
            case _:
                raise AssertionError(f"{kind.name} is not known to the fake")

    def _named(self, where: dict[str, T], name: str) -> T:
        if name not in where:
            raise _No(errno.ENOENT, None)
        return where[name]

    def _elements(self, content: _Content, kind: Message, name: str, body: bytes) -> None:
        held = self._named(content.elements, name)
        shape = content.sets[name]
        if kind is Message.DELSETELEM and 3 not in attributes(body):
            held.clear()
        for number, start, end in spans(body, 0, len(body)):
            if number != 3:
                continue
            for element, _ in unpacked(body, start, end):
                if len(element.key) != shape.key_length or element.key in self.refuse:
                    raise _No(errno.EINVAL, element)
                if kind is Message.DELSETELEM:
                    if element.key not in held:
                        raise _No(errno.ENOENT, element)
                    del held[element.key]
                    continue
                if (element.data is not None) != (shape.data_type is not None):
                    raise _No(errno.EINVAL, element)
                if isinstance(element.data, Verdict) and element.data.chain not in ("", *content.chains):
                    raise _No(errno.ENOENT, element)
                if held.setdefault(element.key, element).data != element.data:
                    raise _No(errno.EBUSY, element)


def _check(content: _Content, name: str, found: dict[int, bytes]) -> None:
    """What a rule refers to has to be there."""
    if name in ("lookup", "dynset") and as_text(found[1]) not in content.sets:
        raise _No(errno.ENOENT, None)
    if name == "lookup" and (3 in found) != (content.sets[as_text(found[1])].data_type is not None):
        raise _No(errno.EINVAL, None)
    if name == "immediate":
        data = unpacked_data(found[2])
        if isinstance(data, Verdict) and data.code in (GOTO, JUMP) and data.chain not in content.chains:
            raise _No(errno.ENOENT, None)


def _leads_to(content: _Content, name: str) -> bool:
    elements = (element.data for held in content.elements.values() for element in held.values())
    if any(isinstance(data, Verdict) and data.chain == name for data in elements):
        return True
    return any(
        name.encode() + b"\0" in expression.attributes.get(2, b"")
        for rules in content.rules.values()
        for rule in rules
        for expression in rule.expressions
        if expression.name == "immediate"
    )


def _names(rule: Rule, name: str) -> bool:
    return any(
        expression.name in ("lookup", "dynset") and as_text(expression.attributes[1]) == name
        for expression in rule.expressions
    )
