"""What goes wrong with one pod: upstream's status and Event say it, and on the same node others live and no Lease is missed.

Each fault on Docker and on containerd, with real containers, in a world that stands for all of them. What goes wrong with the
machine or the runtime is in test_kubelet_survival.py.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.pods import Pod
from kube.resources import CONFIGMAPS, PODS
from tests.node import engines
from tests.node.kubelet_trials import (
    POLITE,
    STUBBORN,
    Standing,
    deleted,
    ended,
    first,
    nobody_notices,
    standing,
    told,
    waiting,
)
from tests.node.kubelet_world import World, cgroups_of, container, ready
from tests.requirements import requires

PIDS = 40


@pytest.fixture(scope="module", params=engines.NAMES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    requires("root", "netns")
    folder: Path = tmp_path_factory.mktemp("faults")
    with standing(request.param, folder, podPidsLimit=PIDS) as made:
        yield made


# --- images and what a container is made of ------------------------------------------------------------------------------


def test_an_image_that_cannot_be_pulled(place: Standing) -> None:
    async def test(world: World) -> None:
        nowhere = "127.0.0.1:1/none:1"
        async with nobody_notices(world):
            await world.create("p", [{"name": "c", "image": nowhere}])
            await world.until("p", lambda p: waiting(p).reason == "ErrImagePull", "ErrImagePull")
            pod = await world.until("p", lambda p: waiting(p).reason == "ImagePullBackOff", "ImagePullBackOff")
            assert f'Back-off pulling image "{nowhere}"' in waiting(pod).message
            assert pod.status.phase == "Pending"
            await told(world, "p", "Pulling", f'Pulling image "{nowhere}"')
            await told(world, "p", "Failed", f'Failed to pull image "{nowhere}"')
            await told(world, "p", "Failed", "Error: ErrImagePull")
            await told(world, "p", "BackOff", f'Back-off pulling image "{nowhere}"')
        await deleted(world, "p")  # in back-off, and it waits for nothing

    place.run(test)


@pytest.mark.parametrize(
    ("image", "policy", "reason"),
    [("No/Such:Name", "IfNotPresent", "InvalidImageName"), ("none:1", "Never", "ErrImageNeverPull")],
)
def test_an_image_that_nobody_need_try_to_pull(place: Standing, image: str, policy: str, reason: str) -> None:
    async def test(world: World) -> None:
        await world.create("p", [{"name": "c", "image": image, "imagePullPolicy": policy}])
        await world.until("p", lambda p: waiting(p).reason == reason, reason)
        await told(world, "p", "InspectFailed" if reason == "InvalidImageName" else reason, image)
        await told(world, "p", "Failed", f"Error: {reason}")
        await deleted(world, "p")

    place.run(test)


def test_a_missing_config_map_is_waited_for(place: Standing) -> None:
    async def test(world: World) -> None:
        async with nobody_notices(world):
            env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]
            await world.create("env", [container("c", POLITE, env=env)])
            volumes = [{"name": "v", "configMap": {"name": "later"}}]
            mount = [{"name": "v", "mountPath": "/v"}]
            await world.create("volume", [container("c", POLITE, volumeMounts=mount)], volumes=volumes)
            pod = await world.until(
                "env", lambda p: waiting(p).reason == "CreateContainerConfigError", "CreateContainerConfigError"
            )
            assert waiting(pod).message == 'configmap "later" not found'
            await told(world, "env", "Failed", 'Error: configmap "later" not found')
            await told(world, "volume", "FailedMount", 'MountVolume.SetUp failed for volume "v"')
            await world.until("volume", lambda p: waiting(p).reason == "ContainerCreating", "ContainerCreating")
            await world.client.create(CONFIGMAPS, {"metadata": {"name": "later"}, "data": {"a": "1"}}, "default")
            for name in ("env", "volume"):
                await world.until(name, ready, f"{name} starts once the ConfigMap is there", 40)
        await deleted(world, "env", "volume")
        await world.client.delete(CONFIGMAPS, "later", "default")

    place.run(test)


async def _of(world: World, name: str) -> Pod:
    found = await world.pod(name)
    assert found is not None
    return found


def test_a_command_that_is_not_there(place: Standing) -> None:
    async def test(world: World) -> None:
        async with nobody_notices(world):
            await world.create("never", [container("c", "") | {"command": ["/none"]}], restartPolicy="Never")
            await world.create("always", [container("c", "") | {"command": ["/none"]}])
            pod = await world.until("never", lambda p: p.status.phase == "Failed", "Failed")
            assert (ended(pod).reason, ended(pod).exit_code) in (("StartError", 128), ("ContainerCannotRun", 127))
            assert "/none" in ended(pod).message
            await told(world, "never", "Failed", "/none")
            pod = await world.until(
                "always", lambda p: waiting(p).reason == "CrashLoopBackOff" and ended(p).reason, "CrashLoopBackOff"
            )
            assert "back-off 10s restarting failed container=c" in waiting(pod).message
            await told(world, "always", "BackOff", "Back-off restarting failed container c")
        await deleted(world, "never", "always")

    place.run(test)


def test_a_root_filesystem_that_is_read_only(place: Standing) -> None:
    async def test(world: World) -> None:
        secured = {"readOnlyRootFilesystem": True}
        volumes, mounted = [{"name": "v", "emptyDir": {}}], [{"name": "v", "mountPath": "/v"}]
        script = "echo x > /v/x && echo volume; echo x > /x || exit 7"
        spec = container("c", script, securityContext=secured, volumeMounts=mounted)
        await world.create("p", [spec | {"terminationMessagePolicy": "FallbackToLogsOnError"}], volumes=volumes,
                           restartPolicy="Never")  # fmt: skip
        pod = await world.until("p", lambda p: p.status.phase == "Failed", "Failed")
        assert (ended(pod).reason, ended(pod).exit_code) == ("Error", 7)
        assert "volume" in ended(pod).message
        assert "Read-only file system" in ended(pod).message
        await deleted(world, "p")

    place.run(test)


# --- what containers do ---------------------------------------------------------------------------------------------------


def test_a_container_that_ignores_sigterm_is_killed_after_its_grace(place: Standing) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("c", STUBBORN)], terminationGracePeriodSeconds=3)
        pod = await world.until("p", ready, "ready")
        row = world.row("p", "c")
        async with nobody_notices(world):
            begun = asyncio.get_running_loop().time()
            await world.client.delete(PODS, "p", "default")
            pod = await world.until("p", lambda p: p.metadata.deletion_timestamp, "on its way")
            assert Path(f"/proc/{row.pid}").exists()
            await told(world, "p", "Killing", "Stopping container c")
            await world.until_gone("p", 20)
            assert asyncio.get_running_loop().time() - begun > 2.5
        await world.eventually(lambda: not Path(f"/proc/{row.pid}").exists(), "it is dead")
        assert pod.metadata.uid not in {r.uid for r in world.running()}

    place.run(test)


def test_more_memory_than_its_limit(place: Standing) -> None:
    async def test(world: World) -> None:
        async with nobody_notices(world):
            limits = {"limits": {"memory": "16Mi"}}
            await world.create("p", [container("c", "exec tail /dev/zero", resources=limits)])
            pod = await world.until("p", lambda p: ended(p).reason == "OOMKilled", "OOMKilled", 40)
            assert ended(pod).exit_code == 137
            await world.until("p", lambda p: first(p).restart_count >= 1, "restarted", 40)
            await world.until("p", lambda p: waiting(p).reason == "CrashLoopBackOff", "CrashLoopBackOff", 40)
        await deleted(world, "p")

    place.run(test)


BOMB = "(while :; do sleep 1000 & done) 2>/dev/null & wait; exec sleep 1000"
"""What forks ends when it cannot any more; what it left stays, and the container's first process too."""


