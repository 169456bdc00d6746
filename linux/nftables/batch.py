"""A transaction being put together: the kernel carries out all of it or nothing.

Deleting and adding the same key in one batch replaces the element: no packet meets the gap. Adding what is there already
with the same value is no error unless `new` says that it must not be there; with another value it is EBUSY or EEXIST, so a
change of value is a deletion and an addition. Deleting what is not there is ENOENT and undoes the whole batch.

Every message knows what it is about, so a refusal can name the rule or the very element (`about`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from linux.nftables import elements
from linux.nftables.elements import Element, packed_comment
from linux.nftables.objects import Hook, Set, packed_hook, packed_set
from linux.nftables.wire import (
    BATCH_BEGIN,
    BATCH_END,
    BATCH_GENERATION,
    SIZE,
    SUBSYSTEM,
    Message,
    message,
    number32,
    ours,
)
from linux.wire import ACK, APPEND, CREATE, EXCLUSIVE, REQUEST, attribute, nest, spans, text

_TABLE, _OBJECT, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_WORDS = {
    Message.NEWTABLE: "add table",
    Message.DELTABLE: "delete table",
    Message.NEWCHAIN: "add chain",
    Message.DELCHAIN: "delete chain",
    Message.NEWRULE: "add a rule to chain",
    Message.DELRULE: "delete rules of chain",
    Message.NEWSET: "add set",
    Message.DELSET: "delete set",
    Message.NEWSETELEM: "add elements to",
    Message.DELSETELEM: "delete elements of",
}


class Batch:
    """For one table of one family (AF_INET, AF_INET6, or NFPROTO_INET = 1). Messages are carried out in the order of the
    calls. False when nothing was asked for."""

    __slots__ = ("_about", "_messages", "_prefixes", "_table", "family", "size", "table")

    def __init__(self, family: int, table: str) -> None:
        self.family = family
        self.table = table
        self._table = text(1, table)
        self._messages: list[bytes] = []
        self._about: list[tuple[Message, str]] = []
        self._prefixes: dict[str, bytes] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def __len__(self) -> int:
        """How many messages."""
        return len(self._messages)

    # --- tables, chains, rules ---------------------------------------------------------------------------------

    def add_table(self, *, comment: str | None = None, new: bool = False) -> None:
        self._add(Message.NEWTABLE, self.table, self._table + _commented(6, comment), _create(new))

    def delete_table(self) -> None:
        """With everything in it. ENOENT when it is not there: `add_table` first makes that impossible."""
        self._add(Message.DELTABLE, self.table, self._table)

    def add_chain(self, name: str, hook: Hook | None = None, *, comment: str | None = None, new: bool = False) -> None:
        body = self._table + text(3, name) + (packed_hook(hook) if hook else b"") + _commented(12, comment)
        self._add(Message.NEWCHAIN, name, body, _create(new))

    def delete_chain(self, name: str) -> None:
        """EBUSY while anything jumps to it."""
        self._add(Message.DELCHAIN, name, self._table + text(3, name))

    def add_rule(self, chain: str, expressions: Sequence[bytes], *, comment: str | None = None) -> None:
        """At the end of the chain."""
        body = self._table + text(2, chain) + nest(4, *expressions) + _commented(7, comment)
        self._add(Message.NEWRULE, chain, body, CREATE | APPEND)

    def flush_chain(self, name: str) -> None:
        """Delete its rules, if any."""
        self._add(Message.DELRULE, name, self._table + text(2, name))

    # --- sets and maps -----------------------------------------------------------------------------------------

    def add_set(self, wanted: Set, *, new: bool = False) -> None:
        body = self._table + text(2, wanted.name) + packed_set(wanted, len(self._messages) + 1)
        self._add(Message.NEWSET, wanted.name, body, _create(new))

    def delete_set(self, name: str) -> None:
        """EBUSY while a rule uses it."""
        self._add(Message.DELSET, name, self._table + text(2, name))

    def flush_set(self, name: str) -> None:
        """Delete its elements, if any."""
        self._add(Message.DELSETELEM, name, self._prefix(name))

    def add_elements(self, name: str, wanted: Iterable[Element], *, new: bool = False) -> None:
        prefix, flags = self._prefix(name), _create(new)
        for chunk in elements.chunks(wanted):
            self._add(Message.NEWSETELEM, name, prefix + attribute(_ELEMENTS | 0x8000, chunk), flags)

    def add_pairs(self, name: str, wanted: Sequence[tuple[bytes, bytes]]) -> None:
        """Plain elements of a map of values, as (key, value)."""
        prefix = self._prefix(name)
        for chunk in elements.pair_chunks(wanted):
            self._add(Message.NEWSETELEM, name, prefix + attribute(_ELEMENTS | 0x8000, chunk), CREATE)

    def delete_elements(self, name: str, unwanted: Iterable[Element]) -> None:
        """Only their keys (and `key_end`, `interval_end`) count."""
        prefix = self._prefix(name)
        for chunk in elements.chunks(
            Element(found.key, key_end=found.key_end, interval_end=found.interval_end, catch_all=found.catch_all)
            for found in unwanted
        ):
            self._add(Message.DELSETELEM, name, prefix + attribute(_ELEMENTS | 0x8000, chunk))

    # --- for the connection ------------------------------------------------------------------------------------

    def datagram(self, generation: int | None) -> bytes:
        """The whole transaction. Message n has the sequence number n, the opening mark 0; the last one is confirmed."""
        check = b"" if generation is None else number32(BATCH_GENERATION, generation)
        last = bytearray(self._messages[-1])
        last[6] |= ACK  # the low byte of the header's flags on little-endian machines, see _add
        return b"".join(
            (
                message(BATCH_BEGIN, REQUEST, 0, 0, check, SUBSYSTEM),
                *self._messages[:-1],
                last,
                message(BATCH_END, REQUEST, len(self._messages) + 1, 0, b"", SUBSYSTEM),
            )
        )

    def contents(self) -> Iterator[tuple[Message, int, bytes]]:
        """(message, family, attributes) of everything asked for, in its order; flags left out."""
        for (kind, _), packed in zip(self._about, self._messages, strict=True):
            yield kind, self.family, packed[SIZE:]

    def about(self, sequence: int, offset: int | None) -> tuple[str, str, Element | None]:
        """What the message of this number asked for: in words, the chain's or set's name, and the element at this offset
        of the message, where it is one."""
        if not 1 <= sequence <= len(self._messages):
            return f"the transaction on table {self.table}", "", None
        kind, name = self._about[sequence - 1]
        element = None
        if kind in (Message.NEWSETELEM, Message.DELSETELEM):
            element = _element_at(self._messages[sequence - 1], offset)
        where = "" if kind in (Message.NEWTABLE, Message.DELTABLE) else f" of table {self.table}"
        return f"{_WORDS[kind]} {name}{where}", name, element

    def _prefix(self, name: str) -> bytes:
        found = self._prefixes.get(name)
        if found is None:
            found = self._prefixes[name] = self._table + text(_OBJECT, name)
        return found

    def _add(self, kind: Message, name: str, body: bytes, flags: int = 0) -> None:
        packed = message(ours(kind), REQUEST | flags, len(self._messages) + 1, self.family, body)
        self._messages.append(packed)
        self._about.append((kind, name))
        self.size += len(packed)


def _create(new: bool) -> int:
    return CREATE | EXCLUSIVE if new else CREATE


def _commented(number: int, comment: str | None) -> bytes:
    return b"" if comment is None else attribute(number, packed_comment(0, comment))


def _element_at(packed: bytes, offset: int | None) -> Element | None:
    """The only one where no offset was given: old kernels give none."""
    for number, start, end in spans(packed, SIZE, len(packed)):
        if number == _ELEMENTS:
            for _, first, last in spans(packed, start, end):
                only = offset is None and first - 4 == start and (last + 3) & ~3 >= end
                if only or (offset is not None and first - 4 <= offset < last):
                    return next(elements.unpacked(packed, first - 4, last)).element
    return None
