"""An ear on the wire: a plain HTTP server on 127.0.0.1 that passes every request on to an API server, and writes it down."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from kube.kubeconfig import Connection

HOP_BY_HOP = ("Connection", "Transfer-Encoding", "Content-Length", "Content-Encoding", "Host", "Keep-Alive")


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it was sent, and the code of its answer."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    accept: str
    body: Any  # decoded JSON; None without a body
    code: int


@asynccontextmanager
async def eavesdropping(on: Connection) -> AsyncIterator[tuple[Connection, list[Heard]]]:
    """A connection whose requests are all heard. Answers are passed on piece by piece, watches too."""
    heard: list[Heard] = []
    tls: ssl.SSLContext | bool = on.ssl_context() or True

    async def passed(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.title() not in HOP_BY_HOP}
        target = on.server + request.raw_path
        async with session.request(request.method, target, data=body or None, headers=headers, ssl=tls) as answer:
            heard.append(
                Heard(
                    request.method,
                    request.path,
                    dict(request.query),
                    request.headers.get("Content-Type", "") if body else "",
                    request.headers.get("Accept", ""),
                    orjson.loads(body) if body else None,
                    answer.status,
                )
            )
            back = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.title() not in HOP_BY_HOP:
                    back.headers.add(name, value)
            await back.prepare(request)
            with contextlib.suppress(aiohttp.ClientError):
                async for piece in answer.content.iter_any():
                    await back.write(piece)
            return back

    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", passed)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=True) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield Connection(f"http://127.0.0.1:{port}"), heard
        finally:
            await runner.cleanup()
