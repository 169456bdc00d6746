"""Sockets: aiohttp's low-level server (no router, no middleware) turned into `exchange` values and back.

A handler is cancelled when its client vanishes. Big answers are compressed off the loop and written in slices, so that one
LIST of thousands of pods does not stall leases and watches. This is the one door at which an unforeseen exception becomes
an answer (500 with a Status) and a traceback in the log.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, cast

import orjson
import yaml
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from apiserver import errors
from apiserver.authentication import user_of
from apiserver.errors import StatusError
from apiserver.http import accept
from apiserver.http.exchange import JSON, Answer, Reply, Request, Stream, Takeover, error_answer
from apiserver.store import StoreFailed, StoreLost
from apiserver.store.refusal import refused
from kube.errors import UsageError

MAX_BODY: Final = 3 << 20
GZIP_FROM: Final = 128 << 10
SLICE: Final = 256 << 10
SHUTDOWN_SECONDS: Final = 5.0
STALL_SECONDS: Final = 60.0  # a client that reads nothing of a slice for so long is gone, or as good as
AUDIT_ID_LENGTH: Final = 64
UNREAD_BYTES: Final = 1 << 20  # of an upgraded connection, before we stop reading
_PRETTY_AGENTS: Final = ("curl", "Wget", "Mozilla")

log = logging.getLogger(__name__)

Dispatch = Callable[[Request], Awaitable[Reply]]
Observe = Callable[[Request, int, float], None]


def _request(raw: web.BaseRequest) -> Request:
    transport = raw.transport
    certificate = transport.get_extra_info("peercert") if transport else None

    async def body() -> bytes:
        if (raw.content_length or 0) > MAX_BODY:
            raise errors.request_entity_too_large(MAX_BODY)
        try:
            data = await raw.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise errors.request_entity_too_large(MAX_BODY) from error
        if raw.headers.get("Content-Encoding", "").lower() == "gzip" and data[:2] == b"\x1f\x8b":
            raise errors.unsupported_media_type((JSON,))
        return data

    return Request(
        raw.method,
        raw.path,
        raw.query,
        raw.query_string,
        raw.headers,
        body,
        user_of(certificate),
        source=raw.remote or "",
        audit_id=_audit_id(raw.headers.get("Audit-Id")),
        raw_path=raw.rel_url.raw_path,
        chunks=cast("Any", raw.content.iter_any),
    )


class Server:
    def __init__(self, dispatch: Dispatch, observe: Observe) -> None:
        self._dispatch = dispatch
        self._observe = observe

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        request = _request(raw)
        try:
            reply = await self._dispatch(request)
        except StatusError as error:
            reply = error_answer(error)
        except (StoreFailed, StoreLost) as error:
            log.error("%s %s: the store: %s", request.method, request.path, error)
            reply = error_answer(refused(error))
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            reply = error_answer(errors.internal(f"{type(error).__name__}: {error}"))
        match reply:
            case Answer():
                self._observe(request, reply.code, time.perf_counter() - started)
                return await _answer(request, reply)
            case Stream():
                self._observe(request, reply.code, time.perf_counter() - started)
                return await _stream(raw, request, reply)
            case Takeover():
                self._observe(request, 101, time.perf_counter() - started)
                return await _takeover(raw, reply)


def _audit_id(told: str | None) -> str:
    """As told by whoever stands before us, as far as it can be a header; else a new one."""
    if told and len(told) <= AUDIT_ID_LENGTH and told.isascii() and told.isprintable():
        return told
    return str(uuid.UUID(bytes=os.urandom(16), version=4))


def _headers(request: Request, content_type: str) -> dict[str, str]:
    return {"Audit-Id": request.audit_id, "Cache-Control": "no-cache, private", "Content-Type": content_type}


async def _answer(request: Request, answer: Answer) -> web.StreamResponse:
    body, content_type = _dressed(request, answer)
    headers = _headers(request, content_type) | dict(answer.headers)
    if (
        len(body) > GZIP_FROM
        and "gzip" in request.headers.get("Accept-Encoding", "")
        and "Content-Encoding" not in headers
    ):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers["Content-Encoding"] = "gzip"
        headers["Vary"] = "Accept-Encoding"
    response = _Sliced(status=answer.code, body=body, headers=headers)
    for text in answer.warnings:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


class _Sliced(web.Response):
    """A response whose body is written in slices with a turn for everybody else between them."""

    async def write_eof(self, data: bytes = b"") -> None:
        body = self.body
        if not isinstance(body, bytes) or len(body) <= SLICE or self._payload_writer is None:
            await super().write_eof(data)
            return
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            await self._payload_writer.write(view[start : start + SLICE])
            await asyncio.sleep(0)
        self.body = None
        await super().write_eof(b"")


def _dressed(request: Request, answer: Answer) -> tuple[bytes, str]:
    """JSON as the client reads it best: as it is, indented, or as YAML."""
    if answer.content_type != JSON or "Content-Encoding" in answer.headers or not answer.body:
        return answer.body, answer.content_type
    if accept.wants_yaml(request.headers.get("Accept", "")):
        text = yaml.dump(orjson.loads(answer.body), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        return text.encode(), "application/yaml"
    pretty = request.query.get("pretty")
    if pretty in ("1", "true") or (pretty is None and request.user_agent.startswith(_PRETTY_AGENTS)):
        return orjson.dumps(orjson.loads(answer.body), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), JSON
    return answer.body, JSON


_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


async def _stream(raw: web.BaseRequest, request: Request, stream: Stream) -> web.StreamResponse:
    response = web.StreamResponse(status=stream.code, headers=_headers(request, stream.content_type))
    if not stream.content_type:
        del response.headers["Content-Type"]
    for name, value in stream.headers:
        response.headers.add(name, value)
    if "Content-Length" not in response.headers and stream.code not in (204, 304):
        response.enable_chunked_encoding()
    await response.prepare(raw)
    try:
        async with aclosing(cast("Any", stream.chunks)) as chunks:
            async for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), SLICE):
                    async with asyncio.timeout(STALL_SECONDS):
                        await response.write(view[start : start + SLICE])
    except TimeoutError:
        if raw.transport is not None:
            raw.transport.abort()
        return response
    except ConnectionError:
        return response  # the client is gone; there is nobody to tell
    await response.write_eof()
    return response


class _Taken(web.StreamResponse):
    """Stands for a response that was written by hand."""

    async def prepare(self, _request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        return None


class _RawConnection:
    """`exchange.Duplex` over an upgraded connection; also the parser that aiohttp feeds the client's bytes to."""

    def __init__(self, transport: asyncio.Transport, protocol: RequestHandler) -> None:
        self._transport = transport
        self._protocol = protocol
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._unread = 0
        self._ended = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._pieces.put_nowait(bytes(data))
        self._unread += len(data)
        if self._unread > UNREAD_BYTES:
            self._transport.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        self._pieces.put_nowait(b"")

    def set_exception(self, *_: object) -> None:
        self.feed_eof()

    async def read(self) -> bytes:
        if self._ended:
            return b""
        piece = await self._pieces.get()
        self._ended = not piece
        before, self._unread = self._unread, self._unread - len(piece)
        if before > UNREAD_BYTES >= self._unread:
            self._transport.resume_reading()
        return piece

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._protocol._drain_helper()