def test_a_fork_bomb_under_a_pid_limit(place: Standing) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("c", BOMB)])
        pod = await world.until("p", lambda p: p.status.phase == "Running", "it goes off", 40)
        groups = [g for g in cgroups_of(world.cgroups, pod.metadata.uid) if (g / "pids.max").exists()]
        assert groups, "no pids controller on this machine"

        def used() -> list[int]:
            return [int((group / "pids.current").read_text()) for group in groups]

        async with nobody_notices(world):
            await world.eventually(lambda: max(used()) >= PIDS - 2, "it has used all that it may")
            assert {(group / "pids.max").read_text().strip() for group in groups} == {str(PIDS)}
            assert max(used()) <= PIDS
        assert first(await _of(world, "p")).restart_count == 0
        await deleted(world, "p")

    place.run(test)


@pytest.mark.parametrize("kind", ["exec", "httpGet"])
def test_a_probe_that_hangs(place: Standing, kind: str) -> None:
    """It is given up after its time, its Event says so, liveness restarts the container; the next pods' probes go on."""

    async def test(world: World) -> None:
        ways: dict[str, dict[str, Any]] = {
            "exec": {"exec": {"command": ["sleep", "1000"]}},
            "httpGet": {"httpGet": {"path": "/", "port": 8080}},
        }
        hangs = ways[kind]
        how = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}
        words = {"exec": "timed out", "httpGet": "deadline exceeded"}[kind]
        mute = f"nc -l -p 8080 -e sleep 1000 & {POLITE}" if kind == "httpGet" else POLITE
        async with nobody_notices(world):
            await world.create("alive", [container("c", mute, livenessProbe={**hangs, **how})])
            await world.create("ready", [container("c", mute, readinessProbe={**hangs, **how})])
            await told(world, "alive", "Unhealthy", "Liveness probe failed")
            await told(world, "ready", "Unhealthy", words)
            await told(world, "alive", "Killing", "Container c failed liveness probe, will be restarted")
            await world.until("alive", lambda p: first(p).restart_count == 1, "restarted")
            pod = await _of(world, "ready")
            assert not ready(pod)
            assert first(pod).restart_count == 0
        await deleted(world, "alive", "ready")

    place.run(test)


