"""exec and attach: a hijacked connection to dockerd, in the event loop.

The Engine API answers `POST /exec/ID/start` with 101 and from then on the connection is the command's: what we write is its
stdin, a half-close is its end of file, and what we read is, with a tty, its raw output, or else frames of
[stream, 0, 0, 0, length as 4 bytes big-endian] + payload (Docker Engine API, "Attach to a container"). The `docker` package
can open such a connection too, but gives its socket away without the bytes that had arrived together with the headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kubelet.docker.engine import refusal
from kubelet.runtime import Channel, RuntimeUnavailable

_PIECE = 64 * 1024
_CONNECT = 30.0
_FLUSH = 0.5  # seconds


class HijackedStream:
    """`kubelet.runtime.Stream` over an upgraded connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
        resize: Callable[[int, int], Awaitable[None]],
        exit_code: Callable[[], Awaitable[int]],
        half_close: bool = True,
    ) -> None:
        """Without `half_close` the end of our input is not told: on an attached container dockerd would take it for a
        wish to leave."""
        self._reader = reader
        self._writer = writer
        self._tty = tty
        self._resize = resize
        self._exit_code = exit_code
        self._half_close = half_close
        self._left = 0
        self._channel = Channel.STDOUT

    async def read(self) -> tuple[Channel, bytes] | None:
        try:
            if self._tty:
                data = await self._reader.read(_PIECE)
                return (Channel.STDOUT, data) if data else None
            while not self._left:
                stream, self._left = struct.unpack(">B3xI", await self._reader.readexactly(8))
                self._channel = Channel.STDERR if stream == Channel.STDERR else Channel.STDOUT
            data = await self._reader.read(min(self._left, _PIECE))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._left -= len(data)
        return (self._channel, data) if data else None

    async def write(self, data: bytes) -> None:
        """Data for a command that no longer reads is dropped, as a pipe's writer would learn by EPIPE."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_stdin(self) -> None:
        if not self._half_close:
            return
        with contextlib.suppress(OSError, RuntimeError):
            await self._writer.drain()
            self._writer.write_eof()

    async def resize(self, width: int, height: int) -> None:
        await self._resize(width, height)

    async def exit_code(self) -> int:
        return await self._exit_code()

    async def close(self) -> None:
        """What was written still arrives, unless the command has left its input unread: dockerd then takes no more."""
        self._writer.close()
        try:
            async with asyncio.timeout(_FLUSH):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()


async def hijack(
    socket_path: str, path: str, body: Mapping[str, Any] | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """POST and take the connection over. NotFound, Conflict, RuntimeRefused or RuntimeUnavailable."""
    what = f"docker: POST {path.partition('?')[0]}"
    try:
        async with asyncio.timeout(_CONNECT):
            reader, writer = await asyncio.open_unix_connection(socket_path, limit=_PIECE)
            try:
                status, headers = await _upgrade(reader, writer, path, body)
                if status in (101, 200):
                    return reader, writer
                text = await _text(reader, headers)
            except BaseException:
                writer.close()
                raise
            writer.close()
    except TimeoutError:
        raise RuntimeUnavailable(f"{what}: no answer within {_CONNECT:g} s") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise RuntimeUnavailable(f"{what}: {error} (socket {socket_path})") from error
    raise refusal(status, text, what)


async def _upgrade(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: Mapping[str, Any] | None
) -> tuple[int, dict[str, str]]:
    payload = json.dumps(body).encode() if body is not None else b""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(lines[0].split(" ", 2)[1]), headers


async def _text(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> str:
    """The message of an error answer."""
    if "content-length" in headers:
        raw = await reader.readexactly(min(int(headers["content-length"]), _PIECE))
    else:
        size = int((await reader.readline()).strip() or b"0", 16)
        raw = await reader.readexactly(min(size, _PIECE))
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace").strip()
