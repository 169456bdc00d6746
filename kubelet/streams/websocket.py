"""A command's streams over a WebSocket, as kubectl exec and attach speak it from 1.30 on (and the Python client).

Every message carries its channel first: in the binary protocols as a byte, in the base64 ones as a digit with the rest in base64.

    channel   direction     carries
    0         from client   stdin
    1, 2      to client     stdout, stderr (with a tty all output is stdout)
    3         to client     once, at the end: a metav1.Status whose cause ExitCode is the exit code (v4, v5), or plain words
    4         from client   {"Width": 80, "Height": 24}: the terminal's size
    255       from client   v5 only: the channel named in the second byte is closed. Without it stdin cannot end while
                            output still flows: `kubectl exec -i < file` hangs in v4.

The server's first message is empty and says that the connection stands.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from kube.spdy.session import KEEPALIVE
from kubelet.runtime import StreamOptions
from kubelet.streams.remotecommand import Line, size_of

# Best first; "" is a client that names none.
PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
LARGEST: Final = 16 << 20  # bytes of one message
_CLOSE: Final = 255
_WAITING: Final = 16  # messages of input that a command may leave unread before the socket is

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a protocol name means."""

    name: str

    @property
    def base64(self) -> bool:
        return "base64" in self.name

    @property
    def status(self) -> bool:
        """Whether the end is told as a Status object."""
        return self.name.startswith(("v4.", "v5."))

    @property
    def half_close(self) -> bool:
        return self.name.startswith("v5.")

    def encode(self, channel: int, data: bytes) -> bytes | str:
        if self.base64:
            return f"{channel}{base64.b64encode(data).decode('ascii')}"
        return bytes([channel]) + data

    def decode(self, message: bytes | str) -> tuple[int, bytes] | None:
        """Channel and data, None for what is neither."""
        raw = message.encode() if isinstance(message, str) else message
        if not raw:
            return None
        if not self.base64:
            return raw[0], raw[1:]
        try:
            return raw[0] - ord("0"), base64.b64decode(raw[1:], validate=True)
        except binascii.Error:
            return None


async def keep_alive(socket: web.WebSocketResponse) -> None:
    """A write is what finds out that a silent client is gone. No answer is insisted on: a client whose input waits for a
    slow command cannot be heard."""
    while True:
        await asyncio.sleep(KEEPALIVE)
        await socket.ping()


class WebSocketClient:
    """`remotecommand.Client` over one WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, dialect: Dialect, options: StreamOptions) -> None:
        self._socket = socket
        self._dialect = dialect
        self._options = options
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self._sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue(_WAITING)
        self._gone = asyncio.Event()

    async def run(self, body: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in (self._listen(), keep_alive(self._socket))]
                try:
                    await self._send(Line.STDOUT if self._options.stdout else Line.ERROR, b"")
                    await body()
                finally:
                    for task in tasks:
                        task.cancel()
        except* (OSError, aiohttp.ClientError) as gone:
            log.debug("client of a stream has gone: %s", gone.exceptions[0])

    async def output(self, line: Line, data: bytes) -> None:
        await self._send(line, data)

    async def end(self, status: Mapping[str, Any], words: str) -> None:
        if self._dialect.status:
            await self._send(Line.ERROR, msgspec.json.encode(status))
        elif words:
            await self._send(Line.ERROR, words.encode())

    async def stdin(self) -> AsyncIterator[bytes]:
        while data := await self._stdin.get():
            yield data

    async def sizes(self) -> AsyncIterator[tuple[int, int]]:
        while True:
            yield await self._sizes.get()

    async def gone(self) -> None:
        await self._gone.wait()

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                continue
            found = self._dialect.decode(message.data)
            match found:
                case (Line.STDIN, data) if self._options.stdin:
                    if data:
                        await self._stdin.put(data)
                case (Line.RESIZE, data):
                    if size := size_of(data):
                        await self._sizes.put(size)
                case (_, b"\0") if found[0] == _CLOSE and self._dialect.half_close:
                    if self._options.stdin:
                        await self._stdin.put(b"")
                case _:
                    log.debug("ignored a message on channel %s", found[0] if found else "?")
        self._gone.set()

    async def _send(self, channel: int, data: bytes) -> None:
        message = self._dialect.encode(channel, data)
        if isinstance(message, str):
            await self._socket.send_str(message)
        else:
            await self._socket.send_bytes(message)


class WebSocketWire:
    """`kube.spdy.Wire` inside the binary messages of a WebSocket: how kubectl tunnels port-forward from 1.31 on."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type == aiohttp.WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
            elif message.type != aiohttp.WSMsgType.TEXT:
                return b""

    async def write(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except aiohttp.ClientError as error:
            raise ConnectionResetError(str(error)) from error
