"""The masquerade rules: what they are, and the FLANNEL chains over the fake packet filter: written once, kept last, mended
whole, removed without others' rules. (`tests/node/test_overlay_masquerade.py` asks the kernel.)"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from kube.errors import Retry
from linux.iptables.rules import Family, Table
from overlay.masquerade import iptables, rules
from overlay.masquerade.iptables import IptablesWriter
from overlay.masquerade.rules import Rules
from tests.fakes.iptables import FakeIptables

V4 = Rules(Family.V4, (ip_network("10.244.0.0/16"),), ip_network("10.244.1.0/24"))
V6 = Rules(Family.V6, (ip_network("fd00:244::/48"),), ip_network("fd00:244:0:1::/64"))
NAT, FWD = "chain FLANNEL-POSTRTG of table nat", "chain FLANNEL-FWD of table filter"
NAT_JUMP, FWD_JUMP = "jump from POSTROUTING to FLANNEL-POSTRTG", "jump from FORWARD to FLANNEL-FWD"
ALL = (FWD, FWD_JUMP, NAT, NAT_JUMP)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def writer(packets: FakeIptables, clock: Clock | None = None) -> IptablesWriter:
    made = IptablesWriter(packets, clock=clock or Clock())
    made._doubted = True
    return made


async def told(made: IptablesWriter, wish: Rules = V4) -> rules.Written:
    """As after the kernel has told of a change."""
    made._doubted = True
    return await made.sync(wish)


def texts(wish: Rules) -> dict[str, list[str]]:
    return {chain.name: [rule.spec for rule in chain.rules] for chain in iptables.chains(wish)}


@pytest.mark.parametrize(
    ("wish", "net", "pods", "multicast"),
    [
        (V4, "10.244.0.0/16", "10.244.1.0/24", "224.0.0.0/4"),
        (V6, "fd00:244::/48", "fd00:244:0:1::/64", "ff00::/8"),
    ],
)
def test_the_rules_are_flannels_in_both_families(wish: Rules, net: str, pods: str, multicast: str) -> None:
    assert texts(wish) == {
        "FLANNEL-POSTRTG": [
            "-m mark --mark 0x4000/0x4000 -j RETURN",
            f"-s {pods} -d {net} -j RETURN",
            f"-s {net} -d {pods} -j RETURN",
            f"! -s {net} -d {pods} -j RETURN",
            f"-s {net} ! -d {multicast} -j MASQUERADE --random-fully",
            f"! -s {net} -d {net} -j MASQUERADE --random-fully",
        ],
        "FLANNEL-FWD": [f"-s {net} -j ACCEPT", f"-d {net} -j ACCEPT"],
    }


def test_options_take_parts_away() -> None:
    assert list(texts(replace(V4, masquerade=False))) == ["FLANNEL-FWD"]
    assert list(texts(replace(V4, forward=False))) == ["FLANNEL-POSTRTG"]
    plain = texts(replace(V4, random_fully=False))["FLANNEL-POSTRTG"]
    assert [line for line in plain if "MASQUERADE" in line] == [
        "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
    ]


def test_of_several_networks_pods_reach_each_unmasqueraded() -> None:
    two = replace(V4, networks=(*V4.networks, ip_network("10.32.0.0/16")))
    lines = texts(two)["FLANNEL-POSTRTG"]
    assert lines.index("-s 10.244.1.0/24 -d 10.32.0.0/16 -j RETURN") < lines.index(
        "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully"
    )
    assert len(texts(two)["FLANNEL-FWD"]) == 4


async def targets(packets: FakeIptables, table: Table, chain: str) -> list[str]:
    return [line.rsplit("-j ", 1)[1] for line in (await packets.read(table)).lines(table, chain)]


async def test_the_chains_are_written_once_and_the_jumps_appended() -> None:
    packets = FakeIptables()
    packets.run("-t nat -N KUBE-POSTROUTING")
    packets.run("-t nat -A POSTROUTING -j KUBE-POSTROUTING")
    made = writer(packets)
    assert await made.sync(V4) == rules.Written(written=ALL)
    assert await targets(packets, Table.NAT, "POSTROUTING") == ["KUBE-POSTROUTING", "FLANNEL-POSTRTG"]
    assert await targets(packets, Table.FILTER, "FLANNEL-FWD") == ["ACCEPT", "ACCEPT"]
    assert await told(made) == rules.Written()
    assert await writer(packets).sync(V4) == rules.Written(), "a restart rewrites nothing"


@pytest.mark.parametrize(
    ("damage", "repaired"),
    [
        (["-t nat -F FLANNEL-POSTRTG"], NAT),
        (["-t filter -A FLANNEL-FWD -j DROP"], FWD),
        (["-t nat -F POSTROUTING"], NAT_JUMP),
        (["-t nat -A POSTROUTING -j FLANNEL-POSTRTG"], NAT_JUMP),
        (["-t filter -I FORWARD 1 -s 10.0.0.0/8 -j FLANNEL-FWD"], FWD_JUMP),
    ],
)
async def test_damage_is_mended_whole_and_named(damage: list[str], repaired: str) -> None:
    packets = FakeIptables()
    made = writer(packets)
    await made.sync(V4)
    before = await packets.read(Table.NAT, Table.FILTER)
    for line in damage:
        packets.run(line)
    assert await told(made) == rules.Written(repaired=(repaired,))
    assert await packets.read(Table.NAT, Table.FILTER) == before
    assert await told(made) == rules.Written()


async def test_rules_that_changed_places_are_put_back() -> None:
    """The same number of rules, and the first one with our stamp: only the whole chain tells."""
    packets = FakeIptables()
    made = writer(packets)
    await made.sync(V4)
    good = packets.tables[Table.NAT]["FLANNEL-POSTRTG"]
    swapped = [good[0], good[4], *good[1:4], good[5]]
    for fresh in (made, writer(packets)):
        packets.tables[Table.NAT]["FLANNEL-POSTRTG"] = list(swapped)
        done = await told(fresh)
        assert done.repaired or done.written
        assert packets.tables[Table.NAT]["FLANNEL-POSTRTG"] == good


async def test_a_jump_is_moved_to_the_end_but_not_for_ever() -> None:
    packets, clock = FakeIptables(), Clock()
    made = writer(packets, clock)
    await made.sync(V4)
    for rounds in range(3):
        packets.run("-t nat -A POSTROUTING -j RETURN")
        done = await told(made)
        last = (await targets(packets, Table.NAT, "POSTROUTING"))[-1]
        assert (last == "FLANNEL-POSTRTG") == (rounds == 0) == bool(done.repaired)
    clock.now += 61
    await told(made)
    assert (await targets(packets, Table.NAT, "POSTROUTING"))[-1] == "FLANNEL-POSTRTG"
    assert (await targets(packets, Table.NAT, "POSTROUTING")).count("FLANNEL-POSTRTG") == 1


async def test_what_is_not_wished_any_more_goes_and_a_stock_flannels_stays() -> None:
    packets = FakeIptables()
    empty = await packets.read(Table.NAT, Table.FILTER)
    made = writer(packets)
    await made.sync(V4)
    assert (await told(made, replace(V4, masquerade=False))).written == (f"superfluous {NAT}",)
    await told(made, replace(V4, masquerade=False, forward=False))
    assert await packets.read(Table.NAT, Table.FILTER) == empty
    packets.run("-t nat -N FLANNEL-POSTRTG")
    packets.run("-t nat -A FLANNEL-POSTRTG -j RETURN")
    stock = await packets.read(Table.NAT)
    assert await told(made, replace(V4, masquerade=False, forward=False)) == rules.Written()
    assert await packets.read(Table.NAT) == stock
    assert (await told(made)).written == ALL, "with --ip-masq it is taken over"


async def test_cleanup_removes_chains_and_jumps_and_may_be_repeated() -> None:
    packets = FakeIptables()
    packets.run("-t nat -N KUBE-POSTROUTING")
    packets.run("-t nat -A POSTROUTING -j KUBE-POSTROUTING")
    before = await packets.read(Table.NAT, Table.FILTER)
    await writer(packets).sync(V4)
    assert await iptables.forget(packets, "iptables") == ["removed FLANNEL-FWD and FLANNEL-POSTRTG (iptables)"]
    assert await packets.read(Table.NAT, Table.FILTER) == before
    assert await iptables.forget(packets, "iptables") == []


async def test_a_refusal_is_said_and_tried_again() -> None:
    packets = FakeIptables()
    made = writer(packets)
    packets.refuse = "the lock is held"
    with pytest.raises(Retry, match="the lock is held"):
        await made.sync(V4)
    packets.refuse = ""
    assert (await made.sync(V4)).written == ALL


async def test_an_unasked_comparison_waits_until_it_is_due() -> None:
    packets, clock = FakeIptables(), Clock()
    made = writer(packets, clock)
    await made.sync(V4)
    packets.run("-t nat -F POSTROUTING")
    made._due = clock.now + 10
    assert await made.sync(V4) == rules.Written(), "nobody told"
    clock.now += 11
    assert (await made.sync(V4)).repaired
