"""Attempts against real servers on loopback, in upstream's words."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from kube.meta import ObjectMeta
from kube.pods import Container, ContainerPort, ExecAction, HTTPGetAction, HTTPHeader, Pod, Probe, TCPSocketAction
from kubelet.prober import Prober
from kubelet.probes import Kind, Outcome, Target
from kubelet.runtime import ExecResult, ExecTimeout
from tests.fakes.runtime import FakeRuntime


def target(probe: Probe, port: int = 0) -> Target:
    container = Container(name="a", ports=(ContainerPort(name="web", container_port=port),))
    pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"))
    return Target(pod, container, "c1", datetime.now(UTC), "127.0.0.1", Kind.READINESS, probe)


async def attempt(probe: Probe, port: int = 0) -> Outcome:
    return await Prober(FakeRuntime()).attempt(target(probe, port))


@asynccontextmanager
async def serving(handler: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return handler(request)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def get(port: int | str, path: str = "/", **more: object) -> Probe:
    return Probe(http_get=HTTPGetAction(port=port, path=path, **more))  # type: ignore[arg-type]


async def test_http_statuses_and_headers() -> None:
    seen: list[web.Request] = []

    def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(status=int(request.path.strip("/") or 200), text="body")

    async with serving(handler) as port:
        assert (await attempt(get(port))).healthy
        assert (await attempt(get(port, "399"))).healthy
        assert await attempt(get(port, "/503?x=1")) == Outcome(False, "HTTP probe failed with statuscode: 503")
        assert (await attempt(get("web", http_headers=(HTTPHeader(name="Host", value="me"),)), port)).healthy
    assert seen[0].headers["User-Agent"].startswith("kube-probe/1.")
    assert seen[0].headers["Accept"] == "*/*"
    assert seen[2].query_string == "x=1"
    assert seen[3].headers["Host"] == "me"


async def test_http_redirects_stay_on_the_host() -> None:
    def handler(request: web.Request) -> web.StreamResponse:
        goal = {"/here": "/500", "/away": "http://example.invalid/", "/loop": "/loop"}.get(request.path)
        return web.Response(status=302, headers={"Location": goal}) if goal else web.Response(status=500)

    async with serving(handler) as port:
        assert (await attempt(get(port, "/here"))).message == "HTTP probe failed with statuscode: 500"
        assert (await attempt(get(port, "/away"))).healthy
        assert "stopped after 10 redirects" in (await attempt(get(port, "/loop"))).message


async def test_nobody_listens() -> None:
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    refused = await attempt(get(port, "/x"))
    assert refused == Outcome(
        False, f'Get "http://127.0.0.1:{port}/x": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
    refused = await attempt(Probe(tcp_socket=TCPSocketAction(port=port)))
    assert refused == Outcome(False, f"dial tcp 127.0.0.1:{port}: connect: connection refused")


async def test_silence_is_a_timeout() -> None:
    ended = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await attempt(Probe(tcp_socket=TCPSocketAction(port=port)))).healthy
        outcome = await attempt(get(port))
        ended.set()
    assert outcome.healthy is False
    assert outcome.message.endswith("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")


async def test_a_port_without_a_number() -> None:
    assert "couldn't find port: nope" in (await attempt(get("nope"))).message


async def test_exec() -> None:
    runtime = FakeRuntime()
    answers: list[ExecResult | Exception] = [
        ExecResult(0, b"fine", b""), ExecResult(3, b"out ", b"err"), ExecTimeout("slow"),
    ]  # fmt: skip

    class Answering:
        async def exec_sync(self, *_: object) -> ExecResult:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    probe = Probe(exec=ExecAction(command=("cat", "/x")))
    prober = Prober(Answering())  # type: ignore[arg-type]
    assert await prober.attempt(target(probe)) == Outcome(True, "fine")
    assert await prober.attempt(target(probe)) == Outcome(False, "out err")
    assert (await prober.attempt(target(probe))).healthy is False
    # the runtime is away, or does not know the container: that says nothing about its health
    assert (await Prober(runtime).attempt(target(probe))).healthy is None
