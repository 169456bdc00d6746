"""The API server killed in the middle of writes, and away for a while: nothing acknowledged is lost, and nodes go on alone."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from kube.client import Client
from kube.core import ConfigMap
from kube.errors import AlreadyExists, ApiUnreachable, ServerTimeout
from kube.informer import Change, Informer
from kube.resources import CONFIGMAPS
from tests.cluster.conftest import Lab, until
from tests.cluster.consistency import consistent
from tests.cluster.runtimes import Container, Json
from tests.cluster.world import World, answers

Trial = Callable[[int, int], int]

NAMESPACE = "hammered"
WRITERS = 8
AWAY_SECONDS = 16.0
"""Longer than the lab's grace for a silent node."""


@pytest.fixture
def world(demo: Lab) -> World:
    consistent(demo)
    return World(demo)


@dataclass(slots=True)
class Writer:
    """One client that creates objects and counts up in them, and remembers what it was promised."""

    client: Client
    name: str
    promised: dict[str, int] = field(default_factory=dict)
    """Object -> the count that was acknowledged last."""
    version: int = 0
    acknowledged: int = 0

    async def write(self, stop: asyncio.Event) -> None:
        for number in itertools.count():
            name = f"{self.name}-{number}"
            for count in range(3):
                await self._one(name, count)
                if stop.is_set():
                    return

    async def _one(self, name: str, count: int) -> None:
        """Until it is acknowledged: by the answer, or by what is found after a request that got none."""
        body = {"metadata": {"name": name}, "data": {"count": str(count)}}
        while True:
            try:
                if count:
                    done = await self.client.patch(CONFIGMAPS, name, body, NAMESPACE)
                else:
                    done = await self.client.create(CONFIGMAPS, body, NAMESPACE)
            except AlreadyExists:
                done = await self._found(name)
            except ApiUnreachable:
                await asyncio.sleep(0.02)
                continue
            except ServerTimeout:  # its store was dying
                continue
            version = int(done.metadata.resource_version)
            assert version > self.version or count == 0, f"{name}: version {version} after {self.version}"
            self.version = max(self.version, version)
            self.promised[name] = count
            self.acknowledged += 1
            return

    async def _found(self, name: str) -> ConfigMap:
        while True:
            try:
                return await self.client.get(CONFIGMAPS, name, NAMESPACE)
            except ApiUnreachable:
                await asyncio.sleep(0.02)


@dataclass(slots=True)
class Follower:
    """An informer's subscriber: versions of an object only grow."""

    seen: dict[str, int] = field(default_factory=dict)
    backwards: list[str] = field(default_factory=list)

    def note(self, change: Change[ConfigMap]) -> None:
        if change.new is not None:
            version = int(change.new.metadata.resource_version)
            if version < self.seen.get(change.key, 0):
                self.backwards.append(f"{change.key}: {version} after {self.seen[change.key]}")
            self.seen[change.key] = version


def _others(lab: Lab) -> dict[str, int | None]:
    """The pids of all daemons but the API server."""
    return {name: daemon["pid"] for name, daemon in lab.daemons().items() if name != "node1/apiserver"}


