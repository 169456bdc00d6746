"""wherry-kubelet is killed at random moments while pods come and go: nothing is restarted that did not end by itself, nothing
runs twice, no Ready pod flickers, and nothing is left.

What ran is told by the containers themselves: each writes a line into a file of its pod when it begins. A pod that sleeps has
one line at the end; one whose container ends by itself, one more than the restarts that its status counts; one that runs once
(`restartPolicy: Never`) has one, whatever happened to the kubelet meanwhile.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kube.errors import NotFound
from kube.resources import PODS
from linux import mounts
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.engines import Engine
from tests.node.kubelet_trials import POLITE, STUBBORN, first
from tests.node.kubelet_world import World, container, ready, with_world

VOLUMES = [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}]
MOUNTS = [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/disk"}]
NAMED = {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
BEGUN = "echo begun >> /ledger/$NAME; "
KINDS = ("sleeps", "stubborn", "crashes", "once")
SCRIPTS = {"sleeps": POLITE, "stubborn": STUBBORN, "crashes": "sleep 2; exit 3", "once": "sleep 1"}


@pytest.fixture(params=engines.NAMES)
def engine(request: pytest.FixtureRequest, netns: Callable[[str], Netns]) -> Any:
    node = netns("kills")
    with engines.own(request.param, node) as found:
        yield node, found


def test_kills_at_random_moments(
    engine: tuple[Netns, Engine], cgroup_parent: str, tmp_path: Path, trial: Callable[[int, int], int]
) -> None:
    node, found = engine
    rounds, seed = trial(5, 100), random.randrange(1 << 32)  # two pods a round
    print(f"seed {seed}")
    with kernel.enter(node.path):
        story = Story(random.Random(seed), rounds)
        asyncio.run(with_world(node, found, cgroup_parent, tmp_path, story.told, settings=SETTINGS))


SETTINGS = {"crashLoopBackOff": {"maxContainerRestartPeriod": "2s"}}


@dataclass
class Story:
    chance: random.Random
    rounds: int
    alive: dict[str, str] = field(default_factory=dict)
    """What kind of pod, by name."""
    flickers: list[str] = field(default_factory=list)

    async def told(self, world: World) -> None:
        self.ledger = world.folder / "ledger"
        self.ledger.mkdir()
        await self.create(world, "stays", "sleeps")
        before = await world.until("stays", ready, "ready")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch(world))
            for number in range(self.rounds):
                await self.something(world, number)
                await asyncio.sleep(self.chance.uniform(0.2, 2.0))  # the moment of the kill is the test's subject
                world.kill()
                if self.alive and self.chance.random() < 0.3:  # away while a pod goes
                    await self.delete(world, self.chance.choice(sorted(self.alive)))
                world.start()
            await self.settled(world)
            watching.cancel()
        after = await world.pod("stays")
        assert after is not None
        assert first(after).container_id == first(before).container_id
        assert self.flickers == []
        for name in ["stays", *self.alive]:
            with suppress(NotFound):
                await world.client.delete(PODS, name, "default", grace_period_seconds=1)
        for name in ["stays", *self.alive]:
            await world.until_gone(name, 60)
        await _nothing_is_left(world)

    async def something(self, world: World, number: int) -> None:
        """Two pods come, and up to two go."""
        for half in "ab":
            kind = self.chance.choice(KINDS)
            name = f"{kind}-{number}{half}"
            await self.create(world, name, kind)
            self.alive[name] = kind
        while len(self.alive) > 6 or (self.alive and self.chance.random() < 0.4):
            await self.delete(world, self.chance.choice(sorted(self.alive)))

    async def create(self, world: World, name: str, kind: str) -> None:
        host = {"name": "ledger", "hostPath": {"path": str(self.ledger)}}
        mounted = [*MOUNTS, {"name": "ledger", "mountPath": "/ledger"}]
        await world.create(
            name,
            [container("a", BEGUN + SCRIPTS[kind], volumeMounts=mounted, env=[NAMED])],
            initContainers=[container("init", "echo > /disk/x", volumeMounts=MOUNTS)],
            volumes=[*VOLUMES, host],
            restartPolicy="Never" if kind == "once" else "Always",
        )

    async def delete(self, world: World, name: str) -> None:
        del self.alive[name]
        with suppress(NotFound):
            await world.client.delete(PODS, name, "default", grace_period_seconds=self.chance.choice([0, 1, 1]))

    async def watch(self, world: World) -> None:
        """A pod that was Ready and has not ended is Ready; one that crashes has an excuse."""
        were: set[str] = set()
        while True:
            for pod in (await world.client.list(PODS, "default")).items:
                name = pod.metadata.name
                if ready(pod):
                    were.add(name)
                elif name in were and not pod.metadata.deletion_timestamp and name.startswith(("stays", "s")):
                    self.flickers.append(f"{name}: {pod.status.conditions}")
            await asyncio.sleep(0.05)

    def begun(self, name: str) -> int:
        with suppress(FileNotFoundError):
            return len((self.ledger / name).read_text().splitlines())
        return 0

    async def settled(self, world: World) -> None:
        """Each is as its kind is, and did what its kind does."""
        for name, kind in self.alive.items():
            match kind:
                case "once":
                    await world.until(name, lambda p: p.status.phase == "Succeeded", f"{name} has succeeded", 60)
                    assert self.begun(name) == 1, f"{name} ran {self.begun(name)} times"
                case "crashes":
                    await world.until(name, lambda p: first(p).restart_count >= 1, f"{name} is restarted", 60)
                case _:
                    pod = await world.until(name, ready, f"{name} is ready", 60)
                    assert first(pod).restart_count == 0, name
                    assert self.begun(name) == 1, f"{name} began {self.begun(name)} times"

        async def counted(name: str) -> bool:
            """Between two restarts: lines and counts agree."""
            pod = await world.pod(name)
            assert pod is not None
            return self.begun(name) == first(pod).restart_count + 1

        for name in [name for name, kind in self.alive.items() if kind == "crashes"]:
            await world.eventually(partial(counted, name), f"each start of {name} is counted", 30)
        asleep = [name for name, kind in self.alive.items() if kind in ("sleeps", "stubborn")]
        wanted = Counter({(name, each): 1 for name in ["stays", *asleep] for each in (engines.SANDBOX, "a")})

        def as_wanted() -> bool:
            running = Counter((row.pod, row.container) for row in world.running())
            others = {pod for pod, _ in running} - {"stays", *asleep}
            return wanted <= running and others <= {n for n, kind in self.alive.items() if kind == "crashes"}

        await world.eventually(as_wanted, "one container each, and none of those that went", 60)
        assert max(Counter((row.pod, row.container) for row in world.running()).values()) == 1


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
