"""`apiserver.*`: what one request costs the server, in CPU time, against a bare aiohttp TLS server that answers as many bytes.

CPU time of the server and its store process per request is the figure: the requests per second that two cores give depend
on who else is using them. Both servers get the same requests from the same clients, in turn.

    apiserver.create.64    POST of a pod of 3 KB by 64 clients; the floor reads the body and answers the pod
    apiserver.get.32       GET of one of them by 32 clients
    apiserver.list.5000    LIST of 5,000 such pods by one client
"""

import asyncio
import itertools
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

from tests.node.apiserver import Server, free_port, running

NAMES = ("apiserver.create.64", "apiserver.get.32", "apiserver.list.5000")
RUNS = 5
PODS = "/api/v1/namespaces/default/pods"
UNIT = "CPU us/request"


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    wanted = [name for name in NAMES if not only or name.startswith(only)]
    if wanted:
        with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
            yield from uvloop.run(_measured(Path(home), wanted))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers: where it is and which process it is."""

    url: str
    pid: int
    session: aiohttp.ClientSession

    def cpu(self) -> float:
        """Seconds of CPU of the process and its children so far."""
        return sum(_cpu(pid) for pid in (self.pid, *_children(self.pid)))


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    """From schedstat, in nanoseconds, because a clock tick is as long as ten requests."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def pod(name: str) -> bytes:
    probe = {"httpGet": {"path": "/", "port": 80}}
    container = {
        "image": "registry.example/app:v1",
        "env": [{"name": f"E{n}", "value": "v" * 20} for n in range(12)],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "readinessProbe": probe,
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    spec = {"containers": [{"name": one, **container} for one in "ab"], "volumes": [{"name": "v", "emptyDir": {}}]}
    return orjson.dumps({"metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec})


async def _measured(home: Path, wanted: list[str]) -> list[dict[str, Any]]:
    async with running(home) as server, bare(home, server) as (floor_url, floor_pid):
        tls = server.connection().ssl_context() or True
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, headers={"Accept-Encoding": "identity"}) as session:
            assert server.process is not None
            ours = Side(server.url, server.process.pid, session)
            floor = Side(floor_url, floor_pid, session)
            return [await _row(name, ours, floor) for name in wanted]


async def _row(name: str, ours: Side, floor: Side) -> dict[str, Any]:
    names = (f"{name.replace('.', '-')}-{number}" for number in itertools.count())
    match name:
        case "apiserver.create.64":
            kind, clients, count = _create(names), 64, 640
            note = "pod of 3 KB, on disk when answered, store process included"
        case "apiserver.get.32":
            await _spread(ours, _create(iter(["get"])), 1, 1)
            kind, clients, count, note = _get(f"{PODS}/get"), 32, 1600, "pod of 3 KB"
        case _:
            have = len((await _fetch(ours, f"{PODS}?limit=10000"))["items"])
            await _spread(ours, _create(names), 64, 5000 - have)
            kind, clients, count, note = _get(PODS), 1, 3, "5,000 pods of 3 KB, not compressed"
    answer = await kind(ours)
    async with floor.session.put(floor.url, data=answer) as response:
        await response.read()
    ours_us, floor_us = [], []
    for side in (ours, floor):
        await _spread(side, kind, clients, clients)
    for _ in range(RUNS):
        for side, figures in ((ours, ours_us), (floor, floor_us)):
            before = side.cpu()
            await _spread(side, kind, clients, count)
            figures.append((side.cpu() - before) / count * 1e6)
    middle = statistics.median(ours_us), statistics.median(floor_us)
    return {
        "name": name,
        "unit": UNIT,
        "ours": round(middle[0], 1),
        "floor": round(middle[1], 1),
        "ratio": round(middle[0] / middle[1], 2),
        "runs": RUNS,
        "note": f"{note}; floor: aiohttp and TLS with as many bytes, less is better",
    }


Call = Callable[[Side], Awaitable[bytes]]


def _create(names: Iterator[str]) -> Call:
    async def call(side: Side) -> bytes:
        headers = {"Content-Type": "application/json"}
        async with side.session.post(side.url + PODS, data=pod(next(names)), headers=headers) as response:
            assert response.status == 201, await response.text()
            return await response.read()

    return call


def _get(path: str) -> Call:
    async def call(side: Side) -> bytes:
        async with side.session.get(side.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    return call


async def _fetch(side: Side, path: str) -> Any:
    return orjson.loads(await _get(path)(side))


async def _spread(side: Side, call: Call, clients: int, count: int) -> None:
    """`count` calls by `clients` at a time."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await call(side)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())


@asynccontextmanager
async def bare(home: Path, server: Server) -> AsyncIterator[tuple[str, int]]:
    """aiohttp, uvloop and TLS in a process of their own: the answer to everything is what was PUT last."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", __name__, str(home), str(port)])
    url = f"https://127.0.0.1:{port}"
    try:
        tls = server.connection().ssl_context() or True
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session, asyncio.timeout(20):
            while not await _answers(session, url):
                await asyncio.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(10)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _serve(home: str, port: int) -> None:
    body = b"{}"

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal body
        if request.method == "PUT":
            body = await request.read()
        elif request.method == "POST":
            await request.read()
            return web.Response(status=201, body=body, content_type="application/json")
        return web.Response(body=body, content_type="application/json")

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{home}/server.crt", f"{home}/server.key")
    loop = asyncio.get_running_loop()

    def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=64 << 20)

    runner = web.ServerRunner(web.Server(answer, request_factory=request, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2])))
