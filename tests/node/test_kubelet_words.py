"""What is said of containers that ended, and what holds a pod that multiplies or is resized: real processes, both runtimes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube.client import Patch
from kube.informer import Change, Informer
from kube.pods import ContainerStateTerminated, Pod
from kube.resources import PODS, RUNTIMECLASSES
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.kubelet_world import World, cgroups_of, container, ready, with_world

Run = Callable[[Callable[[World], Awaitable[None]]], None]
PIDS = 40
SETTINGS = {"podPidsLimit": PIDS, "cpuCFSQuotaPeriod": "50ms"}


@pytest.fixture(params=engines.NAMES)
def run(
    request: pytest.FixtureRequest, netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path
) -> Iterator[Run]:
    node = netns("kubelet")
    with ExitStack() as stack:
        if request.param == "docker":
            engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test, settings=SETTINGS))

        yield go


def ended(pod: Pod, name: str) -> ContainerStateTerminated:
    (status,) = [s for s in pod.status.container_statuses if s.name == name]
    assert status.state.terminated is not None, status
    assert status.container_id
    assert status.image_id
    return status.state.terminated


async def _ends(world: World) -> None:
    fallback = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    await world.create(
        "ends",
        [
            container("ok", "echo -n bye > /dev/termination-log"),
            container("bad", "echo last words >&2; exit 3", **fallback),
            container("quiet", "echo -n said > /dev/termination-log; echo logged; exit 4", **fallback),
            container("greedy", "tail /dev/zero", resources={"limits": {"memory": "16Mi"}}),
            {**container("absent", ""), "command": ["/does/not/exist"]},
        ],
        restartPolicy="Never",
    )
    pod = await world.until("ends", lambda p: p.status.phase == "Failed", "everything has ended")
    found = {name: ended(pod, name) for name in ("ok", "bad", "quiet", "greedy", "absent")}
    said = {
        name: (one.reason, one.exit_code, one.message)
        for name, one in found.items()
        if name not in ("greedy", "absent")
    }
    assert said == {
        "ok": ("Completed", 0, "bye"),
        "bad": ("Error", 3, "last words\n"),
        "quiet": ("Error", 4, "said"),
    }
    assert (found["greedy"].reason, found["greedy"].exit_code) == ("OOMKilled", 137)
    assert found["absent"].reason in ("ContainerCannotRun", "StartError")
    assert found["absent"].exit_code in (127, 128)
    assert "/does/not/exist" in found["absent"].message
    assert pod.status.pod_ip, "a pod that ended keeps its address"
    assert [c.status for c in pod.status.conditions if c.type == "Ready"] == ["False"]


async def _bomb(world: World) -> None:
    """It has the pod's processes, and nobody else's."""
    web = container("a", "sleep 1000", resources={"limits": {"cpu": "500m", "memory": "32Mi"}})
    await world.create("beside", [web])
    beside = await world.until("beside", ready, "a neighbour is ready")
    assert _quota(cgroups_of(world.cgroups, beside.metadata.uid)) == ("25000", "50000")
    await world.create("bomb", [container("a", "f() { f | f & }; f; sleep 1000")])
    bomb = await world.until("bomb", lambda p: p.status.container_statuses, "it is known")
    await world.until("bomb", lambda p: p.status.phase != "Pending", "it began")
    (group,) = [g for g in cgroups_of(world.cgroups, bomb.metadata.uid) if _has(g, "pids.max")]
    assert int((group / "pids.max").read_text()) == PIDS
    await world.eventually(lambda: _refused(group), "processes were refused")
    assert int((group / "pids.current").read_text()) <= PIDS
    assert await world.healthy()
    await world.client.delete(PODS, "bomb", "default")
    await world.until_gone("bomb")
    assert not cgroups_of(world.cgroups, bomb.metadata.uid)
    again = await world.pod("beside")
    assert again is not None
    assert ready(again)
    assert again.status.container_statuses[0].restart_count == 0


def _quota(groups: list[Path]) -> tuple[str, ...]:
    """The pod's microseconds of CPU, and of how many, on either version of cgroups."""
    for group in groups:
        if _has(group, "cpu.max"):
            return tuple((group / "cpu.max").read_text().split())
        if _has(group, "cpu.cfs_quota_us"):
            return tuple((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return ()


def _has(group: Path, name: str) -> bool:
    return (group / name).exists()


def _refused(group: Path) -> bool:
    """The counter is the group's whose limit was hit, or, on newer kernels, that of the process' own."""
    counters = [group / "pids.events", *group.glob("*/pids.events")]
    return any(int(line.split()[1]) > 0 for file in counters if file.exists() for line in file.read_text().splitlines())


async def _classes(world: World) -> None:
    """The handler that every runtime has by name, and one that none has."""
    for name, handler in (("known", "runc"), ("unknown", "no-such-handler")):
        await world.client.create(RUNTIMECLASSES, {"metadata": {"name": name}, "handler": handler})
        await world.create(name, [container("a", "sleep 1000")], runtimeClassName=name)
    await world.until("known", ready, "ready")
    await world.eventually(lambda: world.events("FailedCreatePodSandBox"), "the runtime says no")
    (event, *_) = await world.events("FailedCreatePodSandBox")
    assert "no-such-handler" in event.message
    assert event.involved_object.name == "unknown"
    for name in ("known", "unknown"):
        await world.client.delete(PODS, name, "default")
        await world.until_gone(name)


async def _resize(world: World) -> None:
    """What the kernel holds the container to, and the pod around it, without a restart; less memory than is in use is
    refused."""
    small = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}}
    large = {"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "400m", "memory": "64Mi"}}
    # the file's pages are memory that cannot be given back
    hoard = container("a", "dd if=/dev/zero of=/m/x bs=1M count=20 2>/dev/null; sleep 1000", resources=small)
    volume = {"name": "m", "emptyDir": {"medium": "Memory"}}
    hoard["volumeMounts"] = [{"name": "m", "mountPath": "/m"}]
    hoard["readinessProbe"] = {
        "exec": {"command": ["sh", "-c", "test $(stat -c %s /m/x) = 20971520"]},
        "periodSeconds": 1,
    }
    await world.create("resized", [hoard], volumes=[volume])
    pod = await world.until("resized", ready, "ready")
    uid, identity = pod.metadata.uid, pod.status.container_statuses[0].container_id.partition("://")[2]
    await _ask(world, large)
    await world.until("resized", lambda p: _in_force(p) == large["limits"], "it is larger")
    await world.eventually(
        lambda: _held(world, uid, identity) == {("20000", "50000", str(64 << 20))}, "by the kernel too"
    )
    tiny = {"requests": {"cpu": "100m", "memory": "8Mi"}, "limits": {"cpu": "200m", "memory": "8Mi"}}
    await _ask(world, tiny)
    pod = await world.until("resized", lambda p: _resizing(p).startswith("Error: attempting to set"), "it says why not")
    await _ask(world, small)
    pod = await world.until(
        "resized", lambda p: _in_force(p) == small["limits"] and not _resizing(p), "it is small again"
    )
    await world.eventually(
        lambda: _held(world, uid, identity) == {("10000", "50000", str(32 << 20))}, "by the kernel too"
    )
    assert pod.status.container_statuses[0].restart_count == 0
    assert ready(pod)


async def _restart(world: World) -> None:
    """A kubelet that starts anew has nothing new to say of anybody."""
    said: list[tuple[str, Any]] = []

    def note(change: Change[Pod]) -> None:
        if change.old is not None and change.new is not None:
            before, after = (msgspec.to_builtins(pod.status) for pod in (change.old, change.new))
            said.append((change.new.metadata.name, {k: v for k, v in after.items() if before.get(k) != v}))

    pods = Informer(world.client, PODS, namespace="default")
    pods.subscribe(note)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pods.run())
        await pods.synced.wait()
        world.kill()
        world.start()
        await world.create("after", [container("a", "sleep 1000")])
        await world.until("after", ready, "pods are run again")
        task.cancel()
    assert [words for words in said if words[0] != "after"] == []


