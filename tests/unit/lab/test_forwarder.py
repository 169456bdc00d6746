"""The door, over loopback: every byte, both directions, each end by itself."""

import asyncio
import fcntl
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from lab import forwarder

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def door(talk: Talk | None) -> AsyncIterator[int]:
    """The port of a door to a server that talks as told; without one, to a port where nobody listens."""
    inside = await asyncio.start_server(talk, "127.0.0.1", 0) if talk else None
    if inside:
        target = inside.sockets[0].getsockname()[1]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            target = probe.getsockname()[1]
    listener = forwarder.listening(0)
    port = listener.getsockname()[1]
    task = asyncio.get_running_loop().create_task(forwarder.serve([(listener, "127.0.0.1", target)]))
    try:
        async with asyncio.timeout(20):
            yield port
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if inside:
            inside.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_half_a_connection_may_end_while_the_other_goes_on() -> None:
    async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hashlib.sha256(await reader.read()).hexdigest().encode())
        await writer.drain()
        writer.close()

    payload = bytes(range(256)) * 40_000
    async with door(digest) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        await writer.drain()
        writer.write_eof()
        assert (await reader.read()).decode() == hashlib.sha256(payload).hexdigest()
        writer.close()


async def test_a_big_transfer_there_and_back() -> None:
    payload = hashlib.sha256(b"seed").digest() * 2**18  # 8 MiB
    async with door(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send() -> None:
            writer.write(payload)
            await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            back = group.create_task(reader.read())
        assert back.result() == payload
        writer.close()


async def test_a_refused_upstream_is_an_end_of_file_and_the_door_stays_open() -> None:
    async with door(None) as port:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()


async def test_many_connections_at_once() -> None:
    async with door(echo) as port:

        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"hello {number}".encode())
            writer.write_eof()
            assert await reader.read() == f"hello {number}".encode()
            writer.close()

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))


async def test_a_client_that_is_torn_away_takes_its_upstream_along() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            pass
        finally:
            ended.set()
            writer.close()

    async with door(silent) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends RST
        writer.transport.abort()
        await ended.wait()


def test_one_lab_at_a_time_chooses_its_ports() -> None:
    other = os.open("/run/lock", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with forwarder.choosing(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)
