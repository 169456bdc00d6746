"""exec, attach and port-forward over SPDY/3.1, from a client's side."""

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kube.spdy import Session, StreamRefused
from kubelet.runtime import StreamOptions
from kubelet.streams import forward
from kubelet.streams.door import Refusal, negotiated
from kubelet.streams.forward import Connection, Unreachable
from kubelet.streams.remotecommand import size_of
from kubelet.streams.spdy import PROTOCOLS, expected
from kubelet.streams.websocket import Dialect
from tests.unit.kube.test_spdy import read_all, talk
from tests.unit.kubelet.serving import World, client_tls, serving

V4 = PROTOCOLS[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path) as found:
        await found.start("cat")
        yield found


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


@asynccontextmanager
async def dialled(world: World, path: str, *protocols: str) -> AsyncIterator[tuple[list[str], Wire]]:
    """The answer's head, and the connection behind it."""
    tls = client_tls(world.folder, "api", "system:masters")
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    port = int(world.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0"]
    writer.write("\r\n".join([*head, *(f"X-Stream-Protocol-Version: {one}" for one in protocols), "", ""]).encode())
    try:
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        yield answer, Wire(reader, writer)
    finally:
        writer.close()


async def command(
    world: World, query: str, protocol: str, *kinds: str, stdin: bytes = b"", sizes: bytes = b"", what: str = "exec"
) -> dict[str, bytes]:
    """What each stream said, by its type."""
    said: dict[str, bytes] = {}
    async with asyncio.timeout(20), dialled(world, f"/{what}/default/web/main?{query}", protocol) as (head, wire):
        assert head[0] == "HTTP/1.1 101 Switching Protocols"
        assert f"X-Stream-Protocol-Version: {protocol}" in head
        session = Session(wire, server=False)

        async def body() -> None:
            streams = {kind: await session.open((("streamType", kind),)) for kind in ("error", *kinds)}
            if sizes:
                await streams["resize"].write(sizes)

            async def send() -> None:
                if "stdin" in streams:
                    await streams["stdin"].write(stdin)
                    await streams["stdin"].close()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                heard = {kind: group.create_task(read_all(stream)) for kind, stream in streams.items()}
            said.update({kind: task.result() for kind, task in heard.items()})

        await session.run(body)
    return said


async def test_a_command_and_its_exit_code(world: World) -> None:
    found = await command(world, "command=echo&command=hello&output=1&error=1", V4, "stdout", "stderr")
    assert (found["stdout"], found["stderr"]) == (b"hello\n", b"")
    assert json.loads(found["error"])["status"] == "Success"
    failed = await command(world, "command=sh&command=-c&command=exit%203&output=1", V4, "stdout")
    assert json.loads(failed["error"])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
async def test_older_protocols_tell_the_end_in_words(world: World, protocol: str) -> None:
    assert (await command(world, "command=echo&output=1", protocol, "stdout"))["error"] == b""
    failed = await command(world, "command=sh&command=-c&command=exit%203&output=1", protocol, "stdout")
    assert failed["error"] == b"command terminated with exit code 3"


async def test_megabytes_through_stdin_come_back_and_end(world: World) -> None:
    payload = random.Random(3).randbytes(3_000_000)
    found = await command(world, "command=cat&input=1&output=1", V4, "stdin", "stdout", stdin=payload)
    assert found["stdout"] == payload


async def test_attach(world: World) -> None:
    attached = await command(world, "input=1&output=1", V4, "stdin", "stdout", stdin=b"x", what="attach")
    assert attached["stdout"] == b"x"
    assert json.loads(attached["error"])["status"] == "Success"


async def test_a_terminal_has_a_size_stream(world: World) -> None:
    sizes = b'{"Width":80,"Height":24}\n{"Width":100,'
    found = await command(
        world, "command=cat&input=1&output=1&tty=1&error=1", V4, "stdin", "stdout", "resize", stdin=b"$ ", sizes=sizes
    )
    assert found["stdout"] == b"$ "


def test_which_streams_are_waited_for() -> None:
    whole = StreamOptions(stdin=True, stdout=True, stderr=False, tty=True)
    assert expected(whole, V4) == {"error", "stdin", "stdout", "resize"}
    assert expected(whole, "v2.channel.k8s.io") == {"error", "stdin", "stdout"}
    assert expected(StreamOptions(stdin=False, stdout=True, stderr=True), V4) == {"error", "stdout", "stderr"}


def test_sizes() -> None:
    assert size_of(b'{"Width":80,"Height":24}') == (80, 24)
    for nonsense in (b"", b"[]", b'{"Width":0,"Height":24}', b'{"Width":99999,"Height":24}', b'{"Width":"a"}'):
        assert size_of(nonsense) is None


def test_negotiation_takes_the_clients_first_that_we_speak() -> None:
    assert negotiated(["v5.channel.k8s.io", "v4.channel.k8s.io, v3.channel.k8s.io"], PROTOCOLS) == V4
    assert negotiated([], PROTOCOLS) == ""
    with pytest.raises(Refusal) as caught:
        negotiated(["v9"], ("portforward.k8s.io",))
    assert caught.value.status == 403
    assert caught.value.message == (
        "unable to upgrade: unable to negotiate protocol: client supports [v9], server accepts [portforward.k8s.io]"
    )
    assert caught.value.headers == [("X-Accepted-Stream-Protocol-Versions", "portforward.k8s.io")]


async def test_refusals_come_before_the_upgrade(world: World) -> None:
    async with dialled(world, "/exec/default/web/main?command=true&output=1", "v9") as (head, _):
        assert head[0] == "HTTP/1.1 403 Forbidden"
    async with dialled(world, "/exec/default/web/main?command=true", V4) as (head, _):
        assert head[0] == "HTTP/1.1 400 Bad Request"
    async with dialled(world, "/portForward/default/absent", "portforward.k8s.io") as (head, _):
        assert head[0] == "HTTP/1.1 404 Not Found"


async def test_a_stream_of_a_kind_that_is_not_known_is_refused(world: World) -> None:
    async with dialled(world, "/exec/default/web/main?command=cat&input=1", V4) as (_, wire):
        session = Session(wire, server=False)

        async def body() -> None:
            with pytest.raises(StreamRefused):
                await session.open((("streamtype", "video"),))

        await session.run(body)


async def test_a_client_that_vanishes_takes_the_stream_along(world: World) -> None:
    async with asyncio.timeout(10):
        async with dialled(world, "/exec/default/web/main?command=sleep&command=60&output=1", V4) as (_, wire):
            session = Session(wire, server=False)

            async def body() -> None:
                for kind in ("error", "stdout"):
                    await session.open((("streamtype", kind),))

            await session.run(body)
        stream = await world.runtime.exec(world.container_id, ["echo"], StreamOptions())
        assert stream is not None


# --- port-forward -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def echoing() -> AsyncIterator[Callable[[int], Awaitable[Connection]]]:
    """Port 80 gives back what it gets, port 81 says goodbye at once, no other port is open."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b" and the rest")
        writer.close()

    async def goodbye(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"goodbye")
        writer.close()

    servers = {80: await asyncio.start_server(echo, "127.0.0.1"), 81: await asyncio.start_server(goodbye, "127.0.0.1")}

    async def connect(port: int) -> Connection:
        if port not in servers:
            raise Unreachable(f"error forwarding port {port}: connection refused")
        return await asyncio.open_connection(*servers[port].sockets[0].getsockname())

    yield connect
    for server in servers.values():
        server.close()


async def forwarded(session: Session, port: str, identity: str, data: bytes) -> tuple[bytes, bytes]:
    """What the data and the error stream said."""
    headers = (("port", port), *((("requestID", identity),) if identity else ()))
    error = await session.open((("streamType", "error"), *headers))
    await error.close()
    stream = await session.open((("streamType", "data"), *headers))

    async def send() -> None:
        await stream.write(data)
        await stream.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        answer = group.create_task(read_all(stream))
    return answer.result(), await read_all(error)


@pytest.mark.parametrize("identified", [True, False])
async def test_connections_are_forwarded_side_by_side_and_half_closed(identified: bool) -> None:
    async with echoing() as connect:

        async def client(session: Session) -> None:
            async def one(number: int) -> None:
                data = random.Random(number).randbytes(200_000)
                found, error = await forwarded(session, "80", str(number), data)
                assert found == data + b" and the rest"
                assert error == b""

            if not identified:  # each opens its two streams before the next one does
                found, error = await forwarded(session, "80", "", b"old client")
                assert (found, error) == (b"old client and the rest", b"")
                return
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    group.create_task(one(number))
            assert (await forwarded(session, "81", "x", b""))[0] == b"goodbye"

        await talk(client, lambda session: forward.serve(session, connect), admit=forward.admit)


async def test_a_port_that_nobody_serves_is_told_on_the_error_stream() -> None:
    async with echoing() as connect:

        async def client(session: Session) -> None:
            found = await forwarded(session, "82", "1", b"")
            assert found == (b"", b"error forwarding port 82: connection refused")
            assert (await forwarded(session, "80", "2", b"next"))[0] == b"next and the rest"

        await talk(client, lambda session: forward.serve(session, connect), admit=forward.admit)


async def test_megabytes_for_a_port_that_nobody_serves_do_not_hold_up_the_others() -> None:
    async with echoing() as connect:

        async def client(session: Session) -> None:
            found = await forwarded(session, "82", "1", bytes(3_000_000))
            assert found == (b"", b"error forwarding port 82: connection refused")
            assert (await forwarded(session, "80", "2", b"next"))[0] == b"next and the rest"

        await talk(client, lambda session: forward.serve(session, connect), admit=forward.admit)


@asynccontextmanager
async def channels(*ports: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with echoing() as connect:

        async def serve(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(protocols=forward.WEBSOCKET_PROTOCOLS)
            await socket.prepare(request)
            await forward.serve_channels(socket, Dialect(socket.ws_protocol or ""), ports, connect)
            await socket.close()
            return socket

        application = web.Application()
        application.router.add_get("/", serve)
        async with TestClient(TestServer(application)) as client, asyncio.timeout(10):
            async with client.ws_connect("/", protocols=forward.WEBSOCKET_PROTOCOLS[:1]) as socket:
                yield socket


async def test_a_port_that_nobody_serves_does_not_hold_up_the_others() -> None:
    async with channels(82, 80) as socket:
        for _ in range(100):
            await socket.send_bytes(b"\0to nobody")
        await socket.send_bytes(b"\2hello")
        while (heard := await socket.receive_bytes()) != b"\2hello":
            assert heard in (
                *(bytes([n, port, 0]) for n, port in enumerate((82, 82, 80, 80))),
                b"\1error forwarding port 82: connection refused",
            )


async def test_a_client_found_gone_by_a_ping_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_socket: web.WebSocketResponse) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(forward, "keep_alive", gone)
    async with channels(80) as socket:
        while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass
        assert socket.close_code == aiohttp.WSCloseCode.OK, message


@pytest.mark.parametrize(
    "headers", [{}, {"streamtype": "data"}, {"streamtype": "data", "port": "0"}, {"streamtype": "x", "port": "1"}]
)
def test_streams_without_port_or_type_are_not_taken(headers: dict[str, str]) -> None:
    assert not forward.admit(headers)
    assert not forward.admit({"streamtype": "data", "port": "65536"})
    assert not forward.admit({"streamtype": "data", "port": "9" * 5000})
    assert not forward.admit({"streamtype": "data", "port": "000080999"})
    assert forward.admit({"streamtype": "error", "port": "65535"})
