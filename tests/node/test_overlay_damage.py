"""The table of damages: whatever is done to an overlay behind its daemon's back, pods talk again within a second.

Each row is done while pings cross from pod to pod. Healed means: kernel, rules and subnet.env are what they were, compared
whole; the daemon was not restarted; a log line and a metric name what had drifted. What the pods noticed is the longest time
between two requests that were answered. A machine that others use at the same time may be late once; it gets three tries.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.node.overlay_damages import DAMAGES, Damage, Target
from tests.node.overlay_world import DUAL, OverlayNode, World, until, until_equal
from tests.node.pinger import Train, train
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

VERSIONS = (4, 6)
PROMISE = 1.0
"""Seconds without an answer, at most."""
TRIES = 3
SETTINGS = (
    *("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"),
    *("net/ipv4/conf/flannel.1/forwarding", "net/ipv6/conf/flannel-v6.1/disable_ipv6"),
)
LATE = 15.0
"""Seconds after which a repair is not late but missing."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"), conf=DUAL)
    try:
        for node in made.nodes:
            for tool in ("iptables", "ip6tables"):
                node.space.run(tool, "-P", "FORWARD", "DROP")  # as dockerd leaves it
        yield made.start_daemons("--ip-masq", "--iptables-resync=1s")
    finally:
        made.close()


@pytest.fixture(scope="module")
def right(world: World) -> dict[str, Any]:
    """node1 as it should be, once nothing moves any more."""
    one = world.nodes[0]
    until(lambda: any("FLANNEL-POSTRTG" in line for line in one.rules()), "rules")
    return state(one)


def state(node: OverlayNode) -> dict[str, Any]:
    return {
        **node.both(),
        "rules": node.rules(),
        "subnet.env": node.subnet_env(),
        "sysctls": node.space.run("sysctl", *SETTINGS, check=False),  # a device may be away just now
    }


def noticed(world: World, version: int, work: Callable[[], None]) -> float:
    """How long the pods of node1 and node2 did not hear each other while `work` was done, in seconds."""
    one, two = world.nodes[:2]
    with train(one.pod.path, two.pod_of(version), patience=0.1) as pings:
        until(lambda: len(pings.answered) > 1, "packets before the damage", evidence=one.text)
        began = time.monotonic()
        work()
        answered_again(pings, LATE)
    return pings.silence(began)


def answered_again(pings: Train, seconds: float) -> None:
    now = time.monotonic()
    until(lambda: len([moment for moment in pings.answered[-9:] if moment > now]) > 2, "packets afterwards", seconds)


ROWS = [(damage, version) for damage in DAMAGES for version in damage.versions if version in VERSIONS]


@pytest.mark.parametrize(("damage", "version"), ROWS, ids=[f"{damage.name}-IPv{version}" for damage, version in ROWS])
def test_it_heals(
    world: World,
    right: dict[str, Any],
    damage: Damage,
    version: int,
    record_property: Callable[[str, object], None],
) -> None:
    one, two = world.nodes[:2]
    target = Target(world, version)
    notes, daemon = world.node("node1").metadata.annotations, one.daemon
    until_equal(lambda: state(one), right, "what the damage before this one has left", 3.0)

    def work() -> None:
        counted, logged = one.drift(damage.object), len(one.text())
        damage.do(target)
        until_equal(lambda: state(one), right, f"repair of {damage.name}", LATE, one.text)
        until(lambda: one.drift(damage.object) > counted, f"a repaired {damage.object} is counted", LATE, one.text)
        assert "drift repaired: " in one.text()[logged:]

    silences = []
    for _ in range(TRIES):
        silences.append(noticed(world, version, work))
        if silences[-1] <= PROMISE:
            break
    record_property("silence", round(min(silences), 3))
    print(f"{damage.name:45} IPv{version} {min(silences):6.2f} s")
    assert min(silences) <= PROMISE, f"pods did not hear each other for {silences} s"
    assert one.daemon is daemon
    assert one.running
    assert world.node("node1").metadata.annotations == notes
    for there in world.versions:
        assert one.reaches(two, version=there)
        assert two.reaches(one, version=there)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hardened_node_on_which_new_devices_do_not_forward(world: World, right: dict[str, Any], version: int) -> None:
    one = world.nodes[0]
    parameter, harmless = ("forwarding", 1) if version == 4 else ("disable_ipv6", 0)
    default = f"net/ipv{version}/conf/default/{parameter}"

    def make_anew() -> None:
        one.space.run("ip", "link", "del", Target(world, version).device)
        until_equal(lambda: state(one), right, "the device and its settings", LATE, one.text)

    one.space.run("sysctl", "-qw", f"{default}={1 - harmless}")
    try:
        assert min(noticed(world, version, make_anew) for _ in range(TRIES)) <= PROMISE
    finally:
        one.space.run("sysctl", "-qw", f"{default}={harmless}")
    until(lambda: one.get("/readyz") == "ok", "all is well", LATE, lambda: one.get("/readyz"))


