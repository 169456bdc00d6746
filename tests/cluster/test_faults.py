"""What happens to machines: the container runtime dies or hangs, links fail, the kernel's tables are emptied behind our back."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import Lab, ready, until
from tests.cluster.consistency import consistent, unreachable
from tests.cluster.runtimes import Json
from tests.cluster.world import NODES, World, answers, settle

Trial = Callable[[int, int], int]

BACK_SECONDS = 15.0
"""Traffic is back at the latest then, on a machine with other work; on an idle one within half a second."""
GRACE = 12.0
"""The lab's, for a silent node."""


@pytest.fixture
def world(demo: Lab) -> World:
    consistent(demo)
    return World(demo)


# --- dockerd ----------------------------------------------------------------------------------------------------------


def _own_dockerd(world: World) -> None:
    if not world.lab.topology["lab"]["own_docker"]:
        pytest.skip("there is no dockerd, or it is the machine's and not ours to kill")


def _running(world: World) -> dict[str, str]:
    return {c.id: c.started for c in world.containers() if c.running}


def _counts(world: World) -> dict[str, int]:
    pods = world.pods("default", "app=hello")
    return {p["metadata"]["uid"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods}


def _not_ready(world: World) -> dict[str, Json]:
    conditions = {node: world.condition(node) for node in NODES}
    return {node: c for node, c in conditions.items() if c["status"] != "True"}


@pytest.mark.timeout(3_600)
def test_dockerd_killed(world: World, trial: Trial) -> None:
    """Again and again, until the kubelets say why they are not ready (a second without dockerd is no news). Containers run on;
    one that died meanwhile is restarted, once."""
    _own_dockerd(world)
    for _ in range(trial(1, 20)):
        _kill_dockerd(world)


def _kill_dockerd(world: World) -> None:
    counts, before = _counts(world), world.containers()
    uid = min(counts, key=lambda each: counts[each])  # no back-off stands in its way
    once_more = counts | {uid: counts[uid] + 1}
    victim = next(c for c in before if c.pod == uid and c.running and not c.sandbox)
    pid = world.kill("dockerd")
    os.kill(victim.pid, signal.SIGKILL)
    reasons: dict[str, str] = {}

    def told() -> set[str]:
        nonlocal pid
        pid = world.kill("dockerd") or pid
        reasons.update({node: c["message"] for node, c in _not_ready(world).items()})
        return set(reasons)

    until(told, lambda seen: seen == set(NODES), seconds=30)
    killed = time.monotonic()
    assert all("container runtime is down" in reason for reason in reasons.values()), reasons
    world.reborn("dockerd", pid)
    until(lambda: _not_ready(world), lambda left: not left, seconds=40)
    print(f"all nodes Ready {time.monotonic() - killed:.1f} s after dockerd was killed for the last time")
    until(lambda: _counts(world), lambda now: now == once_more, seconds=40)
    consistent(world.lab)
    now = _running(world)
    kept = {c.id: c.started for c in before if c.running and c.id != victim.id}
    assert kept.items() <= now.items(), "a container that had not died was restarted"
    assert len(now) == len(kept) + 1
    assert _counts(world) == once_more


@pytest.mark.timeout(300)
def test_dockerd_hangs(world: World) -> None:
    _own_dockerd(world)
    counts, before = _counts(world), _running(world)
    world.signal("dockerd", signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        until(lambda: set(_not_ready(world)), lambda seen: seen == set(NODES), seconds=60)
        print(
            f"all nodes NotReady {time.monotonic() - frozen:.1f} s after dockerd hung: {_not_ready(world)['node1']['message']}"
        )
    finally:
        world.signal("dockerd", signal.SIGCONT)
    thawed = time.monotonic()
    until(lambda: _not_ready(world), lambda left: not left, seconds=30)
    print(f"all nodes Ready {time.monotonic() - thawed:.1f} s after it went on")
    consistent(world.lab)
    assert (_counts(world), _running(world)) == (counts, before)


# --- links ------------------------------------------------------------------------------------------------------------


def _hello(world: World, node: str) -> Json:
    return next(p for p in world.pods("default", "app=hello") if p["spec"]["nodeName"] == node)


def _reaches(world: World, source: Json, target: Json) -> bool:
    url = f"http://{target['status']['podIP']}:8080/"
    return answers(world.sandbox_of(source).netns, [url], patience=0.5)[url]


def _spread(world: World) -> None:
    """One demo pod on each node, also after a test has moved them together."""

    def spread() -> bool:
        pods = [p for p in world.pods("default", "app=hello") if "deletionTimestamp" not in p["metadata"]]
        homes = [p["spec"].get("nodeName") for p in pods]
        if len(pods) != 3 or not all(ready(p) for p in pods):
            return False
        double = next((p for p in pods if homes.count(p["spec"]["nodeName"]) > 1), None)
        if double is not None:
            world.insist("DELETE", f"/api/v1/namespaces/default/pods/{double['metadata']['name']}", allow=404)
        return double is None

    until(spread, seconds=90, pause=0.5)


@pytest.mark.timeout(120)
def test_a_link_down_for_less_than_the_grace(world: World) -> None:
    _spread(world)
    here, there = _hello(world, "node2"), _hello(world, "node3")
    counts, before = _counts(world), _running(world)
    transition = world.condition("node3")["lastTransitionTime"]
    world.inside("", "ip", "link", "set", "node3", "down")
    down = time.monotonic()
    try:
        until(lambda: not _reaches(world, here, there), seconds=5)
        until(lambda: time.monotonic() - down, lambda passed: passed > GRACE / 3, seconds=GRACE / 2)
        assert not _reaches(world, here, there)
    finally:
        world.inside("", "ip", "link", "set", "node3", "up")
    up = time.monotonic()
    until(lambda: _reaches(world, here, there), seconds=BACK_SECONDS, pause=0.05)
    print(f"traffic is back {time.monotonic() - up:.2f} s after the link")
    consistent(world.lab)
    assert (_counts(world), _running(world)) == (counts, before)
    assert world.condition("node3")["lastTransitionTime"] == transition, "the node was NotReady in between"


@pytest.mark.timeout(240)
def test_a_link_down_for_longer_than_the_grace(world: World) -> None:
    """The other side replaces the node's pods; back again, the node ends those that it still runs."""
    _spread(world)
    lost = _hello(world, "node3")["metadata"]["uid"]
    world.inside("", "ip", "link", "set", "node3", "down")
    down = time.monotonic()
    try:
        until(lambda: set(_not_ready(world)), lambda seen: seen == {"node3"}, seconds=GRACE + 20)
        print(f"node3 is NotReady {time.monotonic() - down:.1f} s after its link went down")

        def moved() -> bool:
            pods = [p for p in world.pods("default", "app=hello") if "deletionTimestamp" not in p["metadata"]]
            return len(pods) == 3 and all(ready(p) and p["spec"]["nodeName"] != "node3" for p in pods)

        until(moved, seconds=60)
        print(f"its pods run elsewhere {time.monotonic() - down:.1f} s after its link went down")
        assert any(c.pod == lost and c.running for c in world.containers()), "nobody can have stopped it on node3 yet"
    finally:
        world.inside("", "ip", "link", "set", "node3", "up")
    up = time.monotonic()
    consistent(world.lab)
    print(f"converged {time.monotonic() - up:.1f} s after the link was back")
    assert not [c for c in world.containers() if c.pod == lost]
    _spread(world)
    consistent(world.lab)


# --- the kernel's tables ----------------------------------------------------------------------------------------------

FAULTS = {
    "flannel.1 deleted": "ip link delete flannel.1",
    "flannel.1 down": "ip link set flannel.1 down",
    "routes flushed": "ip route flush dev flannel.1",
    "neighbours deleted": "ip neigh show dev flannel.1 | while read a _; do ip neigh del $a dev flannel.1; done",
    "FDB emptied": "bridge fdb show dev flannel.1 | while read m _; do bridge fdb del $m dev flannel.1; done",
    "nat flushed": "iptables -w -t nat -F",
    "everything flushed": "for t in nat filter mangle; do iptables -w -t $t -F; iptables -w -t $t -X; done",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kernel_is_put_right(world: World, fault: str) -> None:
    _spread(world)
    counts = _counts(world)
    world.inside("node2", "sh", "-ec", FAULTS[fault])
    begun = time.monotonic()
    settle(lambda: unreachable(world), BACK_SECONDS)
    print(f"{fault}: every pod reaches every pod and Service {time.monotonic() - begun:.2f} s later")
    consistent(world.lab)
    assert _counts(world) == counts


@pytest.mark.parametrize("link", ["cni0", "veth"])
def test_a_deleted_link_of_pods_brings_new_sandboxes(world: World, link: str) -> None:
    """The bridge, or a pod's pair: nobody can mend what a pod has lost, so its sandbox is made anew; other nodes' pods stay."""
    if not world.lab.docker:
        pytest.skip("on containerd a pod's links are containerd's, and it does not look after them")
    _spread(world)
    elsewhere = {c.id: c.started for c in world.containers() if c.running and c.node != "node2"}
    names = [each["ifname"] for each in world.links("node2") if each["ifname"].startswith(link)]
    world.inside("node2", "ip", "link", "delete", names[0])
    begun = time.monotonic()
    settle(lambda: unreachable(world), 45.0)
    print(f"{names[0]} deleted: every pod reaches every pod and Service {time.monotonic() - begun:.1f} s later")
    consistent(world.lab)
    assert elsewhere.items() <= _running(world).items()
