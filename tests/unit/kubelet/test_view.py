"""What is known of the runtime: shared looks, things learned one by one, and looks that are too old to say anything."""

import asyncio

import pytest

from kubelet.observe.view import RuntimeView
from kubelet.runtime import ContainerConfig, ContainerState, PodIdentity, RuntimeUnavailable, SandboxConfig
from tests.fakes.runtime import IMAGE, FakeRuntime

POD = PodIdentity("p", "default", "u1")
SANDBOX = SandboxConfig(pod=POD, log_directory="/logs")


class Scene:
    def __init__(self) -> None:
        self.runtime = FakeRuntime()
        self.changed: list[str] = []
        self.view = RuntimeView(self.runtime, self.changed.append)

    def lists(self) -> int:
        return sum(1 for operation, _ in self.runtime.calls if operation == "list_pods")

    async def sandbox(self) -> str:
        made = await self.runtime.run_sandbox(SANDBOX)
        await self.view.learn("u1", sandbox=made)
        return made

    async def container(self, sandbox: str, name: str = "a") -> str:
        config = ContainerConfig(name=name, image=IMAGE, command=("sleep", "1"))
        made = await self.runtime.create_container(sandbox, config, SANDBOX)
        await self.view.learn("u1", container=made, status=await self.runtime.start_container(made))
        return made


async def test_what_was_learned_needs_no_look() -> None:
    scene = Scene()
    assert await scene.view.look("u1") == await scene.view.recall("u1")
    sandbox = await scene.sandbox()
    container = await scene.container(sandbox)
    seen = await scene.view.recall("u1")
    assert scene.lists() == 1
    assert [s.id for s in seen.ready_sandboxes] == [sandbox]
    assert [(c.id, c.state) for c in seen.containers] == [(container, ContainerState.RUNNING)]
    looked = await scene.view.look("u1")
    assert ([s.id for s in looked.sandboxes], looked.containers) == ([sandbox], seen.containers)
    assert scene.changed == []


async def test_a_look_that_began_before_and_ends_after_is_too_old() -> None:
    scene = Scene()
    await scene.view.relist()
    sandbox = await scene.sandbox()
    free = scene.runtime.hold("list_pods")
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.view.relist())
        while scene.lists() < 2:
            await asyncio.sleep(0)
        container = await scene.container(sandbox)
        await scene.runtime.stop_container(container, 1)
        await scene.view.learn("u1", container=container)
        free.set()
    seen = await scene.view.recall("u1")
    assert [c.state for c in seen.containers] == [ContainerState.EXITED]
    assert scene.changed == []


async def test_what_happened_behind_our_back_is_told_once() -> None:
    scene = Scene()
    await scene.view.relist()
    container = await scene.container(await scene.sandbox())
    scene.runtime.exit(container, 3)
    await scene.view.relist()
    await scene.view.relist()
    assert scene.changed == ["u1"]
    (status,) = (await scene.view.recall("u1")).containers
    assert status.exit_code == 3


async def test_doubt_asks_for_a_look_and_so_does_an_answer_that_did_not_come() -> None:
    scene = Scene()
    await scene.view.relist()
    sandbox = await scene.sandbox()
    scene.view.doubt("u1")
    await scene.view.recall("u1")
    assert scene.lists() == 2
    await scene.view.recall("u1")
    assert scene.lists() == 2
    scene.runtime.fail("sandbox_status", RuntimeUnavailable("away"))
    await scene.view.learn("u1", sandbox=sandbox)
    scene.runtime.fail("list_pods", RuntimeUnavailable("away"))
    with pytest.raises(RuntimeUnavailable):
        await scene.view.recall("u1")
    await scene.view.recall("u1")
    assert scene.lists() == 4


async def test_stopped_and_removed_things_are_known_to_be_so() -> None:
    scene = Scene()
    await scene.view.relist()
    sandbox = await scene.sandbox()
    container = await scene.container(sandbox)
    scene.view.stopped("u1", sandbox)
    assert (await scene.view.recall("u1")).ready_sandboxes == ()
    scene.view.lose("u1", container)
    assert (await scene.view.recall("u1")).containers == ()
    scene.view.lose("u1", sandbox)
    assert scene.view.identity("u1") is None
