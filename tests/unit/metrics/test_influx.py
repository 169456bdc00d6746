"""The push to InfluxDB: what a line says, and what becomes of it when the database is away, unwilling or slow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry

from kube.errors import UsageError
from metrics import config, daemon, influx
from metrics.influx import Batch, Push, batch, database, escaped
from metrics.model import Part, Snapshot
from tests.unit.metrics import samples


class Server:
    """Keeps what is written; `answers` are the statuses of the next requests, then 204."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.requests: list[web.Request] = []
        self.answers: list[int] = []
        self.host = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 204
        self.requests.append(request)
        if status == 204:
            self.bodies.append(body)
        return web.Response(status=status, text="" if status == 204 else '{"error":"no"}')


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_post("/write", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.host = "{}:{}".format(*runner.addresses[0])
    yield made
    await runner.cleanup()


class Pushing:
    def __init__(self, host: str, **more: Any) -> None:
        self.registry = CollectorRegistry()
        self.read: list[frozenset[Part]] = []
        kept: dict[str, Any] = {"interval": 0.01, "every": 0.1, **more}
        target = database(host, "db", "me", "secret", "week", secure=False)
        self.push = Push(self._read, target, "m1", registry=self.registry, **kept)

    def _read(self, parts: frozenset[Part]) -> Snapshot:
        self.read.append(parts)
        return samples.snapshot()

    def count(self, result: str) -> float | None:
        return self.registry.get_sample_value("wherry_metrics_influxdb_points_total", {"result": result})

    @property
    def waiting(self) -> float | None:
        return self.registry.get_sample_value("wherry_metrics_influxdb_buffered_bytes")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_lines_have_cadvisors_names_and_tell_pods_apart() -> None:
    made = batch(samples.snapshot(), "m1")
    lines = made.body.decode().splitlines()
    assert len(lines) == made.points
    web = "container=web,container_name=k8s_web,machine=m1,namespace=default,pod=web-1"
    assert f"cpu_usage_total,{web} value=2500000000i 1234500000000" in lines
    assert f"memory_working_set,{web} value=8388608i 1234500000000" in lines
    assert "rx_bytes,container_name=db,machine=m1 value=1506i 1234500000000" in lines
    assert "fs_usage,container_name=/,machine=m1,type=/dev/vda1 value=1000000000i 1234500000000" in lines
    pod = f"container_name={samples.POD},machine=m1,namespace=default,pod=web-1"
    assert (
        f"memory_usage,{pod} value=10485760i 1234500000000" in lines
    )  # a pod's row is its cgroup's, not its sandbox's
    assert len({line.rsplit(" ", 2)[0] for line in lines}) == len(lines), "two points would overwrite each other"


def test_what_the_kernel_does_not_say_is_left_out() -> None:
    snapshot = samples.snapshot()
    one = snapshot.samples[4]
    assert one.usage.memory
    usage = msgspec.structs.replace(
        one.usage, cpu=None, memory=msgspec.structs.replace(one.usage.memory, max_usage=None)
    )
    bare = Snapshot(when=1.0, machine=snapshot.machine, samples=(msgspec.structs.replace(one, usage=usage),))
    names = [line.split(b",")[0] for line in batch(bare, "m").body.splitlines()]
    assert names == [b"memory_usage", b"memory_working_set"]


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("plain", "plain"),
        ("a b,c=d", r"a\ b\,c\=d"),
        (r"dev-disk\x2duuid.mount", r"dev-disk\x2duuid.mount"),
        ("two\nlines", r"two\ lines"),
        ("ends\\", "ends/"),
        ("a\\,b", r"a/\,b"),
        ('"quoted" ünï', r'"quoted"\ ünï'),
    ],
)
def test_tags_are_escaped(raw: str, written: str) -> None:
    assert escaped(raw) == written


async def test_readings_are_written_with_user_database_and_policy(server: Server) -> None:
    pushing = Pushing(server.host)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pushing.push.run())
        await until(lambda: len(server.bodies) > 2)
        task.cancel()
    assert server.bodies[0] == batch(samples.snapshot(), "m1").body
    assert dict(server.requests[0].query) == {"db": "db", "precision": "ns", "rp": "week"}
    assert server.requests[0].headers["Authorization"] == "Basic bWU6c2VjcmV0"
    assert set(pushing.read) == {influx.PARTS}
    assert (pushing.count("written") or 0) >= 2 * batch(samples.snapshot(), "m1").points


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_what_an_unwilling_database_does_not_take_waits_in_order(
    server: Server, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    pushing = Pushing(server.host)
    server.answers = [204, status, status]
    for name in ("one", "two", "three"):
        pushing.push.keep(Batch(name.encode(), 1))
    async with ClientSession() as session:
        assert [await pushing.push.flush(session) for _ in range(3)] == [False, False, True]
    assert server.bodies == [b"one", b"two", b"three"]
    assert (pushing.count("written"), pushing.count("dropped"), pushing.waiting) == (3, 0, 0)
    said = [record.message for record in caplog.records]
    assert [str(status) in text for text in said] == [True, False]  # once, and that it is over


@pytest.mark.parametrize("status", [400, 413])
async def test_what_is_wrong_in_itself_is_not_sent_again(server: Server, status: int) -> None:
    pushing = Pushing(server.host)
    server.answers = [status]
    pushing.push.keep(Batch(b"bad", 7))
    pushing.push.keep(Batch(b"good", 1))
    async with ClientSession() as session:
        assert await pushing.push.flush(session)
    assert server.bodies == [b"good"]
    assert (pushing.count("refused"), pushing.count("written")) == (7, 1)


async def test_a_database_that_is_away_costs_a_bounded_buffer() -> None:
    pushing = Pushing("127.0.0.1:1", buffer=100)
    for at in range(10):
        pushing.push.keep(Batch(b"%d" % at * 30, 3))
    assert pushing.waiting == 90
    assert pushing.count("dropped") == 7 * 3
    async with ClientSession() as session:
        assert not await pushing.push.flush(session)
    assert pushing.waiting == 90
    assert pushing.count("written") == 0


@pytest.mark.parametrize("host", ["", "http://x", "x:y", "a b/c", "u@h:1", "h:1/p", ":8086"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="--storage_driver_host"):
        database(host, "db", "", "", "", secure=False)


def test_addresses() -> None:
    assert database("h", "db", "", "", "", secure=False).url == "http://h:8086/write"
    assert database("[::1]:99", "db", "", "", "", secure=True).url == "https://[::1]:99/write"
    with pytest.raises(UsageError, match="--storage_driver_db"):
        database("h", "", "", "", "", secure=False)
    with pytest.raises(UsageError, match="--storage_driver_user"):
        database("h", "db", "", "x", "", secure=False)
    with pytest.raises(UsageError, match="--storage_driver_buffer_duration"):
        Pushing("h", every=0.0)


def test_flags_are_cadvisors() -> None:
    words = ["-storage_driver=influxdb", "-storage_driver_host=h:1", "-storage_driver_table=stats"]
    found = config.load([*words, "-storage_driver_buffer_duration=10s", "-storage_driver_password=hidden"])
    assert (found.storage_driver, found.storage_driver_host) == ("influxdb", "h:1")
    assert found.storage_driver_buffer_duration == 10.0
    assert daemon._shown(found).storage_driver_password == "..."
    with pytest.raises(UsageError, match="storage_driver_table"):
        config.load(["-storage_driver_table=mine"])
