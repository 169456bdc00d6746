"""The contract of `kubelet.runtime.Runtime`, over the fake, a real dockerd and a real containerd."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kubelet.runtime import (
    CONTAINER_HASH,
    Channel,
    ContainerState,
    ExecTimeout,
    Hint,
    NetworkUnavailable,
    NotFound,
    RuntimeRefused,
    SandboxState,
    StreamOptions,
)
from tests.contracts.runtime_world import World, until, worlds
from tests.dockerd import IMAGE
from tests.fakes.runtime import FakeRuntime


@pytest.fixture(params=["fake", "docker", "containerd"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with worlds(request, str(request.param), tmp_path) as found:
        yield found


async def test_it_answers(world: World) -> None:
    version, status = await world.runtime.version(), await world.runtime.status()
    assert version.name in ("docker", "containerd")
    assert version.version
    assert status.runtime_ready
    assert status.network_ready, status.network_message


async def test_a_pod_from_birth_to_removal(world: World) -> None:
    runtime = world.runtime
    config, sandbox_id, container_id = await world.started("sleep", "3600")
    sandbox, container = await runtime.sandbox_status(sandbox_id), await runtime.container_status(container_id)
    assert sandbox.state is SandboxState.READY
    assert sandbox.pod == config.pod
    assert len(sandbox.ips) == 1
    assert isinstance(sandbox.ips[0], IPv4Address)
    assert container.state is ContainerState.RUNNING
    assert (container.name, container.attempt, container.sandbox_id) == ("main", 0, sandbox_id)
    assert container.started_at is not None
    assert container.finished_at is None
    assert container.image == IMAGE
    assert container.image_id.startswith("sha256:")
    assert container.annotations[CONTAINER_HASH] == "1a2b3c"

    record = await world.record(config.pod)
    assert record is not None
    assert [(each.id, each.state, each.ips) for each in record.sandboxes] == [
        (sandbox_id, SandboxState.READY, sandbox.ips)
    ]
    assert [(each.id, each.state, each.name) for each in record.containers] == [
        (container_id, ContainerState.RUNNING, "main")
    ]
    assert record.containers[0].annotations[CONTAINER_HASH] == "1a2b3c"
    image = await runtime.image_status(IMAGE)
    assert image is not None
    assert record.containers[0].image_id in (image.id, *image.digests)

    await runtime.stop_container(container_id, 0)
    ended = await runtime.container_status(container_id)
    assert (ended.state, ended.reason) == (ContainerState.EXITED, "Error")
    assert ended.exit_code in (137, 143)
    assert ended.finished_at is not None

    await runtime.stop_sandbox(sandbox_id)
    assert (await runtime.sandbox_status(sandbox_id)).state is SandboxState.NOT_READY
    await runtime.remove_container(container_id)
    await runtime.remove_sandbox(sandbox_id)
    assert await world.record(config.pod) is None
    if world.leases is not None:
        assert not list(world.leases.iterdir())


async def test_what_is_gone_is_stopped_and_removed_with_success(world: World) -> None:
    _, sandbox_id, container_id = await world.started("sleep", "3600")
    for _ in range(2):
        await world.runtime.stop_container(container_id, 0)
        await world.runtime.stop_sandbox(sandbox_id)
    for _ in range(2):
        await world.runtime.remove_container(container_id)
        await world.runtime.remove_sandbox(sandbox_id)
    await world.runtime.stop_container(container_id, 0)
    await world.runtime.stop_sandbox(sandbox_id)
    with pytest.raises(NotFound):
        await world.runtime.container_status(container_id)
    with pytest.raises(NotFound):
        await world.runtime.sandbox_status(sandbox_id)
    with pytest.raises(NotFound):
        await world.runtime.start_container(container_id)


async def test_removing_a_sandbox_takes_its_containers(world: World) -> None:
    config, sandbox_id, _ = await world.started("sleep", "3600")
    await world.runtime.remove_sandbox(sandbox_id)
    assert await world.record(config.pod) is None


@pytest.mark.parametrize(
    ("command", "code", "reason"), [(("true",), 0, "Completed"), (("sh", "-c", "exit 3"), 3, "Error")]
)
async def test_an_exit_is_told_with_code_and_reason(
    world: World, command: tuple[str, ...], code: int, reason: str
) -> None:
    _, _, container_id = await world.started(*command)

    async def exited() -> bool:
        return (await world.runtime.container_status(container_id)).state is ContainerState.EXITED

    await until(exited, "the container exits")
    status = await world.runtime.container_status(container_id)
    assert (status.exit_code, status.reason) == (code, reason)
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.finished_at >= status.started_at


async def test_a_program_that_is_not_there_is_refused_and_counts_as_exited(world: World) -> None:
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    container_id = await world.runtime.create_container(sandbox_id, await world.container("/nonexistent"), config)
    with pytest.raises(RuntimeRefused, match="nonexistent"):
        await world.runtime.start_container(container_id)
    status = await world.runtime.container_status(container_id)
    assert status.state is ContainerState.EXITED
    assert status.reason in ("ContainerCannotRun", "StartError")
    assert status.exit_code != 0
    assert "nonexistent" in status.message
    record = await world.record(config.pod)
    assert record is not None
    assert record.containers[0].state is ContainerState.EXITED


async def test_a_container_starts_once(world: World) -> None:
    _, _, container_id = await world.started("true")
    with pytest.raises(RuntimeRefused, match=r"started before|is in CONTAINER_"):
        await world.runtime.start_container(container_id)


async def test_a_second_of_the_same_name_is_refused(world: World) -> None:
    config, sandbox_id, _ = await world.started("sleep", "3600")
    with pytest.raises(RuntimeRefused, match=r"in use|reserved"):
        await world.runtime.create_container(sandbox_id, await world.container("sleep", "1"), config)
    with pytest.raises(RuntimeRefused, match=r"in use|reserved"):
        await world.runtime.run_sandbox(config)
    again = replace(config, attempt=1)
    second = await world.runtime.run_sandbox(again)
    record = await world.record(config.pod)
    assert record is not None
    assert [each.id for each in record.sandboxes] == [second, sandbox_id]  # newest first
    assert [each.attempt for each in record.sandboxes] == [1, 0]


async def test_a_stopped_sandbox_is_not_joined(world: World) -> None:
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    await world.runtime.stop_sandbox(sandbox_id)
    container = await world.container("sleep", "1")

    async def join() -> None:
        container_id = await world.runtime.create_container(sandbox_id, container, config)
        await world.runtime.start_container(container_id)

    with pytest.raises(RuntimeRefused):
        await join()


async def test_a_missing_image_is_refused(world: World) -> None:
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    container = replace(await world.container("true"), image="wherry.local/absent:1")
    assert await world.runtime.image_status("wherry.local/absent:1") is None
    with pytest.raises(NotFound, match="absent"):
        await world.runtime.create_container(sandbox_id, container, config)
    with pytest.raises(RuntimeRefused):
        await world.runtime.pull("wherry.local/absent:1")
    assert IMAGE in [tag for image in await world.runtime.list_images() for tag in image.tags]
    await world.runtime.remove_image("wherry.local/absent:1")


async def test_exec_sync(world: World) -> None:
    _, _, container_id = await world.started("sleep", "3600")
    done = await world.runtime.exec_sync(container_id, ["echo", "all", "well"], 10)
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"all well\n", b"")
    assert (await world.runtime.exec_sync(container_id, ["sh", "-c", "exit 3"], 10)).exit_code == 3
    with pytest.raises(ExecTimeout, match="timed out after"):
        await world.runtime.exec_sync(container_id, ["sleep", "60"], 0.3)
    with pytest.raises(RuntimeRefused, match="nonexistent"):
        await world.runtime.exec_sync(container_id, ["nonexistent"], 10)
    await world.runtime.stop_container(container_id, 0)
    with pytest.raises(RuntimeRefused, match=r"not running|CONTAINER_EXITED"):
        await world.runtime.exec_sync(container_id, ["true"], 10)


async def test_exec_streams_both_ways(world: World) -> None:
    _, _, container_id = await world.started("sleep", "3600")
    stream = await world.runtime.exec(container_id, ["cat"], StreamOptions(stdin=True))
    try:
        await stream.write(b"to and fro")
        assert await stream.read() == (Channel.STDOUT, b"to and fro")
        await stream.close_stdin()
        assert await stream.read() is None
        assert await stream.exit_code() == 0
    finally:
        await stream.close()
    stream = await world.runtime.exec(container_id, ["sh", "-c", "exit 4"], StreamOptions())
    assert await stream.read() is None
    assert await stream.exit_code() == 4
    await stream.close()


async def test_hints_come_when_the_runtime_knows(world: World) -> None:
    hints: list[Hint] = []
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(world.runtime.watch(hints.append))

        async def flowing() -> bool:
            return world.runtime.hinting()

        await until(flowing, "hints flow")
        config, _, container_id = await world.started("sleep", "3600")
        await world.record(config.pod)
        hints.clear()
        states: list[ContainerState] = []
        await world.runtime.stop_container(container_id, 0)

        async def told() -> bool:
            if any(hint == Hint(config.pod.uid, container_id) for hint in hints):
                states.append((await world.runtime.container_status(container_id)).state)
                return True
            return False

        await until(told, "a hint about the exit")
        assert states == [ContainerState.EXITED]
        watch.cancel()


async def test_one_that_ends_at_once_is_hinted_too(world: World) -> None:
    """Before anybody can watch its process."""
    hints: list[Hint] = []
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(world.runtime.watch(hints.append))

        async def flowing() -> bool:
            return world.runtime.hinting()

        await until(flowing, "hints flow")

        async def seen(hint: Hint) -> bool:
            if hint not in hints:
                return False
            hints.clear()
            return (await world.runtime.container_status(hint.container_id)).state is ContainerState.EXITED

        for _ in range(5):
            config, _, container_id = await world.started("true")
            expected = Hint(config.pod.uid, container_id)
            await until(lambda hint=expected: seen(hint), "a hint, and a look that sees the exit", 5)  # type: ignore[misc]
        await until(flowing, "and hints still flow")
        watch.cancel()


async def test_a_grace_period_can_be_cut_short(world: World) -> None:
    if isinstance(world.runtime, FakeRuntime):
        world.runtime.stubborn.add("main")
    _, _, container_id = await world.started("sleep", "3600")  # as PID 1 it ignores SIGTERM
    async with asyncio.TaskGroup() as group:
        patient = group.create_task(world.runtime.stop_container(container_id, 600))
        await asyncio.sleep(0)
        patient.cancel()
    async with asyncio.timeout(10):
        await world.runtime.stop_container(container_id, 0.2)
    status = await world.runtime.container_status(container_id)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 137)


async def test_no_network_no_sandbox(world: World) -> None:
    if isinstance(world.runtime, FakeRuntime):
        world.runtime.network_ready = False
    else:
        assert world.leases is not None
        (world.leases / "refuse").touch()
    config = world.sandbox()
    with pytest.raises(NetworkUnavailable):
        await world.runtime.run_sandbox(config)
    record = await world.record(config.pod)
    assert record is None or all(each.state is SandboxState.NOT_READY for each in record.sandboxes)
