"""For kubelets that do not speak what kubectl speaks: WebSocket at the client's end, SPDY/3.1 at the kubelet's.

Stock kubelets refuse `v5.channel.k8s.io` (exec, attach) and `SPDY/3.1+portforward.k8s.io`. Then the server takes both ends:

    exec, attach    a channel of the WebSocket is a stream of the SPDY session; [255, 0] closes stdin; the kubelet's Status
                    travels on channel 3 and ends the conversation
    port-forward    the messages carry SPDY as it is: they are unwrapped, nothing is translated

(Upstream: the streamtranslator and streamtunnel of k8s.io/apiserver, which always do this.)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from apiserver import errors
from apiserver.http.exchange import Duplex, Takeover
from apiserver.relay.upgrades import Opened, head_of
from kube import spdy
from kube.spdy import Session, Stream, StreamRefused
from kube.spdy.session import KEEPALIVE
from kube.websocket import Connection, accept_key

V5: Final = "v5.channel.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
PORT_FORWARD: Final = "portforward.k8s.io"
COMMAND: Final = ("v4.channel.k8s.io",)
PIECE: Final = 1 << 15
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255


def needed(code: int, headers: Mapping[str, str]) -> str:
    """V5 or TUNNEL when the client offered that over WebSocket and the kubelet's answer is how stock ones say that they do
    not know it: 403 from the handshake; for a port-forward 400, because they miss the query's `port`."""
    if headers.get("Upgrade", "").lower() != "websocket":
        return ""
    offered = [one.strip() for one in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if TUNNEL in offered:
        return TUNNEL if code in (400, 403) else ""
    return V5 if V5 in offered and code == 403 else ""


def spdy_head(path: str, authority: str, protocol: str) -> bytes:
    """The request that a stock kubelet understands."""
    versions = (PORT_FORWARD,) if protocol == TUNNEL else COMMAND
    headers = [("Connection", "Upgrade"), ("Upgrade", spdy.UPGRADE), ("Content-Length", "0")]
    return head_of("POST", path, authority, [*headers, *(("X-Stream-Protocol-Version", one) for one in versions)])


def translated(opened: Opened, headers: Mapping[str, str], protocol: str, query: Mapping[str, str]) -> Takeover:
    """`query` is in the kubelet's words. Raises 400."""
    key = headers.get("Sec-WebSocket-Key", "")
    if not key:
        opened.writer.close()
        raise errors.bad_request("unable to upgrade: bad WebSocket handshake: no Sec-WebSocket-Key")
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )

    async def run(client: Duplex) -> None:
        try:
            await client.write(head.encode())
            socket = Connection(client)
            if protocol == TUNNEL:
                await _tunnel(socket, opened)
            else:
                session = Session(_Kubelet(opened), server=False)
                await session.run(lambda: _command(socket, session, query))
            await socket.close()
        finally:
            opened.writer.close()

    return Takeover(run)


class _Kubelet:
    """`kube.spdy.Wire` over the connection to the kubelet."""

    def __init__(self, opened: Opened) -> None:
        self._reader, self._writer = opened.reader, opened.writer

    async def read(self) -> bytes:
        return await self._reader.read(PIECE)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def _command(socket: Connection, session: Session, query: Mapping[str, str]) -> None:
    tty = query.get("tty") == "1"
    wanted = [(_ERROR, "error", True), (_STDIN, "stdin", query.get("input") == "1")]
    wanted += [(_STDOUT, "stdout", query.get("output") == "1"), (_STDERR, "stderr", query.get("error") == "1")]
    wanted += [(_RESIZE, "resize", tty)]
    streams: dict[int, Stream] = {}
    try:
        for channel, kind, asked in wanted:
            if asked and not (kind == "stderr" and tty):
                streams[channel] = await session.open((("streamtype", kind),))
    except (StreamRefused, ConnectionResetError):
        return
    await socket.send(bytes([_STDOUT if _STDOUT in streams else _ERROR]))
    try:
        async with asyncio.TaskGroup() as group:
            inward = [group.create_task(work) for work in (_inward(socket, streams, session), _keep_alive(socket))]
            output = [group.create_task(_outward(socket, streams, channel)) for channel in (_STDOUT, _STDERR)]
            await asyncio.wait(output)
            await _outward(socket, streams, _ERROR)
            for task in inward:
                task.cancel()
    except* OSError:
        pass  # the client is gone, or the kubelet


async def _inward(socket: Connection, streams: Mapping[int, Stream], session: Session) -> None:
    while (message := await socket.receive()) is not None:
        match message.data[:1]:
            case b"\x00" | b"\x04" if stream := streams.get(message.data[0]):
                with contextlib.suppress(ConnectionResetError):  # a command that has ended reads no more
                    await stream.write(message.data[1:])
            case b"\xff" if stream := streams.get(message.data[1] if len(message.data) > 1 else _CLOSE):
                await stream.close()
            case _:
                pass
    for stream in streams.values():  # the client has gone: so has the command's reader
        stream.reset()
    session.abandon()


async def _outward(socket: Connection, streams: Mapping[int, Stream], channel: int) -> None:
    if stream := streams.get(channel):
        async for data in _pieces(stream):
            await socket.send(bytes([channel]) + data)


async def _pieces(stream: Stream) -> AsyncIterator[bytes]:
    while data := await stream.read():
        yield data


async def _keep_alive(socket: Connection) -> None:
    while True:
        await asyncio.sleep(KEEPALIVE)
        await socket.ping()


async def _tunnel(socket: Connection, opened: Opened) -> None:
    async def inward() -> None:
        with contextlib.suppress(OSError):
            while (message := await socket.receive()) is not None:
                opened.writer.write(message.data)
                await opened.writer.drain()
        opened.writer.close()

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(inward())
        with contextlib.suppress(OSError):
            while data := await opened.reader.read(PIECE):
                await socket.send(data)
        sending.cancel()
