"""Load on an API server from a process of its own, cheap enough to leave the server its core: prebuilt requests over bare TLS
connections, answers read no further than their length.

    python -m tests.bench._load HOST PORT HOME < JOB    (JSON)    answers one JSON line

A job: {"kind": "create" | "get" | "watch", "path", "clients", "count", "body", "prefix"}. `create` posts `body` with NAME
replaced; `watch` opens `clients` watches and makes `count` writes, each when all have seen the one before.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from itertools import count as counting
from time import perf_counter
from typing import Any

import uvloop

HEAD = "Host: x\r\nAccept: application/json\r\nUser-Agent: bench/1\r\n"


class Client(asyncio.Protocol):
    """Sends one request at a time; `ask` gives the answer's status and the bytes behind its head."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._need = -1
        self._status = 0
        self._answer: asyncio.Future[int] | None = None
        self.on_data: Callable[[bytes], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes) -> asyncio.Future[int]:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if self.on_data:
            self.on_data(data)
            return
        if self._need < 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._status = int(head[9:12])
            start = head.find(b"content-length: ")
            if start < 0:  # a chunked answer ends with its last chunk
                self._need = 1 << 62
            else:
                self._need = int(
                    head[start + 16 : head.find(b"\r\n", start)] if b"\r\n" in head[start:] else head[start + 16 :]
                )
            data = bytes(self._buffer[end + 4 :])
            self._buffer.clear()
        self._need -= len(data)
        if self._need <= 0 or (self._need > 1 << 61 and data.endswith(b"0\r\n\r\n")):
            self._need = -1
            if self._answer and not self._answer.done():
                self._answer.set_result(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed"))


def requests(job: dict[str, Any]) -> Callable[[], bytes]:
    numbers = counting()
    if job["kind"] == "create":
        pieces = job["body"].split("NAME")

        def create() -> bytes:
            body = f"{job['prefix']}{next(numbers)}".join(pieces)
            head = f"POST {job['path']} HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            return (head + body).encode()

        return create
    fixed = f"GET {job['path']} HTTP/1.1\r\n{HEAD}\r\n".encode()
    return lambda: fixed


async def asked(connect: Callable[[], Awaitable[Client]], job: dict[str, Any]) -> dict[str, Any]:
    clients = [await connect() for _ in range(job["clients"])]
    request, left, times = requests(job), iter(range(job["count"])), []

    async def work(client: Client) -> None:
        for _ in left:
            sent = perf_counter()
            status = await client.ask(request())
            times.append(perf_counter() - sent)
            if status not in (200, 201):
                raise AssertionError(f"answered {status}")

    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
    seconds = perf_counter() - started
    return {"seconds": seconds, **_spread(times)}


async def watched(connect: Callable[[], Awaitable[Client]], job: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = []
    sent, missing = 0.0, 0
    all_there = asyncio.Event()
    marker = b'"type":"ADDED"'

    def seen(data: bytes) -> None:
        nonlocal missing
        if marker in data:
            times.append(perf_counter() - sent)
            missing -= 1
            if not missing:
                all_there.set()

    opened = f"GET {job['path']}?watch=true&resourceVersion={job['rv']} HTTP/1.1\r\n{HEAD}\r\n".encode()
    for _ in range(job["clients"]):
        client = await connect()
        client.on_data = seen
        assert client.transport is not None
        client.transport.write(opened)
    writer, request = await connect(), requests(job | {"kind": "create"})
    await asyncio.sleep(1.0)  # the watches are open, and this is a bench
    for _ in range(job["count"]):
        missing = job["clients"]
        all_there.clear()
        sent = perf_counter()
        assert await writer.ask(request()) == 201
        async with asyncio.timeout(30):
            await all_there.wait()
        await asyncio.sleep(0.05)
    return _spread(times)


def _spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)], "max": ordered[-1]}


async def main(host: str, port: int, home: str) -> None:
    tls = ssl.create_default_context(cafile=f"{home}/ca.crt")
    tls.load_cert_chain(f"{home}/admin.crt", f"{home}/admin.key")
    loop = asyncio.get_running_loop()

    async def connect() -> Client:
        _, client = await loop.create_connection(Client, host, port, ssl=tls)
        return client

    job = json.loads(sys.stdin.read())
    print(json.dumps(await (watched if job["kind"] == "watch" else asked)(connect, job)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
