"""A packet filter in memory that refuses what the kernel refuses; `tests/contracts/test_packet_filter.py` holds it to that.

It reads the text that would go to iptables-restore, so what it accepts was rendered, not assumed. A section is committed
whole or not at all. Like iptables-save it gives rules back in another spelling than they came in.

What a test may do to it: `cut = n` refuses the nth section from now on (as a kill between two transactions would),
`run(line)` changes a table behind everybody's back (`-t nat -F KUBE-SERVICES`), `refuse = "words"` refuses every write.
`commits` is the log of sections.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from linux.iptables.restore import Refused
from linux.iptables.rules import MAX_CHAIN_NAME, Section, Snapshot, Survey, Table, surveyed, target_of

_BUILT_IN = {
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    Table.MANGLE: ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    Table.RAW: ("PREROUTING", "OUTPUT"),
}
_TARGETS = {
    Table.FILTER: {"ACCEPT", "DROP", "RETURN", "REJECT"},
    Table.NAT: {"ACCEPT", "DROP", "RETURN", "DNAT", "MASQUERADE", "MARK", "SNAT"},
    Table.MANGLE: {"ACCEPT", "DROP", "RETURN", "MARK"},
    Table.RAW: {"ACCEPT", "DROP", "RETURN"},
}

_Chains = dict[str, list[str]]


class FakeIptables:
    def __init__(self, *, chains_per_section: int = 600) -> None:
        self.tables: dict[Table, _Chains] = {table: {name: [] for name in names} for table, names in _BUILT_IN.items()}
        self.commits: list[Section] = []
        self.cut: int | None = None
        self.refuse = ""
        self._chains_per_section = chains_per_section

    @property
    def chains_per_section(self) -> int:
        return self._chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        return Snapshot(
            {table: {name: tuple(map(_saved, rules)) for name, rules in self.tables[table].items()} for table in tables}
        )

    async def survey(self, tables: Sequence[Table], shown: Collection[str]) -> Survey:
        saved = render_saved(await self.read(*tables))
        return surveyed(saved.encode(), shown)

    async def write(self, sections: Sequence[Section]) -> None:
        for section in sections:
            if self.refuse:
                raise Refused(self.refuse, blameless=True)
            if self.cut is not None:
                if self.cut == 0:
                    raise Refused("killed", blameless=True)
                self.cut -= 1
            self.tables[section.table] = _committed(self.tables[section.table], section.table, section.text())
            self.commits.append(section)

    def run(self, line: str) -> None:
        """One iptables command, as somebody else would type it."""
        words = line.split(" ", 2)
        assert words[0] == "-t"
        table = Table(words[1])
        chains = {name: list(rules) for name, rules in self.tables[table].items()}
        _command(chains, table, words[2])
        _check(chains, table)
        self.tables[table] = chains


def render_saved(snapshot: Snapshot) -> str:
    """As iptables-save prints it."""
    lines = []
    for table, chains in snapshot.tables.items():
        lines.append(f"*{table}")
        lines += [f":{name} - [0:0]" for name in chains]
        lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _committed(before: _Chains, table: Table, text: str) -> _Chains:
    chains = {name: list(rules) for name, rules in before.items()}
    lines = text.splitlines()
    if lines[0] != f"*{table}" or lines[-1] != "COMMIT":
        raise Refused(f"a section is *TABLE ... COMMIT, not {lines[0]!r} ... {lines[-1]!r}")
    for number, line in enumerate(lines[1:-1], 2):
        try:
            if line.startswith(":"):
                _declare(chains, table, line[1:].split(" ", 1)[0])
            else:
                _command(chains, table, line)
        except Refused as error:
            raise Refused(f"line {number} failed: {error} [{line}]") from error
    _check(chains, table)
    return chains


def _declare(chains: _Chains, table: Table, name: str) -> None:
    if name in _BUILT_IN[table]:
        raise Refused(f"{name} would lose the rules of others")
    if len(name) > MAX_CHAIN_NAME:
        raise Refused(f"chain name `{name}' too long")
    chains[name] = []


def _command(chains: _Chains, table: Table, line: str) -> None:
    verb, _, rest = line.partition(" ")
    name, _, rule = rest.partition(" ")
    if name not in chains and verb != "-N":
        raise Refused(f"No chain/target/match by that name: {name}")
    match verb:
        case "-A":
            chains[name].append(rule)
        case "-I":
            position, _, rule = rule.partition(" ")
            chains[name].insert(int(position) - 1, rule)
        case "-D":
            wanted = _saved(rule)
            index = next((i for i, text in enumerate(chains[name]) if _saved(text) == wanted), None)
            if index is None:
                raise Refused("Bad rule (does a matching rule exist in that chain?)")
            del chains[name][index]
        case "-F":
            chains[name].clear()
        case "-N":
            chains[name] = []
        case "-X":
            users = [other for other, rules in chains.items() if any(target_of(text) == name for text in rules)]
            if chains[name]:
                raise Refused(f"Directory not empty: {name}")
            if users:
                raise Refused(f"Too many links: {name} is used by {users[0]}")
            if name in _BUILT_IN[table]:
                raise Refused(f"{name} is built in")
            del chains[name]
        case _:
            raise Refused(f"unknown command {verb}")


def _check(chains: _Chains, table: Table) -> None:
    for name, rules in chains.items():
        for rule in rules:
            target = target_of(rule)
            if target is not None and target not in chains and target not in _TARGETS[table]:
                raise Refused(f"table {table}, chain {name}: no chain or target {target} [{rule}]")


def _saved(rule: str) -> str:
    """The rule in another order and with other quotes: matches by address first, as iptables-save does."""
    words = shlex.split(rule)
    addresses: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        start = position
        position += 1 if words[position] != "!" else 2
        while position < len(words) and not words[position].startswith("-") and words[position] != "!":
            position += 1
        piece = words[start:position]
        (addresses if piece[-2:-1] in (["-s"], ["-d"]) else rest).extend(piece)
    return " ".join(_quoted(word) for word in [*addresses, *rest])


def _quoted(word: str) -> str:
    if word and not set(word) & set(" \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
