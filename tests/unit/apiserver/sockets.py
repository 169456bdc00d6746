"""The server's HTTP on a real socket, and a client that writes bytes and reads answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.server import Server, listening

Dispatch = Callable[[Request], Awaitable[Reply]]


@dataclass
class World:
    server: Server
    port: int
    observed: list[tuple[str, int, int]] = field(default_factory=list)

    lines: list[Line] = field(default_factory=list)

    async def open(self) -> Line:
        self.lines.append(Line(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.lines[-1]

    async def close(self) -> None:
        for line in self.lines:
            line.writer.close()
            with contextlib.suppress(ConnectionError):
                await line.writer.wait_closed()

    async def ask(self, request: bytes) -> Response:
        line = await self.open()
        line.send(request)
        return await line.response()


@dataclass
class Response:
    code: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        async with asyncio.timeout(5):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = [line.partition(": ")[::2] for line in lines[1:] if line]
        return int(lines[0].split()[1]), [(name.lower(), value) for name, value in pairs]

    async def chunk(self) -> bytes:
        async with asyncio.timeout(5):
            size = int((await self.reader.readuntil(b"\n")), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def response(self, *, bodiless: bool = False) -> Response:
        code, headers = await self.head()
        found = dict(headers)
        body = b""
        async with asyncio.timeout(5):
            if bodiless:
                pass
            elif "content-length" in found:
                body = await self.reader.readexactly(int(found["content-length"]))
            elif found.get("transfer-encoding") == "chunked":
                while piece := await self.chunk():
                    body += piece
            elif code >= 200:
                body = await self.reader.read()
        return Response(code, headers, body)

    async def at_end(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def serving(dispatch: Dispatch) -> AsyncIterator[World]:
    observed: list[tuple[str, int, int]] = []

    def observe(request: Request, code: int, seconds: float, size: int) -> None:
        assert seconds >= 0
        observed.append((request.path, code, size))

    one = Server(dispatch, observe)
    async with listening(one, "127.0.0.1", 0, None, lambda: None) as port:
        world = World(one, port, observed)
        try:
            yield world
        finally:
            await world.close()


async def echo(request: Request) -> Reply:
    """What arrived, in an answer."""
    body = await request.body()
    said = {"method": request.method, "path": request.path, "raw": request.raw_path, "query": dict(request.query)}
    return json_answer(said | {"body": body.decode(), "length": len(body)})


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


def post(body: bytes, *headers: str) -> bytes:
    return get("/p", f"Content-Length: {len(body)}", *headers, method="POST") + body
