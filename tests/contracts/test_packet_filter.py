"""One suite over every packet filter: the fake that unit tests trust, and both of the kernel's, in a namespace each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from linux import netns as kernel_netns
from linux.iptables import backend
from linux.iptables.changes import Wanted, changes, missing, removals
from linux.iptables.legacy_reader import LegacyTables
from linux.iptables.restore import Iptables, PacketFilter, Refused
from linux.iptables.rules import Chain, Family, Jump, Position, Rendered, Rule, Section, Snapshot, Survey, Table
from tests.conftest import Netns
from tests.fakes.iptables import FakeIptables
from tests.requirements import requires

Scenario = Callable[[PacketFilter], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]

TO_B = Chain(Table.NAT, "T-A", (Rule("-s 10.0.0.1 -j T-B", "to b"), Rule("-j RETURN")))
B = Chain(Table.NAT, "T-B", (Rule("-m tcp -p tcp -j DNAT --to-destination 10.0.0.2:80", 'say "b" \\ once'),))
JUMP = Jump(Table.NAT, "OUTPUT", Rule("-j T-A", "to ours"))


PYTHON, PYTHON_SIXTH = "legacy by python-iptables v4", "legacy by python-iptables v6"
KINDS = ["fake", "nft v4", "nft v6", "legacy v4", "legacy v6", PYTHON]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """`run(scenario)`: the scenario, over one kind of packet filter that holds nothing yet."""
    kind = request.param
    if kind == "fake":
        fake = FakeIptables()
        yield lambda scenario: asyncio.run(scenario(fake))
        return
    flavor = backend.Flavor.NFT if kind.startswith("nft") else backend.Flavor.LEGACY
    family = Family(int(kind[-1]))
    requires("netns", f"{family.command}-{flavor}-restore")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    space: Netns = request.getfixturevalue("netns")("packets")

    async def real(scenario: Scenario) -> None:
        packets = Familiar(Iptables(await backend.named(family, flavor)), family)
        await scenario(LegacyTables(packets, family) if "python" in kind else packets)

    def inside(scenario: Scenario) -> None:
        with kernel_netns.enter(space.path):
            asyncio.run(real(scenario))

    yield inside


class Familiar:
    """Spells the scenarios' addresses in the family."""

    def __init__(self, packets: Iptables, family: Family) -> None:
        self._packets = packets
        self._family = family
        self.chains_per_section = packets.chains_per_section

    async def read(self, *tables: Table) -> Snapshot:
        return await self._packets.read(*tables)

    async def survey(self, tables: Sequence[Table], shown: Collection[str]) -> Survey:
        return await self._packets.survey(tables, shown)

    async def write(self, sections: Sequence[Section]) -> None:
        await self._packets.write([self._spelt(section) for section in sections])

    def _spelt(self, section: Section) -> Section:
        if self._family is Family.V4:
            return section
        chains = tuple(chain._replace(body=sixth(chain.body)) for chain in map(rendered, section.chains))
        jumps = tuple(replace(jump, rule=replace(jump.rule, spec=sixth(jump.rule.spec))) for jump in section.jumps)
        return replace(section, chains=chains, jumps=jumps)


def rendered(chain: Chain | Rendered) -> Rendered:
    return Rendered(chain.table, chain.name, chain.body, chain.mark)


def sixth(text: str) -> str:
    """10.0.0.2:80 is [fd00::2]:80."""
    text = re.sub(r"\b10\.\d+\.\d+\.(\d+):(\d+)", r"[fd00::\1]:\2", text)
    return re.sub(r"\b10\.\d+\.\d+\.(\d+)", r"fd00::\1", text)


def test_chains_come_back_with_their_marks(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (TO_B, B), jumps=(JUMP,))])
        snapshot = await packets.read(Table.NAT)
        marks = snapshot.marks()
        assert marks[TO_B.key] == TO_B.mark
        assert marks[B.key] == B.mark
        assert JUMP.is_in(snapshot)
        assert not Jump(Table.NAT, "PREROUTING", JUMP.rule).is_in(snapshot)

    run(scenario)


@pytest.mark.parametrize("run", [*KINDS, PYTHON_SIXTH], indirect=True)
def test_a_survey_tells_what_a_reading_tells(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (TO_B, B), jumps=(JUMP,))])
        survey = await packets.survey((Table.NAT,), {"OUTPUT", "T-NOWHERE"})
        snapshot = await packets.read(Table.NAT)
        marks = snapshot.marks()
        assert {key: mark for key, mark in survey.marks.items() if key in marks} == marks
        assert survey.snapshot.tables == {Table.NAT: {"OUTPUT": snapshot.lines(Table.NAT, "OUTPUT")}}

    run(scenario)


