"""Legacy tables read with python-iptables, in a process that ends with the reading.

python-iptables binds its tables to the network namespace in which they are first used, once for the life of a process,
takes no lock, and loads a table's kernel module by merely looking at it. Hence the worker (`python -m
linux.iptables.legacy_reader FAMILY WHAT TABLE...`): it lives for one reading, in the caller's namespace, and looks only at tables
that exist there. It sees nothing of nf_tables. It prints iptables-save's format, so everything else is shared.

Its objects cost a third of a millisecond a rule: a minute for a large node. So a survey goes below them: its handle gives
each rule as the kernel's own `struct ipt_entry`, whose comment is read from the bytes; only rules of the chains that are to
be shown become objects.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from linux import process
from linux.iptables.backend import present
from linux.iptables.restore import PacketFilter, Refused
from linux.iptables.rules import Family, Section, Snapshot, Survey, Table, parse, surveyed

_ALL = "--all"
_MATCH_HEAD = 32  # struct xt_entry_match
_EVERYBODY = re.compile(r"/(0|0\.0\.0\.0|::)$")


class LegacyTables:
    """A PacketFilter that reads with python-iptables and writes through another one."""

    def __init__(self, writer: PacketFilter, family: Family, python: str = sys.executable) -> None:
        self._writer = writer
        self._family = family
        self._python = python

    @property
    def chains_per_section(self) -> int:
        return self._writer.chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        """Raises Refused when the worker fails."""
        return parse((await self._run(_ALL, tables)).decode())

    async def survey(self, tables: Sequence[Table], shown: Collection[str]) -> Survey:
        return surveyed(await self._run(",".join(sorted(shown)), tables), shown)

    async def write(self, sections: Sequence[Section]) -> None:
        await self._writer.write(sections)

    async def _run(self, shown: str, tables: Sequence[Table]) -> bytes:
        try:
            argv = [self._python, "-m", __name__, str(int(self._family)), shown, *tables]
            return (await process.run(argv, timeout=120)).stdout
        except process.CommandFailed as error:
            raise Refused(str(error), blameless=True) from error


def saved(family: Family, table: str, shown: Collection[str] | None) -> Iterator[str]:
    """One table, line by line, as iptables-save would spell it; of chains that are not `shown` (None: all are) only the
    comment of the first rule, and a line for each other."""
    import iptc

    opened = (iptc.Table if family is Family.V4 else iptc.Table6)(table)
    yield f"*{table}"
    chains = opened.chains
    for chain in chains:
        yield f":{chain.name} - [0:0]"
    for chain in chains:
        if shown is None or chain.name in shown:
            for rule in chain.rules:
                yield f"-A {chain.name} {' '.join(_rule(rule))}"
        else:
            yield from _outline(opened, chain.name)
    yield "COMMIT"


def _outline(table: Any, chain: str) -> Iterator[str]:
    library, handle = table._iptc, table._handle
    entry = library.iptc_first_rule(chain.encode(), handle)
    if entry:
        yield f'-A {chain} -m comment --comment "{_comment(entry.contents)}"'
        while entry := library.iptc_next_rule(entry, handle):
            yield f"-A {chain} -"


def _comment(entry: Any) -> str:
    """Of a struct ipt_entry: its matches stand between its end and its target, each with its length and name in front."""
    length = entry.target_offset - ctypes.sizeof(entry)
    matches = ctypes.string_at(ctypes.addressof(entry) + ctypes.sizeof(entry), length)
    offset = 0
    while offset + _MATCH_HEAD <= length:
        size, name = struct.unpack_from("=H29s", matches, offset)
        if name.startswith(b"comment\0"):
            return matches[offset + _MATCH_HEAD : offset + size].split(b"\0", 1)[0].decode(errors="replace")
        offset += max(size, _MATCH_HEAD)
    return ""


def _rule(rule: Any) -> Iterator[str]:
    for flag, value in (("-s", rule.src), ("-d", rule.dst)):
        if value.lstrip("!").split("/", 1)[0] not in ("0.0.0.0", "::") or not _EVERYBODY.search(value):
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


def main(argv: Sequence[str]) -> int:
    family, shown, *names = argv
    there = present(Family(int(family)))
    for name in (name for name in names if name in there):
        for line in saved(Family(int(family)), name, None if shown == _ALL else shown.split(",")):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
