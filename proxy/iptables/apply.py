"""Carrying the plan out, and remembering what was carried out so that the next pass writes only what differs.

The memory is a shortcut, never the truth: it starts empty, it is thrown away after any refusal and whenever somebody
else may have touched the rules, and then the kernel is read and its stamps are compared. So a restarted proxy rewrites
nothing that is right, and a proxy killed between two transactions goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kube.errors import Retry
from linux.iptables.changes import Key, Wanted, changes, missing, removals
from linux.iptables.restore import PacketFilter, Refused
from linux.iptables.rules import Jump, Mark, Section, Table
from proxy.iptables import chains

TABLES = (Table.MANGLE, Table.NAT, Table.FILTER)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """`full`: the kernel was read and compared. `repaired`: something of ours had been changed behind our back."""

    full: bool
    repaired: bool
    chains_written: int
    chains_deleted: int
    rules_written: Mapping[Table, int]


class Rules:
    """Our chains in one packet filter. One pass at a time."""

    def __init__(self, packets: PacketFilter) -> None:
        self._packets = packets
        self._marks: dict[Key, Mark] | None = None
        self._written: dict[Key, Mark] = {}

    def doubt(self) -> None:
        """Somebody may have touched the rules: read them in the next pass."""
        self._marks = None

    @property
    def doubted(self) -> bool:
        return self._marks is None

    async def apply(self, wanted: Wanted) -> Applied:
        """Make the kernel hold `wanted`. Raises Retry when it refuses; what was committed until then stays and is
        right as far as it goes."""
        full = self._marks is None
        absent: tuple[Jump, ...] = ()
        if self._marks is None:
            self._marks, absent = await self._read(wanted)
        marks = self._marks
        repaired = full and bool(self._written) and (bool(absent) or self._lost(marks))
        todo = changes(wanted, marks, absent, chains_per_section=self._packets.chains_per_section)
        await self._write(todo.writes)
        for section in todo.writes:
            marks.update({chain.key: chain.mark for chain in section.chains})
        self._written = {chain.key: chain.mark for chain in wanted.chains()}
        await self._write(todo.deletions)
        for section in todo.deletions:
            for name in section.deleted:
                marks.pop((section.table, name), None)
        return Applied(
            full=full,
            repaired=repaired,
            chains_written=sum(len(section.chains) for section in todo.writes),
            chains_deleted=sum(len(section.deleted) for section in todo.deletions),
            rules_written={
                table: sum(
                    chain.mark.length for section in todo.writes if section.table is table for chain in section.chains
                )
                for table in (Table.NAT, Table.FILTER)
            },
        )

    def _lost(self, marks: Mapping[Key, Mark]) -> bool:
        return any(marks.get(key) != mark for key, mark in self._written.items())

    async def _read(self, wanted: Wanted) -> tuple[dict[Key, Mark], tuple[Jump, ...]]:
        try:
            snapshot = await self._packets.read(*TABLES)
        except Refused as error:
            raise Retry(f"reading the rules: {error}") from error
        return snapshot.marks(), missing(wanted.jumps, snapshot)

    async def _write(self, sections: Sequence[Section]) -> None:
        try:
            await self._packets.write(sections)
        except Refused as error:
            self.doubt()
            raise Retry(f"writing the rules: {error}") from error
        except BaseException:
            self.doubt()  # cancelled half-way: what was committed is unknown
            raise


async def forget(packets: PacketFilter, tables: Sequence[Table] = TABLES) -> int:
    """Delete every chain of ours and every jump to one; how many chains there were. Rules of others stay, and so does
    KUBE-FIREWALL, which the kubelet shares. Raises Retry when the kernel refuses."""
    try:
        snapshot = await packets.read(*tables)
        sections = removals(snapshot, chains.is_ours, chains_per_section=packets.chains_per_section)
        await packets.write(sections)
    except Refused as error:
        raise Retry(f"deleting the rules: {error}") from error
    return sum(len(section.deleted) for section in sections)
