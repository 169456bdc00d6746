"""`api.*`: the API server under load, over TLS, beside the least that the same work can cost.

    api.create.1, .64      creates a second of a pod of 3.5 KB by 1 and 64 clients, each on disk when answered; floor: commits of
                           as many bytes to the bare store, as many at a time. `.etcd`: with etcd instead of SQLite
    api.get.32             GETs of one of them a second over 32 connections; floor: a bare TLS server that sends the same bytes
    api.list.5000          LISTs of 5,000 such pods a second; same floor
    api.watch.N.p99        one write until a watcher has it, of N watchers; ms, 99th percentile
    api.cpu-per-create     CPU of the server and its store's process, us; the pods have one spec, as a controller's have.
                           `.unlike`: no two specs are the same, so that nothing is known again
    api.rss.empty, .50000  resident memory, MB, as started and with 50,000 such pods
    api.idle.cpu           percent of a core, with nobody asking

The load comes from a process of its own. CPU per request is the figure that neighbours disturb least; it is in every note.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from apiserver.store import Committed, Op, Store
from apiserver.store.sqlite import open_store
from tests.node import apiserver as world
from tests.node.apiserver import Server, running
from tests.ports import free_port

PODS = "/api/v1/namespaces/default/pods"
RUNS = 3
IDLE_SECONDS = 10.0
Row = dict[str, Any]


def pod(name: str) -> bytes:
    """2.9 KB as posted; about 3.5 KB with what the server adds."""
    container = {
        "image": "registry.example/team/application:v1.2.3",
        "env": [{"name": f"SETTING_{n}", "value": "v" * 24} for n in range(12)],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        "ports": [{"name": "http", "containerPort": 8080}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [{"name": one, **container} for one in ("application", "sidecar")],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    metadata = {"name": name, "labels": {"app": "bench", "tier": "back", "pod-template-hash": "5d4f8c7b9"}}
    return orjson.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


@dataclass(slots=True)
class Bench:
    home: Path
    server: Server
    session: aiohttp.ClientSession
    prefixes: Iterator[int] = field(default_factory=itertools.count)

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    def cpu(self) -> float:
        """Seconds so far, of the server and its store's process; from schedstat, as a clock tick is as long as ten requests."""
        pids = (self.pid, *map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))
        tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def rss(self) -> float:
        return _rss(self.pid)

    async def load(self, kind: str, path: str, clients: int, count: int, port: int = 0, **more: Any) -> dict[str, Any]:
        prefix = f"p{next(self.prefixes)}-"
        job = {
            "kind": kind,
            "path": path,
            "clients": clients,
            "count": count,
            "prefix": prefix,
            "body": pod("NAME").decode(),
        }
        argv = [sys.executable, "-m", "tests.bench._load", "127.0.0.1", str(port or self.server.port), str(self.home)]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        before = self.cpu()
        answer, _ = await process.communicate(json.dumps(job | more).encode())
        if process.returncode:
            raise AssertionError("the load generator failed")
        return json.loads(answer) | {"cpu": (self.cpu() - before) / count * 1e6}

    async def get(self, path: str) -> bytes:
        async with self.session.get(self.server.url + path, headers={"Accept-Encoding": "identity"}) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def rv(self) -> str:
        return str(orjson.loads(await self.get(f"{PODS}?limit=1"))["metadata"]["resourceVersion"])

    async def pods(self, count: int) -> None:
        """At least so many are there."""
        page = orjson.loads(await self.get(f"{PODS}?limit=1"))
        have = len(page["items"]) + page["metadata"].get("remainingItemCount", 0)
        if have < count:
            await self.load("create", PODS, 64, count - have)


def _rss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def rows(only: str | None = None) -> Iterator[Row]:
    wanted = [name for name in MEASURES if not only or name.startswith(only)]
    here = [name for name in wanted if not name.endswith(".etcd")]
    beside = [name for name in wanted if name.endswith(".etcd")]
    if here:
        yield from _measured(here)
    if beside and shutil.which("etcd"):
        with etcd() as endpoint:
            yield from _measured(beside, "--etcd-servers", endpoint)


