"""Requests for streams: what they ask for, which protocol they get, and what is refused in words.

    /exec /attach        a command's or a container's streams       WebSocket v5..v1, SPDY/3.1 v4..v1
    /portForward         connections into the pod                   SPDY/3.1, SPDY/3.1 in a WebSocket, WebSocket v4

Nothing is refused after the upgrade that can be known before: clients show an HTTP answer's text, and only an exit code of an
upgraded connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from kube import spdy as carriers
from kube.ports import port_of
from kubelet.runtime import Runtime, SandboxState, Stream, StreamOptions
from kubelet.streams import forward, spdy
from kubelet.streams.forward import Destination
from kubelet.streams.idle import Idle, Watched
from kubelet.streams.raw import RawConnection, Taken
from kubelet.streams.remotecommand import converse
from kubelet.streams.websocket import LARGEST, PROTOCOLS, Dialect, WebSocketClient, WebSocketWire

PROTOCOL_HEADER = "X-Stream-Protocol-Version"


class Refusal(Exception):
    """An answer other than what was asked for: an HTTP status, its text, and headers that belong to it."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def stream_options(query: Mapping[str, str]) -> StreamOptions:
    """From `input output error tty` (the API server's spelling) or `stdin stdout stderr tty` (a client's own)."""

    def on(*names: str) -> bool:
        return any(query.get(name, "").lower() in ("1", "true") for name in names)

    tty = on("tty")
    options = StreamOptions(
        stdin=on("input", "stdin"),
        stdout=on("output", "stdout"),
        stderr=on("error", "stderr") and not tty,  # a terminal has one output
        tty=tty,
    )
    if not (options.stdin or options.stdout or options.stderr):
        raise Refusal(400, "you must specify at least 1 of stdin, stdout, stderr")
    return options


def negotiated(offered: Sequence[str], accepted: Sequence[str]) -> str:
    """The first of the client's protocols that we speak; "" where it names none, as the oldest clients do."""
    names = [name.strip() for line in offered for name in line.split(",") if name.strip()]
    if not names:
        return ""
    for name in names:
        if name in accepted:
            return name
    words = f"client supports [{' '.join(names)}], server accepts [{' '.join(accepted)}]"
    raise Refusal(
        403,
        f"unable to upgrade: unable to negotiate protocol: {words}",
        [("X-Accepted-Stream-Protocol-Versions", name) for name in accepted],
    )


async def command(
    request: web.Request, begin: Callable[[StreamOptions], Awaitable[Stream]], patience: float = 0.0
) -> web.StreamResponse:
    """Answer an exec or attach; one that is silent for `patience` seconds is closed. Raises Refusal."""
    options = stream_options(request.query)
    idle = Idle(patience)

    async def watched() -> Stream:
        return Watched(await begin(options), idle.touch)

    match _upgrade(request):
        case "websocket":
            socket = await _websocket(request, PROTOCOLS)
            client = WebSocketClient(socket, Dialect(socket.ws_protocol or ""), options)
            await client.run(lambda: idle.during(lambda: converse(client, options, watched)))
            await socket.close()
            return socket
        case _:
            protocol = negotiated(request.headers.getall(PROTOCOL_HEADER, []), spdy.PROTOCOLS)
            session = carriers.Session(_take(request, protocol), server=True, admit=spdy.admit)
            await session.run(lambda: idle.during(lambda: spdy.serve(session, protocol, options, watched)))
            return Taken()


async def port_forward(request: web.Request, runtime: Runtime, uid: str, patience: float = 0.0) -> web.StreamResponse:
    """Answer a port-forward to the pod of this uid. Raises Refusal."""
    upgrade = _upgrade(request)
    idle = Idle(patience)
    async with _destination(runtime, uid) as destination:
        if upgrade != "websocket":
            protocol = negotiated(request.headers.getall(PROTOCOL_HEADER, []), (forward.PROTOCOL,))
            await _carry(_take(request, protocol), destination, idle)
            return Taken()
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if forward.TUNNEL in offered:
            socket = await _websocket(request, (forward.TUNNEL,))
            await _carry(WebSocketWire(socket), destination, idle)
        else:
            ports = _ports(request.query.getall("ports", []) or request.query.getall("port", []))
            socket = await _websocket(request, forward.WEBSOCKET_PROTOCOLS)
            dialect = Dialect(socket.ws_protocol or "")
            await idle.during(
                lambda: forward.serve_channels(socket, dialect, ports, destination.connect, touch=idle.touch)
            )
        await socket.close()
        return socket


async def _carry(wire: carriers.Wire, destination: Destination, idle: Idle) -> None:
    session = carriers.Session(wire, server=True, admit=forward.admit)
    await session.run(lambda: idle.during(lambda: forward.serve(session, destination.connect, touch=idle.touch)))


def _upgrade(request: web.Request) -> str:
    """websocket or spdy/3.1."""
    asked = request.headers.get("Upgrade", "").lower()
    if asked not in ("websocket", carriers.UPGRADE.lower()):
        raise Refusal(400, "unable to upgrade: missing upgrade headers in request")
    return asked


async def _websocket(request: web.Request, protocols: Sequence[str]) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=protocols, compress=False, autoclose=True, max_msg_size=LARGEST)
    ready = socket.can_prepare(request)
    if not ready:
        raise Refusal(400, "unable to upgrade: bad WebSocket handshake")
    asked = request.headers.get("Sec-WebSocket-Protocol", "")
    if asked and not ready.protocol:
        raise Refusal(403, f"requested protocol(s) are not supported: [{asked}]; supports {list(protocols)}")
    await socket.prepare(request)
    return socket


def _take(request: web.Request, protocol: str) -> RawConnection:
    headers = [("Connection", "Upgrade"), ("Upgrade", carriers.UPGRADE)]
    return RawConnection(request, [*headers, *([(PROTOCOL_HEADER, protocol)] if protocol else [])])


def _ports(asked: Sequence[str]) -> list[int]:
    found = [one for text in asked for one in text.split(",")]
    if not found:
        raise Refusal(400, 'query parameter "ports" is required')
    ports: list[int] = []
    for text in found:
        port = port_of(text)
        if port is None:
            raise Refusal(400, f"unable to parse {text!r} as a port: write a number between 1 and 65535")
        ports.append(port)
    return ports


@asynccontextmanager
async def _destination(runtime: Runtime, uid: str) -> AsyncIterator[Destination]:
    """The pod's sandbox, its namespace held open: the process that it was found by may end meanwhile."""
    records = [record for record in await runtime.list_pods() if record.pod.uid == uid]
    sandbox = next((s for record in records for s in record.sandboxes if s.state is SandboxState.READY), None)
    status = await runtime.sandbox_status(sandbox.id) if sandbox is not None else None
    if sandbox is None or status is None or not status.netns:
        raise Refusal(500, f"failed to find sandbox of pod {uid}: it is not running")
    try:
        held = await asyncio.to_thread(os.open, status.netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(500, f"network namespace of sandbox {sandbox.id}: {error.strerror}: {status.netns}") from error
    try:
        yield Destination(sandbox.id, f"/proc/{os.getpid()}/fd/{held}")
    finally:
        with contextlib.suppress(OSError):
            os.close(held)
