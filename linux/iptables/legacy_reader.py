"""Legacy tables read with python-iptables, in a process that ends with the reading.

python-iptables binds its tables to the network namespace in which they are first used, once for the life of a process,
takes no lock, and loads a table's kernel module by merely looking at it. Hence the worker (`python -m
linux.iptables.legacy_reader TABLE...`): it lives for one reading, in the caller's namespace, and looks only at tables
that exist there. It sees nothing of nf_tables. What it prints is iptables-save's format, so everything else is shared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from linux import process
from linux.iptables.restore import PacketFilter, Refused
from linux.iptables.rules import Section, Snapshot, Table, parse

_PRESENT = Path("/proc/net/ip_tables_names")


class LegacyTables:
    """A PacketFilter that reads with python-iptables and writes through another one. IPv4 only."""

    def __init__(self, writer: PacketFilter, python: str = sys.executable) -> None:
        self._writer = writer
        self._python = python

    @property
    def chains_per_section(self) -> int:
        return self._writer.chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        """Raises Refused when the worker fails."""
        try:
            done = await process.run([self._python, "-m", __name__, *tables], timeout=120)
        except process.CommandFailed as error:
            raise Refused(str(error)) from error
        return parse(done.stdout.decode())

    async def write(self, sections: Sequence[Section]) -> None:
        await self._writer.write(sections)


def present(names: Iterable[str]) -> list[str]:
    """Those of the tables that are there in this network namespace."""
    try:
        there = _PRESENT.read_text().split()
    except FileNotFoundError:
        return []
    return [name for name in names if name in there]


def saved(table: str) -> Iterator[str]:
    """One table, line by line, as iptables-save would spell it."""
    import iptc

    yield f"*{table}"
    chains = iptc.Table(table).chains
    for chain in chains:
        yield f":{chain.name} - [0:0]"
    for chain in chains:
        for rule in chain.rules:
            yield f"-A {chain.name} {' '.join(_rule(rule))}"
    yield "COMMIT"


def _rule(rule: Any) -> Iterator[str]:
    for flag, value in (("-s", rule.src), ("-d", rule.dst)):
        if value.lstrip("!") not in ("0.0.0.0/0.0.0.0", "0.0.0.0/0"):
            yield _inverted(flag, value)
    for flag, value in (("-i", rule.in_interface), ("-o", rule.out_interface)):
        if value:
            yield _inverted(flag, value)
    if rule.protocol not in ("ip", "all", "0"):
        yield _inverted("-p", rule.protocol)
    for match in rule.matches:
        yield f"-m {match.name}"
        yield from _parameters(match)
    if rule.target is not None and rule.target.name:
        yield f"{'-g' if rule.target.goto else '-j'} {rule.target.name}"
        yield from _parameters(rule.target)


def _parameters(extension: Any) -> Iterator[str]:
    for name, values in extension.get_all_parameters().items():
        flag = f"--{name.replace('_', '-')}"
        words = [values] if isinstance(values, str) else list(values)
        if words[:1] == ["!"]:
            yield "!"
            words = words[1:]
        yield " ".join([flag, *(_quoted(word) for word in words)])


def _inverted(flag: str, value: str) -> str:
    return f"! {flag} {value[1:].strip()}" if value.startswith("!") else f"{flag} {value}"


def _quoted(word: str) -> str:
    if word and not any(letter in word for letter in " \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def main(names: Sequence[str]) -> int:
    for name in present(names):
        for line in saved(name):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
