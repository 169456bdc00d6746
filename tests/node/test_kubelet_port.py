"""The kubelet's own port, spoken to directly: who gets in, every page, streams of every protocol, logs that are rotated.

On Docker and on containerd; clients are a certificate of system:masters, a ServiceAccount's token, and nobody.
"""

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from kube import certificates
from kube.resources import PODS, SERVICEACCOUNTS
from kube.spdy import Session
from kubelet.containerlogs import loglinks
from kubelet.containerlogs.rotation import Limits, Rotation
from kubelet.runtime import ContainerRecord, ContainerState, PodIdentity, PodRecord
from kubelet.streams import forward
from kubelet.streams.websocket import Dialect
from linux import mounts
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.engines import Engine
from tests.node.kubelet_world import World, container, ready, with_world
from tests.node.streams_world import Kubectl, echoing
from tests.ports import free_port
from tests.requirements import kubectls, requires
from tests.unit.kube.test_spdy import read_all
from tests.unit.kubelet.test_rotation import Writer

requires("root", "docker", "nsenter")

Run = Callable[[Callable[[World], Awaitable[None]]], None]
PAYLOAD = random.Random(7).randbytes(10_000_000)
READ_ONLY = free_port()
BLOB = 1 << 20
SETTINGS = {
    "containerLogMaxSize": "32Ki",
    "containerLogMaxFiles": 3,
    "containerLogMonitorInterval": "100ms",
    "readOnlyPort": READ_ONLY,
    "enableSystemLogQuery": True,
    "volumeStatsAggPeriod": "100ms",
}
BURST = "for i in 1 2 3 4 5 6 7 8 9 10; do n=$((n+1)); echo line $n; done"
TALK = f"n=0; while test ! -e /tmp/end; do {BURST}; busybox sleep 0.01; done; echo end"
SHELL = "trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(params=engines.NAMES)
def run(
    netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Run]:
    node = netns("port")
    with ExitStack() as stack:
        engine: Engine
        if request.param == "docker":
            engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                settings = {**SETTINGS, "staticPodPath": str(tmp_path / "manifests")}
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test, settings=settings))

        yield go


def tls(world: World, *groups: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=world.server.authority().certificate.decode())
    context.check_hostname = False
    if groups:
        pair = certificates.issue(world.server.authority(), "somebody", groups)
        path = world.folder / f"{groups[0].replace(':', '-')}.pem"
        path.write_bytes(pair.key + pair.certificate)
        context.load_cert_chain(path)
    return context


class Client:
    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self.url = f"https://127.0.0.1:{world.port}"
        self.session = session

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def text(self, path: str) -> str:
        status, text = await self.get(path)
        assert status == 200, (path, text)
        return text

    async def json(self, path: str) -> Any:
        return json.loads(await self.text(path))

    async def talk(self, path: str, protocol: str, *messages: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        dialect, found = Dialect(protocol), list[tuple[int, bytes]]()
        async with asyncio.timeout(30), self.session.ws_connect(self.url + path, protocols=(protocol,)) as socket:
            assert socket.protocol == protocol
            for channel, data in messages:
                await socket.send_bytes(bytes([channel]) + data)
            async for message in socket:
                piece = dialect.decode(message.data)
                assert piece is not None
                found.append(piece)
        return found


@asynccontextmanager
async def client(world: World, *groups: str) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(ssl=tls(world, *groups))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Client(world, session)


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


@asynccontextmanager
async def spdy(world: World, path: str, protocol: str) -> AsyncIterator[Session]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=tls(world, "system:masters"))
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0"]
    writer.write("\r\n".join([*lines, f"X-Stream-Protocol-Version: {protocol}", "", ""]).encode())
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield Session(Wire(reader, writer), server=False)
    finally:
        writer.close()


async def _exec_over_spdy(world: World, query: str, stdin: bytes) -> tuple[bytes, Any]:
    async with asyncio.timeout(60), spdy(world, f"/exec/default/p/a?{query}", "v4.channel.k8s.io") as session:
        found: dict[str, bytes] = {}

        async def body() -> None:
            kinds = ("error", "stdin", "stdout")
            streams = {kind: await session.open((("streamtype", kind),)) for kind in kinds}

            async def send() -> None:
                await streams["stdin"].write(stdin)
                await streams["stdin"].close()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                heard = {kind: group.create_task(read_all(streams[kind])) for kind in ("error", "stdout")}
            found.update({kind: task.result() for kind, task in heard.items()})

        await session.run(body)
    return found["stdout"], json.loads(found["error"])