def test_an_empty_table_has_no_chains_of_ours(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        snapshot = await packets.read(Table.NAT, Table.FILTER, Table.MANGLE)
        assert not [key for key in snapshot.marks() if key[1].startswith("T-")]
        assert removals(snapshot, lambda key: key[1].startswith("T-"), chains_per_section=600) == ()

    run(scenario)


def test_writing_a_chain_replaces_it_and_leaves_others(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (B, TO_B))])
        other = Chain(Table.NAT, "T-A", (Rule("-j ACCEPT"),))
        await packets.write([Section(Table.NAT, (other,))])
        marks = (await packets.read(Table.NAT)).marks()
        assert marks[other.key] == other.mark
        assert marks[B.key] == B.mark

    run(scenario)


def test_a_jump_to_nowhere_is_refused_and_nothing_of_its_section_stays(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (B,))])
        changed = Chain(Table.NAT, "T-B", (Rule("-j ACCEPT"),))
        lost = Chain(Table.NAT, "T-C", (Rule("-j T-NOWHERE"),))
        with pytest.raises(Refused):
            await packets.write([Section(Table.NAT, (changed, lost))])
        marks = (await packets.read(Table.NAT)).marks()
        assert marks[B.key] == B.mark
        assert lost.key not in marks

    run(scenario)


def test_sections_before_a_refused_one_stay(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        lost = Chain(Table.NAT, "T-C", (Rule("-j T-NOWHERE"),))
        with pytest.raises(Refused):
            await packets.write([Section(Table.NAT, (B,)), Section(Table.NAT, (lost,)), Section(Table.NAT, (TO_B,))])
        marks = (await packets.read(Table.NAT)).marks()
        assert marks[B.key] == B.mark
        assert TO_B.key not in marks

    run(scenario)


def test_a_chain_in_use_is_not_deleted(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (TO_B, B))])
        with pytest.raises(Refused):
            await packets.write([Section(Table.NAT, flushed=("T-B",), deleted=("T-B",))])
        assert (await packets.read(Table.NAT)).marks()[B.key] == B.mark

    run(scenario)


def test_chains_that_name_each_other_are_deleted_together(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (TO_B, B))])
        await packets.write([Section(Table.NAT, flushed=("T-B", "T-A"), deleted=("T-B", "T-A"))])
        assert not {TO_B.key, B.key} & set((await packets.read(Table.NAT)).marks())

    run(scenario)


def test_reject_belongs_to_filter(run: Run) -> None:
    async def scenario(packets: PacketFilter) -> None:
        rule = Rule("-d 10.0.0.9 -j REJECT", "nobody")
        await packets.write([Section(Table.FILTER, (Chain(Table.FILTER, "T-F", (rule,)),))])
        with pytest.raises(Refused):
            await packets.write([Section(Table.NAT, (Chain(Table.NAT, "T-F", (rule,)),))])

    run(scenario)


def test_jumps_go_where_they_are_told_and_removals_spare_others(run: Run) -> None:
    foreign = Jump(Table.NAT, "OUTPUT", Rule("-d 10.9.9.9 -j ACCEPT", "not ours"), Position.LAST)
    last = Jump(Table.NAT, "OUTPUT", Rule("-j T-B", "last"), Position.LAST)

    async def scenario(packets: PacketFilter) -> None:
        await packets.write([Section(Table.NAT, (TO_B, B), jumps=(foreign,))])
        await packets.write([Section(Table.NAT, jumps=(JUMP, last))])
        snapshot = await packets.read(Table.NAT)
        lines = snapshot.lines(Table.NAT, "OUTPUT")
        assert ["to ours" in lines[0], "not ours" in lines[1], "last" in lines[2]] == [True] * 3
        await packets.write(removals(snapshot, lambda key: key[1].startswith("T-"), chains_per_section=600))
        after = await packets.read(Table.NAT)
        assert [line for line in after.lines(Table.NAT, "OUTPUT") if "not ours" in line]
        assert len(after.lines(Table.NAT, "OUTPUT")) == 1
        assert not {TO_B.key, B.key} & set(after.marks())

    run(scenario)


def test_what_somebody_else_changed_is_written_again(run: Run) -> None:
    wanted = Wanted([[B], [TO_B]], [JUMP], lambda key: key[1].startswith("T-"))

    async def settle(packets: PacketFilter) -> int:
        snapshot = await packets.read(Table.NAT)
        todo = changes(wanted, snapshot.marks(), missing(wanted.jumps, snapshot), chains_per_section=600)
        await packets.write(todo.writes)
        await packets.write(todo.deletions)
        return len(todo.writes) + len(todo.deletions)

    async def scenario(packets: PacketFilter) -> None:
        assert await settle(packets) > 0
        assert await settle(packets) == 0
        intruder = Jump(Table.NAT, "T-B", Rule("-d 10.0.0.7 -j ACCEPT", "an intruder"), Position.LAST)
        await packets.write([Section(Table.NAT, jumps=(intruder,), flushed=("T-A",))])
        stale = Chain(Table.NAT, "T-OLD", (Rule("-j T-B"),))
        await packets.write([Section(Table.NAT, (stale,))])
        assert await settle(packets) > 0
        assert await settle(packets) == 0
        assert stale.key not in (await packets.read(Table.NAT)).marks()

    run(scenario)
