"""The one door to the packet filter: iptables-save reads, `iptables-restore --noflush` writes.

A write is a list of sections; each is one kernel transaction, all go through one process in order, and the first that is
refused stops the rest: what came before it stays. `--noflush` leaves every chain alone that the text does not name.
The legacy backend takes the lock file ($XTABLES_LOCKFILE, else /run/xtables.lock) and waits for it; the nft backend
ignores it, because the kernel refuses a transaction built on an outdated generation and iptables tries again itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Protocol

from linux import process
from linux.iptables import lock
from linux.iptables.backend import Backend
from linux.iptables.rules import Section, Snapshot, Survey, Table, parse, surveyed

LOCK_SECONDS = 5
_PIECES = 1000
_SMALL = 1 << 20  # bytes of a survey: 10 ms
_LOCKED = "holding the xtables lock"  # the exit status, 4, is that of other refusals too
_NOT_STARTED = 127
_BUSY = ("Resource temporarily unavailable",)
_LINE = re.compile(r"line:? (\d+)")


class Refused(Exception):
    """The kernel or iptables would not take it. Says which command, and for a write which line.

    `lines`: the lines of a write that were pointed at, none when nobody said. `blameless`: it was no rule's fault: somebody
    else held the lock, or the program could not be run to its end.
    """

    def __init__(self, message: str, *, lines: Sequence[str] = (), blameless: bool = False) -> None:
        super().__init__(message)
        self.lines = tuple(lines)
        self.blameless = blameless


class PacketFilter(Protocol):
    """What rooms need of a packet filter; the real one is `Iptables`, the other `tests.fakes.iptables`."""

    @property
    def chains_per_section(self) -> int:
        """How many chains one transaction should hold at most."""
        ...

    async def read(self, *tables: Table) -> Snapshot:
        """The named tables' chains and rules, at one moment per table."""
        ...

    async def survey(self, tables: Sequence[Table], shown: Collection[str]) -> Survey:
        """The marks of all chains of the named tables, and the rules of the chains in `shown`."""
        ...

    async def write(self, sections: Sequence[Section]) -> None:
        """Commit the sections in order. Raises `Refused` at the first that is not taken."""
        ...


class Iptables:
    """The kernel's own, in the network namespace of this process."""

    def __init__(
        self, backend: Backend, *, timeout: float = 120.0, started: Callable[[int], None] | None = None
    ) -> None:
        """`started` hears the process id of each command."""
        self.backend = backend
        self._timeout = timeout
        self._started = started

    @property
    def chains_per_section(self) -> int:
        return self.backend.chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        return parse((await self._saved(tables)).decode(errors="replace"))

    async def survey(self, tables: Sequence[Table], shown: Collection[str]) -> Survey:
        saved = await self._saved(tables)
        return surveyed(saved, shown) if len(saved) < _SMALL else await asyncio.to_thread(surveyed, saved, shown)

    async def _saved(self, tables: Sequence[Table]) -> bytes:
        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(self._run([self.backend.save, "-t", table.value])) for table in tables]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # the others fail for the same reason
        return b"".join(run.result() for run in runs)

    async def write(self, sections: Sequence[Section]) -> None:
        if not sections:
            return
        await self._run([self.backend.restore, "-w", str(LOCK_SECONDS), "--noflush"], sections)

    async def _run(self, argv: Sequence[str], sections: Sequence[Section] = ()) -> bytes:
        try:
            done = await process.run(argv, input=_text(sections), timeout=self._timeout, started=self._started)
        except process.CommandFailed as error:
            raise _explained(error, sections) from error
        return done.stdout


def _text(sections: Sequence[Section]) -> Iterator[bytes]:
    """In pieces: a whole legacy table may be 18 MB."""
    pieces = (piece for section in sections for piece in section.pieces())
    while some := "".join(islice(pieces, _PIECES)):
        yield some.encode()


def _explained(error: process.CommandFailed, sections: Sequence[Section]) -> Refused:
    """iptables' own words, with the lines it points at; and who holds the lock, if that is what it says."""
    message = " ".join(str(error).split())
    if _LOCKED in error.stderr:
        return Refused(f"{message} [{lock.holders()}]", blameless=True)
    if not sections or error.returncode is None or error.returncode < 0 or error.returncode == _NOT_STARTED:
        return Refused(message, blameless=True)
    numbers = {int(number) for number in _LINE.findall(error.stderr)}
    lines = (line for section in sections for piece in section.pieces() for line in piece.splitlines())
    shown = [line for number, line in enumerate(lines, 1) if number in numbers and line != "COMMIT"]
    if shown:
        message += f" [{shown[0]}]"
    return Refused(message, lines=shown, blameless=any(word in error.stderr for word in _BUSY))