async def _forward_over_spdy(world: World, port: int, payload: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(60), spdy(world, "/portForward/default/p", forward.PROTOCOL) as session:

        async def body() -> None:
            nonlocal found
            headers = (("port", str(port)), ("requestid", "0"))
            error = await session.open((("streamtype", "error"), *headers))
            data = await session.open((("streamtype", "data"), *headers))
            await error.close()

            async def send() -> None:
                await data.write(payload)
                await data.close()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                heard = group.create_task(read_all(data))
            found = heard.result()

        await session.run(body)
    return found


def shell(script: str) -> str:
    return f"/exec/default/p/a?command=sh&command=-c&command={quote(script, safe='')}&input=1&output=1&error=1"


def test_streams(run: Run) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("a", SHELL)])
        await world.until("p", ready, "ready")
        async with client(world, "system:masters") as us:
            for protocol in ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"):
                script = "read x; echo got $x; echo bad >&2; exit 3"
                found = await us.talk(shell(script), protocol, (0, b"this\n"))
                said = {number: b"".join(data for one, data in found if one == number) for number in (1, 2, 3)}
                assert (said[1], said[2]) == (b"got this\n", b"bad\n"), found
                if protocol != "channel.k8s.io":
                    assert json.loads(said[3])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
                else:
                    assert said[3] == b"command terminated with exit code 3"
            sent = [(0, PAYLOAD[n : n + 60_000]) for n in range(0, len(PAYLOAD), 60_000)]
            counted = shell("busybox cat | busybox md5sum")
            found = await us.talk(counted, "v5.channel.k8s.io", *sent, (255, b"\0"))
            assert hashlib.md5(PAYLOAD).hexdigest().encode() in b"".join(data for _, data in found)
            assert json.loads(found[-1][1])["status"] == "Success"
            status, text = await us.get("/run/default/p/a?cmd=busybox+echo+hello")
            assert (status, text) == (200, "hello\n")
        out, status = await _exec_over_spdy(world, "command=busybox&command=cat&input=1&output=1", PAYLOAD)
        assert out == PAYLOAD
        assert status["status"] == "Success"
        async with echoing(world.namespace_of("p"), 9000):
            assert await _forward_over_spdy(world, 9000, PAYLOAD) == PAYLOAD

    run(test)


async def _token(world: World) -> str:
    await world.client.create(SERVICEACCOUNTS, {"metadata": {"name": "robot"}}, "default")
    spec = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    found = await world.client.create_subresource(SERVICEACCOUNTS, "robot", "token", spec, "default")
    return str(found["status"]["token"])


async def _who_gets_in(world: World) -> None:
    token = await _token(world)
    async with client(world) as nobody:
        for path in ("/metrics", "/pods", "/healthz", "/exec/default/p/a?command=true&output=1"):
            assert (await nobody.get(path))[0] == 401
            assert (await nobody.get(path, Authorization="Bearer nonsense"))[0] == 401
        status, text = await nobody.get("/metrics/resource", Authorization=f"Bearer {token}")
        assert status == 200, text
    async with client(world, "somebodies") as user:  # not asked to be of system:masters: the API server says yes
        assert (await user.get("/pods"))[0] == 200
    async with aiohttp.ClientSession() as session:
        public = f"http://127.0.0.1:{READ_ONLY}"
        for path, expected in (("/pods", 200), ("/metrics", 200), ("/stats/summary", 200), ("/configz", 404)):
            async with session.get(public + path) as answer:
                assert answer.status == expected, path


SERIES = (
    "kubelet_node_name", "kubelet_running_pods", "kubelet_running_containers", "kubelet_started_pods_total",
    "kubelet_started_containers_total", "kubelet_pleg_relist_duration_seconds_count",
    "kubelet_pleg_relist_interval_seconds_count", "kubelet_pod_worker_duration_seconds_count",
    "kubelet_pod_start_duration_seconds_count", "kubelet_runtime_operations_total",
    "kubelet_runtime_operations_duration_seconds_count", "kubelet_cgroup_manager_duration_seconds_count",
    "storage_operation_duration_seconds_count", "kubelet_certificate_manager_client_ttl_seconds",
    "kubelet_http_requests_total", "kubelet_desired_pods", "kubelet_active_pods", "rest_client_requests_total",
    "process_resident_memory_bytes", "process_cpu_seconds_total",
)  # fmt: skip


