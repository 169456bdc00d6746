"""Informers over a wire that breaks, a history that is too short, and a server that is killed: none of them ever drifts.

Writers create, change and delete; reflectors (`tests.fakes.reflector`, client-go's rules) follow through a relay that cuts
connections at random; one of them sleeps so long that its version is gone. `make soak` runs it for ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.cutter import cutting
from tests.fakes.reflector import Obj, Reflector, key_of
from tests.node.apiserver import Server, running

RING = 64
PATH = "/api/v1/configmaps"
MINE = "/api/v1/namespaces/default/configmaps"


class Writer:
    """One writer with names of its own, who knows what the store must hold of them."""

    def __init__(self, number: int, session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
        self._names = [f"w{number}-{one}" for one in range(12)]
        self._session = session
        self._url = url
        self._rng = rng
        self.writes = 0

    async def run(self) -> None:
        while True:
            try:
                await self._write(self._rng.choice(self._names))
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)  # the server is being killed
            await asyncio.sleep(self._rng.uniform(0, 0.02))

    async def _write(self, name: str) -> None:
        labels = {"even": str(self._rng.random() < 0.5).lower()}
        body = {"metadata": {"name": name, "labels": labels}, "data": {"at": str(self._rng.random())}}
        roll = self._rng.random()
        if roll < 0.25:
            request = self._session.delete(f"{self._url}{MINE}/{name}")
        elif roll < 0.5:
            request = self._session.post(f"{self._url}{MINE}", json=body)
        else:
            headers = {"Content-Type": "application/merge-patch+json"}
            request = self._session.patch(f"{self._url}{MINE}/{name}", json=body, headers=headers)
        async with request as response:
            await response.read()
            assert response.status in (200, 201, 404, 409), await response.text()
            self.writes += response.status in (200, 201)


@pytest.mark.alone  # it wants more writes than a watch cache holds while a client naps
async def test_informers_never_drift(tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    seconds, kills = trial(12, 600), trial(2, 60)
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    async with running(tmp_path, f"--default-watch-cache-size={RING}") as server:
        tls = server.connection().ssl_context()
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session,
            cutting(server.port, rng, 0.2, 3.0) as port,
        ):
            direct, cut = server.url, f"https://127.0.0.1:{port}"
            writers = [Writer(number, session, direct, rng) for number in range(3)]
            reflectors = [
                Reflector(session, f"{cut}{path}", streaming, random.Random(seed + number), selector)
                for number, (path, streaming, selector) in enumerate(
                    (path, streaming, selector)
                    for path in (PATH, MINE)
                    for streaming in (False, True)
                    for selector in ("", "even=true")
                )
            ]
            try:
                await live(server, writers, reflectors, rng, seconds, kills)
                await agreed(session, direct, reflectors)
            except* AssertionError as failed:
                raise AssertionError(f"seed {seed}: {failed.exceptions[0]}") from failed
    totals = [one.counts for one in reflectors]
    assert sum(one.writes for one in writers) > 5 * seconds
    assert all(one.broken for one in totals), totals
    assert sum(one.gone for one in totals) > 0, totals
    assert all(one.counts.streamed > 0 for one in reflectors if one.streaming), totals


async def live(
    server: Server,
    writers: list[Writer],
    reflectors: list[Reflector],
    rng: random.Random,
    seconds: float,
    kills: int,
) -> None:
    """Everybody at work for a while; the reflectors go on to the last state after the writers have stopped."""
    async with asyncio.TaskGroup() as group:
        following = [group.create_task(one.run()) for one in reflectors[:-1]]
        following.append(group.create_task(napping(reflectors[-1], rng)))
        writing = [group.create_task(one.run()) for one in writers]
        end = time.monotonic() + seconds
        for number in range(kills):
            await asyncio.sleep(max(0.0, (end - time.monotonic()) / (kills - number + 1)))
            await asyncio.to_thread(server.kill, rng.choice([signal.SIGKILL, signal.SIGTERM]))
            await server.start(f"--default-watch-cache-size={RING}")
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        for task in writing:
            task.cancel()
        await asyncio.wait(writing)
        await settled(server, reflectors)
        for task in following:
            task.cancel()


async def napping(reflector: Reflector, rng: random.Random) -> None:
    """A client on a machine that is suspended now and then: it comes back with a version from long ago."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(1, 3)):
                await reflector.run()
        await asyncio.sleep(2)


async def settled(server: Server, reflectors: list[Reflector]) -> None:
    connector = aiohttp.TCPConnector(ssl=server.connection().ssl_context())
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(40):
        while True:
            truth = await listed(session, server.url)
            if all(versions(one.objects) == versions(chosen(truth, one)) for one in reflectors):
                return
            await asyncio.sleep(0.1)


async def agreed(session: aiohttp.ClientSession, url: str, reflectors: list[Reflector]) -> None:
    truth = await listed(session, url)
    for one in reflectors:
        assert one.objects == chosen(truth, one)


async def listed(session: aiohttp.ClientSession, url: str) -> dict[str, Obj]:
    async with session.get(f"{url}{PATH}") as response:
        return {key_of(one): one for one in (await response.json())["items"]}


def chosen(truth: dict[str, Obj], reflector: Reflector) -> dict[str, Obj]:
    inside = "default/" if "/namespaces/" in reflector.url else ""
    wanted = reflector.label_selector.partition("=")[2]
    return {
        key: obj
        for key, obj in truth.items()
        if key.startswith(inside) and (not wanted or (obj["metadata"].get("labels") or {}).get("even") == wanted)
    }


def versions(objects: dict[str, Obj]) -> dict[str, str]:
    return {key: obj["metadata"]["resourceVersion"] for key, obj in objects.items()}
