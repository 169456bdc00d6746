"""exec and attach: the runtime's streaming server, spoken to as kubectl would speak to it.

CRI's Exec and Attach answer with a URL, good for one connection (kubelet/pkg/cri/streaming). We open it with SPDY/3.1 and
remote command protocol v4: a stream for each of error, stdin, stdout, stderr and resize; the command's end is a metav1.Status
on the error stream. There is no task behind this: whoever reads, reads the connection, and answers what it asks on the way; so
a reader who is slow slows the command, and nothing is left when `close` has been called.

Two things a runtime does to whoever writes more than a command reads (`kubectl exec -i POD -- head -1 < BIG`). It resets the
connection once the command has ended: that must not cost what it had said before, so reading has a descriptor of its own,
which no failed write closes. Or (containerd 1.6) it waits for ever for its own pipe and never tells the end: who sees
output at its end and input stuck for STUCK seconds says so instead of waiting along.

The URL names an address of the runtime's network namespace, usually 127.0.0.1; the kubelet runs in the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import urllib.parse
from collections import deque
from typing import cast

from kube.spdy import UPGRADE, MalformedFrame
from kube.spdy.frames import Data, Decoder, Encoder, Frame, GoAway, Ping, Reset, SynReply, SynStream
from kubelet.runtime import Channel, RuntimeRefused, RuntimeUnavailable, StreamOptions

PROTOCOL = "v4.channel.k8s.io"
_CONNECT = 30.0  # seconds
_PIECE = 64 * 1024
_STATUS = 64 * 1024  # bytes of a Status; it is some hundred
_FLUSH = 0.5  # seconds
STUCK = 3.0  # seconds
_ERROR, _STDIN, _STDOUT, _STDERR, _RESIZE = "error", "stdin", "stdout", "stderr", "resize"


class SpdyStream:
    """`kubelet.runtime.Stream` over one connection to the runtime's streaming server."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        ears: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        options: StreamOptions,
    ) -> None:
        """`ears` is the other end of `reader`, for closing it; what is sent is sent through `writer`."""
        self._reader = reader
        self._ears = ears
        self._writer = writer
        self._encoder, self._decoder = Encoder(), Decoder()
        wanted = {
            _ERROR: True,
            _STDIN: options.stdin,
            _STDOUT: options.stdout,
            _STDERR: options.stderr and not options.tty,
            _RESIZE: options.tty,
        }
        self._ids = {kind: 1 + 2 * n for n, kind in enumerate(kind for kind, asked in wanted.items() if asked)}
        self._kinds = {identity: kind for kind, identity in self._ids.items()}
        self._running = {kind for kind in (_ERROR, _STDOUT, _STDERR) if kind in self._ids}
        self._waiting: deque[tuple[Channel, bytes]] = deque()
        self._status = bytearray()
        self._ended = False
        self._stuck = False

    def begin(self) -> None:
        for kind, identity in self._ids.items():
            self._send(SynStream(identity, (("streamtype", kind),)))

    async def read(self) -> tuple[Channel, bytes] | None:
        while not self._waiting:
            if self._ended or not self._running:
                return None
            try:
                data = await self._arrived()
                for frame in self._decoder.feed(data):
                    self._took(frame)
            except (OSError, MalformedFrame):
                data = b""
            if not data:
                self._ended = True
        return self._waiting.popleft()

    async def _arrived(self) -> bytes:
        if self._running != {_ERROR} or _STDIN not in self._ids:
            return await self._reader.read(_PIECE)
        while True:
            try:
                async with asyncio.timeout(STUCK):
                    return await self._reader.read(_PIECE)
            except TimeoutError:
                if self._writer.transport.get_write_buffer_size():
                    self._stuck = True
                    return b""

    def _took(self, frame: Frame) -> None:
        match frame:
            case Data(identity, data, fin):
                kind = self._kinds.get(identity, "")
                if data and kind == _STDOUT:
                    self._waiting.append((Channel.STDOUT, data))
                elif data and kind == _STDERR:
                    self._waiting.append((Channel.STDERR, data))
                elif kind == _ERROR:
                    self._status += data[: max(0, _STATUS - len(self._status))]
                if fin:
                    self._running.discard(kind)
            case SynReply(identity, _, True) | Reset(identity, _):
                self._running.discard(self._kinds.get(identity, ""))
            case Ping(number) if number % 2 == 0:  # the server's: it wants it back
                self._send(frame)
            case _:
                pass  # a GOAWAY too: what ends the streams comes before it or with the connection's end

    async def write(self, data: bytes) -> None:
        """Data for a command that no longer reads is dropped, as a pipe's writer would learn by EPIPE."""
        if _STDIN in self._ids:
            for start in range(0, len(data), _PIECE):
                self._send(Data(self._ids[_STDIN], data[start : start + _PIECE]))
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await self._writer.drain()

    async def close_stdin(self) -> None:
        if _STDIN in self._ids:
            self._send(Data(self._ids[_STDIN], b"", fin=True))

    async def resize(self, width: int, height: int) -> None:
        if _RESIZE in self._ids:
            self._send(Data(self._ids[_RESIZE], json.dumps({"Width": width, "Height": height}).encode()))

    async def exit_code(self) -> int:
        """RuntimeRefused when the command could not be run, RuntimeUnavailable when nobody told its end."""
        if self._stuck:
            raise RuntimeUnavailable(
                "the command ended without reading all of its input, and the runtime does not tell how it ended"
            )
        return code_of(bytes(self._status))

    async def close(self) -> None:
        self._send(GoAway(0))
        self._writer.close()
        try:
            async with asyncio.timeout(_FLUSH):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
        finally:
            self._ears.close()

    def _send(self, frame: Frame) -> None:
        if not self._writer.is_closing():
            self._writer.write(self._encoder.encode(frame))


