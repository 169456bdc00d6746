"""Two hundred peers: a daemon killed in the middle of its work, stopped while the kernel talks, and left without an API server.

The peers are Nodes whose announcements are made up; the entries in the kernel are real.
"""

import random
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from linux import netns
from tests.node.overlay_world import DUAL, OverlayNode, World, end, until, until_equal
from tests.node.pinger import train
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge", "iptables")

PEERS = 198
LATE = 30.0
_NEIGHBOURS, _ROUTES, _ROUTES6 = 1 << 2, 1 << 6, 1 << 10
_SO_RCVBUFFORCE = 33


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"), nodes=2, conf=DUAL)
    try:
        made.create_claims(range(10, 10 + PEERS))
        yield made.start_daemons()
    finally:
        made.close()


@pytest.fixture(scope="module")
def right(world: World) -> dict[str, Any]:
    one = world.nodes[0]
    for version in map(str, world.versions):
        until_equal(lambda v=version: len(one.both()[v]["routes"]), PEERS + 1, "all peers", LATE, one.text)  # type: ignore[misc]
    return one.both()


class Announcements:
    """What the kernel of a namespace announces of neighbours, FDB entries and routes, one by one."""

    def __init__(self, path: str) -> None:
        with netns.enter(path):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self._socket.bind((0, _NEIGHBOURS | _ROUTES | _ROUTES6))
        self._socket.settimeout(LATE)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            self._socket.recv(1 << 16)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.timeout(1800)  # `make soak`
def test_killed_in_the_middle_of_a_batch_it_finishes_the_work_at_its_next_start(
    world: World, right: dict[str, Any], trial: Callable[[int, int], int]
) -> None:
    """Both devices are deleted; the daemon makes all anew, and is killed once it has written some of its 1,200 entries; the
    next one is killed in the same way, and the last one left alone."""
    one, two = world.nodes
    seed = random.randrange(1 << 32)
    chance, partial = random.Random(seed), 0
    for _ in range(trial(2, 40)):
        for start in (False, True):
            heard = Announcements(one.space.path)
            try:
                if start:
                    one.start()
                one.space.run("sh", "-c", "ip link del flannel.1; ip link del flannel-v6.1", check=False)
                heard.wait_for(chance.randint(1, 2 * PEERS) + (2 * PEERS if not start else 0))
                one.stop(signal.SIGKILL)
            finally:
                heard.close()
            partial += one.both() != right
        one.start()
        one.ready()
        until_equal(one.both, right, f"all entries (seed {seed})", LATE, one.text)
        for version in world.versions:
            assert one.reaches(two, version=version)
    assert partial, f"never killed in the middle (seed {seed})"


def drops(node: OverlayNode) -> int:
    """Announcements that route netlink sockets of the node's namespace were too full for."""
    lines = node.space.run("cat", "/proc/net/netlink").splitlines()[1:]
    return sum(int(line.split()[8]) for line in lines if line.split()[1] == "0")


def test_more_announcements_than_can_be_read(world: World, right: dict[str, Any]) -> None:
    """The daemon is stopped while routes come and go by the thousand and its own objects are broken: once it goes on, what
    it has been told is not all, and it compares everything."""
    one, two = world.nodes
    storm = world.home / "storm"
    routes = [f"10.{a}.{b}.0/24" for a in range(60, 72) for b in range(250)]
    storm.write_text("".join(f"route {verb} {route} dev eth0\n" for verb in ("add", "del") for route in routes))
    lost = one.metric("wherry_overlay_events_lost_total")
    counted = {name: one.drift(name) for name in ("route", "fdb", "neighbour")}
    assert one.daemon
    one.daemon.send_signal(signal.SIGSTOP)
    try:
        before = drops(one)
        for _ in range(20):
            one.space.run("ip", "-batch", str(storm), timeout=60)
            if drops(one) > before:
                break
        assert drops(one) > before, "the daemon's socket holds every storm"
        one.space.run("ip", "route", "flush", "dev", "flannel.1")
        one.space.run("ip", "neigh", "flush", "dev", "flannel.1", "nud", "permanent")
        one.space.run("bridge", "fdb", "del", right["4"]["fdb"][0].split()[0], "dev", "flannel.1")
    finally:
        one.daemon.send_signal(signal.SIGCONT)
    until_equal(one.both, right, "repair", LATE, one.text)
    assert one.reaches(two)
    until(lambda: one.metric("wherry_overlay_events_lost_total") > lost, "the loss is counted", LATE, one.text)
    assert "ENOBUFS" in one.text()
    for name, count in counted.items():
        until(lambda n=name, c=count: one.drift(n) > c, f"the {name} is counted", LATE, one.text)  # type: ignore[misc]


def test_damage_while_the_api_server_is_away(world: World, right: dict[str, Any]) -> None:
    one, two = world.nodes
    assert world.server
    counted, process = one.drift("device"), one.daemon
    end(world.server, signal.SIGKILL)
    try:
        with train(one.pod.path, two.pod_address) as pings:
            until(lambda: len(pings.answered) > 1, "packets")
            one.space.run("ip", "link", "del", "flannel.1")
            one.space.run("ip", "link", "del", "flannel-v6.1")
            until_equal(one.both, right, "repair", LATE, one.text)
        assert one.drift("device") > counted
        for version in world.versions:
            assert one.reaches(two, version=version)
    finally:
        world.start_server()
    one.ready()
    assert one.daemon is process
    until_equal(one.both, right, "nothing changes with its return", LATE, one.text)
