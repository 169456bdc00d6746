"""wherry-kubelet is killed at random moments while pods start and stop: it converges, and leaves nothing."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from kube.errors import NotFound
from kube.resources import PODS
from linux import mounts
from linux import netns as kernel
from tests.conftest import Netns
from tests.dockerd import Dockerd
from tests.node.kubelet_world import World, container, ready, with_world

VOLUMES = [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}]
MOUNTS = [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/disk"}]


def test_kills_at_random_moments(
    netns: Callable[[str], Netns],
    dockerd: Dockerd,
    cgroup_parent: str,
    tmp_path: Path,
    trial: Callable[[int, int], int],
) -> None:
    node, rounds, seed = netns("kills"), trial(5, 30), random.randrange(1 << 32)
    print(f"seed {seed}")
    with kernel.enter(node.path):
        asyncio.run(with_world(node, dockerd, cgroup_parent, tmp_path, _churn(rounds, random.Random(seed))))


def _churn(rounds: int, chance: random.Random) -> Callable[[World], Awaitable[None]]:
    async def test(world: World) -> None:
        await world.create("stays", [container("a", "sleep 1000")])
        first = await world.until("stays", ready, "ready")
        alive: set[str] = set()
        for number in range(rounds):
            await _something(world, chance, alive, f"p{number}")
            await asyncio.sleep(chance.uniform(0.3, 2.5))  # the moment of the kill is the test's subject
            world.kill()
            if alive and chance.random() < 0.3:  # away while a pod goes
                await _delete(world, alive.pop(), 0 if chance.random() < 0.5 else 1)
            world.start()
        for name in ["stays", *alive]:
            await world.until(name, ready, f"{name} is ready", 60)
        last = await world.pod("stays")
        assert last is not None
        assert last.status.container_statuses[0].container_id == first.status.container_statuses[0].container_id
        wanted = Counter({(name, c): 1 for name in ["stays", *alive] for c in ("POD", "a")})
        await world.eventually(lambda: _running(world) == wanted, "one container each, and none of those that went", 60)
        for name in ["stays", *alive]:
            await _delete(world, name, 1)
        for name in ["stays", *alive]:
            await world.until_gone(name, 60)
        await _nothing_is_left(world)

    return test


async def _something(world: World, chance: random.Random, alive: set[str], name: str) -> None:
    """A pod comes, or one goes, or both."""
    if alive and chance.random() < 0.5:
        await _delete(world, alive.pop(), 1)
    init = [container("init", "echo > /disk/x", volumeMounts=MOUNTS)]
    await world.create(
        name,
        [
            container(
                "a",
                "trap '' TERM; while :; do sleep 1; done" if chance.random() < 0.5 else "sleep 1000",
                volumeMounts=MOUNTS,
            )
        ],
        initContainers=init,
        volumes=VOLUMES,
    )
    alive.add(name)


async def _delete(world: World, name: str, grace: int) -> None:
    with suppress(NotFound):
        await world.client.delete(PODS, name, "default", grace_period_seconds=grace)


def _running(world: World) -> Counter[tuple[str, str]]:
    return Counter((row.pod, row.container) for row in world.running())


async def _nothing_is_left(world: World) -> None:
    def groups() -> list[Path]:
        tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        return [found for top in tops for found in (top / world.cgroups.strip("/")).glob("kubepods/**/pod*")]

    def addresses() -> list[str]:
        return [file.name for file in (world.folder / "networks").rglob("10.*")]

    await world.eventually(lambda: not world.remains(), "no container", 90)
    await world.eventually(lambda: not list((world.root / "pods").iterdir()), "no pod's directory", 90)
    await world.eventually(lambda: not mounts.below(str(world.folder)), "no mount", 90)
    await world.eventually(lambda: not groups(), "no cgroup", 90)
    await world.eventually(lambda: "veth" not in world.node.run("ip", "-o", "link"), "no link", 90)
    await world.eventually(lambda: not addresses(), "no address", 90)
    await world.eventually(lambda: not list((world.folder / "logs").iterdir()), "no log", 90)
    await world.eventually(lambda: not any((world.folder / "cache").rglob("*-eth0")), "no cached result", 90)
