"""The kubelet's HTTPS API over a fake runtime: who may, logs, exec in every dialect, refusals in words."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from kube.errors import UsageError
from kube.pods import Pod
from kubelet.runtime import RuntimeRefused, StreamOptions
from kubelet.server import Access, Pages, Policy, Server, locate, serve, tls_context
from kubelet.server.whose import stdin_once
from kubelet.streams.door import Refusal
from kubelet.streams.lasting import Lasting
from kubelet.streams.websocket import PROTOCOLS, Dialect
from tests.unit.kubelet.serving import World, client_tls, pod, serving, with_status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path) as found:
        yield found


async def test_only_certificates_of_the_cluster_get_in(world: World) -> None:
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    other = client_tls(world.folder, "system:node:other", "system:nodes")
    world.reviews.allowed.add(("system:node:other", "get", "metrics"))
    for context, path, status in (
        (anyone, "/pods", 401),
        (anyone, "/healthz", 401),
        (other, "/pods", 403),
        (other, "/metrics", 200),
    ):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            async with session.get(world.url + path) as response:
                assert response.status == status, await response.text()
    assert (await world.get("/metrics")) == (200, "kubelet_running_pods 1\n")
    assert await world.get("/healthz") == (200, "ok")


async def test_pods_and_running_pods(world: World) -> None:
    await world.start("sleep", "60")
    status, text = await world.get("/pods")
    document = json.loads(text)
    assert (status, document["kind"]) == (200, "PodList")
    assert document["items"][0]["metadata"]["name"] == "web"
    assert document["items"][0]["status"]["containerStatuses"][0]["containerID"].startswith("docker://")
    running = json.loads((await world.get("/runningpods/"))[1])
    assert [item["metadata"]["name"] for item in running["items"]] == ["web"]
    assert running["items"][0]["spec"]["containers"][0]["name"] == "main"


def line(text: str) -> bytes:
    return json.dumps({"log": text, "stream": "stdout", "time": "2026-01-01T00:00:00Z"}).encode() + b"\n"


async def test_logs(world: World) -> None:
    await world.start("sleep", "60")
    (world.folder / "main").mkdir()
    path = world.folder / "main" / "0.log"
    path.write_bytes(line("one\n") + line("two\n"))
    assert await world.get("/containerLogs/default/web/main") == (200, "one\ntwo\n")
    assert await world.get("/containerLogs/default/web/main?tailLines=1&timestamps=true") == (
        200, "2026-01-01T00:00:00Z two\n",
    )  # fmt: skip
    assert await world.get("/containerLogs/default/web/main?tailLines=x") == (400, "tailLines: 'x' is not a number")
    assert await world.get("/containerLogs/default/web/other") == (404, "container not found")
    assert await world.get("/containerLogs/default/absent/main") == (404, "pod does not exist")
    path.unlink()
    status, text = await world.get("/containerLogs/default/web/main")
    assert status == 500
    assert "cannot be read" in text


async def test_following_sends_each_line_as_it_comes_and_ends_with_the_container(world: World) -> None:
    await world.start("sleep", "60")
    (world.folder / "main").mkdir()
    path = world.folder / "main" / "0.log"
    path.write_bytes(line("one\n"))
    async with (
        asyncio.timeout(10),
        world.session.get(f"{world.url}/containerLogs/default/web/main?follow=true") as response,
    ):
        assert await response.content.readline() == b"one\n"
        with path.open("ab") as file:
            file.write(line("two\n"))
        assert await response.content.readline() == b"two\n"
        world.runtime.exit(world.container_id)
        assert await response.content.read() == b""


async def test_a_follower_of_a_silent_log_is_answered_at_once(world: World) -> None:
    await world.start("sleep", "60")
    (world.folder / "main").mkdir()
    (world.folder / "main" / "0.log").touch()
    async with (
        asyncio.timeout(10),
        world.session.get(f"{world.url}/containerLogs/default/web/main?follow=true") as response,
    ):
        assert response.status == 200


async def test_a_follower_who_leaves_is_forgotten(world: World) -> None:
    await world.start("sleep", "60")
    (world.folder / "main").mkdir()
    path = world.folder / "main" / "0.log"
    path.touch()

    def open_files() -> list[str]:
        links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if link.is_symlink()]

    async with asyncio.timeout(10):
        async with world.session.get(f"{world.url}/containerLogs/default/web/main?follow=true") as response:
            assert response.status == 200
            assert str(path) in open_files()
        while str(path) in open_files():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("asked", "previous", "words"),
    [
        (pod(), False, 'container "main" in pod "web" is not available'),
        (with_status(), False, 'container "main" in pod "web" is waiting to start - no logs yet'),
        (
            with_status(state={"waiting": {"reason": "ContainerCreating"}}),
            False,
            'container "main" in pod "web" is waiting to start: ContainerCreating',
        ),
        (
            with_status(state={"waiting": {"reason": "ImagePullBackOff"}}),
            False,
            'container "main" in pod "web" is waiting to start: trying and failing to pull image',
        ),
        (
            with_status(state={"waiting": {"reason": "ErrImagePull"}}),
            False,
            'container "main" in pod "web" is waiting to start: image can\'t be pulled',
        ),
        (with_status(state={"terminated": {"exitCode": 1}}), False, 'container "main" in pod "web" is terminated'),
        (
            with_status(state={"running": {}}, identity="docker://now"),
            True,
            'previous terminated container "main" in pod "web" not found',
        ),
    ],
)
def test_no_log_in_upstreams_words(asked: Pod, previous: bool, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        locate(asked, "main", previous=previous)
    assert (caught.value.status, caught.value.message) == (400, words)


def test_whose_log_it_is() -> None:
    last = {"terminated": {"exitCode": 1, "containerID": "docker://before"}}
    ended = {"terminated": {"exitCode": 1, "containerID": "docker://ended"}}
    assert locate(with_status(state={"running": {}}, identity="docker://now"), "main", previous=False) == "now"
    assert (
        locate(with_status(state={"running": {}}, last=last, identity="docker://now"), "main", previous=True)
        == "before"
    )
    assert locate(with_status(state=ended), "main", previous=False) == "ended"
    crashing = {"waiting": {"reason": "CrashLoopBackOff"}}
    assert (
        locate(with_status(state=crashing, last=last, identity="docker://before"), "main", previous=False) == "before"
    )


@pytest.mark.parametrize("protocol", ["", *PROTOCOLS])
async def test_exec_in_every_dialect(world: World, protocol: str) -> None:
    await world.start("sleep", "60")
    query = "command=echo&command=hello&output=1&error=1"
    found = await world.talk(f"/exec/default/web/main?{query}", protocol)
    assert found[:2] == [(1, b""), (1, b"hello\n")]
    if Dialect(protocol).status:
        assert [(channel, json.loads(data)["status"]) for channel, data in found[2:]] == [(3, "Success")]
    else:
        assert found[2:] == []


async def test_the_exit_code_travels_as_a_status(world: World) -> None:
    await world.start("sleep", "60")
    path = "/exec/default/web/uid-web/main?command=sh&command=-c&command=exit%203&stdout=true"
    found = await world.talk(path, "v4.channel.k8s.io")
    status = json.loads(found[-1][1])
    assert (found[-1][0], status["reason"]) == (3, "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert await world.talk(path, "channel.k8s.io") == [(1, b""), (3, b"command terminated with exit code 3")]


async def test_stdin_ends_by_half_close_in_v5(world: World) -> None:
    await world.start("sleep", "60")
    found = await world.talk(
        "/exec/default/web/main?command=cat&input=1&output=1",
        "v5.channel.k8s.io",
        (4, b'{"Width":80,"Height":24}'),
        (4, b"nonsense"),
        (9, b"no such channel"),
        (0, b"to and fro"),
        (255, b"\0"),
    )
    assert found[1] == (1, b"to and fro")
    assert json.loads(found[-1][1])["status"] == "Success"


async def test_attach(world: World) -> None:
    await world.start("cat")
    found = await world.talk("/attach/default/web/main?input=1&output=1", "v5.channel.k8s.io", (0, b"x"), (255, b"\0"))
    assert found[1] == (1, b"x")


async def test_the_end_of_a_clients_input_is_nothing_to_a_container_that_outlives_it(world: World) -> None:
    assert stdin_once(pod(once=True), "main")
    assert not stdin_once(pod(once=False), "main")
    await world.start("cat")
    options = StreamOptions(stdin=True)
    stream = Lasting(await world.runtime.attach(world.container_id, options))
    await stream.write(b"this")
    await stream.close_stdin()
    await stream.write(b" and that")
    heard = b""
    async with asyncio.timeout(10):
        while heard != b"this and that":
            piece = await stream.read()
            assert piece is not None
            heard += piece[1]
    await stream.close()


async def test_a_client_that_goes_takes_the_stream_along(world: World) -> None:
    await world.start("sleep", "60")
    url = f"{world.url}/exec/default/web/main?command=sleep&command=60&output=1"
    async with asyncio.timeout(10), world.session.ws_connect(url, protocols=PROTOCOLS) as socket:
        assert socket.protocol == "v5.channel.k8s.io"
        assert (await socket.receive()).data == b"\x01"


async def test_what_cannot_be_run_is_told_on_the_error_channel(world: World) -> None:
    await world.start("sleep", "60")
    world.runtime.fail("exec", RuntimeRefused("container is paused"))
    found = await world.talk("/exec/default/web/main?command=true&output=1", "v4.channel.k8s.io")
    assert json.loads(found[-1][1])["message"] == "Internal error occurred: container is paused"


async def test_refusals_of_a_stream_are_words(world: World) -> None:
    await world.start("sleep", "60")
    assert (await world.get("/exec/default/web/main?output=1"))[1] == "you must specify a command"
    assert (await world.get("/exec/default/web/main?command=true"))[
        1
    ] == "you must specify at least 1 of stdin, stdout, stderr"
    missing = (400, "unable to upgrade: missing upgrade headers in request")
    assert await world.get("/exec/default/web/main?command=true&output=1") == missing
    assert await world.get("/portForward/default/web") == missing
    world.source.known = [with_status(state={"terminated": {"exitCode": 0, "containerID": "docker://x"}})]
    assert await world.get("/exec/default/web/main?command=true&output=1") == (500, 'container not found ("main")')


async def test_run(world: World) -> None:
    await world.start("sleep", "60")
    async with world.session.post(f"{world.url}/run/default/web/main?cmd=echo+all+well") as response:
        assert (response.status, await response.text()) == (200, "all well\n")
    async with world.session.post(f"{world.url}/run/default/web/main?cmd=sh+-c+'exit+3'") as response:
        assert (response.status, await response.text()) == (500, "command terminated with exit code 3\n")


async def test_a_runtime_that_is_away_is_a_503(world: World) -> None:
    await world.start("sleep", "60")
    world.runtime.down = True
    status, text = await world.get("/runningpods/")
    assert (status, "no answer" in text) == (503, True)


async def test_the_door_names_field_and_remedy(world: World) -> None:
    with pytest.raises(UsageError, match="tlsPrivateKeyFile"):
        tls_context("node1", "cert.pem", "", str(world.folder / "ca.pem"))
    with pytest.raises(UsageError, match=r"clientCAFile.*absent"):
        tls_context("node1", "", "", str(world.folder / "absent"))
    port = int(world.url.rpartition(":")[2])
    server = Server(world.source, world.runtime, Access("node1", Policy(), world.reviews), Pages())
    tls = tls_context("node1", "", "", str(world.folder / "ca.pem"))
    with pytest.raises(UsageError, match=f"127.0.0.1:{port}.*--port"):
        async with serve(server.application(), "127.0.0.1", port, tls):
            pass