def _measured(names: list[str], *flags: str) -> Iterator[Row]:
    """Row by row, all of one server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        try:
            bench = runner.run(_opened(stack, flags))
            for name in names:
                yield runner.run(_measure(bench, name))
        finally:
            runner.run(stack.aclose())


async def _measure(bench: Bench, name: str) -> Row:
    return await MEASURES[name](bench, name)


async def _opened(stack: AsyncExitStack, flags: tuple[str, ...]) -> Bench:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wherry-bench-")))
    server = await stack.enter_async_context(running(home, *flags))
    tls = server.connection().ssl_context() or True
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
    return Bench(home, server, session)


def _row(name: str, unit: str, ours: float, note: str, floor: float | None = None, runs: int = RUNS) -> Row:
    ratio = round(ours / floor, 2) if floor else None
    return {"name": name, "unit": unit, "ours": round(ours, 3), "floor": floor and round(floor, 3), "ratio": ratio,
            "runs": runs, "note": note}  # fmt: skip


async def _rates(
    bench: Bench, kind: str, path: str, clients: int, count: int, port: int = 0
) -> tuple[float, float, float]:
    """Requests a second, CPU us each, p99 ms: medians."""
    await bench.load(kind, path, clients, clients, port)
    runs = [await bench.load(kind, path, clients, count, port) for _ in range(RUNS)]
    middle = statistics.median
    return (
        middle(count / one["seconds"] for one in runs),
        middle(one["cpu"] for one in runs),
        middle(one["p99"] for one in runs) * 1e3,
    )


async def create(bench: Bench, name: str) -> Row:
    clients = int(name.split(".")[2])
    rate, cpu, p99 = await _rates(bench, "create", PODS, clients, 600 if clients == 1 else 3000)
    floor = None if name.endswith(".etcd") else await _commits(bench.home, clients)
    stands = "stock with etcd 236/s" if clients == 1 else "stock with etcd 597/s"
    return _row(name, "/s", rate, f"{cpu:.0f} us CPU each, p99 {p99:.1f} ms; floor: bare commits; {stands}", floor)


async def _commits(home: Path, clients: int) -> float:
    """Commits a second of 3.5 KB values to a bare store."""
    numbers, rates = itertools.count(), []
    value = pod("x") + b" " * 600
    async with open_store(home / f"bare{clients}.db") as store:
        for _ in range(RUNS):
            left, started = iter(range(clients * 40 if clients > 1 else 600)), time.perf_counter()
            total = clients * 40 if clients > 1 else 600
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(_commit(store, left, numbers, value))
            rates.append(total / (time.perf_counter() - started))
    return statistics.median(rates)


async def _commit(store: Store, left: Iterator[int], numbers: Iterator[int], value: bytes) -> None:
    for _ in left:
        assert isinstance(await store.txn([Op(f"/registry/pods/x/{next(numbers)}", value, 0)]), Committed)


async def cpu_per_create(bench: Bench, name: str) -> Row:
    body = pod("NAME")
    if name.endswith(".unlike"):
        body = body.replace(b"v1.2.3", b"NAME")
    runs = [await bench.load("create", PODS, 64, 3000, body=body.decode()) for _ in range(RUNS)]
    rate, cpu = (
        statistics.median(values) for values in ([3000 / one["seconds"] for one in runs], [one["cpu"] for one in runs])
    )
    return _row(name, "us", cpu, f"64 clients, {rate:.0f}/s; server and store process; stock 2,540 + etcd 333")


async def get(bench: Bench, name: str) -> Row:
    await bench.pods(1)
    path = f"{PODS}/{orjson.loads(await bench.get(f'{PODS}?limit=1'))['items'][0]['metadata']['name']}"
    rate, cpu, p99 = await _rates(bench, "get", path, 32, 20000)
    floor = await _bare(bench, await bench.get(path), 32, 20000)
    return _row(
        name, "/s", rate, f"{cpu:.0f} us CPU each, p99 {p99:.1f} ms; floor: bare TLS; stock 1,900-2,900/s", floor
    )


async def listed(bench: Bench, name: str) -> Row:
    await bench.pods(5000)
    path = f"{PODS}?limit=5000"
    size = len(await bench.get(path))
    rate, cpu, p99 = await _rates(bench, "get", path, 1, 20)
    floor = await _bare(bench, await bench.get(path), 1, 20)
    note = f"{size / 1e6:.1f} MB, {cpu / 1e3:.0f} ms CPU each, p99 {p99:.0f} ms, {rate * size / 29e6:.1f}/s of 29 MB"
    return _row(name, "/s", rate, f"{note}; floor: bare TLS; stock 2.2/s of 29 MB", floor)


async def _bare(bench: Bench, body: bytes, clients: int, count: int) -> float:
    """Answers a second of a bare TLS server that sends `body`."""
    answer, port = bench.home / "answer", free_port()
    answer.write_bytes(body)
    process = subprocess.Popen([sys.executable, "-m", "tests.bench._bare", str(bench.home), str(port), str(answer)])
    try:
        async with asyncio.timeout(20):
            while not await _open(port):
                await asyncio.sleep(0.05)
        rate, _, _ = await _rates(bench, "get", "/", clients, count, port)
        return rate
    finally:
        process.terminate()
        process.wait(10)


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def watch(bench: Bench, name: str) -> Row:
    watchers = int(name.split(".")[2])
    runs = [await bench.load("watch", PODS, watchers, 15, rv=await bench.rv()) for _ in range(RUNS)]
    p50, p99, last = (statistics.median(one[key] for one in runs) * 1e3 for key in ("p50", "p99", "max"))
    stands = "stock 24 ms" if watchers == 100 else "stock 55.5 ms"
    return _row(name, "ms", p99, f"p50 {p50:.1f}, all {last:.1f} ms; {stands}")


async def rss(bench: Bench, name: str) -> Row:
    if name.endswith("empty"):
        return _row(name, "MB", bench.rss(), "stock 283 MB and etcd", runs=1)
    await bench.pods(50000)
    created = bench.rss()
    bench.server.kill(signal.SIGTERM)
    world.READY_SECONDS = 120.0
    await bench.server.start()
    note = f"after creating them; {bench.rss():.0f} MB after a restart; stock 570-1,186 MB and etcd 90 MB"
    return _row(name, "MB", created, note, runs=1)


async def idle(bench: Bench, name: str) -> Row:
    await asyncio.sleep(2)
    before = bench.cpu()
    await asyncio.sleep(IDLE_SECONDS)
    return _row(name, "%", (bench.cpu() - before) / IDLE_SECONDS * 100, "server and store process; stock 1.9", runs=1)


@contextmanager
def etcd() -> Iterator[str]:
    port, peer = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
        url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        argv = ["etcd", "--data-dir", home, "--listen-client-urls", url, "--advertise-client-urls", url,
                "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                "--initial-cluster", f"default={peers}", "--log-level", "error"]  # fmt: skip
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            yield url
        finally:
            process.terminate()
            process.wait(10)


MEASURES: dict[str, Callable[[Bench, str], Awaitable[Row]]] = {
    "api.rss.empty": rss,
    "api.idle.cpu": idle,
    "api.create.1": create,
    "api.create.64": create,
    "api.cpu-per-create": cpu_per_create,
    "api.cpu-per-create.unlike": cpu_per_create,
    "api.get.32": get,
    "api.watch.100.p99": watch,
    "api.watch.1000.p99": watch,
    "api.list.5000": listed,
    "api.rss.50000": rss,
    "api.create.1.etcd": create,
    "api.create.64.etcd": create,
}
