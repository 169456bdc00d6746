"""What goes wrong with the machine: the runtime dies, restarts, hangs, or hangs for one pod; the API is away; the disk is full.

Pods run on, nothing is restarted that did not end by itself, and when the trouble is over everything is as it should be. On
Docker and on containerd, each of the test's own. Kills of the kubelet itself are in test_kubelet_kills.py.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kube.errors import ApiUnreachable, NotFound, Retry
from kube.pods import Pod
from kube.resources import NODES, PODS
from linux import mounts
from tests.fakes.stalling import Stalling, stalling
from tests.node import engines
from tests.node.engines import end
from tests.node.kubelet_trials import (
    POLITE,
    Standing,
    deleted,
    ended,
    first,
    nobody_notices,
    renewed,
    standing,
    told,
    waiting,
)
from tests.node.kubelet_world import World, container, ready
from tests.requirements import requires

REQUEST_SECONDS = 4
Trial = Callable[[int, int], int]


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> None:
    """A runtime that was started again is another process than before: the comparison is around `place`, all of it."""


@pytest.fixture(scope="module", params=engines.NAMES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    requires("root", "netns")
    folder: Path = tmp_path_factory.mktemp("survival")
    impatient = {
        "runtimeRequestTimeout": f"{REQUEST_SECONDS}s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    }
    with standing(request.param, folder, **impatient) as made:
        yield made


def identities(pod: Pod | None) -> list[tuple[str, int]]:
    """Which containers run, and how often each was restarted."""
    assert pod is not None
    return [(status.container_id, status.restart_count) for status in pod.status.container_statuses]


@asynccontextmanager
async def kept(world: World, *names: str) -> AsyncIterator[None]:
    """Pods that are Ready with the same containers, processes and counts after the body as before."""
    for name in names:
        await world.create(name, [container("a", POLITE)])
    for name in names:
        await world.until(name, ready, f"{name} is ready")
    before = {name: identities(await world.pod(name)) for name in names}
    rows = {row for row in world.running() if row.pod in names}
    yield
    for name in names:
        await world.until(name, ready, f"{name} is ready again", 40)
    assert {name: identities(await world.pod(name)) for name in names} == before
    assert {row for row in world.running() if row.pod in names} == rows
    await deleted(world, *names)


# --- the runtime ----------------------------------------------------------------------------------------------------------


def test_the_runtime_is_killed_and_started_again(place: Standing, trial: Trial) -> None:
    """Containers run on; one that ends meanwhile is restarted, once; the node is Ready again."""

    async def test(world: World) -> None:
        for _ in range(trial(2, 40)):
            async with kept(world, "a", "b"):
                await world.create("ends", [container("c", POLITE)])
                await world.until("ends", ready, "ready")
                row = world.row("ends", "c")
                await asyncio.to_thread(world.engine.kill)
                end(row)
                await world.eventually(lambda: world.node_is("False"), "the node says that it is not ready", 30)
                node = await world.client.get(NODES, world.node.name)
                (said,) = [c for c in node.status.conditions if c.type == "Ready"]
                assert (said.reason, "container runtime is down" in said.message) == ("KubeletNotReady", True), said
                await asyncio.to_thread(world.engine.start)
                await world.eventually(lambda: world.node_is("True"), "the node is ready again", 30)
                pod = await world.until("ends", lambda p: ready(p) and first(p).restart_count, "it is restarted", 40)
                assert first(pod).restart_count == 1
                assert ended(pod).exit_code == 137
                await world.create("after", [container("c", POLITE)])
                await world.until("after", ready, "a new pod starts", 40)
                await deleted(world, "ends", "after")

    place.run(test)


def test_the_runtime_hangs(place: Standing) -> None:
    """The Lease is renewed on time; the node says why it is not ready; then everything goes on."""

    async def test(world: World) -> None:
        async with kept(world, "a", "b"):
            before = await world.client.get(NODES, world.node.name)
            world.engine.signal(signal.SIGSTOP)
            try:
                async with nobody_notices(world, lives=0):
                    await world.eventually(lambda: world.node_is("False"), "the node says that it is not ready", 60)
                    node = await world.client.get(NODES, world.node.name)
                    (said,) = [c for c in node.status.conditions if c.type == "Ready"]
                    assert said.reason == "KubeletNotReady"
                    assert "runtime is down" in said.message or "PLEG is not healthy" in said.message
                    await world.create("waits", [container("c", POLITE)])
            finally:
                world.engine.signal(signal.SIGCONT)
            await world.eventually(lambda: world.node_is("True"), "the node is ready again", 30)
            await world.until("waits", ready, "who came meanwhile starts", 40)
            assert before.metadata.uid == (await world.client.get(NODES, world.node.name)).metadata.uid
            await deleted(world, "waits")

    place.run(test)


@asynccontextmanager
async def behind_a_door(world: World) -> AsyncIterator[Stalling]:
    """The kubelet is started again with a door before its runtime."""
    path = str(world.folder / "door.sock")
    async with stalling(world.engine.socket_path, path, grpc=world.engine.name == "containerd") as door:
        await asyncio.to_thread(world.kill, signal.SIGTERM)
        world.endpoint = f"{world.engine.endpoint.partition('://')[0]}://{path}"
        world.start()
        try:
            await renewed(world)
            yield door
        finally:
            door.release()
            await asyncio.to_thread(world.kill, signal.SIGTERM)
            world.endpoint = ""
            world.start()
            await renewed(world)


def test_a_call_that_hangs_for_one_pod(place: Standing) -> None:
    async def test(world: World) -> None:
        async with behind_a_door(world) as door, kept(world, "a"):
            door.stall("create", "stuck")
            async with nobody_notices(world, lives=2):
                await world.create("stuck", [container("c", POLITE)])
                await world.eventually(lambda: door.held, "its call is held")
                await world.until("stuck", lambda p: waiting(p).reason == "ContainerCreating", "ContainerCreating")
            door.release()
            pod = await world.until("stuck", ready, "it starts when the runtime goes on", 60)
            assert first(pod).restart_count == 0
            assert len([row for row in world.running() if row.pod == "stuck"]) == 2
            await deleted(world, "stuck")

    place.run(test)


def test_deleted_while_its_image_is_pulled_or_its_container_made(place: Standing) -> None:
    async def test(world: World) -> None:
        async with behind_a_door(world) as door:
            door.stall("pull")
            door.stall("create", "stuck")
            async with nobody_notices(world):
                await world.create("pulls", [{"name": "c", "image": "127.0.0.1:1/slow:1"}])
                await world.create("stuck", [container("c", POLITE)])
                await world.eventually(lambda: {"pull", "create"} <= set(door.held), "both calls are held")
                await told(world, "pulls", "Pulling", "127.0.0.1:1/slow:1")
                await deleted(world, "pulls", seconds=20)
                await world.client.delete(PODS, "stuck", "default")
            door.release()
            await world.until_gone("stuck", 40)
        await world.eventually(lambda: not world.remains(), "nothing is left of them", 60)

    place.run(test)


# --- the API --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def no_api(world: World) -> AsyncIterator[None]:
    """The API server is killed; it answers again when the body has ended."""
    await asyncio.to_thread(world.server.kill, signal.SIGKILL)
    try:
        yield
    finally:
        await world.server.start()

        async def answers() -> bool:
            with contextlib.suppress(Retry, ApiUnreachable):
                await world.client.get(NODES, world.node.name)
                return True
            return False

        await world.eventually(answers, "the API answers", 20)


def test_the_api_server_is_away(place: Standing, trial: Trial) -> None:
    """Pods run, who crashes is restarted with back-off, probes go on; afterwards statuses and deletions catch up."""

    async def test(world: World) -> None:
        flag = world.folder / "flag"
        flag.mkdir(exist_ok=True)
        (flag / "well").write_text("")
        host = [{"name": "h", "hostPath": {"path": str(flag)}}]
        mounted = [{"name": "h", "mountPath": "/flag"}]
        probe = {"exec": {"command": ["cat", "/flag/well"]}, "periodSeconds": 1, "failureThreshold": 1}
        async with kept(world, "a"):
            await world.create(
                "probed", [container("c", POLITE, readinessProbe=probe, volumeMounts=mounted)], volumes=host
            )
            crash = "echo x >> /flag/runs; trap exit TERM; sleep 3 & wait; exit 5"
            await world.create("crashes", [container("c", crash, volumeMounts=mounted)], volumes=host)
            await world.create("goes", [container("c", "trap 'sleep 2; exit' TERM; sleep 1000 & wait")],
                               terminationGracePeriodSeconds=20)  # fmt: skip
            for name in ("probed", "goes", "crashes"):
                await world.until(name, ready, f"{name} is ready")
            victim = world.row("probed", "c")
            await world.client.delete(PODS, "goes", "default")
            await told(world, "goes", "Killing", "Stopping container c")
            async with no_api(world):
                begun = time.monotonic()
                (flag / "well").unlink()
                end(victim)
                await world.eventually(lambda: _runs(flag) >= 3, "the one that crashes goes on, after its back-off", 60)
                await world.eventually(
                    lambda: any(r.pod == "probed" and r.container == "c" for r in world.running()), "restarted", 30
                )
                await world.eventually(
                    lambda: not [r for r in world.running() if r.pod == "goes"], "its deletion goes on", 30
                )
                gone = world.row("probed", "c")
                while time.monotonic() - begun < trial(0, 600):
                    await asyncio.sleep(1)  # the length of the outage is the soak's subject
            await world.until_gone("goes", 60)
            pod = await world.until(
                "probed", lambda p: first(p).restart_count == 1 and not ready(p), "the status is true", 60
            )
            assert ended(pod).exit_code == 137
            assert world.row("probed", "c") == gone
            (flag / "well").write_text("")
            await world.until("probed", ready, "and the probes go on", 30)
            pod = await world.until("crashes", lambda p: first(p).restart_count >= 2, "what it did is known", 60)
            assert ended(pod).exit_code == 5
            assert _runs(flag) - 1 <= first(pod).restart_count + 1
            await deleted(world, "probed", "crashes", seconds=60)
            (flag / "runs").unlink()

    place.run(test)


def _runs(flag: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len((flag / "runs").read_text().splitlines())
    return 0


def test_the_kubelet_starts_while_the_api_server_is_away(place: Standing) -> None:
    """What runs is left running, and is restarted when it ends, from what the kubelet had last seen."""

    async def test(world: World) -> None:
        async with kept(world, "a", "b"):
            await world.create("ends", [container("c", POLITE)])
            await world.until("ends", ready, "ready")
            before = world.row("ends", "c")
            seen = world.root / "seen/pods" / f"{before.uid}.json"
            await world.eventually(
                lambda: seen.exists() and before.id in seen.read_text(), "the kubelet keeps what it saw"
            )
            await asyncio.to_thread(world.kill)
            async with no_api(world):
                world.start()
                await world.eventually(world.healthy, "the kubelet is healthy without an API", 30)
                end(before)

                def again() -> bool:
                    return any((r.pod, r.container) == ("ends", "c") and r.id != before.id for r in world.running())

                await world.eventually(again, "the container that ended is restarted", 40)
            pod = await world.until("ends", lambda p: ready(p) and first(p).restart_count == 1, "and it is told", 60)
            assert ended(pod).exit_code == 137
            await deleted(world, "ends")

    place.run(test)


# --- the disk -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def small_disk(world: World) -> AsyncIterator[Path]:
    """The kubelet's root directory on a disk of its own, with little room."""
    await asyncio.to_thread(world.kill, signal.SIGTERM)
    disk = world.folder / "small"
    disk.mkdir(exist_ok=True)
    mounts.tmpfs(str(disk), size_bytes=2 << 20)
    world.root_directory = disk / "kubelet"
    world.start()
    try:
        await renewed(world)
        yield disk
    finally:
        await asyncio.to_thread(world.kill, signal.SIGTERM)
        for mount in mounts.below(str(disk / "kubelet")):
            mounts.unmount(mount.point, lazy=True)
        mounts.unmount(str(disk), lazy=True)
        world.root_directory = None
        world.start()
        await renewed(world)


def test_a_full_disk(place: Standing) -> None:
    """A pod that needs room waits and says why; who runs goes on; with room again it starts."""

    async def test(world: World) -> None:
        async with small_disk(world) as disk, kept(world, "a"):
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            async with nobody_notices(world, lives=0):
                await world.create("waits", [container("c", POLITE)])

                async def said() -> bool:
                    about = [event for reason in ("FailedMount", "Failed") for event in await world.events(reason)]
                    return any("no space left" in event.message.lower() for event in about)

                await world.eventually(said, "an Event says that there is no space left", 40)
                held = waiting(
                    await world.until(
                        "waits", lambda p: waiting(p).reason == "CreateContainerConfigError", "it waits", 10
                    )
                )
                assert "no space left" in held.message.lower()
            filler.unlink()
            await world.until("waits", ready, "it starts when there is room", 60)
            await deleted(world, "waits")
        with contextlib.suppress(NotFound):
            await deleted(world, "a")

    place.run(test)