async def _ask(world: World, resources: dict[str, Any]) -> None:
    body = {"spec": {"containers": [{"name": "a", "resources": resources}]}}
    await world.client.patch(PODS, "resized", body, "default", kind=Patch.STRATEGIC, subresource="resize")


def _in_force(pod: Pod) -> dict[str, str]:
    (status,) = pod.status.container_statuses
    return status.resources.limits if status.resources else {}


def _resizing(pod: Pod) -> str:
    return next((f"{c.reason}: {c.message}" for c in pod.status.conditions if c.type == "PodResizeInProgress"), "")


def _held(world: World, uid: str, identity: str) -> set[tuple[str, ...]]:
    """CPU quota, period and memory of the pod's group and of the container's: one value where they agree."""
    groups = cgroups_of(world.cgroups, uid)
    return {(*_quota(family), _memory(family)) for family in (groups, [group / identity for group in groups])}


def _memory(groups: list[Path]) -> str:
    files = (group / name for group in groups for name in ("memory.max", "memory.limit_in_bytes"))
    return next((file.read_text().strip() for file in files if file.exists()), "")


def test_ends_are_told_a_fork_bomb_is_held_and_a_pod_resized(run: Run) -> None:
    async def test(world: World) -> None:
        await _ends(world)
        await _bomb(world)
        await _classes(world)
        await _resize(world)
        await _restart(world)

    run(test)
