"""The small HTTP servers that every daemon has: health, metrics, configuration.

A route is a path and an async function of the request. `health` answers as upstream's healthz does: `ok`, or 500 and what
failed; `?verbose` lists every check.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from kube.errors import UsageError
from kube.tls import server_tls

__all__ = ["Check", "Handler", "health", "json", "metrics", "serve", "server_tls", "split_address", "text"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Check = Callable[[], str | None]
"""None when all is well, else one line that says what is not."""


def split_address(address: str, flag: str, default_host: str = "") -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` as a pair; raises UsageError naming `flag`."""
    host, sign, port = address.rpartition(":")
    if not sign or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{flag}: {address!r} is not host:port")
    return host.strip("[]") or default_host, int(port)


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    routes: Mapping[str, Handler],
    *,
    posts: Mapping[str, Handler] | None = None,
    tls: ssl.SSLContext | None = None,
    flag: str = "the bind address",
) -> AsyncIterator[int]:
    """Serve GET on `routes` and POST on `posts` while the context is open; the port that was bound (`port` 0 takes a free one).

    Raises UsageError naming the address and `flag` when it cannot be bound.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"{flag}: {port} is not a port; ports are 0 to 65535")
    application = web.Application()
    for path, handler in routes.items():
        application.router.add_get(path, handler)
    for path, handler in (posts or {}).items():
        application.router.add_post(path, handler)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port, ssl_context=tls, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host or '*'}:{port} ({error.strerror or error}); set {flag} to a free address"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def health(checks: Mapping[str, Check]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        results = {name: check() for name, check in checks.items()}
        failed = any(results.values())
        lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in results.items()]
        if failed:
            return web.Response(status=500, text="\n".join([*lines, "healthz check failed"]) + "\n")
        return web.Response(
            text="\n".join([*lines, "healthz check passed"]) + "\n" if "verbose" in request.query else "ok"
        )

    return answer


def metrics(registry: CollectorRegistry) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            body = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return web.Response(body=body, headers={"Content-Type": openmetrics.CONTENT_TYPE_LATEST})
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return answer


def json(value: Callable[[], Any]) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(value())

    return answer


def text(value: str) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=value)

    return answer
