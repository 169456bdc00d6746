"""What nf_tables holds, as values: read from dumps, and given to a `Batch` to be made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from linux.nftables import expressions
from linux.nftables.elements import packed_comment, unpacked_comment
from linux.nftables.expressions import Expression
from linux.nftables.wire import as_number, number32, number64
from linux.wire import as_text, attribute, attributes, nest, spans, text

VERDICT_TYPE = 0xFFFFFF00  # NFT_DATA_VERDICT
INTERVAL, MAP, TIMEOUT, DYNAMIC, CONCATENATION = 0x4, 0x8, 0x10, 0x20, 0x80  # NFT_SET_*
_EXPRESSIONS = 0x100  # NFT_SET_EXPR
ANONYMOUS = 0x1

_COMMENT, _SET_COMMENT = 0, 7  # NFTNL_UDATA_{TABLE,CHAIN,RULE}_COMMENT, NFTNL_UDATA_SET_COMMENT
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*


class Type(IntEnum):
    """nft's numbers for what a key or a value is, by which it prints elements. 0 is nothing that it knows."""

    INTEGER = 4
    IPV4 = 7
    IPV6 = 8
    PROTOCOL = 12
    PORT = 13
    MARK = 19
    INTERFACE_NAME = 41


def concatenated(*types: Type) -> int:
    """The type of a concatenation."""
    number = 0
    for one in types:
        number = number << 6 | one
    return number


@dataclass(frozen=True, slots=True)
class Table:
    family: int
    name: str
    comment: str | None = None
    flags: int = 0
    handle: int = 0


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is called: the name and number of the hook, smaller priorities first; `drops` is its policy, for
    what reaches its end."""

    kind: str
    number: int
    priority: int
    drops: bool = False

    @property
    def name(self) -> str:
        return HOOKS[self.number] if self.number < len(HOOKS) else str(self.number)


@dataclass(frozen=True, slots=True)
class Chain:
    """`use` counts what refers to it, rules of its own included."""

    family: int
    table: str
    name: str
    hook: Hook | None = None
    comment: str | None = None
    handle: int = 0
    use: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    family: int
    table: str
    chain: str
    expressions: tuple[Expression, ...]
    comment: str | None = None
    handle: int = 0


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map where `data_type` is not None (VERDICT_TYPE: a verdict map).

    `key_type`, `data_type` are a `Type` or `concatenated`, for `nft list` only. `fields`: the lengths of a
    concatenation's, of which interval sets need to know. `size`: the most elements, 0 for any; a hash table with a size
    and without timeouts is made whole at once and never resized. `timeout` in milliseconds. `counts`: each element has a
    counter. `limits`: read only, each element has a limit or quota of its own.
    """

    name: str
    key_length: int
    key_type: int = 0
    data_type: int | None = None
    data_length: int = 0
    flags: int = 0
    fields: tuple[int, ...] = ()
    size: int = 0
    timeout: int = 0
    counts: bool = False
    limits: bool = False
    comment: str | None = None
    family: int = 0
    table: str = ""
    handle: int = 0


def packed_set(wanted: Set, number: int) -> bytes:
    """The attributes of NEWSET after table and name. `number` is unique in its transaction."""
    flags = wanted.flags | (MAP if wanted.data_type is not None else 0)
    if len(wanted.fields) > 1:
        flags |= CONCATENATION
    parts = [number32(3, flags), number32(4, wanted.key_type), number32(5, wanted.key_length), number32(10, number)]
    if wanted.data_type is not None:
        parts.append(number32(6, wanted.data_type))
        if wanted.data_type != VERDICT_TYPE:
            parts.append(number32(7, wanted.data_length))
    description = [number32(1, wanted.size)] if wanted.size else []
    if len(wanted.fields) > 1:
        description.append(nest(2, *(nest(1, number32(1, length)) for length in wanted.fields)))
    if description:
        parts.append(nest(9, *description))
    if wanted.timeout:
        parts.append(number64(11, wanted.timeout))
    if wanted.comment is not None:
        parts.append(attribute(13, packed_comment(_SET_COMMENT, wanted.comment)))
    if wanted.counts:
        counter = expressions.counter()
        parts.append(attribute(17 | 0x8000, counter[4:]))
    return b"".join(parts)


def packed_hook(hook: Hook) -> bytes:
    """The attributes that make NEWCHAIN's chain a base chain."""
    where = nest(4, number32(1, hook.number), number32(2, hook.priority))
    return where + number32(5, 0 if hook.drops else 1) + text(7, hook.kind)


def table(family: int, body: bytes) -> Table:
    found = attributes(body)
    return Table(
        family, as_text(found[1]), _comment(found.get(6), _COMMENT), as_number(found.get(2)), as_number(found.get(4))
    )


def chain(family: int, body: bytes) -> Chain:
    found = attributes(body)
    hook = None
    if 4 in found:
        where = attributes(found[4])
        priority = int.from_bytes(where[2], "big", signed=True)
        drops = 5 in found and as_number(found[5]) == 0
        hook = Hook(as_text(found.get(7)), as_number(where[1]), priority, drops)
    return Chain(
        family,
        as_text(found[1]),
        as_text(found[3]),
        hook,
        _comment(found.get(12), _COMMENT),
        as_number(found.get(2)),
        as_number(found.get(6)),
    )


def rule(family: int, body: bytes, *, decoded: bool = True) -> Rule:
    """Without its expressions unless `decoded`."""
    found = attributes(body)
    return Rule(
        family,
        as_text(found[1]),
        as_text(found[2]),
        expressions.unpacked(found.get(4, b"")) if decoded else (),
        _comment(found.get(7), _COMMENT),
        as_number(found.get(3)),
    )


def set_of(family: int, body: bytes) -> Set:
    found = attributes(body)
    flags = as_number(found.get(3))
    fields: tuple[int, ...] = ()
    size = 0
    if 9 in found:
        description = attributes(found[9])
        size = as_number(description.get(1))
        concatenation = description.get(2, b"")
        fields = tuple(
            as_number(attributes(concatenation[one:two])[1])
            for _, one, two in spans(concatenation, 0, len(concatenation))
        )
    return Set(
        name=as_text(found[2]),
        key_length=as_number(found.get(5)),
        key_type=as_number(found.get(4)),
        data_type=as_number(found.get(6)) if flags & MAP else None,
        data_length=as_number(found.get(7)),
        flags=flags & ~(MAP | CONCATENATION | _EXPRESSIONS),
        fields=fields,
        size=size,
        timeout=as_number(found.get(11)),
        counts=17 in found or 18 in found,
        limits=any(b"limit\0" in each or b"quota\0" in each for each in (found.get(17, b""), found.get(18, b""))),
        comment=_comment(found.get(13), _SET_COMMENT),
        family=family,
        table=as_text(found[1]),
        handle=as_number(found.get(16)),
    )


def _comment(userdata: bytes | None, kind: int) -> str | None:
    return None if userdata is None else unpacked_comment(kind, userdata)