def test_another_program_that_insists_is_named_and_answered_seldom(world: World, right: dict[str, Any]) -> None:
    one = world.nodes[0]
    rival = ("ip", "route", "replace", "10.244.2.0/24", "via", "10.200.0.1", "dev", "eth0", "proto", "99")
    logged = len(one.text())

    def named() -> bool:
        one.space.run(*rival)
        return "again and again" in one.text()[logged:]

    until(named, "words", 30, one.text)
    assert "has protocol 99" in one.text()[logged:]
    until(lambda: named() and "device failed: another program undoes" in one.get("/readyz"), "/readyz", 20, one.text)
    counted, began = one.drift("route"), time.monotonic()
    while time.monotonic() < began + 4:
        one.space.run(*rival)
    assert one.drift("route") - counted <= 2, "once in five seconds"
    until_equal(lambda: state(one), right, "once it rests", LATE, one.text)
    until(lambda: one.get("/readyz") == "ok", "all is well", LATE, lambda: one.get("/readyz"))


@pytest.mark.timeout(1800)  # `make soak`
def test_several_damages_at_once(world: World, right: dict[str, Any], trial: Callable[[int, int], int]) -> None:
    """Some of the table, done while the daemon is stopped; some make others impossible, and that is as well."""
    one, two = world.nodes[:2]
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    freezes: list[object] = []
    target = {version: Target(world, version, freezes) for version in VERSIONS}
    for _ in range(trial(4, 300)):
        # Of a device one: what one has made somebody else's another may rename, and then no one knows it for ours.
        sample = chance.sample(ROWS, 7)
        devices = {version: (damage, version) for damage, version in sample if damage.object == "device"}
        chosen = [*devices.values(), *(row for row in sample if row[0].object != "device")]
        with target[4].frozen():
            for damage, version in chosen:
                with contextlib.suppress(AssertionError, IndexError):
                    damage.do(target[version])
        what = f"seed {seed}: {', '.join(f'{damage.name} IPv{version}' for damage, version in chosen)}"
        until_equal(lambda: state(one), right, what, LATE, one.text)
        for version in VERSIONS:
            until(lambda v=version: one.reaches(two, version=v), what, LATE, one.text)  # type: ignore[misc]


def test_another_nodes_lease_annotated_wrongly_is_put_right_by_its_owner(world: World, right: dict[str, Any]) -> None:
    one, two = world.nodes[:2]
    notes = world.node("node2").metadata.annotations

    def work() -> None:
        counted, refused = two.drift("lease"), len(one.text())
        world.annotate("node2", backend_data="not JSON", public_ip="10.200.0.300")
        until_equal(lambda: world.node("node2").metadata.annotations, notes, "node2's lease", LATE, two.text)
        until(lambda: two.drift("lease") > counted, "counted on node2", LATE)
        until_equal(lambda: state(one), right, "node1", LATE, one.text)
        assert "node2" in one.text()[refused:]

    assert min(noticed(world, version, work) for version in VERSIONS) <= PROMISE


def test_a_nodes_new_address_is_followed_by_all(world: World, right: dict[str, Any]) -> None:
    """DHCP gives node2 another address, and later its old one back. All connections to the API server die with it."""
    one, two = world.nodes[:2]
    mine, other = two.address, "10.200.0.22"

    def readdress(old: str, new: str) -> None:
        counted, logged = two.drift("underlay"), len(two.text())
        script = (
            f"ip addr del {old}/24 dev eth0; ip addr add {new}/24 dev eth0; ip route replace default via 10.200.0.1"
        )
        two.space.run("sh", "-c", script)
        until(lambda: f"local='{new}'" in str(two.kernel()["device"]), "the device", LATE, two.text)
        until(lambda: any(f" {new} " in entry for entry in one.kernel()["fdb"]), "the peer's entry", LATE, two.text)
        assert two.drift("underlay") > counted
        assert old in two.text()[logged:]
        assert new in two.text()[logged:]

    try:
        silences = [
            noticed(world, 4, lambda: readdress(mine, other)),
            noticed(world, 4, lambda: readdress(other, mine)),
        ]
    finally:
        two.space.run("ip", "addr", "del", f"{other}/24", "dev", "eth0", check=False)
        two.configure()
    assert min(silences) <= PROMISE, silences
    until_equal(lambda: state(one), right, "all is as before", LATE, two.text)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_link_that_flaps(world: World, right: dict[str, Any], version: int) -> None:
    one = world.nodes[0]

    def flap() -> None:
        one.space.run("ip", "link", "set", "eth0", "down")
        one.space.run("ip", "link", "set", "eth0", "up")
        one.configure()  # IPv6's addresses went, and all routes

    assert noticed(world, version, flap) <= PROMISE * TRIES
    until_equal(lambda: state(one), right, "after the flap", LATE, one.text)


@pytest.mark.parametrize("version", VERSIONS)
def test_networking_that_is_restarted(world: World, right: dict[str, Any], version: int) -> None:
    """Down and without addresses for as long as the daemon needs to notice it, and configured again."""
    one, two = world.nodes[:2]
    logged = len(one.text())
    with train(one.pod.path, two.pod_of(version), patience=0.1) as pings:
        one.space.run("ip", "addr", "flush", "dev", "eth0")
        one.space.run("ip", "link", "set", "eth0", "down")
        until(lambda: "waiting" in one.text()[logged:], "words", LATE, one.text)
        one.space.run("ip", "link", "set", "eth0", "up")
        one.configure()
        configured = time.monotonic()
        answered_again(pings, LATE)
    assert pings.silence(configured) <= PROMISE * TRIES
    until_equal(lambda: state(one), right, "after the restart", LATE, one.text)
