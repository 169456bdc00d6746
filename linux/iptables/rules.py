"""Tables, chains and rules as values, and the stamp by which a chain in the kernel is recognised.

Rules do not round-trip through the kernel as text: iptables-save reorders matches, rewrites masks and drops defaults.
So nothing here compares rule text. The first rule of each chain we write carries a hash of the whole chain in its
comment, and a chain in the kernel counts as ours and unchanged when that stamp and the number of rules agree (`Mark`).
Whoever flushes the chain, or adds or deletes a rule in it, breaks the mark, and the chain is written again whole.

A rule is written in iptables' own words, without the leading `-A CHAIN`. Its comment is kept apart, because a rule can
carry only one and the stamp travels in it.
"""

from __future__ import annotations

import enum
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1
_MAX_COMMENT = 255  # XT_MAX_COMMENT_LEN - 1
_STAMP = re.compile(r"\bwherry:([0-9a-f]{12})\b")
_STAMP_BYTES = re.compile(_STAMP.pattern.encode())
_TARGET = re.compile(r'(?:^| )-[jg] ([^ "]+)')
_COMMENT = re.compile(r'--comment (?:"((?:[^"\\]|\\.)*)"|(\S+))')


class Family(enum.IntEnum):
    """An address family; everything above takes it as a parameter."""

    V4 = 4
    V6 = 6

    @property
    def command(self) -> str:
        """The stem of the family's commands: `<stem>-save`, `<stem>-restore`."""
        return "iptables" if self is Family.V4 else "ip6tables"

    @property
    def loopback(self) -> str:
        return "127.0.0.0/8" if self is Family.V4 else "::1/128"

    @property
    def bits(self) -> int:
        return 32 if self is Family.V4 else 128


class Table(enum.StrEnum):
    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    RAW = "raw"
    SECURITY = "security"


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches and a target as iptables spells them, e.g. `Rule("-s 10.0.0.1 -j KUBE-MARK-MASQ", "ns/svc:http")`."""

    spec: str
    comment: str = ""

    def text(self, stamp: str = "") -> str:
        comment = f"{self.comment} {stamp}".strip()
        if not comment:
            return self.spec
        quoted = comment.replace("\\", "\\\\").replace('"', '\\"')
        return f'-m comment --comment "{quoted}" {self.spec}'

    @property
    def target(self) -> str | None:
        """The chain or verdict jumped to."""
        return target_of(self.spec)


class Mark(NamedTuple):
    """What identifies a chain's content in the kernel: the stamp in its first rule and how many rules it has."""

    stamp: str
    length: int


EMPTY = Mark("", 0)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that is wholly ours. `body` is its rules ready for iptables-restore, stamped, one `-A` line each."""

    table: Table
    name: str
    rules: tuple[Rule, ...] = ()
    mark: Mark = field(init=False, compare=False, repr=False)
    body: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.name) > MAX_CHAIN_NAME:
            raise ValueError(f"chain name {self.name!r} is longer than the kernel's {MAX_CHAIN_NAME} characters")
        texts = [rule.text() for rule in self.rules]
        stamp = ""
        if texts:
            stamp = hashlib.blake2s("\n".join(texts).encode(), digest_size=6).hexdigest()
            texts[0] = self.rules[0].text(f"wherry:{stamp}")
        object.__setattr__(self, "mark", Mark(stamp, len(texts)))
        object.__setattr__(self, "body", "".join(f"-A {self.name} {text}\n" for text in texts))

    @property
    def key(self) -> tuple[Table, str]:
        return self.table, self.name


class Rendered(NamedTuple):
    """A chain that is wholly ours, as text only: what is left of a `Chain` when there are tens of thousands of them.
    `body` is its rules ready for iptables-restore, stamped, one `-A` line each, and `mark` is their mark."""

    table: Table
    name: str
    body: str
    mark: Mark

    @property
    def key(self) -> tuple[Table, str]:
        return self.table, self.name


def stamped(table: Table, chain: str, lines: str) -> Rendered:
    """A chain of these lines (`-A CHAIN -m comment --comment "..." ...`), the stamp put into the first one's comment."""
    if not lines:
        return Rendered(table, chain, "", EMPTY)
    stamp = hashlib.blake2s(lines.encode(), digest_size=6).hexdigest()
    end = lines.index('"', lines.index('--comment "') + len('--comment "'))
    return Rendered(table, chain, f"{lines[:end]} wherry:{stamp}{lines[end:]}", Mark(stamp, lines.count("\n")))


class Position(enum.Enum):
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Jump:
    """Our one rule in a chain that others share. It is there when a rule with its target and comment is there."""

    table: Table
    chain: str
    rule: Rule
    position: Position = Position.FIRST

    def is_in(self, snapshot: Snapshot) -> bool:
        lines = snapshot.lines(self.table, self.chain)
        return any(target_of(line) == self.rule.target and comment_of(line) == self.rule.comment for line in lines)


