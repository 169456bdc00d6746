"""What is written when; that a restart writes nothing; that a kill at any step is repaired by the next start."""

from __future__ import annotations

import itertools

import pytest

from kube.errors import Retry
from linux.iptables.rules import Table
from proxy.iptables import plan
from proxy.iptables.apply import TABLES, Rules, forget
from tests.fakes.iptables import FakeIptables
from tests.unit.proxy.flows import HERE, POLICY, THERE, endpoint, service

ONE = service(HERE, THERE, name="a/one:http")
TWO = service(THERE, name="a/two:http", cluster_ip="172.30.0.42", node_port=30082)
NONE = service(name="a/none:http", cluster_ip="172.30.0.43", node_port=30083)


def written(packets: FakeIptables) -> list[str]:
    return [chain.name for section in packets.commits for chain in section.chains]


async def test_a_change_writes_only_the_chains_it_touches() -> None:
    packets = FakeIptables()
    rules = Rules(packets)
    first = await rules.apply(plan.tree([ONE, TWO, NONE], POLICY))
    assert first.full
    packets.commits.clear()

    again = await rules.apply(plan.tree([ONE, TWO, NONE], POLICY))
    assert (again.full, again.chains_written, packets.commits) == (False, 0, [])

    more = service(HERE, THERE, endpoint("10.180.2.2"), name="a/one:http")
    await rules.apply(plan.tree([more, TWO, NONE], POLICY))
    assert [name[:9] for name in written(packets)] == ["KUBE-SEP-", "KUBE-SVC-"]

    packets.commits.clear()
    fewer = await rules.apply(plan.tree([ONE, TWO, NONE], POLICY))
    assert [name[:9] for name in written(packets)] == ["KUBE-SVC-"]
    assert (fewer.chains_written, fewer.chains_deleted) == (1, 1)

    packets.commits.clear()
    await rules.apply(plan.tree([ONE, NONE], POLICY))
    assert sorted(written(packets)) == ["KUBE-NODEPORTS", "KUBE-SERVICES"]


async def test_a_restart_writes_nothing() -> None:
    packets = FakeIptables()
    await Rules(packets).apply(plan.tree([ONE, TWO, NONE], POLICY))
    packets.commits.clear()
    applied = await Rules(packets).apply(plan.tree([ONE, TWO, NONE], POLICY))
    assert packets.commits == []
    assert (applied.full, applied.repaired) == (True, False)


@pytest.mark.parametrize("size", [1, 3, 600])
async def test_killed_anywhere_and_started_again_it_converges(size: int) -> None:
    reference = FakeIptables()
    await Rules(reference).apply(plan.tree([TWO, NONE], POLICY))
    for steps in itertools.count():
        packets = FakeIptables(chains_per_section=size)
        await Rules(packets).apply(plan.tree([ONE, NONE], POLICY))
        packets.cut = steps
        finished = True
        try:
            await Rules(packets).apply(plan.tree([TWO, NONE], POLICY))
        except Retry:
            finished = False
        packets.cut = None
        await Rules(packets).apply(plan.tree([TWO, NONE], POLICY))
        assert packets.tables == reference.tables
        if finished:
            return


async def test_a_refusal_is_a_retry_that_reads_the_kernel_again() -> None:
    packets = FakeIptables()
    rules = Rules(packets)
    await rules.apply(plan.tree([ONE], POLICY))
    packets.refuse = "iptables-restore: Resource temporarily unavailable"
    with pytest.raises(Retry, match="temporarily unavailable"):
        await rules.apply(plan.tree([ONE, TWO], POLICY))
    packets.refuse = ""
    assert rules.doubted
    assert (await rules.apply(plan.tree([ONE, TWO], POLICY))).full


@pytest.mark.parametrize(
    "damage",
    [
        ["-t nat -F KUBE-SERVICES"],
        ["-t nat -F PREROUTING", "-t nat -F OUTPUT", "-t nat -F POSTROUTING"],
        ["-t filter -F KUBE-FORWARD"],
        ["-t mangle -X KUBE-PROXY-CANARY"],
        ["-t nat -I KUBE-SERVICES 1 -d 172.30.0.41 -j DROP"],
    ],
)
async def test_what_was_changed_behind_our_back_is_repaired_once_doubted(damage: list[str]) -> None:
    packets = FakeIptables()
    rules = Rules(packets)
    wanted = plan.tree([ONE, TWO, NONE], POLICY)
    await rules.apply(wanted)
    before = {table: {name: list(lines) for name, lines in chains.items()} for table, chains in packets.tables.items()}
    for line in damage:
        packets.run(line)
    rules.doubt()
    assert (await rules.apply(wanted)).repaired
    assert packets.tables == before
    rules.doubt()
    assert not (await rules.apply(wanted)).repaired


async def test_chains_of_a_stock_proxy_are_taken_over() -> None:
    """kube-proxy's chains have our names and no stamps: what is wanted is rewritten in place, the rest goes."""
    packets = FakeIptables()
    packets.run("-t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA")
    packets.run("-t nat -N KUBE-SERVICES")
    packets.run("-t nat -A KUBE-SERVICES -d 172.30.9.9 -j KUBE-SVC-AAAAAAAAAAAAAAAA")
    packets.run('-t nat -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES')
    await Rules(packets).apply(plan.tree([ONE], POLICY))
    assert "KUBE-SVC-AAAAAAAAAAAAAAAA" not in packets.tables[Table.NAT]
    assert len(packets.tables[Table.NAT]["OUTPUT"]) == 1


async def test_forget_leaves_what_others_own() -> None:
    packets = FakeIptables()
    before = {table: {name: list(lines) for name, lines in chains.items()} for table, chains in packets.tables.items()}
    await Rules(packets).apply(plan.tree([ONE, TWO, NONE], POLICY))
    for line in (
        "-t filter -N KUBE-FIREWALL",
        "-t filter -A INPUT -j KUBE-FIREWALL",
        "-t nat -N FLANNEL-POSTRTG",
        "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
    ):
        packets.run(line)
    assert await forget(packets) > 0
    assert packets.tables[Table.FILTER].pop("KUBE-FIREWALL") == []
    assert packets.tables[Table.NAT].pop("FLANNEL-POSTRTG") == []
    assert packets.tables[Table.FILTER]["INPUT"].pop() == "-j KUBE-FIREWALL"
    assert packets.tables[Table.NAT]["POSTROUTING"].pop() == "-j FLANNEL-POSTRTG"
    assert packets.tables == before
    assert await forget(packets, TABLES) == 0
