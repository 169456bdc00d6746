"""Hints: what dies is told once the runtime admits it, whether or not its process could be watched."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kubelet.hints import Hints, Source
from kubelet.runtime import EVERYTHING, Hint, NotFound, RuntimeUnavailable

OURS = ":"  # an id that stands in every process' /proc/PID/cgroup


@dataclass
class Runtime:
    """Of one container."""

    pid: int = 0
    admits: asyncio.Event = field(default_factory=asyncio.Event)
    blind: bool = False
    asked: int = 0

    async def follow(self) -> None:
        self.hints.flows()
        await asyncio.Event().wait()

    async def settled(self, container_id: str) -> None:
        self.asked += 1
        if self.blind:
            raise RuntimeUnavailable("it does not admit it")
        await self.admits.wait()

    async def process(self, container_id: str) -> int:
        if self.pid < 0:
            raise NotFound(container_id)
        return self.pid

    hints: Hints = field(default_factory=Hints)


@asynccontextmanager
async def watching(runtime: Runtime) -> AsyncIterator["asyncio.Queue[Hint]"]:
    said: asyncio.Queue[Hint] = asyncio.Queue()
    source = Source(runtime.follow, runtime.settled, runtime.process)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        task = group.create_task(runtime.hints.run(said.put_nowait, source))
        assert await said.get() == EVERYTHING
        yield said
        task.cancel()
    runtime.hints.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_death_is_told_when_the_runtime_admits_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        runtime = Runtime(process.pid)
        async with watching(runtime) as said:
            runtime.hints.listed(OURS, "u", running=True)
            await until(lambda: runtime.hints.exits.watched(OURS))
            process.kill()
            await until(lambda: runtime.asked == 1)
            assert said.empty()
            runtime.admits.set()
            assert await said.get() == Hint("u", OURS)
            assert runtime.hints.flowing()


async def test_what_died_before_it_could_be_watched_is_told_too() -> None:
    runtime = Runtime()
    async with watching(runtime) as said:
        runtime.hints.made(OURS, "u")
        runtime.hints.adopted(OURS, 0)
        await until(lambda: runtime.asked == 1)
        assert not runtime.hints.flowing()  # until it is clear what it is
        assert said.empty()
        runtime.admits.set()
        assert await said.get() == Hint("u", OURS)
        await until(runtime.hints.flowing)


async def test_what_runs_out_of_sight_is_left_to_relists() -> None:
    runtime = Runtime(blind=True)
    async with watching(runtime) as said:
        runtime.hints.made(OURS, "u")
        runtime.hints.adopted(OURS, 1 << 22)
        assert await said.get() == Hint("u", OURS)
        assert not runtime.hints.flowing()
        runtime.hints.listed(OURS, "u", running=True)
        assert not runtime.hints.flowing()
        runtime.hints.listed(OURS, "u", running=False)
        assert runtime.hints.flowing()


async def test_what_is_forgotten_is_told_no_more() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        runtime = Runtime(process.pid)
        async with watching(runtime) as said:
            runtime.hints.made(OURS, "u")
            runtime.hints.adopted(OURS, process.pid)
            runtime.hints.forget([OURS])
            process.kill()
            process.wait()
            await asyncio.sleep(0)
            assert (said.empty(), runtime.asked, runtime.hints.known()) == (True, 0, set())


async def test_a_stranger_that_is_gone_is_nobodys_business() -> None:
    runtime = Runtime(-1)
    async with watching(runtime) as said:
        runtime.hints.listed(OURS, "u", running=True)
        runtime.hints.listed("other", "v", running=False)
        await asyncio.sleep(0.01)
        assert said.empty()