@pytest.mark.timeout(7_200)
async def test_killed_in_the_middle_of_writes(world: World, trial: Trial) -> None:
    others = _others(world.lab)
    await asyncio.to_thread(world.insist, "POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}, allow=409)
    stop, follower = asyncio.Event(), Follower()
    async with Client(world.connection) as client:
        writers = [Writer(client, f"w{number}") for number in range(WRITERS)]
        informer = Informer(client, CONFIGMAPS, namespace=NAMESPACE)
        informer.subscribe(follower.note)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(informer.run())
            writing = [group.create_task(writer.write(stop)) for writer in writers]
            for _ in range(trial(3, 100)):
                await _kill_after(world, writers, 150)
            stop.set()
            await asyncio.wait(writing)
            listed = await client.list(CONFIGMAPS, NAMESPACE)
            there = {c.metadata.name: int((c.data or {}).get("count", -1)) for c in listed.items}
            promised = {name: count for writer in writers for name, count in writer.promised.items()}
            lost = {name: count for name, count in promised.items() if there.get(name, -1) < count}
            assert not lost, f"acknowledged and lost: {lost}"
            assert int(listed.resource_version) >= max(writer.version for writer in writers)
            wanted = {c.metadata.key: c.metadata.resource_version for c in listed.items}
            async with asyncio.timeout(20):
                while {c.metadata.key: c.metadata.resource_version for c in informer.items()} != wanted:
                    await asyncio.sleep(0.05)
            following.cancel()
    assert not follower.backwards
    print(f"{len(promised)} objects, {sum(w.acknowledged for w in writers)} acknowledged writes, none lost")
    await asyncio.to_thread(world.insist, "DELETE", f"/api/v1/namespaces/{NAMESPACE}", allow=404)
    await asyncio.to_thread(consistent, world.lab)
    assert _others(world.lab) == others, "a daemon needed a restart"


async def _kill_after(world: World, writers: list[Writer], more: int) -> None:
    """Kill the server when so many more writes have been acknowledged; return when the next one acknowledges, too."""
    begun = sum(w.acknowledged for w in writers)
    async with asyncio.timeout(60):
        while sum(w.acknowledged for w in writers) < begun + more:
            await asyncio.sleep(0.01)
    pid = await asyncio.to_thread(world.kill, "node1/apiserver")
    killed = time.monotonic()
    await asyncio.to_thread(world.reborn, "node1/apiserver", pid)
    after = [w.acknowledged for w in writers]
    async with asyncio.timeout(30):
        while any(w.acknowledged <= n for w, n in zip(writers, after, strict=True)):
            await asyncio.sleep(0.01)
    print(f"all writers go on {time.monotonic() - killed:.1f} s after the kill")


def _replacement(world: World, dead: Container) -> Container | None:
    return next(
        (c for c in world.containers() if c.running and (c.pod, c.name) == (dead.pod, dead.name) and c.id != dead.id),
        None,
    )


def _counts(pods: list[Json]) -> dict[str, int]:
    return {p["metadata"]["uid"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["thawed", "killed"])
def test_away_for_longer_than_the_grace(world: World, end: signal.Signals) -> None:
    """Pods run, a container that dies is restarted, Services work; then everything is as it was, and nobody was evicted."""
    before = _counts(pods := world.pods("default", "app=hello"))
    uid = min(before, key=lambda each: before[each])  # no back-off stands in its way
    service = next(s for s in world.items("/api/v1/namespaces/default/services") if s["metadata"]["name"] == "hello")
    urls = [f"http://{service['spec']['clusterIP']}/"] + [f"http://{p['status']['podIP']}:8080/" for p in pods]
    containers = world.containers()
    sandboxes = [c for c in containers if c.sandbox and c.running]
    victim = next(c for c in containers if c.pod == uid and c.running and not c.sandbox)
    others = _others(world.lab)
    pid = world.signal("node1/apiserver", signal.SIGSTOP)
    begun = time.monotonic()
    try:
        world.end(victim)
        until(lambda: _replacement(world, victim), seconds=20)
        print(f"restarted {time.monotonic() - begun:.1f} s after it died, without the API")
        until(lambda: all(answers(sandboxes[0].netns, urls).values()), seconds=10)
        while time.monotonic() - begun < AWAY_SECONDS:
            for sandbox in sandboxes:
                said = answers(sandbox.netns, urls)
                assert all(said.values()), f"from {sandbox.node}, {time.monotonic() - begun:.0f} s into it: {said}"
    finally:
        world.signal("node1/apiserver", end)
    back = time.monotonic()
    if end is signal.SIGKILL:
        world.reborn("node1/apiserver", pid)
    until(
        lambda: _counts(world.pods("default", "app=hello")),
        lambda now: now == before | {uid: before[uid] + 1},
        seconds=30,
    )
    consistent(world.lab)
    print(f"converged {time.monotonic() - back:.1f} s after the API was back")
    assert _counts(world.pods("default", "app=hello")) == before | {uid: before[uid] + 1}
    assert _others(world.lab) == others, "a daemon needed a restart"
