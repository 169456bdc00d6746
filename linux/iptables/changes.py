"""What to write so that the kernel holds the chains we want: pure, and safe to stop after any step.

The wish comes as groups of chains in writing order. A group refers only to itself and to groups before it, so after
every transaction each jump in the kernel leads to a chain that exists. The order of steps is:

    1. groups whose marks differ, referees before referrers, packed into transactions of bounded size
    2. jumps from shared chains that are missing
    3. chains of ours that nobody wants any more: first emptied (all of them), then deleted

Step 3 empties everything before it deletes anything because a stale chain may still be named by another stale chain.
Transactions are bounded because iptables-nft needs time quadratic in the chains of one transaction
(10,000 Services at once: 767 s; in sections of 100: 4 s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from linux.iptables.rules import Chain, Jump, Mark, Rendered, Section, Snapshot, Table, target_of

Key = tuple[Table, str]
Marks = Mapping[Key, Mark]


@dataclass(frozen=True, slots=True)
class Wanted:
    """All chains of ours, in groups that are written together, and our jumps from shared chains.

    `owns` tells, by table and name, which chains in the kernel are ours to delete when no group holds them.
    """

    groups: Sequence[Sequence[Chain | Rendered]]
    jumps: Sequence[Jump]
    owns: Callable[[Key], bool]

    def chains(self) -> Iterator[Chain | Rendered]:
        for group in self.groups:
            yield from group


@dataclass(frozen=True, slots=True)
class Changes:
    """`writes` must succeed before `deletions` are tried; a refused deletion leaves the packets' paths right."""

    writes: tuple[Section, ...]
    deletions: tuple[Section, ...]


def changes(wanted: Wanted, marks: Marks, missing: Iterable[Jump], *, chains_per_section: int) -> Changes:
    """The transactions that lead from the `marks` seen in the kernel to what is wanted."""
    writes = [*_packed(wanted.groups, marks, chains_per_section)]
    by_table: dict[Table, list[Jump]] = {}
    for jump in missing:
        by_table.setdefault(jump.table, []).append(jump)
    writes += [Section(table, jumps=tuple(jumps)) for table, jumps in by_table.items()]
    keep = {chain.key for chain in wanted.chains()}
    stale = [key for key in marks if key not in keep and wanted.owns(key)]
    return Changes(tuple(writes), tuple(deletions(stale, chains_per_section)))


def deletions(stale: Iterable[Key], chains_per_section: int) -> Iterator[Section]:
    """Empty all the given chains, then delete them."""
    by_table: dict[Table, list[str]] = {}
    for table, name in stale:
        by_table.setdefault(table, []).append(name)
    for table, names in by_table.items():
        batches = list(_batches(names, chains_per_section))
        if len(batches) == 1:
            yield Section(table, flushed=batches[0], deleted=batches[0])
            continue
        yield from (Section(table, flushed=batch) for batch in batches)
        yield from (Section(table, deleted=batch) for batch in batches)


def missing(jumps: Iterable[Jump], snapshot: Snapshot) -> tuple[Jump, ...]:
    return tuple(jump for jump in jumps if not jump.is_in(snapshot))


def removals(snapshot: Snapshot, owns: Callable[[Key], bool], *, chains_per_section: int) -> tuple[Section, ...]:
    """The transactions that delete every chain of ours and every rule elsewhere that leads to one."""
    rules: dict[Table, list[tuple[str, str]]] = {}
    stale: list[Key] = []
    for table, chains in snapshot.tables.items():
        for name, lines in chains.items():
            if owns((table, name)):
                stale.append((table, name))
                continue
            found = [(name, line) for line in lines if (target := target_of(line)) and owns((table, target))]
            rules.setdefault(table, []).extend(found)
    jumps = [Section(table, removals=tuple(found)) for table, found in rules.items() if found]
    return (*jumps, *deletions(stale, chains_per_section))


def _packed(groups: Sequence[Sequence[Chain | Rendered]], marks: Marks, limit: int) -> Iterator[Section]:
    table: Table | None = None
    pending: list[Chain | Rendered] = []
    for group in groups:
        for part in _by_table(chain for chain in group if marks.get(chain.key) != chain.mark):
            if pending and (part[0].table is not table or len(pending) + len(part) > limit):
                yield Section(pending[0].table, tuple(pending))
                pending = []
            table = part[0].table
            pending += part
    if pending:
        yield Section(pending[0].table, tuple(pending))


def _by_table(chains: Iterable[Chain | Rendered]) -> list[list[Chain | Rendered]]:
    parts: dict[Table, list[Chain | Rendered]] = {}
    for chain in chains:
        parts.setdefault(chain.table, []).append(chain)
    return list(parts.values())


def _batches(names: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    rest = iter(names)
    while batch := tuple(islice(rest, size)):
        yield batch
