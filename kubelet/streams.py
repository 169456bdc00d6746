"""A command's streams over a WebSocket, as kubectl exec and attach speak it (upstream: kubelet/pkg/cri/streaming/remotecommand).

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
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import msgspec
from aiohttp import web

from kubelet.runtime import Channel, RuntimeRefused, RuntimeUnavailable, Stream, StreamOptions

# Best first; "" is a client that names none.
PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
_CLOSE = 255

log = logging.getLogger(__name__)


class Line(enum.IntEnum):
    """The channels of the protocol."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


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


class _Size(msgspec.Struct, rename="pascal"):
    width: int
    height: int


def end_of(code: int) -> dict[str, object]:
    """The Status that tells an exit code."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure_of(message: str) -> dict[str, object]:
    """The Status of a command that could not be run or followed to its end."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


class Conversation:
    """One WebSocket and one command, until either ends."""

    def __init__(self, socket: web.WebSocketResponse, dialect: Dialect, options: StreamOptions) -> None:
        self._socket = socket
        self._dialect = dialect
        self._options = options

    async def fail(self, message: str) -> None:
        await self._tell(failure_of(message), message)

    async def run(self, stream: Stream) -> None:
        await self._send(Line.STDOUT if self._options.stdout else Line.ERROR, b"")
        try:
            async with asyncio.TaskGroup() as group:
                output = group.create_task(self._output(stream))
                listening = group.create_task(self._input(stream, output.cancel))
                output.add_done_callback(lambda _: listening.cancel())
        except* (ConnectionError, aiohttp.ClientError) as gone:
            log.debug("client of a stream has gone: %s", gone.exceptions[0])
        finally:
            await stream.close()

    async def _output(self, stream: Stream) -> None:
        lines = {Channel.STDOUT: Line.STDOUT, Channel.STDERR: Line.STDERR}
        try:
            while (piece := await stream.read()) is not None:
                channel, data = piece
                await self._send(lines[channel], data)
            code = await stream.exit_code()
        except (RuntimeRefused, RuntimeUnavailable) as error:
            await self.fail(str(error))
            return
        await self._tell(end_of(code), f"command terminated with exit code {code}" if code else "")

    async def _input(self, stream: Stream, abandon: Callable[[], object]) -> None:
        """Until the client goes, which abandons the command's output too."""
        async for message in self._socket:
            if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                continue
            found = self._dialect.decode(message.data)
            match found:
                case (Line.STDIN, data) if self._options.stdin:
                    await stream.write(data)
                case (Line.RESIZE, data):
                    await self._resize(stream, data)
                case (_, b"\0") if found[0] == _CLOSE and self._dialect.half_close:
                    await stream.close_stdin()
                case _:
                    log.debug("ignored a message on channel %s", found[0] if found else "?")
        abandon()

    async def _resize(self, stream: Stream, data: bytes) -> None:
        try:
            size = msgspec.json.decode(data, type=_Size)
        except msgspec.DecodeError:
            return
        if 0 < size.width <= 0xFFFF and 0 < size.height <= 0xFFFF:
            await stream.resize(size.width, size.height)

    async def _tell(self, status: dict[str, object], words: str) -> None:
        """The end, on the error channel."""
        if self._dialect.status:
            await self._send(Line.ERROR, msgspec.json.encode(status))
        elif words:
            await self._send(Line.ERROR, words.encode())

    async def _send(self, channel: int, data: bytes) -> None:
        message = self._dialect.encode(channel, data)
        if isinstance(message, str):
            await self._socket.send_str(message)
        else:
            await self._socket.send_bytes(message)
