"""What subnet.env says of a family that is away: for how long it is waited for, and which of its lines stay."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from linux.iptables.rules import Family
from overlay import announcement, subnetenv
from overlay.announcement import Announcement
from overlay.config import Config
from overlay.model import Lease, NotYet, Range, Underlay, Wanted
from overlay.netconf import Network
from overlay.series import Series
from overlay.situation import Standing
from overlay.subnets import Announced, Claims
from overlay.upkeep import Done
from overlay.wish import Wish
from tests.unit.overlay import nodes

FOUR, SIX = Family.V4, Family.V6
NET = nodes.network(families=(FOUR, SIX))
SUBNETS = {family: nodes.subnet(1, family) for family in Family}
BASES = {family: Underlay(2, "eth0", nodes.host(1, family), 1500) for family in Family}
OWN = {family: nodes.lease(1, family) for family in Family}
ONLY_FOUR = Standing({FOUR: BASES[FOUR]}, {FOUR: OWN[FOUR]})


class Registry:
    """What the other nodes claim, and a claim of ours that is taken."""

    def __init__(self, *others: Lease) -> None:
        self._others = others

    def claims(self) -> Claims:
        return Claims(self._others)

    async def announce(self, own: object) -> Announced:
        return Announced()


class Node:
    """`begin` is a start of the daemon; `ready` counts READYs."""

    def __init__(self, file: Path) -> None:
        self.file, self.ready = file, 0
        self.begin()

    def begin(self, *others: Lease) -> None:
        def ready() -> None:
            self.ready += 1

        self._made = Announcement(
            Config(subnet_file=str(self.file)),
            cast("Any", Registry(*others)),
            Series(CollectorRegistry()),
            ready,
            lambda folder: None,
        )

    def make(self, standing: Standing, *done: Family, net: Network = NET) -> dict[Family, Range]:
        """`done`: whose devices are up."""
        mtus = {FOUR: 1450, SIX: 1430}
        tunnels = [Done({one: OWN[one]}, Wish(Wanted(), mtus[one])) for one in done]
        asyncio.run(self._made.make(net, tunnels, standing))
        return subnetenv.read(self.file)

    @property
    def mtu(self) -> int | None:
        return subnetenv.mtu(self.file.read_text())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "subnet.env")


def test_a_first_start_waits_for_a_late_family_and_then_goes_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotYet, match="waiting some seconds for IPv6"):
        node.make(ONLY_FOUR, FOUR)
    assert (node.ready, node.file.exists()) == (0, False)
    monkeypatch.setattr(announcement, "_PATIENCE", 0.0)
    assert node.make(ONLY_FOUR, FOUR) == {FOUR: SUBNETS[FOUR]}
    assert (node.ready, node.mtu) == (1, 1450)
    assert node.make(Standing(BASES, OWN), FOUR, SIX) == SUBNETS
    assert (node.ready, node.mtu) == (1, 1430)


def test_a_family_without_a_subnet_is_not_waited_for(node: Node) -> None:
    assert node.make(Standing(BASES, {FOUR: OWN[FOUR]}), FOUR) == {FOUR: SUBNETS[FOUR]}


@pytest.mark.parametrize(
    "standing", [ONLY_FOUR, Standing(BASES, OWN)], ids=["no underlay", "the device cannot be made just now"]
)
def test_a_restart_while_a_family_is_away_changes_nothing(node: Node, standing: Standing) -> None:
    node.make(Standing(BASES, OWN), FOUR, SIX)
    text = node.file.read_text()
    node.begin()
    assert node.make(standing, FOUR) == SUBNETS
    assert (node.file.read_text(), node.ready) == (text, 2), "and READY is at once"
    node.file.unlink()
    assert node.make(standing, FOUR) == SUBNETS, "nor does the file's loss later"


def test_what_is_ours_no_more_goes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "_PATIENCE", 0.0)
    before = Standing(BASES, OWN)
    for others, standing, net in (
        ((nodes.lease(1, SIX),), ONLY_FOUR, NET),
        ((), Standing(BASES, {FOUR: OWN[FOUR]}), NET),
        ((), Standing(BASES, {**OWN, SIX: nodes.lease(7, SIX)}), NET),
        ((), ONLY_FOUR, nodes.network()),
    ):
        node.begin()
        assert node.make(before, FOUR, SIX) == SUBNETS
        node.begin(*others)
        assert node.make(standing, FOUR, net=net) == {FOUR: SUBNETS[FOUR]}
        assert node.mtu == 1450
