"""The FLANNEL chains over the fake packet filter: written once, appended, mended whole, removed without others' rules."""

from ipaddress import IPv4Network

from linux.iptables.rules import Table
from overlay import masquerade
from tests.fakes.iptables import FakeIptables

WANTED = masquerade.wanted(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.1.0/24"), random_fully=True)


async def targets(rules: FakeIptables, table: Table, chain: str) -> list[str]:
    return [line.rsplit("-j ", 1)[1] for line in (await rules.read(table)).lines(table, chain)]


async def test_the_chains_are_written_once_and_the_jumps_appended() -> None:
    rules = FakeIptables()
    rules.run("-t nat -N KUBE-POSTROUTING")
    rules.run("-t nat -A POSTROUTING -j KUBE-POSTROUTING")
    assert await masquerade.sync(rules, WANTED) == [
        "FLANNEL-POSTRTG",
        "FLANNEL-FWD",
        "POSTROUTING -> FLANNEL-POSTRTG",
        "FORWARD -> FLANNEL-FWD",
    ]
    assert await targets(rules, Table.NAT, "POSTROUTING") == ["KUBE-POSTROUTING", "FLANNEL-POSTRTG"]
    assert await targets(rules, Table.FILTER, "FLANNEL-FWD") == ["ACCEPT", "ACCEPT"]
    assert [one.split()[0] for one in await targets(rules, Table.NAT, "FLANNEL-POSTRTG")] == [
        *["RETURN"] * 4,
        *["MASQUERADE"] * 2,
    ]
    assert await masquerade.sync(rules, WANTED) == []


async def test_what_was_flushed_or_changed_comes_back_whole() -> None:
    rules = FakeIptables()
    await masquerade.sync(rules, WANTED)
    rules.run("-t nat -F FLANNEL-POSTRTG")
    assert await masquerade.sync(rules, WANTED) == ["FLANNEL-POSTRTG"]
    rules.run("-t filter -A FLANNEL-FWD -j DROP")
    assert await masquerade.sync(rules, WANTED) == ["FLANNEL-FWD"]
    rules.run("-t nat -F POSTROUTING")
    assert await masquerade.sync(rules, WANTED) == ["POSTROUTING -> FLANNEL-POSTRTG"]


async def test_removal_leaves_others_alone_and_may_be_repeated() -> None:
    rules = FakeIptables()
    rules.run("-t nat -N KUBE-POSTROUTING")
    rules.run("-t nat -A POSTROUTING -j KUBE-POSTROUTING")
    before = await rules.read(Table.NAT, Table.FILTER)
    await masquerade.sync(rules, WANTED)
    assert await masquerade.remove(rules)
    assert await rules.read(Table.NAT, Table.FILTER) == before
    assert not await masquerade.remove(rules)


async def test_a_stock_flannels_chains_are_not_taken_for_an_earlier_start_of_ours() -> None:
    rules = FakeIptables()
    rules.run("-t nat -N FLANNEL-POSTRTG")
    rules.run("-t nat -A FLANNEL-POSTRTG -j RETURN")
    assert not await masquerade.remove(rules, stamped_only=True)
    await masquerade.sync(rules, WANTED)
    assert await masquerade.remove(rules, stamped_only=True)
