"""`wherry overlay show`: each peer's entries against the kernel's, in words, as a table and as JSON."""

import io
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from linux.iptables.rules import Family
from overlay import plan, screen, show
from overlay.look import Look
from overlay.model import LOOPBACK, Fdb, Lease, LocalAddress, Neighbour, Route, RouteKind, Seen, SeenDevice, VxlanDevice
from overlay.netconf import BackendSettings
from overlay.show import Entry, Path, Peer, Report, State
from tests.unit.overlay import kernel, nodes
from tests.unit.overlay.nodes import BACKENDS, DIRECT, HOST_GW, VXLAN, WIREGUARD, lease, vxlan_device
from tests.unit.overlay.test_plan import carried_out, steps_to


def looked(
    seen: Seen | None = None,
    peers: Sequence[Lease] = (lease(2), lease(3)),
    settings: BackendSettings = VXLAN,
    family: Family = Family.V4,
) -> Path:
    """What is shown of a kernel; without one, of one that is right."""
    wish = nodes.wished(list(peers), settings, family)
    there = carried_out(Seen(), steps_to(wish.wanted, Seen())) if seen is None else seen
    own = {family: lease(1, family, settings)}
    return show.path(
        nodes.tunnel(settings, family),
        Look(own, wish, there, tuple(plan.actions(wish.wanted, there))),
        {1: "lo", 7: "eth7"},
    )


WISH = nodes.wished([lease(2), lease(3)]).wanted
RIGHT = carried_out(Seen(), steps_to(WISH, Seen()))
_N, _F, _R = WISH.neighbours[0], WISH.fdb[0], WISH.routes[0]


def peer(path: Path, name: str = "node2") -> Peer:
    return next(one for one in path.peers if one.node == name)


def states(entries: Sequence[Entry]) -> dict[str, State]:
    return {entry.object: entry.state for entry in entries}


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", BACKENDS)
def test_when_all_is_right_all_is_ok(backend: str, family: Family) -> None:
    path = looked(None, [lease(2, family, BACKENDS[backend])], BACKENDS[backend], family)
    assert path.ok
    assert peer(path).words == "ok"
    assert peer(path).entries


@pytest.mark.parametrize(
    ("settings", "by", "objects"),
    [
        (VXLAN, "vxlan 02:00:00:00:00:02", ["fdb", "neighbour", "route"]),
        (DIRECT, "direct", ["route"]),
        (HOST_GW, "host-gw", ["route"]),
        (WIREGUARD, "wireguard key2", ["peer"]),
    ],
)
def test_a_peer_is_told_with_the_way_to_it(settings: BackendSettings, by: str, objects: list[str]) -> None:
    found = peer(looked(None, [lease(2, settings=settings)], settings))
    assert (found.by, [entry.object for entry in found.entries]) == (by, objects)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (replace(RIGHT, fdb=RIGHT.fdb - {_F}), "fdb missing"),
        (replace(RIGHT, fdb=RIGHT.fdb - {_F} | {Fdb(_F.mac, nodes.host(9))}), "fdb wrong"),
        (replace(RIGHT, fdb=RIGHT.fdb | {Fdb(_F.mac, nodes.host(9))}), "fdb wrong"),
        (replace(RIGHT, neighbours=RIGHT.neighbours - {_N} | {Neighbour(_N.address, nodes.mac(9))}), "neighbour wrong"),
        (replace(RIGHT, routes=RIGHT.routes - {_R}), "route missing"),
        (replace(RIGHT, routes=RIGHT.routes - {_R} | {replace(_R, protocol=3)}), "route wrong"),
        (
            replace(RIGHT, routes=RIGHT.routes | {Route(_R.destination, nodes.host(9), 7, protocol=3)}),
            "route not wanted: 10.244.2.0/24 via 10.200.0.9 on eth7 proto 3",
        ),
        (
            replace(RIGHT, addresses=RIGHT.addresses | {LocalAddress(ip_interface("10.244.2.9/32"), LOOPBACK)}),
            "address not wanted: 10.244.2.9/32 on lo",
        ),
    ],
)
def test_what_is_wrong_of_a_peer_is_told_with_it_and_with_no_other(damage: Seen, words: str) -> None:
    path = looked(damage)
    assert peer(path).words == words
    assert peer(path, "node3").ok
    assert all(entry.ok for entry in path.entries)
    assert not path.ok


def test_what_is_there_instead_is_told() -> None:
    path = looked(replace(RIGHT, fdb=RIGHT.fdb - {_F} | {Fdb(_F.mac, nodes.host(9), plain=False)}))
    (entry,) = [one for one in peer(path).entries if one.object == "fdb"]
    assert entry == Entry(
        "fdb", "02:00:00:00:00:02 to 10.200.0.2", State.WRONG, "to 10.200.0.9, on a port or VNI of its own"
    )


@pytest.mark.parametrize(
    ("device", "state", "found"),
    [
        (None, State.MISSING, ""),
        (replace(vxlan_device(WISH), mtu=1300), State.WRONG, "mtu 1300"),
        (replace(vxlan_device(WISH), vni=9), State.WRONG, "vni 9"),
    ],
)
def test_the_device_is_told_with_how_it_differs(device: VxlanDevice | None, state: State, found: str) -> None:
    seen = replace(RIGHT, device=SeenDevice(kernel.INDEX, device, up=True, marked=True)) if device else Seen()
    entry = looked(seen).entries[0]
    assert (entry.object, entry.state, entry.found) == ("device", state, found)