async def _takeover(raw: web.BaseRequest, takeover: Takeover) -> web.StreamResponse:
    transport = raw.transport
    taken = _Taken(status=101)
    taken.force_close()
    if transport is None:
        return taken
    connection = _RawConnection(transport, raw.protocol)
    raw.protocol.set_parser(cast("Any", connection))
    try:
        await takeover.run(connection)
    except* ConnectionError:
        pass
    finally:
        transport.close()
    return taken


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    from kube.serving import server_tls

    for flag, value in (
        ("--tls-cert-file", certificate),
        ("--tls-private-key-file", key),
        ("--client-ca-file", client_ca),
    ):
        if not value:
            raise UsageError(f"{flag} is required: the API is served over TLS to holders of client certificates")
    return server_tls(certificate, key, client_ca)


@asynccontextmanager
async def listening(
    server: Server, host: str, port: int, tls: ssl.SSLContext, closing: Callable[[], None]
) -> AsyncIterator[int]:
    """Serves while the context is open; on exit stops accepting, calls `closing` (which ends the watches) and waits for
    what is running. Yields the port; raises UsageError naming the address when it is taken."""
    loop = asyncio.get_running_loop()

    def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY + 1)

    low = web.Server(server.handle, request_factory=request, handler_cancellation=True, **_PROTOCOL)
    runner = web.ServerRunner(low, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port, ssl_context=tls, shutdown_timeout=SHUTDOWN_SECONDS, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            where = f"{host or '*'}:{port}"
            raise UsageError(
                f"cannot listen on {where} ({error.strerror or error}); set --bind-address and --secure-port to a free one"
            ) from error
        yield runner.addresses[0][1]
    finally:
        closing()
        await runner.cleanup()


_PROTOCOL: Final[Mapping[str, Any]] = {"keepalive_timeout": 90.0, "tcp_keepalive": True, "access_log": None}
