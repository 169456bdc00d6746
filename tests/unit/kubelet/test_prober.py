"""Attempts against real servers on loopback, in upstream's words."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from kube import certificates
from kube.meta import ObjectMeta
from kube.pods import (
    Container,
    ContainerPort,
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    Pod,
    PodSpec,
    Probe,
    TCPSocketAction,
)
from kube.sources import EnvVar
from kubelet.health.health_pb2 import HealthCheckRequest, HealthCheckResponse
from kubelet.probing.prober import Prober
from kubelet.probing.probes import Kind, Outcome, Target
from kubelet.runtime import ExecResult, ExecTimeout, RuntimeStatus
from tests.fakes.runtime import FakeRuntime


def target(probe: Probe, port: int = 0, *, host_network: bool = False) -> Target:
    container = Container(
        name="a",
        ports=(ContainerPort(name="web", container_port=port),),
        env=(EnvVar(name="WHERE", value="/x"),),
    )
    pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"), spec=PodSpec(host_network=host_network))
    return Target(pod, container, "c1", datetime.now(UTC), "127.0.0.1", Kind.READINESS, probe)


async def attempt(probe: Probe, port: int = 0, **more: bool) -> Outcome:
    return await Prober(FakeRuntime()).attempt(target(probe, port, **more))


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], web.StreamResponse], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return handler(request)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def speaking(said: bytes, *, then_wait: bool = False) -> AsyncIterator[int]:
    """A server that reads the first of a request and says this, whatever it was."""
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        if then_wait:
            await ended.wait()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            ended.set()


def get(port: int | str, path: str = "/", **more: object) -> Probe:
    return Probe(http_get=HTTPGetAction(port=port, path=path, **more))  # type: ignore[arg-type]


def headers(**more: str) -> tuple[HTTPHeader, ...]:
    return tuple(HTTPHeader(name=name.replace("_", "-"), value=value) for name, value in more.items())


async def test_http_statuses() -> None:
    def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.path.strip("/") or 200), text="not\n ready: " + "x" * 20_000)

    async with serving(handler) as port:
        assert (await attempt(get(port))).healthy
        assert len((await attempt(get(port))).message) == 10 * 1024
        found = await attempt(get(port, "399"))
        assert found.healthy
        assert found.warning
        assert found.message.startswith("Probe terminated redirects, Response body: not")
        found = await attempt(get(port, "/503?x=1"))
        assert found.healthy is False
        assert found.message.startswith("HTTP probe failed with statuscode: 503, body: not ready: xxx")
        assert len(found.message) < 320
        # What a server says that is not the pod's own is not for Events.
        assert (await attempt(get(port, "/503", host="localhost"))).message == "HTTP probe failed with statuscode: 503"
        assert (await attempt(get(port, "/503"), host_network=True)).message.endswith("statuscode: 503")


async def test_http_headers() -> None:
    seen: list[web.Request] = []

    def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response()

    async with serving(handler) as port:
        own = headers(Host="me", X_Two="1") + headers(X_Two="2", User_Agent="mine", Accept="")
        assert (await attempt(get(port, "/a b?c=d&e=é"))).healthy
        assert (await attempt(get("web", http_headers=own), port)).healthy
        assert (await attempt(get(str(port)))).healthy
        bad = await attempt(get(port, http_headers=headers(X="a\r\nY: b")))
        assert bad.message == f'Get "http://127.0.0.1:{port}/": net/http: invalid header field value for "X"'
    assert seen[0].headers["User-Agent"] == "kube-probe/1.36"
    assert seen[0].headers["Accept"] == "*/*"
    assert seen[0].headers["Connection"] == "close"
    assert seen[0].path_qs == "/a%20b?c=d&e=%C3%A9"
    assert seen[1].headers["Host"] == "me"
    assert seen[1].headers.getall("X-Two") == ["1", "2"]
    assert seen[1].headers["User-Agent"] == "mine"
    assert "Accept" not in seen[1].headers
    assert len(seen) == 3


async def test_http_redirects_stay_on_the_host() -> None:
    hosts: list[str] = []

    def handler(request: web.Request) -> web.StreamResponse:
        hosts.append(request.headers["Host"])
        goal = {"/here": "/500", "/away": "http://example.invalid/", "/loop": "/loop"}.get(request.path)
        return web.Response(status=302, headers={"Location": goal}) if goal else web.Response(status=500)

    async with serving(handler) as port:
        found = await attempt(get(port, "/here", http_headers=headers(Host="me")))
        assert found.message == "HTTP probe failed with statuscode: 500"
        assert hosts == ["me", "me"]
        found = await attempt(get(port, "/away"))
        assert found.healthy
        assert found.warning
        assert "stopped after 10 redirects" in (await attempt(get(port, "/loop"))).message
        assert len(hosts) == 2 + 1 + 10


async def test_nobody_listens_or_nobody_answers() -> None:
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert await attempt(get(port, "/x")) == Outcome(False, f'Get "http://127.0.0.1:{port}/x": {refused}')
    assert await attempt(Probe(tcp_socket=TCPSocketAction(port=port))) == Outcome(False, refused)
    async with speaking(b"", then_wait=True) as silent:
        http, tcp, grpc, grpc_refused = await asyncio.gather(
            attempt(get(silent)),
            attempt(Probe(tcp_socket=TCPSocketAction(port=silent))),
            attempt(Probe(grpc=GRPCAction(port=silent))),
            attempt(Probe(grpc=GRPCAction(port=port))),
        )
    awaited = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    assert http == Outcome(False, f'Get "http://127.0.0.1:{silent}/": {awaited}')
    assert tcp.healthy
    assert grpc == Outcome(False, "timeout: health rpc did not complete within 1s")
    late = f'timeout: failed to connect service "127.0.0.1:{port}" within 1s: context deadline exceeded'
    assert grpc_refused == Outcome(False, f"{late}: {refused}")


async def test_servers_that_speak_oddly() -> None:
    async def say(said: bytes) -> Outcome:
        async with speaking(said) as port:
            found = await attempt(get(port))
            return Outcome(found.healthy, found.message.replace(str(port), "P"))

    assert await say(b"") == Outcome(False, 'Get "http://127.0.0.1:P/": EOF')
    broken = 'net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0"'
    assert await say(b"SSH-2.0\r\n\r\n") == Outcome(False, f'Get "http://127.0.0.1:P/": {broken}')
    assert await say(b"HTTP/1.0 200 OK\n\nfine") == Outcome(True, "fine")
    assert await say(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") == Outcome(True)
    chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n5\r\nthing\r\n0\r\n\r\n"
    assert await say(chunked) == Outcome(False, "HTTP probe failed with statuscode: 404, body: something")
    assert (await say(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1001)).healthy is False
    assert "malformed HTTP response" in (await say(b"HTTP/1.1 \xb2\xb2\xb2 no\r\n\r\n")).message
    assert await say(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nfine") == Outcome(True, "fine")
    long = b"9" * 5000
    assert await say(b"HTTP/1.1 200 OK\r\nContent-Length: " + long + b"\r\n\r\nfine") == Outcome(True, "fine")
    found = await say(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n")
    assert found == Outcome(False, 'Get "http://127.0.0.1:P/": Invalid IPv6 URL')


async def test_https_is_unverified_and_knows_plain_http(tmp_path: Path) -> None:
    pair = certificates.issue(certificates.authority("ca"), "elsewhere")
    (tmp_path / "crt").write_bytes(pair.certificate)
    (tmp_path / "key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    async with serving(lambda _: web.Response(text="ok"), context) as port:
        assert await attempt(get(port, scheme="HTTPS")) == Outcome(True, "ok")
    async with serving(lambda _: web.Response()) as port:
        said = "http: server gave HTTP response to HTTPS client"
        assert await attempt(get(port, scheme="HTTPS")) == Outcome(False, f'Get "https://127.0.0.1:{port}/": {said}')


async def test_a_port_without_a_number_and_a_host_without_an_address() -> None:
    assert await attempt(get("nope")) == Outcome(None, "port nope not found in container a")
    assert await attempt(Probe(tcp_socket=TCPSocketAction(port=0))) == Outcome(None, "invalid port number: 0")
    found = await attempt(Probe(tcp_socket=TCPSocketAction(port=80, host="no such host")))
    assert found == Outcome(False, "dial tcp: lookup no such host: no such host")
    assert await attempt(get("\u00b2")) == Outcome(None, "port \u00b2 not found in container a")
    assert await attempt(Probe(grpc=GRPCAction(port=70_000))) == Outcome(None, "invalid port number: 70000")
    for host in ("[", "a\0b", "x" * 70, "]", "a/b"):
        assert (await attempt(get(1, host=host))).healthy is False
        assert (await attempt(Probe(tcp_socket=TCPSocketAction(port=1, host=host)))).healthy is False


# --- commands ---------------------------------------------------------------------------------------------------------


class Answering:
    """A runtime that answers exec_sync with what it is told; status says whether it is alive."""

    def __init__(self, *answers: ExecResult | Exception) -> None:
        self.answers = list(answers)
        self.commands: list[tuple[str, ...]] = []
        self.alive = True

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(runtime_ready=self.alive)

    async def exec_sync(self, _id: str, command: tuple[str, ...], _timeout: float) -> ExecResult:
        self.commands.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_exec() -> None:
    probe = Probe(exec=ExecAction(command=("cat", "$(WHERE)", "$(OTHER)")))
    runtime = Answering(
        ExecResult(0, b"fine", b""), ExecResult(3, b"out ", b"err"), ExecResult(1, b"\n", b""),
        ExecResult(0, b"x" * 20_000, b""), ExecTimeout("slow"),
    )  # fmt: skip
    prober = Prober(runtime)  # type: ignore[arg-type]
    assert await prober.attempt(target(probe)) == Outcome(True, "fine")
    assert runtime.commands[0] == ("cat", "/x", "$(OTHER)")
    assert await prober.attempt(target(probe)) == Outcome(False, "out err")
    assert await prober.attempt(target(probe)) == Outcome(False, "command exited with 1 and said nothing")
    assert len((await prober.attempt(target(probe))).message) == 10 * 1024
    late = 'command timed out: "cat /x $(OTHER)" timed out after 1s'
    assert await prober.attempt(target(probe)) == Outcome(False, late)


async def test_a_runtime_that_hangs_condemns_nobody() -> None:
    runtime = Answering(ExecTimeout("slow"))
    runtime.alive = False
    found = await Prober(runtime).attempt(target(Probe(exec=ExecAction(command=("true",)))))  # type: ignore[arg-type]
    assert found == Outcome(None, "the container runtime does not answer")
    assert len(runtime.commands) == 1


async def test_a_runtime_that_is_away_is_asked_three_times_and_says_nothing() -> None:
    runtime = FakeRuntime()
    found = await Prober(runtime).attempt(target(Probe(exec=ExecAction(command=("true",)))))
    assert found.healthy is None
    assert [operation for operation, _ in runtime.calls].count("exec_sync") == 3


# --- gRPC -------------------------------------------------------------------------------------------------------------


class Health:
    def __init__(self, answers: Mapping[str, HealthCheckResponse.ServingStatus | GRPCError]) -> None:
        self._answers = answers

    async def check(self, stream: "Stream[HealthCheckRequest, HealthCheckResponse]") -> None:
        request = await stream.recv_message()
        assert request is not None
        answer = self._answers[request.service]
        if isinstance(answer, GRPCError):
            raise answer
        await stream.send_message(HealthCheckResponse(status=answer))

    def __mapping__(self) -> dict[str, Any]:
        unary = Handler(self.check, Cardinality.UNARY_UNARY, HealthCheckRequest, HealthCheckResponse)
        return {"/grpc.health.v1.Health/Check": unary}


@asynccontextmanager
async def grpc(service: Health, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = Server([service])
    await server.start(host, 0)
    try:
        yield server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # grpclib has no other way
    finally:
        server.close()
        await server.wait_closed()


async def test_grpc() -> None:
    health = Health(
        {
            "": HealthCheckResponse.SERVING,
            "sick": HealthCheckResponse.NOT_SERVING,
            "new": -1,  # type: ignore[dict-item]
            "odd": GRPCError(Status.PERMISSION_DENIED, "who are you"),
            "old": GRPCError(Status.UNIMPLEMENTED, "unknown service"),
        }
    )
    async with grpc(health) as port:
        assert await attempt(Probe(grpc=GRPCAction(port=port))) == Outcome(True, "service healthy")
        found = await attempt(Probe(grpc=GRPCAction(port=port, service="sick")))
        assert found == Outcome(False, 'service unhealthy (responded with "NOT_SERVING")')
        found = await attempt(Probe(grpc=GRPCAction(port=port, service="new")))
        assert found == Outcome(False, 'service unhealthy (responded with "-1")')
        found = await attempt(Probe(grpc=GRPCAction(port=port, service="odd")))
        said = "error: health rpc probe failed: rpc error: code = PermissionDenied desc = who are you"
        assert found == Outcome(False, said)
        found = await attempt(Probe(grpc=GRPCAction(port=port, service="old")))
        lacks = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
        assert found == Outcome(False, f"{lacks}: unknown service")
    async with serving(lambda _: web.Response()) as port:
        assert (await attempt(Probe(grpc=GRPCAction(port=port)))).healthy is False
