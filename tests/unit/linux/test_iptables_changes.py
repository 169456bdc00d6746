"""What is written, in which order; and that stopping after any step and starting again leads to the same end."""

from __future__ import annotations

import itertools

import pytest

from linux.iptables.changes import Wanted, changes, missing
from linux.iptables.restore import Refused
from linux.iptables.rules import Chain, Jump, Rule, Table
from tests.fakes.iptables import FakeIptables


def leaf(name: str, port: int = 80) -> Chain:
    return Chain(Table.NAT, f"T-{name}", (Rule(f"-p tcp -j DNAT --to-destination 10.0.0.1:{port}", name),))


def fork(name: str, *to: str) -> Chain:
    return Chain(Table.NAT, f"T-{name}", tuple(Rule(f"-j T-{target}", name) for target in to))


JUMP = Jump(Table.NAT, "OUTPUT", Rule("-j T-top", "ours"))
BEFORE = Wanted(
    [[leaf("a"), fork("one", "a")], [leaf("b"), leaf("c"), fork("two", "b", "c")], [fork("top", "one", "two")]],
    [JUMP],
    lambda key: key[1].startswith("T-"),
)
AFTER = Wanted(
    [[leaf("b", 81), fork("two", "b")], [leaf("d"), fork("three", "d")], [fork("top", "two", "three")]],
    [JUMP],
    lambda key: key[1].startswith("T-"),
)


async def settle(packets: FakeIptables, wanted: Wanted) -> None:
    snapshot = await packets.read(Table.NAT)
    todo = changes(
        wanted,
        snapshot.marks(),
        missing(wanted.jumps, snapshot),
        chains_per_section=packets.chains_per_section,
    )
    await packets.write(todo.writes)
    await packets.write(todo.deletions)


async def test_only_what_differs_is_written() -> None:
    packets = FakeIptables()
    await settle(packets, BEFORE)
    packets.commits.clear()
    await settle(packets, BEFORE)
    assert packets.commits == []
    other = Wanted([[leaf("a", 99)], *BEFORE.groups[1:]], [JUMP], lambda _key: False)
    await settle(packets, other)
    assert [[chain.name for chain in section.chains] for section in packets.commits] == [["T-a"]]


async def test_groups_are_packed_but_never_split() -> None:
    packets = FakeIptables(chains_per_section=4)
    await settle(packets, BEFORE)
    written = [[chain.name for chain in section.chains] for section in packets.commits if section.chains]
    assert written == [["T-a", "T-one"], ["T-b", "T-c", "T-two", "T-top"]]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_cut_anywhere_and_run_again_it_converges(size: int) -> None:
    reference = FakeIptables(chains_per_section=size)
    await settle(reference, AFTER)
    for steps in itertools.count():
        packets = FakeIptables(chains_per_section=size)
        await settle(packets, BEFORE)
        packets.cut = steps
        try:
            await settle(packets, AFTER)
        except Refused:
            packets.cut = None
            await settle(packets, AFTER)
            assert packets.tables == reference.tables
            continue
        assert steps > 0
        assert packets.tables == reference.tables
        return


async def test_a_lost_jump_comes_back() -> None:
    packets = FakeIptables()
    await settle(packets, BEFORE)
    packets.run("-t nat -F OUTPUT")
    packets.commits.clear()
    await settle(packets, BEFORE)
    assert [section.jumps for section in packets.commits] == [(JUMP,)]


async def test_stale_chains_that_name_each_other_go_in_any_order() -> None:
    packets = FakeIptables(chains_per_section=1)
    await settle(packets, BEFORE)
    await settle(packets, Wanted([[Chain(Table.NAT, "T-top")]], [JUMP], lambda key: key[1].startswith("T-")))
    assert [name for name in packets.tables[Table.NAT] if name.startswith("T-")] == ["T-top"]
