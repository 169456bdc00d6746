"""A command and whoever watches it: exec and attach, whatever the bytes travel on.

    client ──stdin, sizes──> Conversation ──> runtime's stream
           <──stdout, stderr, then a Status──

Each direction has a task of its own: a command that does not read its input keeps neither its output nor the terminal's
size back. The conversation is over when the output is, or when the client has gone, which abandons the output too.
(Upstream: kubelet/pkg/cri/streaming/remotecommand.)
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from kubelet.runtime import Channel, RuntimeRefused, RuntimeUnavailable, Stream, StreamOptions

_INTERNAL = "Internal error occurred: "

log = logging.getLogger(__name__)


class Line(enum.IntEnum):
    """What a client's connection carries, numbered as in the WebSocket protocols."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


class Client(Protocol):
    """Over WebSocket or SPDY."""

    async def output(self, line: Line, data: bytes) -> None:
        """Raises OSError or aiohttp.ClientError when the client has gone."""

    async def end(self, status: Mapping[str, Any], words: str) -> None:
        """The last word: a metav1.Status, and what older protocols say instead (nothing where it is empty)."""

    def stdin(self) -> AsyncIterator[bytes]:
        """Ends when the client closes its input."""

    def sizes(self) -> AsyncIterator[tuple[int, int]]: ...

    async def gone(self) -> None:
        """Returns when the client's connection has ended."""


class _Size(msgspec.Struct, rename="pascal"):
    width: int
    height: int


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a terminal; None for what is none."""
    try:
        size = msgspec.json.decode(data, type=_Size)
    except msgspec.DecodeError:
        return None
    fits = 0 < size.width <= 0xFFFF and 0 < size.height <= 0xFFFF
    return (size.width, size.height) if fits else None


def end_of(code: int) -> dict[str, Any]:
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


def failure_of(message: str) -> dict[str, Any]:
    """The Status of a command that could not be run or followed to its end."""
    message = message.removeprefix(_INTERNAL)  # a CRI runtime's own Status may say it already
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"{_INTERNAL}{message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


async def converse(client: Client, options: StreamOptions, begin: Callable[[], Awaitable[Stream]]) -> None:
    """Start the command and see it to its end, which the client is told."""
    try:
        stream = await begin()
    except (RuntimeRefused, RuntimeUnavailable) as error:
        await client.end(failure_of(str(error)), str(error))
        return
    try:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_output(client, stream))
            inputs = [_input] if options.stdin else []
            others = [group.create_task(work(client, stream)) for work in (*inputs, _resizes)]
            others.append(group.create_task(_abandon(client, output.cancel)))
            output.add_done_callback(lambda _: [task.cancel() for task in others])
    except* (OSError, aiohttp.ClientError) as gone:
        log.debug("client of a stream has gone: %s", gone.exceptions[0])
    finally:
        await stream.close()


async def _output(client: Client, stream: Stream) -> None:
    lines = {Channel.STDOUT: Line.STDOUT, Channel.STDERR: Line.STDERR}
    try:
        while (piece := await stream.read()) is not None:
            channel, data = piece
            await client.output(lines[channel], data)
        code = await stream.exit_code()
    except (RuntimeRefused, RuntimeUnavailable) as error:
        await client.end(failure_of(str(error)), str(error))
        return
    await client.end(end_of(code), f"command terminated with exit code {code}" if code else "")


async def _input(client: Client, stream: Stream) -> None:
    async for data in client.stdin():
        await stream.write(data)
    await stream.close_stdin()


async def _resizes(client: Client, stream: Stream) -> None:
    async for width, height in client.sizes():
        await stream.resize(width, height)


async def _abandon(client: Client, abandon: Callable[[], object]) -> None:
    await client.gone()
    abandon()