def test_a_device_that_is_down_of_another_kind_or_a_second_one_is_told() -> None:
    down = looked(replace(RIGHT, device=SeenDevice(kernel.INDEX, vxlan_device(WISH), up=False, marked=False)))
    assert down.entries[0].found == "down; without our alias"
    odd = looked(replace(RIGHT, device=SeenDevice(kernel.INDEX, None, up=True, marked=True)))
    assert odd.entries[0].found == "a device of another kind, or with other options"
    twin = looked(replace(RIGHT, strays=((8, "twin"),)))
    assert twin.entries[1] == Entry("device", "twin, interface 8, which has our alias", State.STRANGE)


def test_strangers_of_no_peer_are_told_with_the_device() -> None:
    route = Route(ip_network("10.99.0.0/16"), None, protocol=3)
    path = looked(
        replace(RIGHT, routes=RIGHT.routes | {route}, fdb=RIGHT.fdb | {Fdb("00:00:00:00:00:00", nodes.host(2))})
    )
    assert [entry.told for entry in path.entries if not entry.ok] == [
        "route not wanted: 10.99.0.0/16 proto 3",
        "fdb not wanted: 00:00:00:00:00:00 to 10.200.0.2",
    ]
    assert peer(path).ok


def test_a_blackhole_in_the_place_of_a_route_is_told() -> None:
    hole = Route(_R.destination, None, protocol=3, kind=RouteKind.BLACKHOLE)
    (entry,) = [one for one in peer(looked(replace(RIGHT, routes=RIGHT.routes - {_R} | {hole}))).entries if not one.ok]
    assert entry.found == "blackhole 10.244.2.0/24 proto 3"


def test_a_node_that_is_left_out_is_told_with_the_reason() -> None:
    path = looked(Seen(), [lease(2), lease(3, at=2, since=1)])
    assert peer(path, "node3").words.startswith("left out: nodes node2 and node3 both announce the public IP")


def report(path: Path, *beside: Entry) -> Report:
    return Report("node1", "vxlan", "https://api", (path,), beside)


def printed(found: Report, only: str = "") -> str:
    out = io.StringIO()
    screen.print_report(show.narrowed(found, only), detail=bool(only), to=out)
    return out.getvalue()


def test_people_see_a_line_a_peer_then_this_node_then_the_judgement() -> None:
    lines = printed(report(looked(), Entry("subnet.env", "/run/flannel/subnet.env"))).splitlines()
    assert lines[0].split() == ["NODE", "SUBNET", "PUBLIC", "IP", "BY", "STATE"]
    assert lines[1].split() == ["node2", "10.244.2.0/24", "10.200.0.2", "vxlan", "02:00:00:00:00:02", "ok"]
    assert lines[3] == "flannel.1  IPv4, 10.244.1.0/24 at 10.200.0.1, MTU of pods 1450"
    assert lines[4] == "  device flannel.1 (02:00:00:00:00:01, MTU 1450, from 10.200.0.1)  ok"
    assert lines[-1] == "node1: vxlan from https://api; 2 peers, all as wanted"


def test_people_see_what_is_wrong_and_where() -> None:
    damaged = looked(replace(RIGHT, routes=RIGHT.routes - {_R}, addresses=frozenset()))
    text = printed(report(damaged, Entry("rules", "IPv4", State.WRONG, "FLANNEL-POSTRTG")))
    assert "  address 10.244.1.0/32  missing" in text
    assert "  rules IPv4  wrong: FLANNEL-POSTRTG" in text
    assert text.splitlines()[-1] == (
        "node1: vxlan from https://api; 2 peers, 1 not as wanted, this node's tunnels are not as wanted, "
        "what is beside them is not as wanted"
    )


def test_one_node_is_shown_with_every_entry_and_judged_alone() -> None:
    whole = report(looked(replace(RIGHT, routes=RIGHT.routes - {_R})), Entry("rules", "IPv4", State.WRONG, "x"))
    assert not show.narrowed(whole, "node2").ok
    assert show.narrowed(whole, "node3").ok
    assert not show.narrowed(whole, "node1").ok
    text = printed(whole, "node2")
    assert "  route 10.244.2.0/24 via 10.244.2.0  missing" in text
    assert "rules" not in text
    assert "  rules IPv4  wrong: x" in printed(whole, "node1")


def test_a_tunnel_that_cannot_be_compared_says_why() -> None:
    path = Path("flannel.1", (Family.V4,), trouble="node node1 has no podCIDR")
    assert not report(path).ok
    assert "flannel.1  IPv4  node node1 has no podCIDR" in printed(report(path))


def test_machines_get_the_same() -> None:
    found = show.document(report(looked(replace(RIGHT, routes=RIGHT.routes - {_R}))))
    assert found["ok"] is False
    assert found["peers"][0]["entries"][2] == {
        "object": "route",
        "state": "missing",
        "wanted": "10.244.2.0/24 via 10.244.2.0",
        "found": None,
    }
    assert found["peers"][0]["family"] == "IPv4"
    assert found["tunnels"][0]["device"] == "flannel.1"