# --- deleted at any time --------------------------------------------------------------------------------------------------


def test_deleted_while_it_starts(place: Standing, trial: Callable[[int, int], int]) -> None:
    async def test(world: World) -> None:
        names = [f"p{number}" for number in range(trial(6, 60))]
        async with nobody_notices(world), asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(_born_and_deleted(world, name))
        await world.eventually(lambda: not [r for r in world.running() if r.pod in names], "none runs")
        await world.eventually(lambda: not world.remains(), "none is left", 60)

    place.run(test)


async def _born_and_deleted(world: World, name: str) -> None:
    await world.create(name, [container("c", POLITE)])
    await asyncio.sleep(random.uniform(0, 1.0))  # the moment is the test's subject
    await deleted(world, name, seconds=60)


def test_deleted_in_back_off(place: Standing) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("c", "exit 3")], terminationGracePeriodSeconds=100)
        await world.until("p", lambda p: waiting(p).reason == "CrashLoopBackOff", "CrashLoopBackOff")
        await deleted(world, "p", seconds=8)

    place.run(test)


def test_a_forced_delete_ends_the_containers_too(place: Standing) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("c", STUBBORN)], terminationGracePeriodSeconds=1000)
        await world.until("p", ready, "ready")
        row = world.row("p", "c")
        async with nobody_notices(world):
            await world.client.delete(PODS, "p", "default", grace_period_seconds=0)
            assert await world.pod("p") is None
            await world.eventually(lambda: not Path(f"/proc/{row.pid}").exists(), "its process ends", 15)
            await world.eventually(lambda: not (world.root / "pods" / row.uid).exists(), "its directory goes", 15)

    place.run(test)


# --- many ------------------------------------------------------------------------------------------------------------------


def test_twenty_pods_at_once(place: Standing) -> None:
    async def test(world: World) -> None:
        names = [f"many{number}" for number in range(20)]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(world.create(name, [container("c", POLITE)]))
        for name in names:
            await world.until(name, ready, f"{name} is ready", 60)
        assert len({(await _of(world, name)).status.pod_ip for name in names}) == 20
        await deleted(world, *names, seconds=60)

    place.run(test)


def test_a_pod_of_many_containers(place: Standing, trial: Callable[[int, int], int]) -> None:
    async def test(world: World) -> None:
        number = trial(15, 50)
        async with nobody_notices(world):
            await world.create("p", [container(f"c{n:02}", POLITE) for n in range(number)])
            pod = await world.until("p", ready, "ready", 90)
            assert [s.name for s in pod.status.container_statuses] == [f"c{n:02}" for n in range(number)]
            assert all(s.restart_count == 0 and s.ready for s in pod.status.container_statuses)
        await deleted(world, "p", seconds=60)

    place.run(test)
