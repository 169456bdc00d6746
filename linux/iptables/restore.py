"""The one door to the packet filter: iptables-save reads, `iptables-restore --noflush` writes.

A write is a list of sections; each is one kernel transaction, all go through one process in order, and the first that is
refused stops the rest: what came before it stays. `--noflush` leaves every chain alone that the text does not name.
The legacy backend takes the lock file ($XTABLES_LOCKFILE, else /run/xtables.lock) and waits for it; the nft backend
ignores it, because the kernel refuses a transaction built on an outdated generation and iptables tries again itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Protocol

from linux import process
from linux.iptables.backend import Backend
from linux.iptables.rules import Section, Snapshot, Table, parse

LOCK_SECONDS = 5
_LINE = re.compile(r"(?:line:? |line )(\d+)")


class Refused(Exception):
    """The kernel or iptables would not take it. Says which command, and for a write which line."""


class PacketFilter(Protocol):
    """What rooms need of a packet filter; the real one is `Iptables`, the other `tests.fakes.iptables`."""

    @property
    def chains_per_section(self) -> int:
        """How many chains one transaction should hold at most."""
        ...

    async def read(self, *tables: Table) -> Snapshot:
        """The named tables' chains and rules, at one moment per table."""
        ...

    async def write(self, sections: Sequence[Section]) -> None:
        """Commit the sections in order. Raises `Refused` at the first that is not taken."""
        ...


class Iptables:
    """The kernel's own, in the network namespace of this process."""

    def __init__(self, backend: Backend, *, timeout: float = 120.0) -> None:
        self.backend = backend
        self._timeout = timeout

    @property
    def chains_per_section(self) -> int:
        return self.backend.chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(self._run([self.backend.save, "-t", table.value])) for table in tables]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # the others fail for the same reason
        return parse("".join(run.result() for run in runs))

    async def write(self, sections: Sequence[Section]) -> None:
        if not sections:
            return
        text = "".join(section.text() for section in sections)
        await self._run([self.backend.restore, "-w", str(LOCK_SECONDS), "--noflush"], text)

    async def _run(self, argv: Sequence[str], text: str | None = None) -> str:
        try:
            done = await process.run(argv, input=None if text is None else text.encode(), timeout=self._timeout)
        except process.CommandFailed as error:
            raise Refused(_explained(error, text)) from error
        return done.stdout.decode(errors="replace")


def _explained(error: process.CommandFailed, text: str | None) -> str:
    """iptables' own words, with the line it points at."""
    message = " ".join(str(error).split())
    found = _LINE.search(error.stderr)
    if found is not None and text is not None:
        lines = text.splitlines()
        number = int(found[1])
        if 1 <= number <= len(lines):
            message += f" [{lines[number - 1]}]"
    return message