async def _pages(world: World, us: Client) -> None:
    assert await us.text("/healthz") == "ok"
    for name in ("ping", "log", "syncloop"):
        assert await us.text(f"/healthz/{name}") == "ok"
    assert [pod["metadata"]["name"] for pod in (await us.json("/pods"))["items"]] == ["p"]
    assert [pod["metadata"]["name"] for pod in (await us.json("/runningpods/"))["items"]] == ["p"]
    config = (await us.json("/configz"))["kubeletconfig"]
    assert config["containerLogMaxSize"] == "32Ki"
    metrics = await us.text("/metrics")
    missing = [name for name in SERIES if not re.search(rf"^{name}(\{{| )", metrics, re.MULTILINE)]
    assert missing == []
    operations = set(re.findall(r'kubelet_runtime_operations_total{operation_type="(\w+)"}', metrics))
    assert {"run_podsandbox", "create_container", "start_container"} <= operations, operations
    cadvisor = await us.text("/metrics/cadvisor")
    assert re.search(r'container_cpu_usage_seconds_total{container="a".*pod="p"', cadvisor)
    rows = re.findall(
        r'container_memory_rss{container="(.*?)",id=".*?",image="(.*?)",name="(.*?)",namespace="default",pod="p"}',
        cadvisor,
    )
    whose = sorted((container, bool(image), bool(name)) for container, image, name in rows)
    assert whose[:2] == [("", False, False), ("", True, True)], rows  # the pod, its sandbox
    assert ("a", True, True) in whose[2:], rows
    assert "container_oom_events_total" not in cadvisor
    assert "container_oom_events_total{" in await us.text("/metrics/cadvisor?metrics=container_oom_events_total")
    status, text = await us.get("/metrics/cadvisor?metrics=none_such")
    assert (status, "none_such" in text) == (400, True)
    resource = await us.text("/metrics/resource")
    assert re.search(r'container_memory_working_set_bytes{container="a",namespace="default",pod="p"} \d', resource)
    assert resource.endswith("\nresource_scrape_error 0\n")
    assert "prober_probe_total{" in await us.text("/metrics/probes")
    assert 'kubernetes_healthcheck{name="syncloop",type="healthz"} 1.0' in await us.text("/metrics/slis")
    summary = await us.json("/stats/summary")
    assert summary["node"]["nodeName"] == world.node.name
    assert summary["node"]["runtime"]["imageFs"]["capacityBytes"] > 0
    (pod,) = summary["pods"]
    assert pod["podRef"]["name"] == "p"
    assert [each["name"] for each in pod["containers"]] == ["a"]
    assert pod["memory"]["workingSetBytes"] > 0
    assert [each["name"] for each in pod["volume"]] == ["cache"]
    assert pod["network"]["interfaces"][0]["name"] == "eth0"
    brief = await us.json("/stats/summary?only_cpu_and_memory=true")
    assert set(brief["pods"][0]["containers"][0]) == {"name", "startTime", "cpu", "memory", "swap"}
    assert '<a href="logs/">' in await us.text("/logs/")
    assert "task " in await us.text("/debug/pprof/goroutine")
    async with us.session.put(f"{us.url}/debug/flags/v", data="4") as answer:
        assert await answer.text() == "successfully set klog.logging.verbosity to 4"


async def _counted(us: Client) -> None:
    """What walks over the node's disk find, after a while; and a rate of CPU, by the second look."""

    def short(pod: dict[str, Any]) -> list[str]:
        (app,) = pod["containers"]
        parts = {"volume": pod["volume"][0], "rootfs": app["rootfs"], "ephemeral-storage": pod["ephemeral-storage"]}
        found = [name for name, part in parts.items() if part.get("usedBytes", 0) < BLOB]
        return found + [name for name, part in (("pod", pod), ("app", app)) if "usageNanoCores" not in part["cpu"]]

    async with asyncio.timeout(30):
        while lacking := short((await us.json("/stats/summary"))["pods"][0]):
            assert set(lacking) <= {"volume", "rootfs", "ephemeral-storage", "pod", "app"}
            await asyncio.sleep(0.1)


CPU = re.compile(
    r'^container_cpu_usage_seconds_total{container="a",namespace="default",pod="p"} (\S+) (\d+)$', re.MULTILINE
)


async def _rate(us: Client) -> None:
    """As metrics-server does: a counter over the time between two times that differ."""

    async def look() -> tuple[float, int]:
        match = CPU.search(await us.text("/metrics/resource"))
        assert match is not None
        return float(match[1]), int(match[2])

    used, when = await look()
    async with asyncio.timeout(30):
        while (later := await look())[1] == when:
            await asyncio.sleep(0.1)
    assert 0 <= (later[0] - used) / ((later[1] - when) / 1000) < 64


def test_pages(run: Run) -> None:
    async def test(world: World) -> None:
        probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
        mounts = [{"name": "cache", "mountPath": "/cache"}]
        write = f"for at in /blob /cache/blob; do busybox head -c {BLOB} /dev/zero > $at; done"
        app = container("a", f"{write}; {SHELL}", readinessProbe=probe, volumeMounts=mounts)
        await world.create("p", [app], volumes=[{"name": "cache", "emptyDir": {}}])
        await world.until("p", ready, "ready")
        async with client(world, "system:masters") as us:
            await _pages(world, us)
            await _counted(us)
            await _rate(us)
        await _who_gets_in(world)

    run(test)


