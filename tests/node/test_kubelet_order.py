"""Sidecars, hooks, guests and stop signals with real processes, on each runtime: who began and who was told to stop, when."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.client import Patch
from kube.resources import PODS
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.engines import Engine
from tests.node.kubelet_world import World, container, ready, with_world

Run = Callable[[Callable[[World], Awaitable[None]]], None]


@contextlib.contextmanager
def _engine(request: pytest.FixtureRequest, node: Netns) -> Iterator[Engine]:
    if request.param == "docker":
        yield engines.shared(request.getfixturevalue("dockerd"))
        return
    with engines.own(request.param, node) as found:
        yield found


@pytest.fixture(params=engines.NAMES)
def run(request: pytest.FixtureRequest, netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path) -> Run:
    node = netns("kubelet")

    def go(test: Callable[[World], Awaitable[None]]) -> None:
        with _engine(request, node) as engine, kernel.enter(node.path):
            asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test))

    return go


def test_sidecars_hooks_guests_and_signals(run: Run) -> None:
    async def test(world: World) -> None:
        told = world.folder / "told"
        volume = {"name": "t", "hostPath": {"path": str(world.folder), "type": "Directory"}}

        def talker(name: str, slow: str = ":", **more: Any) -> dict[str, Any]:
            """Writes down when it begins, and when it is told to stop."""
            trap = f"trap '{slow}; echo {name} stops >> /t/told; exit 0' TERM"
            script = (
                f"{trap}; mkdir -p /tmp; echo up > /tmp/up; echo {name} begins >> /t/told; while :; do sleep 0.05; done"
            )
            return container(name, script, volumeMounts=[{"name": "t", "mountPath": "/t"}], **more)

        hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo one is warned >> /t/told"]}}}
        inits = [
            talker("one", restartPolicy="Always", lifecycle=hook),
            talker(
                "two",
                restartPolicy="Always",
                startupProbe={"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1},
            ),
            container("setup", "echo setup >> /t/told", volumeMounts=[{"name": "t", "mountPath": "/t"}]),
        ]
        app = talker("app", slow="sleep 0.3", terminationMessagePath="/dev/termination-log")
        await world.create("p", [app], initContainers=inits, volumes=[volume], terminationGracePeriodSeconds=20)
        pod = await world.until("p", ready, "ready")
        assert told.read_text().split("\n")[:-1] == ["one begins", "two begins", "setup", "app begins"]
        assert [s.started for s in pod.status.init_container_statuses] == [True, True, False]
        await _debugged(world)
        engines.end(world.row("p", "two"))
        await world.until("p", lambda pod: pod.status.init_container_statuses[1].restart_count == 1, "restarted")
        await world.until("p", ready, "ready again")
        told.write_text("")
        await world.client.delete(PODS, "p", "default")
        await world.until_gone("p")
        assert told.read_text().split("\n")[:-1] == ["one is warned", "app stops", "two stops", "one stops"]
        await _a_job_and_a_signal(world)
        await world.eventually(lambda: not world.remains(), "nothing is left in the runtime")

    run(test)


async def _debugged(world: World) -> None:
    """kubectl debug: the guest sees the processes of its target."""
    guest = container("guest", "cat /proc/1/cmdline; exit 7", targetContainerName="app")
    wish = {"spec": {"ephemeralContainers": [guest]}}
    await world.client.patch(PODS, "p", wish, "default", kind=Patch.STRATEGIC, subresource="ephemeralcontainers")

    def ended(pod: Any) -> Any:
        statuses = pod.status.ephemeral_container_statuses
        return statuses and statuses[0].state.terminated

    pod = await world.until("p", ended, "the guest has come and gone")
    end = pod.status.ephemeral_container_statuses[0].state.terminated
    assert end is not None
    assert end.exit_code == 7
    (log,) = (world.folder / "logs").rglob("guest/0.log")
    assert "app begins" in log.read_text()


async def _a_job_and_a_signal(world: World) -> None:
    """A job does not wait for its sidecar; a stop signal is the container's own."""
    proxy = container("proxy", "trap 'exit 3' TERM; while :; do sleep 0.05; done", restartPolicy="Always")
    await world.create("job", [container("a", "exit 0")], initContainers=[proxy], restartPolicy="Never")
    usr = container(
        "a", "trap 'exit 5' USR1; trap '' TERM; while :; do sleep 0.05; done", lifecycle={"stopSignal": "SIGUSR1"}
    )
    await world.create("usr", [usr], terminationGracePeriodSeconds=60, os={"name": "linux"}, restartPolicy="Never")
    pod = await world.until("job", lambda pod: pod.status.phase == "Succeeded", "the job is done")
    end = pod.status.init_container_statuses[0].state.terminated
    assert end is not None
    assert end.exit_code == 3
    await world.until("usr", ready, "ready")
    await world.client.delete(PODS, "usr", "default")
    await world.until_gone("usr", 10)
    await world.client.delete(PODS, "job", "default")
    await world.until_gone("job")