def code_of(status: bytes) -> int:
    """The exit code that a metav1.Status of protocol v4 tells."""
    try:
        told = json.loads(status)
        if told["status"] == "Success":
            return 0
        causes = (told.get("details") or {}).get("causes") or ()
        if told.get("reason") == "NonZeroExitCode":
            return next(int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode")
        message = str(told["message"])
    except (ValueError, KeyError, TypeError, StopIteration):
        raise RuntimeUnavailable("cri: the runtime's streaming server went away before it told the end") from None
    raise RuntimeRefused(message)


async def connect(url: str, options: StreamOptions) -> SpdyStream:
    """RuntimeUnavailable or RuntimeRefused."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    if parts.scheme != "http" or not host:
        raise RuntimeRefused(
            f"the runtime's streaming server is at {parts.scheme}://{parts.netloc}: the kubelet reaches it over plain http only "
            "(containerd: stream_server_address, enable_tls_streaming = false)"
        )
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(host, port)
            try:
                transport = cast("asyncio.Transport", writer.transport)
                transport.pause_reading()  # nothing comes before we have asked
                taken = transport.get_extra_info("socket")
                reader, ears = await asyncio.open_connection(sock=_again(taken), limit=_PIECE)
                try:
                    await _upgrade(reader, writer, parts)
                except BaseException:
                    ears.close()
                    raise
            except BaseException:
                writer.close()
                raise
    except TimeoutError:
        raise RuntimeUnavailable(f"cri: streaming server {parts.netloc}: no answer within {_CONNECT:g} s") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise RuntimeUnavailable(f"cri: streaming server {parts.netloc}: {error}") from error
    stream = SpdyStream(reader, ears, writer, options)
    stream.begin()
    return stream


def _again(taken: socket.socket) -> socket.socket:
    """Another descriptor of a transport's socket."""
    return socket.socket(fileno=os.dup(taken.fileno()))


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: urllib.parse.SplitResult) -> None:
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    writer.write(
        f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
        f"X-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if head.split(" ", 2)[1:2] != ["101"]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                head += (await reader.read(_PIECE)).decode(errors="replace")
        raise RuntimeRefused(f"the runtime's streaming server answers {head.strip()[:300]}")
