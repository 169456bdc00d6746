"""Daemons killed with -9 in the middle of everything: whatever was half done is finished, and nothing is left behind."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import Lab, ready, until
from tests.cluster.consistency import consistent, unreachable, wrong
from tests.cluster.runtimes import Json
from tests.cluster.workload import Workload, pod_spec
from tests.cluster.world import CENTRE_DAEMONS, NODE_DAEMONS, NODES, World

Trial = Callable[[int, int], int]

EVERYBODY = [f"{node}/{name}" for node in NODES for name in NODE_DAEMONS] + [f"node1/{name}" for name in CENTRE_DAEMONS]


@pytest.fixture
def world(demo: Lab) -> World:
    """The lab, whole before the test begins."""
    consistent(demo)
    return World(demo)


def test_the_comparison_sees_what_is_wrong(world: World) -> None:
    """A comparison that finds nothing proves something only when it would find something."""
    address = Path(world.state("node2"), "cni/networks/wherry/10.244.255.254")
    directory = Path(world.state("node2"), "kubelet/pods/nobody")
    world.inside("node2", "ip", "link", "add", "veth-spare", "type", "veth", "peer", "name", "veth-other")
    address.write_text("nobody\r\neth0")
    directory.mkdir()
    try:
        found = "\n".join(wrong(world))
        assert "node2: link veth-spare is on no bridge" in found
        assert "node2: IPAM: ('10.244.255.254', 'nobody') should not be there" in found
        assert "node2: pod directory: nobody should not be there" in found
    finally:
        world.inside("node2", "ip", "link", "delete", "veth-spare")
        address.unlink()
        directory.rmdir()
    consistent(world.lab)


@pytest.mark.timeout(14_000)
def test_random_daemons_killed_while_a_workload_churns(world: World, trial: Trial) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    story = [f"seed {seed}"]
    lives: dict[str, int | None] = {}
    try:
        with Workload(world, "churn", chance) as workload:
            for _ in range(trial(10, 300)):
                story.append(workload.disturb())
                victim = chance.choice(EVERYBODY)
                lives[victim] = world.kill(victim)
                story.append(f"kill {victim} ({lives[victim]})")
                story.append(workload.disturb())
                if chance.random() < 0.3:  # otherwise the next dies while this one is still coming up
                    world.reborn(victim, lives[victim])
            for victim, pid in lives.items():
                world.reborn(victim, pid)
            consistent(world.lab, seconds=90)
        consistent(world.lab)
    except BaseException:
        print("\n".join(story))
        raise


def _started(world: World) -> dict[str, tuple[str, str]]:
    return {c.id: (c.name, c.started) for c in world.containers() if c.running}


def _restarts(pods: list[Json]) -> dict[str, int]:
    return {p["metadata"]["uid"]: s["restartCount"] for p in pods for s in p["status"]["containerStatuses"]}


@pytest.mark.timeout(3_600)
def test_a_killed_kubelet_restarts_no_container(world: World, trial: Trial) -> None:
    before, counts = _started(world), _restarts(world.pods())
    for _ in range(trial(1, 20)):
        lives = {node: world.kill(f"{node}/kubelet") for node in NODES}
        for node, pid in lives.items():
            world.reborn(f"{node}/kubelet", pid)
    # Each new kubelet has got to work when it runs a new pod; by then it has looked at all that it found.
    made = []
    for node in NODES:
        body = {
            "metadata": {"name": f"after-{node}", "labels": {"after": "kill"}},
            "spec": pod_spec() | {"nodeName": node},
        }
        made.append(world.insist("POST", "/api/v1/namespaces/default/pods", body, allow=409))
    until(lambda: sum(ready(p) for p in world.pods("default", "after=kill")), lambda n: n == len(NODES), seconds=60)
    after = _started(world)
    assert before.items() <= after.items()
    assert counts.items() <= _restarts(world.pods()).items()
    assert not unreachable(world)
    for node in NODES:
        world.insist("DELETE", f"/api/v1/namespaces/default/pods/after-{node}", allow=404)
    consistent(world.lab)
