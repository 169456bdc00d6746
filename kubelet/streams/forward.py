"""Port-forward: connections of a client, carried into the pod's network namespace.

    SPDY (kubectl up to 1.30), or SPDY inside WebSocket messages (kubectl from 1.31 on)
        for each connection two streams with the headers `port` and `requestid`: error, then data; many at a time
    WebSocket, v4.channel.k8s.io with ?ports=80&ports=81 (the Python client)
        channels 2n and 2n+1 are data and error of the n-th port; each begins with the port, two bytes little-endian

A socket belongs to the namespace in which it was made, not to that in which it is used: so it is made by a thread that
visits the pod's namespace, and connected here. The pod's own 127.0.0.1 is meant, then ::1. What cannot be reached is said on
the error stream, in containerd's words. (Upstream: kubelet/pkg/cri/streaming/portforward.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

from kube.ports import port_of
from kube.spdy import Session, Stream
from kubelet.streams.websocket import Dialect, keep_alive
from linux import netns

PROTOCOL: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
WEBSOCKET_PROTOCOLS: Final = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
CREATION_SECONDS: Final = 30.0
PIECE: Final = 1 << 16
_WAITING: Final = 16

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[int], Awaitable[Connection]]  # to a port; raises Unreachable


class Unreachable(Exception):
    """Nobody takes the connection; the message is for the client."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A pod's sandbox, and its namespace as a path that stays good while it is used."""

    sandbox_id: str
    namespace: str

    async def connect(self, port: int) -> Connection:
        """Raises Unreachable."""
        found: list[str] = []
        for family, host, name in ((socket.AF_INET, "127.0.0.1", "tcp4"), (socket.AF_INET6, "::1", "tcp6")):
            where = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
            try:
                return await self._connect(family, host, port)
            except OSError as error:
                words = os.strerror(error.errno or 0).lower()
                found.append(f"dial {name} {where}: connect: {words}")
        raise Unreachable(
            f"error forwarding port {port} to pod {self.sandbox_id}, uid : failed to execute portforward in network "
            f'namespace "{self.namespace}": failed to connect to localhost:{port} inside namespace "{self.sandbox_id}", '
            f"IPv4: {found[0]} IPv6 {found[1]} "
        )

    async def _connect(self, family: int, host: str, port: int) -> Connection:
        inside = await asyncio.to_thread(netns.call, self.namespace, socket.socket, family, socket.SOCK_STREAM)
        try:
            inside.setblocking(False)
            await asyncio.get_running_loop().sock_connect(inside, (host, port))
            return await asyncio.open_connection(sock=inside, limit=PIECE)
        except BaseException:
            inside.close()
            raise


async def splice(
    read: Callable[[], Awaitable[bytes]],
    write: Callable[[bytes], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
    connection: Connection,
    touch: Callable[[], None],
) -> None:
    """Bytes both ways until both have ended; each side's end of file reaches the other. `touch` is called for each
    piece."""
    reader, writer = connection

    async def inward() -> None:
        with contextlib.suppress(OSError):
            while data := await read():
                touch()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def outward() -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                touch()
                await write(data)
        await close()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(inward())
            group.create_task(outward())
    finally:
        writer.close()


# --- SPDY -------------------------------------------------------------------------------------------------------------


def admit(headers: dict[str, str]) -> bool:
    return headers.get("streamtype") in ("error", "data") and port_of(headers.get("port", "")) is not None


def request_of(stream: Stream) -> str:
    """Which connection a stream belongs to. Clients that give no id open the error stream just before the data stream."""
    known = stream.headers.get("requestid", "")
    return known or str(stream.id if stream.headers["streamtype"] == "error" else stream.id - 2)


@dataclass(slots=True)
class _Half:
    streams: dict[str, Stream] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)


async def serve(session: Session, connect: Connect, *, touch: Callable[[], None] = lambda: None) -> None:
    """Within `session.run`, until the client leaves."""
    halves: dict[str, _Half] = {}

    async def connection(name: str, half: _Half) -> None:
        try:
            async with asyncio.timeout(CREATION_SECONDS):
                await half.whole.wait()
        except TimeoutError:
            for stream in half.streams.values():
                stream.reset()
            return
        finally:
            halves.pop(name, None)
        await _forward(half.streams["data"], half.streams["error"], connect, touch)

    async with asyncio.TaskGroup() as group:
        while stream := await session.accept():
            name = request_of(stream)
            half = halves.get(name)
            if half is None:
                half = halves[name] = _Half()
                group.create_task(connection(name, half))
            half.streams[stream.headers["streamtype"]] = stream
            if len(half.streams) == 2:
                half.whole.set()


async def _forward(data: Stream, error: Stream, connect: Connect, touch: Callable[[], None]) -> None:
    touch()
    try:
        connection = await connect(int(data.headers["port"]))
    except Unreachable as unreachable:
        with contextlib.suppress(OSError):
            await error.write(str(unreachable).encode())
    else:
        await splice(data.read, data.write, data.close, connection, touch)
    data.discard()
    await data.close()
    await error.close()


# --- channels of a WebSocket ------------------------------------------------------------------------------------------


class _Channel:
    """One port's data, read from a queue that the socket's listener fills."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self._finished = False

    async def read(self) -> bytes:
        return await self._pieces.get()

    async def put(self, data: bytes) -> None:
        if not self._finished:
            await self._pieces.put(data)

    def finish(self) -> None:
        """Nobody reads any more: a listener that waits for room must go on to the other ports."""
        self._finished = True
        while not self._pieces.empty():
            self._pieces.get_nowait()


async def serve_channels(
    socket: web.WebSocketResponse,
    dialect: Dialect,
    ports: Sequence[int],
    connect: Connect,
    *,
    touch: Callable[[], None] = lambda: None,
) -> None:
    async def send(channel: int, data: bytes) -> None:
        message = dialect.encode(channel, data)
        try:
            await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
        except aiohttp.ClientError as error:
            raise ConnectionResetError(str(error)) from error

    async def forward(index: int, port: int, channel: _Channel) -> None:
        try:
            for number in (2 * index, 2 * index + 1):
                await send(number, struct.pack("<H", port))
            try:
                connection = await connect(port)
            except Unreachable as unreachable:
                await send(2 * index + 1, str(unreachable).encode())
                return
            await splice(channel.read, lambda data: send(2 * index, data), _nothing, connection, touch)
        except OSError:
            pass  # the client is gone
        finally:
            channel.finish()

    channels = [_Channel() for _ in ports]
    try:
        async with asyncio.TaskGroup() as group:
            alive = group.create_task(keep_alive(socket))
            tasks = [
                group.create_task(forward(index, *pair)) for index, pair in enumerate(zip(ports, channels, strict=True))
            ]
            await _listen(socket, dialect, channels)
            for task in (alive, *tasks):
                task.cancel()
    except* (OSError, aiohttp.ClientError):
        pass  # the client is gone


async def _listen(socket: web.WebSocketResponse, dialect: Dialect, channels: Sequence[_Channel]) -> None:
    async for message in socket:
        if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            match dialect.decode(message.data):
                case (number, data) if data and number % 2 == 0 and number // 2 < len(channels):
                    await channels[number // 2].put(data)


async def _nothing() -> None:
    """A channel has no end of its own."""
