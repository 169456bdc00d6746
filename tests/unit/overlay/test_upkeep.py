"""What wakes a tunnel's upkeep, and how those who are left out are told and counted."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from linux.iptables.rules import Family
from linux.route_monitor import Notice
from overlay import wish
from overlay.checksum import Checksums
from overlay.model import DEVICE_ALIAS, ROUTE_PROTOCOL
from overlay.netconf import BackendSettings
from overlay.series import Series
from overlay.upkeep import Refusals, Upkeep
from tests.unit.overlay import nodes

DEVICE = 9
PODS = ip_network("10.244.7.0/24")
ELSEWHERE = ip_network("172.16.0.0/12")


def upkeep(settings: BackendSettings = nodes.VXLAN) -> Upkeep:
    async def made() -> Upkeep:
        net = nodes.network(settings)
        series = Series(CollectorRegistry())
        nobody = cast("Any", None)
        checksums = Checksums(lambda family, disabled: None)
        found = Upkeep(
            wish.tunnels(net)[0],
            net,
            nobody,
            nobody,
            series,
            Refusals(series),
            blackhole=False,
            talking=lambda name, port: None,
            checksums=checksums,
        )
        found._device = DEVICE
        return found

    return asyncio.run(made())


@pytest.mark.parametrize(
    ("notice", "concerns"),
    [
        (Notice("link", 3, "veth1"), False),
        (Notice("link", 12, "flannel.1"), True),
        (Notice("link", 12, "mine", alias=DEVICE_ALIAS), True),
        (Notice("link", DEVICE, "renamed"), True),
        (Notice("neighbour", 3), False),
        (Notice("neighbour", DEVICE), True),
        (Notice("neighbour", 0), False),
        (Notice("address", 3, about=ELSEWHERE), False),
        (Notice("address", 3, about=PODS), True),
        (Notice("route", 3, about=PODS), True),
        (Notice("route", 3, about=ELSEWHERE), False),
        (Notice("route", 3, about=ELSEWHERE, protocol=ROUTE_PROTOCOL), True),
        (Notice("route", 3), False),
        (Notice("route", 3, about=ip_network("fd00::/64")), False),
    ],
)
def test_what_concerns_a_tunnel(notice: Notice, concerns: bool) -> None:
    assert upkeep().concerns(notice) is concerns


@pytest.mark.parametrize("settings", [nodes.DIRECT, nodes.HOST_GW])
def test_who_is_reached_without_a_router_depends_on_routes(settings: BackendSettings) -> None:
    assert upkeep(settings).concerns(Notice("route", 3))
    assert upkeep(settings).concerns(Notice("route", 3, about=ELSEWHERE))
    assert not upkeep(settings).concerns(Notice("route", 3, about=ip_network("fe80::/64")))


def told(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> Callable[[str, Mapping[str, str]], list[str]]:
    def tell(who: str, refused: Mapping[str, str]) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            refusals.tell(who, refused)
        return [record.getMessage() for record in caplog.records]

    return tell


def test_each_reason_is_said_once_and_each_node_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    tell = told(Refusals(Series(registry)), caplog)

    def counted() -> float | None:
        return registry.get_sample_value("wherry_overlay_refused_nodes")

    assert tell("device", {"node2": "a"}) == ["left out: a"]
    assert tell("device-v6", {"node2": "a"}) == [], "the other tunnel says the same"
    assert tell("device-v6", {"node2": "b", "node3": "c"}) == ["left out: b", "left out: c"]
    assert counted() == 2
    assert tell("device", {"node2": "a"}) == []
    assert tell("device-v6", {"node3": "c"}) == [], "node2 is still left out by the first"
    assert tell("device", {}) == ["node node2 is left out no more"]
    assert counted() == 1


def test_the_families_have_loops_of_their_own() -> None:
    net = nodes.network(families=tuple(Family))
    assert [tunnel.families for tunnel in wish.tunnels(net)] == [(Family.V4,), (Family.V6,)]
