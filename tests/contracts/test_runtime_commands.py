"""Commands in containers of a real runtime: terminals, pipes, attach, and what outlives its time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubelet.runtime import Channel, ExecTimeout, StreamOptions
from tests.contracts.runtime_world import World, controller, ended, until, worlds


@pytest.fixture(params=["docker", "containerd"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with worlds(request, str(request.param), tmp_path) as found:
        yield found


async def test_a_terminal(world: World) -> None:
    _, _, container_id = await world.started("sleep", "3600")
    stream = await world.runtime.exec(container_id, ["sh"], StreamOptions(stdin=True, tty=True, stderr=False))
    try:
        await stream.resize(101, 33)
        await stream.write(b"stty size; exit 7\n")
        seen = b""
        async with asyncio.timeout(10):
            while (piece := await stream.read()) is not None:
                seen += piece[1]
        assert b"33 101" in seen
        assert await stream.exit_code() == 7
    finally:
        await stream.close()


async def test_attach_reaches_the_main_program(world: World) -> None:
    _, _, container_id = await world.started("cat", stdin=True, stdin_once=True)
    stream = await world.runtime.attach(container_id, StreamOptions(stdin=True))
    try:
        await stream.write(b"hello\n")
        assert await stream.read() == (Channel.STDOUT, b"hello\n")
        await stream.close_stdin()
        async with asyncio.timeout(10):
            assert await stream.read() is None
    finally:
        await stream.close()
    await ended(world, container_id)


async def test_megabytes_each_way_and_both_outputs_apart(world: World) -> None:
    _, _, container_id = await world.started("sleep", "3600")
    data, received = os.urandom(4 << 20), {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
    script = ["sh", "-c", "cat; echo end >&2; exit 5"]
    stream = await world.runtime.exec(container_id, script, StreamOptions(stdin=True))

    async def send() -> None:
        for start in range(0, len(data), 1 << 16):
            await stream.write(data[start : start + (1 << 16)])
        await stream.close_stdin()

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(send())
            while (piece := await stream.read()) is not None:
                received[piece[0]] += piece[1]
        assert received == {Channel.STDOUT: data, Channel.STDERR: b"end\n"}
        assert await stream.exit_code() == 5
    finally:
        await stream.close()


async def test_a_command_over_its_time_is_killed(world: World) -> None:
    _, _, container_id = await world.started("sleep", "3600")
    group = (await world.runtime.container_status(container_id)).cgroup
    with pytest.raises(ExecTimeout, match="timed out after"):
        await world.runtime.exec_sync(container_id, ["sleep", "4321"], 0.3)

    async def killed() -> bool:
        return len(controller(group, "memory", "cgroup.procs").split()) == 1

    await until(killed, "a command over its time is killed")
    begun = time.monotonic()
    with pytest.raises(ExecTimeout):  # whose output somebody else still holds open
        await world.runtime.exec_sync(container_id, ["sh", "-c", "sleep 4321 & sleep 4322"], 0.3)
    assert time.monotonic() - begun < 5
