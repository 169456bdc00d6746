"""Thousands of wrong requests: each is told what is wrong with it, nobody else waits, nothing is kept."""

from __future__ import annotations

import asyncio
import collections
import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from tests.node import malformed
from tests.node.apiserver import Server, running
from tests.node.malformed_heads import JSON, NS, PATCHED, Wrong, request

SEED = 20260101
STALL_SECONDS = 2.0 if os.environ.get("WHERRY_SHARED_MACHINE") else 0.25
GROWTH_MB = 30


class Client:
    """One connection, opened again whenever the server has ended it."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self._server = server
        self._tls = tls
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        if self._line is None or self._line[0].at_eof() or self._line[1].is_closing():
            self._line = await asyncio.open_connection("127.0.0.1", self._server.port, ssl=self._tls, limit=1 << 20)
        reader, writer = self._line
        writer.write(data)
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            code = int(head.split()[1])
            body = await self._body(reader, head)
        if b"\r\nconnection: close" in head:
            await self.close()
        return code, body

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        if b"\r\ncontent-length: " in head:
            return await reader.readexactly(int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]))
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body

    async def close(self) -> None:
        if self._line:
            self._line[1].close()
        self._line = None


class Bystander:
    """Somebody who reads one object again and again, from a thread; `worst` is the longest it took."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=tls)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander")
        self.worst = 0.0
        self.seen = 0

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            started = time.monotonic()
            self._connection.request("GET", PATCHED)
            answer = self._connection.getresponse()
            answer.read()
            assert answer.status == 200
            self.worst = max(self.worst, time.monotonic() - started)
            self.seen += 1


def rss(server: Server) -> float:
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def told(wrong: Wrong, code: int, body: bytes) -> str | None:
    """What is wrong with the answer."""
    if code < 400 and wrong.lenient:
        return None
    if not 400 <= code < 500:
        return f"{code}"
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None if b"kind: Status" in body else "no Status"
    if status.get("kind") != "Status" or status.get("code") != code or not status.get("message"):
        return "no Status"
    return None


async def test_wrong_requests_are_told_so_and_harm_nobody(tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    count = trial(1500, 10_000)
    async with running(tmp_path) as server:
        tls = server.connection().ssl_context()
        assert tls is not None
        client = Client(server, tls)
        made, _ = await client.ask(
            request("POST", f"{NS}/configmaps", b'{"metadata":{"name":"patched"},"data":{"a":"b"}}', JSON)
        )
        assert made == 201
        for wrong in malformed.requests(SEED + 1, 300):  # what is kept once, whoever asks: tables, compiled types
            await client.ask(wrong.data)
        before, codes, wrongs = rss(server), collections.Counter[tuple[str, int]](), []
        with Bystander(server, tls) as bystander:
            for wrong in malformed.requests(SEED, count):
                code, body = await client.ask(wrong.data)
                codes[wrong.family, code // 100] += 1
                if why := told(wrong, code, body):
                    wrongs.append((why, wrong.family, wrong.data[:600], body[:400]))
        await client.close()
        assert not wrongs, "\n".join(map(str, wrongs[:10]))
        refused = sum(found for (_, code), found in codes.items() if code == 4)
        assert refused > count * 0.8, codes
        assert bystander.seen > 20
        assert bystander.worst < STALL_SECONDS
        assert rss(server) - before < GROWTH_MB
        assert "Traceback" not in server.log
