"""The one door to a lab: ports of 127.0.0.1 in the root namespace, answered from inside.

The listening sockets are made in the root namespace; then the process moves into the lab's outer namespace for good, and
every connection it makes starts there. A socket keeps the namespace it was made in, so the door stays open.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Never

_CHUNK = 2**16

Door = tuple[socket.socket, str, int]
"""A listening socket, and the address and port inside that answer for it."""


def listening(port: int) -> socket.socket:
    """A socket on 127.0.0.1; raises OSError when the port is taken. Port 0 takes a free one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(256)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def free_port(wanted: int) -> int:
    """`wanted`, or the next port of 127.0.0.1 that nobody listens on."""
    for port in range(wanted, min(wanted + 200, 65536)):
        try:
            listening(port).close()
        except OSError:
            continue
        return port
    raise OSError(f"no free port on 127.0.0.1 from {wanted} to {wanted + 199}")


@contextlib.contextmanager
def choosing() -> Iterator[None]:
    """Ports are chosen by `up` and bound by its supervisor a moment later: one lab of a machine does so at a time."""
    folder = os.open("/run/lock", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


async def serve(doors: Sequence[Door]) -> Never:
    async with asyncio.TaskGroup() as group:
        for listener, host, port in doors:
            group.create_task(_answer(listener, host, port))
    raise AssertionError("a server that serves for ever has ended")


async def _answer(listener: socket.socket, host: str, port: int) -> None:
    at_work: set[asyncio.Task[None] | None] = set()  # the event loop's own references to tasks are weak

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(task := asyncio.current_task())
        try:
            with contextlib.suppress(OSError):
                await _relay(reader, writer, host, port)
        finally:
            writer.close()
            at_work.discard(task)

    server = await asyncio.start_server(accept, sock=listener)
    await server.serve_forever()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, upstream_writer))
            group.create_task(_copy(upstream_reader, writer))
    finally:
        upstream_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of what `reader` gives. Half a connection may end by itself; where one side is torn, so is the other."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