def test_a_log_that_is_rotated_loses_nothing(run: Run) -> None:
    async def test(world: World) -> None:
        pod = await world.create("p", [container("a", TALK)], restartPolicy="Never")
        await world.until("p", ready, "ready")
        folder = world.folder / "logs" / f"default_p_{pod.metadata.uid}" / "a"
        links = Path(loglinks.directory_of(str(world.folder / "logs")))
        numbers: list[int] = []
        async with client(world, "system:masters") as us:
            url = f"{us.url}/containerLogs/default/p/a?follow=true"
            async with asyncio.timeout(60), us.session.get(url) as answer:
                async for line in answer.content:
                    if line == b"end\n":
                        break
                    numbers.append(int(line.split()[1]))
                    if len(numbers) == 2_000:
                        await us.talk(shell(": > /tmp/end"), "v5.channel.k8s.io")
            tail = await us.text("/containerLogs/default/p/a?tailLines=1")
        assert tail == "end\n"
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        identity = (await world.until("p", lambda p: p.status.phase == "Succeeded", "over")).status.container_statuses
        name = loglinks.name_of(PodIdentity("p", "default", ""), "a", identity[0].container_id.partition("://")[2])
        await world.eventually(lambda: (links / name).is_symlink(), "a link to the log")
        if world.engine.name == "containerd":
            assert os.path.realpath(links / name) == str(folder / "0.log")
            rotated = sorted(path.name for path in folder.iterdir() if path.name != "0.log")
            assert 1 <= len(rotated) <= 2, rotated
            assert all(re.fullmatch(r"0\.log\.\d{8}-\d{6}(\.gz)?", each) for each in rotated), rotated
            for each in rotated:
                if each.endswith(".gz"):
                    assert b" stdout F line " in gzip.decompress((folder / each).read_bytes())
        await world.client.delete(PODS, "p", "default")
        await world.until_gone("p")
        await world.eventually(lambda: not (links / name).is_symlink(), "the link is gone")

    run(test)


def test_a_static_pod_is_spoken_to_by_its_mirror(run: Run) -> None:
    async def test(world: World) -> None:
        kubectl = Kubectl(kubectls()[-1], world.server.kubeconfig, world.folder)
        script = f"echo static; {SHELL}"
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "static"},
            "spec": {"containers": [container("a", script)], "terminationGracePeriodSeconds": 1},
        }
        (world.folder / "manifests").mkdir(exist_ok=True)
        path = world.folder / "manifests" / "static.json"
        path.write_text(json.dumps(manifest))
        name = f"static-{world.node.name}"
        await world.until(name, ready, "ready")
        assert await kubectl.says("logs", name) == "static\n"
        assert await kubectl.says("exec", name, "--", "busybox", "echo", "hello") == "hello\n"
        async with client(world, "system:masters") as us:
            (pod,) = (await us.json("/pods"))["items"]
            mirror = await world.pod(name)
            assert mirror is not None
            assert mirror.metadata.uid != pod["metadata"]["uid"]
            query = "command=busybox&command=true&output=1"
            for uid in (mirror.metadata.uid, pod["metadata"]["uid"]):
                found = await us.talk(f"/exec/default/{name}/{uid}/a?{query}", "v5.channel.k8s.io")
                assert json.loads(found[-1][1])["status"] == "Success"
        path.unlink()
        await world.until_gone(name)

    run(test)


def test_rotation_goes_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    root = tmp_path / "pods"
    root.mkdir()
    mounts.tmpfs(str(root), size_bytes=256 << 10)
    try:
        asyncio.run(_filled(root))
    finally:
        mounts.unmount(str(root))


async def _filled(root: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    running = ContainerRecord(
        id="a", sandbox_id="s", name="a", attempt=0, image="i", state=ContainerState.RUNNING, created_at=now
    )
    record = PodRecord(pod=PodIdentity("p", "default", "u1"), containers=(running,))
    writer = Writer(root / "default_p_u1" / "a" / "0.log")
    rotation = Rotation(writer, str(root), Limits(size=32 << 10, files=4), lambda: [record], lambda: now)  # type: ignore[arg-type]
    noise, refused = random.Random(1), 0

    async def a_while() -> None:
        nonlocal now, refused
        for _ in range(4):
            for _ in range(60):
                try:
                    writer.write(noise.randbytes(500).hex())
                except OSError:
                    refused += 1
            now += timedelta(seconds=10)
            await rotation.sync()

    with contextlib.closing(writer.file):
        (root / "others").write_bytes(bytes(150 << 10))
        await a_while()
        assert refused > 0, "the disk was never full"
        (root / "others").unlink()
        refused = 0
        await a_while()
        assert refused == 0
    names = sorted(os.listdir(writer.path.parent))
    assert names[0] == "0.log"
    assert [name.endswith(".gz") for name in names[1:]] == [True, True, False]
    writer.file.close()
