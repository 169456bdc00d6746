"""The whole server on each store: killed, started again, on an etcd that goes away. Nothing acknowledged is lost, and a watch
that resumes where it was misses nothing and is told nothing twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.etcd import EtcdServer
from tests.etcd import running as running_etcd
from tests.node.apiserver import Server, running
from tests.requirements import requires

CMS = "/api/v1/namespaces/default/configmaps"
BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
DEADLINE = 60.0


@dataclass(slots=True)
class Place:
    """A server, the flags it is started with, and the etcd below it, if any."""

    server: Server
    session: aiohttp.ClientSession
    flags: tuple[str, ...]
    etcd: EtcdServer | None


@asynccontextmanager
async def on(kind: str, home: Path) -> AsyncIterator[Place]:
    etcd, flags = None, ()
    if kind == "etcd":
        requires("etcd")
        etcd = EtcdServer(home)
        etcd.start()
        flags = ("--etcd-servers", etcd.url)
    try:
        async with running(home, *flags) as server:
            connector = aiohttp.TCPConnector(ssl=server.connection().ssl_context() or True, limit=64)
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Place(server, session, flags, etcd)
    finally:
        if etcd:
            etcd.kill()


@dataclass(slots=True)
class Follower:
    """A watch that is taken up again after each break, from the last version it was told."""

    place: Place
    version: str
    told: list[tuple[str, str, str]] = field(default_factory=list)
    breaks: int = 0

    async def run(self) -> None:
        while True:
            query = f"{CMS}?watch=true&resourceVersion={self.version}&allowWatchBookmarks=true"
            try:
                async with self.place.session.get(self.place.server.url + query) as response:
                    async for line in response.content:
                        self._take(orjson.loads(line))
            except BROKEN:
                pass
            self.breaks += 1
            await asyncio.sleep(0.05)

    def _take(self, frame: dict[str, Any]) -> None:
        metadata = frame["object"]["metadata"]
        assert frame["type"] != "ERROR", frame
        assert int(metadata["resourceVersion"]) >= int(self.version)
        self.version = metadata["resourceVersion"]
        if frame["type"] != "BOOKMARK":
            self.told.append((frame["type"], metadata["name"], metadata["resourceVersion"]))


@dataclass(slots=True)
class Written:
    """What one writer knows of its object: the last counter and version acknowledged, and what it last asked for."""

    counter: int = 0
    version: str = ""
    asked: int = 0
    versions: list[str] = field(default_factory=list)


async def write(place: Place, name: str, mine: Written, stop: asyncio.Event) -> None:
    """Raises the counter in its ConfigMap until it is told to stop; after an answer that it did not get it reads first."""
    url = place.server.url + CMS
    while not stop.is_set():
        try:
            async with place.session.get(f"{url}/{name}") as response:
                there = await response.json() if response.status == 200 else None
                if response.status not in (200, 404):
                    raise ConnectionError(response.status)
            if there:
                counter = int(there["data"]["n"])
                assert mine.counter <= counter <= mine.asked, (name, mine, counter)
                mine.counter, mine.version = counter, there["metadata"]["resourceVersion"]
            else:
                assert not mine.version, (name, mine)
            while not stop.is_set():
                await _raise(place, url, name, mine)
        except BROKEN:
            await asyncio.sleep(0.05)


async def _raise(place: Place, url: str, name: str, mine: Written) -> None:
    mine.asked = mine.counter + 1
    metadata = {"name": name} | ({"resourceVersion": mine.version} if mine.version else {})
    body = {"metadata": metadata, "data": {"n": str(mine.asked), "text": "x" * 300}}
    method, path = ("PUT", f"{url}/{name}") if mine.version else ("POST", url)
    async with place.session.request(method, path, json=body) as response:
        answer = await response.json()
        if response.status not in (200, 201):
            assert response.status >= 500, answer
            raise ConnectionError(answer)
    mine.counter, mine.version = mine.asked, answer["metadata"]["resourceVersion"]
    mine.versions.append(mine.version)


async def disturb(place: Place, rng: random.Random) -> None:
    """One of what happens to servers, and its end."""
    server, etcd = place.server, place.etcd
    assert server.process is not None
    child = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    match rng.choice(["server", "gently", "store"]):
        case "server":
            server.kill()
        case "gently":
            await asyncio.to_thread(server.kill, signal.SIGTERM)
        case "store" if etcd is None:
            os.kill(int(child[0]), signal.SIGKILL)
            await asyncio.to_thread(server.process.wait, 15)
        case "store":
            assert etcd is not None
            etcd.kill()
            await asyncio.sleep(rng.random())
            await asyncio.to_thread(etcd.start)
            assert server.process.poll() is None, server.log
            return
    await server.start(*place.flags)


@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
async def test_nothing_is_lost_and_watches_go_on(kind: str, tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    rng = random.Random(5)
    async with on(kind, tmp_path) as place:
        async with place.session.get(place.server.url + CMS) as response:
            version = (await response.json())["metadata"]["resourceVersion"]
        follower, stop = Follower(place, version), asyncio.Event()
        objects = {f"w{n}": Written() for n in range(8)}
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follower.run())
            writers = [group.create_task(write(place, name, mine, stop)) for name, mine in objects.items()]
            for _ in range(trial(3, 60)):
                await asyncio.sleep(rng.random())
                await disturb(place, rng)
                before = {name: len(mine.versions) for name, mine in objects.items()}
                async with asyncio.timeout(DEADLINE):  # everybody writes again, without being started again
                    while any(len(mine.versions) <= before[name] for name, mine in objects.items()):
                        await asyncio.sleep(0.02)
            stop.set()
            await asyncio.wait(writers)
            async with place.session.get(place.server.url + CMS) as response:
                listed = await response.json()
            async with asyncio.timeout(DEADLINE):
                while int(follower.version) < max(int(item["metadata"]["resourceVersion"]) for item in listed["items"]):
                    await asyncio.sleep(0.02)
            following.cancel()
    assert follower.breaks > 0 or kind == "etcd"
    versions = [rv for _, _, rv in follower.told]
    assert versions == sorted(set(versions), key=int), "an event came twice or out of order"
    for name, mine in objects.items():
        events = [(word, rv) for word, who, rv in follower.told if who == name]
        assert {rv for _, rv in events} >= set(mine.versions), f"{name}: an acknowledged write was not told"
        assert [word for word, _ in events] == ["ADDED", *["MODIFIED"] * (len(events) - 1)]
        (item,) = [item for item in listed["items"] if item["metadata"]["name"] == name]
        assert int(item["data"]["n"]) == len(events), (
            f"{name}: the watch told {len(events)} of {item['data']['n']} changes"
        )


async def test_an_etcd_that_is_away_is_told_as_such_and_needs_no_restart(tmp_path: Path) -> None:
    """Readiness says so, reads from memory go on, writes get a 503 to repeat; then all is well again."""
    async with on("etcd", tmp_path) as place:
        assert place.etcd is not None
        url, session = place.server.url, place.session
        body = {"metadata": {"name": "a"}, "data": {}}
        async with session.post(url + CMS, json=body) as response:
            assert response.status == 201
        async with session.get(f"{url}{CMS}?watch=true&resourceVersion=0") as watch:
            assert orjson.loads(await watch.content.readline())["type"] == "ADDED"
            place.etcd.kill()
            await until(lambda: answers(session, f"{url}/readyz", 500))
            async with session.get(f"{url}/readyz?verbose") as response:
                assert "[-]etcd failed" in await response.text()
            async with session.get(f"{url}{CMS}/a?resourceVersion=0") as response:
                assert response.status == 200
            async with session.post(url + CMS, json={"metadata": {"name": "b"}}) as response:
                answer = await response.json()
                assert (response.status, answer["reason"]) == (503, "ServiceUnavailable"), answer
                assert response.headers["Retry-After"] == "1"
                assert "nothing was written" in answer["message"]
            place.etcd.start()
            await until(lambda: answers(session, f"{url}/readyz", 200))
            async with session.post(url + CMS, json={"metadata": {"name": "b"}}) as response:
                assert response.status == 201
            event = orjson.loads(await watch.content.readline())
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "b")


async def answers(session: aiohttp.ClientSession, url: str, status: int) -> bool:
    async with session.get(url) as response:
        return response.status == status


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_two_servers_on_one_etcd_agree(tmp_path: Path) -> None:
    """What one has acknowledged the other shows, changes and deletes at once; of two that create the same, one does."""
    requires("etcd")
    with running_etcd(tmp_path / "etcd") as etcd:
        homes = [tmp_path / "one", tmp_path / "two"]
        for home in homes:
            home.mkdir()
        flags = ("--etcd-servers", etcd.url)
        async with running(homes[0], *flags) as one, running(homes[1], *flags) as two:
            connectors = [aiohttp.TCPConnector(ssl=server.connection().ssl_context() or True) for server in (one, two)]
            async with (
                aiohttp.ClientSession(one.url, connector=connectors[0]) as first,
                aiohttp.ClientSession(two.url, connector=connectors[1]) as second,
            ):
                for number in range(40):
                    await in_turn(first, second, f"a{number}")
                    await in_turn(second, first, f"b{number}")
                bodies = [{"metadata": {"name": f"c{number}"}} for number in range(40)]
                asked = [session.post(CMS, json=body) for body in bodies for session in (first, second)]
                codes = [response.status for response in await asyncio.gather(*asked)]
                assert (codes.count(201), codes.count(409)) == (40, 40)


async def in_turn(here: aiohttp.ClientSession, there: aiohttp.ClientSession, name: str) -> None:
    async with here.post(CMS, json={"metadata": {"name": name}, "data": {"n": "1"}}) as response:
        assert response.status == 201
        version = (await response.json())["metadata"]["resourceVersion"]
    async with there.patch(
        f"{CMS}/{name}", json={"data": {"n": "2"}}, headers={"Content-Type": "application/merge-patch+json"}
    ) as response:
        assert response.status == 200, await response.text()
    async with here.get(f"{CMS}/{name}") as response:
        answer = await response.json()
        assert answer["data"] == {"n": "2"}
        assert int(answer["metadata"]["resourceVersion"]) > int(version)
    async with there.delete(f"{CMS}/{name}") as response:
        assert response.status == 200
    async with here.get(CMS) as response:
        assert name not in {item["metadata"]["name"] for item in (await response.json())["items"]}


async def test_what_a_stranger_wrote_into_etcd_does_not_stop_the_server(tmp_path: Path) -> None:
    """Before it starts and while it runs: protobuf, half a document, no object at all. The rest is served."""
    requires("etcd", "etcdctl")
    junk = {"pb": b"k8s\0\n\f", "half": b'{"kind":', "list": b"[]", "bare": b'{"kind":"ConfigMap"}'}

    def put(etcd: EtcdServer, name: str, value: bytes) -> None:
        argv = ["etcdctl", "--endpoints", etcd.url, "put", f"/registry/configmaps/default/{name}"]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        subprocess.run(argv, input=value, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=30)

    with running_etcd(tmp_path / "etcd") as etcd:
        for name, value in junk.items():
            put(etcd, name, value)
        async with running(tmp_path, "--etcd-servers", etcd.url) as server:
            connector = aiohttp.TCPConnector(ssl=server.connection().ssl_context() or True)
            async with aiohttp.ClientSession(server.url, connector=connector) as session:
                async with session.post(CMS, json={"metadata": {"name": "good"}}) as response:
                    assert response.status == 201
                for name, value in junk.items():
                    put(etcd, f"{name}2", value)
                put(etcd, "good", b"written over")
                async with session.post(CMS, json={"metadata": {"name": "better"}}) as response:
                    assert response.status == 201
                async with session.get(CMS) as response:
                    assert {item["metadata"]["name"] for item in (await response.json())["items"]} == {"better"}
        assert server.log.count("is no object as this server writes them") == 2 * len(junk) + 1