@dataclass(frozen=True, slots=True)
class Section:
    """One kernel transaction on one table: chains written whole, jumps inserted, saved rules and chains deleted.

    `removals` are (chain, rule as iptables-save printed it); `deleted` chains must be empty and unreferenced by then.
    """

    table: Table
    chains: tuple[Chain | Rendered, ...] = ()
    flushed: tuple[str, ...] = ()
    jumps: tuple[Jump, ...] = ()
    removals: tuple[tuple[str, str], ...] = ()
    deleted: tuple[str, ...] = ()

    def text(self) -> str:
        """The section in iptables-restore's format. All chains are declared before the first rule may name one."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        yield f"*{self.table}\n"
        yield from (f":{chain.name} - [0:0]\n" for chain in self.chains)
        yield from (f":{name} - [0:0]\n" for name in self.flushed)
        yield from (chain.body for chain in self.chains)
        for jump in self.jumps:
            verb = f"-I {jump.chain} 1" if jump.position is Position.FIRST else f"-A {jump.chain}"
            yield f"{verb} {jump.rule.text()}\n"
        yield from (f"-D {chain} {rule}\n" for chain, rule in self.removals)
        yield from (f"-X {name}\n" for name in self.deleted)
        yield "COMMIT\n"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What iptables-save printed: for each table its chains, each with its rules as text without `-A CHAIN`. `policies` are
    those of built-in chains that are not ACCEPT."""

    tables: Mapping[Table, Mapping[str, tuple[str, ...]]]
    policies: Mapping[tuple[Table, str], str] = field(default_factory=dict)

    def lines(self, table: Table, chain: str) -> tuple[str, ...]:
        return self.tables.get(table, {}).get(chain, ())

    def marks(self) -> dict[tuple[Table, str], Mark]:
        """The mark of every chain; a chain without our stamp has an empty one."""
        return {
            (table, name): Mark(stamp_of(lines[0]) if lines else "", len(lines))
            for table, chains in self.tables.items()
            for name, lines in chains.items()
        }


class Survey(NamedTuple):
    """What a comparison needs of tables that may hold hundreds of thousands of rules: the mark of every chain, and the
    rules as text of a few."""

    marks: dict[tuple[Table, str], Mark]
    snapshot: Snapshot


def surveyed(saved: bytes, shown: Collection[str]) -> Survey:
    """Read iptables-save's text; `shown` are the chains whose rules are kept. Nothing else is copied: a table of 10,000
    Services is 18 MB of text, and takes 0.2 s."""
    marks: dict[tuple[Table, str], Mark] = {}
    kept: dict[Table, dict[str, list[str]]] = {}
    known = {table.value.encode(): table for table in Table}
    table, current, first, count = Table.NAT, b"", b"", 0

    def ended() -> None:
        if count:
            stamp = _STAMP_BYTES.search(first)
            marks[table, current.decode()] = Mark(stamp[1].decode() if stamp else "", count)

    for line in io.BytesIO(saved):
        head = line[:1]
        if head == b"-":
            end = line.index(b" ", 3)
            if line[3:end] == current:
                count += 1
            else:
                ended()
                current, first, count = line[3:end], line, 1
            if (name := current.decode()) in shown:
                kept[table].setdefault(name, []).append(line[end + 1 :].decode(errors="replace").rstrip("\n"))
        elif head == b":":
            marks[table, line[1 : line.index(b" ")].decode()] = EMPTY
        elif head == b"*":
            table = known.get(line[1:].strip(), Table.RAW)
            kept.setdefault(table, {})
        elif head == b"C":
            ended()
            current, count = b"", 0
    ended()
    return Survey(
        marks,
        Snapshot({table: {name: tuple(rules) for name, rules in chains.items()} for table, chains in kept.items()}),
    )


def parse(saved: str) -> Snapshot:
    """Read iptables-save's (or iptables-restore's) text. Lines that are not rules or chains are passed over."""
    tables: dict[Table, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    policies: dict[tuple[Table, str], str] = {}
    known = {table.value: table for table in Table}
    name = ""
    for line in saved.splitlines():
        head = line[:1]
        if head == "*":
            name = line[1:].strip()
            current = tables.setdefault(known[name], {}) if name in known else {}
        elif head == ":":
            chain, policy, *_ = [*line[1:].split(" "), "-"]
            current.setdefault(chain, [])
            if policy == "DROP" and name in known:
                policies[known[name], chain] = policy
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            current.setdefault(chain, []).append(rule)
    rules = {table: {name: tuple(lines) for name, lines in chains.items()} for table, chains in tables.items()}
    return Snapshot(rules, policies)


def stamp_of(rule: str) -> str:
    found = _STAMP.search(rule)
    return found[1] if found else ""


def target_of(rule: str) -> str | None:
    found = _TARGET.search(_COMMENT.sub("", rule))
    return found[1] if found else None


def comment_of(rule: str) -> str:
    """A rule's comment without our stamp."""
    found = _COMMENT.search(rule)
    if found is None:
        return ""
    comment = re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2]
    return _STAMP.sub("", comment).strip()


def render(chains: Iterable[Chain | Rendered]) -> str:
    """Whole chains as iptables-restore text, a section a table; what the tracer and golden files read."""
    grouped: dict[Table, list[Chain | Rendered]] = {}
    for chain in chains:
        grouped.setdefault(chain.table, []).append(chain)
    return "".join(Section(table, tuple(group)).text() for table, group in grouped.items())
