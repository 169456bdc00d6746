"""Client, informer and events against our API server, which is killed in between."""

import asyncio
from pathlib import Path

from kube.client import Client
from kube.events import Recorder
from kube.informer import Informer
from kube.resources import CONFIGMAPS, EVENTS
from tests.node import apiserver


async def until(condition: object, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_an_informer_and_a_recorder_outlive_the_server(tmp_path: Path) -> None:
    async with apiserver.running(tmp_path) as server, Client(server.connection()) as client:
        informer = Informer(client, CONFIGMAPS, namespace="default")
        recorder = Recorder(client, "test", pause=0.1)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(informer.run()), group.create_task(recorder.run())]
            async with asyncio.timeout(20):
                await informer.synced.wait()
            one = await client.create(CONFIGMAPS, {"metadata": {"name": "one"}, "data": {"a": "1"}}, "default")
            await until(lambda: informer.get("one", "default"))
            server.kill()
            for _ in range(3):
                recorder.event(one, "Normal", "Tried", "while the server was away")
            assert informer.get("one", "default")
            await server.start()
            await client.patch(CONFIGMAPS, "one", {"data": {"a": "2"}}, "default")
            await until(lambda: (found := informer.get("one", "default")) and found.data == {"a": "2"})
            await client.delete(CONFIGMAPS, "one", "default")
            await until(lambda: informer.get("one", "default") is None)

            async def counted() -> list[int]:
                return [e.count for e in (await client.list(EVENTS, "default")).items if e.reason == "Tried"]

            async with asyncio.timeout(20):
                while await counted() != [3]:
                    await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
