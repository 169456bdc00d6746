"""Replies as bytes on the wire.

An answer's head is put together from pieces that are made once. What is big leaves in slices, with a turn for everybody else
between them, and is compressed in a thread, slice by slice, so that one LIST of thousands of pods stalls neither leases nor
watches. People (curl, a browser, ?pretty) get their JSON indented, and who asks for YAML gets YAML.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast

import orjson

from apiserver.http import accept, as_yaml, warnings
from apiserver.http.connection import Connection
from apiserver.http.exchange import JSON, Answer, Feed, Request, Stream, framed, unframed

GZIP_FROM: Final = 128 << 10
SLICE: Final = 256 << 10
LAST_CHUNK: Final = b"0\r\n\r\n"
_PRETTY_AGENTS: Final = ("curl", "Wget", "Mozilla")
_WITHOUT_BODY: Final = frozenset({204, 304})


class Exchange:
    """One request's way back: what it said that matters to the bytes of its answer. `last`: close the connection behind it."""

    __slots__ = ("connection", "last", "request", "version")

    def __init__(self, connection: Connection, request: Request, version: str, *, last: bool) -> None:
        self.connection = connection
        self.request = request
        self.version = version
        self.last = last

    def head(self, code: int, content_type: str) -> list[bytes]:
        """Everything up to where more headers may follow; the empty line is the caller's."""
        head = [
            _status(code, content_type),
            b"Audit-Id: ",
            self.request.audit_id.encode("latin-1", "replace"),
            _dated(),
        ]
        if self.last:
            head.append(b"Connection: close\r\n")
        elif self.version == "1.0":
            head.append(b"Connection: keep-alive\r\n")
        return head


@lru_cache(maxsize=256)
def _status(code: int, content_type: str) -> bytes:
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = "Unknown"
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {code} {phrase}\r\nCache-Control: no-cache, private\r\n{kind}".encode("latin-1")


_date: tuple[int, bytes] = (0, b"")


def _dated() -> bytes:
    """The header Date, made once a second."""
    global _date  # noqa: PLW0603
    now = int(time.time())
    if _date[0] != now:
        _date = now, f"\r\nDate: {formatdate(now, usegmt=True)}\r\n".encode()
    return _date[1]


def _header(name: str, value: str) -> bytes:
    """What others put into a header can not end it."""
    text = f"{name}: {value}".replace("\r", " ").replace("\n", " ")
    return text.encode("latin-1", "replace") + b"\r\n"


async def send_answer(exchange: Exchange, answer: Answer) -> int:
    """The body's length as it was sent."""
    request = exchange.request
    body, content_type = await _dressed(request, answer)
    head = exchange.head(answer.code, content_type)
    if "Cache-Control" in answer.headers:
        head[0] = head[0].replace(b"Cache-Control: no-cache, private\r\n", b"")
    if len(body) > GZIP_FROM and takes_gzip(request) and "Content-Encoding" not in answer.headers:
        body = await asyncio.to_thread(_gzipped, body)
        head.append(b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n")
    head += [_header(name, value) for name, value in answer.headers.items()]
    if answer.warnings:
        head += warnings.headers(answer.warnings)
    if answer.code not in _WITHOUT_BODY:
        head.append(b"Content-Length: %d\r\n\r\n" % len(body))
    else:
        body = b""
        head.append(b"\r\n")
    if request.method == "HEAD":
        body = b""
    await _send(exchange.connection, head, body)
    return len(body)


async def _send(connection: Connection, head: list[bytes], body: bytes) -> None:
    if len(body) <= SLICE:
        head.append(body)
        connection.write(b"".join(head))
        await connection.drained()
        return
    connection.write(b"".join(head))
    await _slices(connection, body)


async def _slices(connection: Connection, body: bytes) -> None:
    view = memoryview(body)
    for start in range(0, len(view), SLICE):
        connection.write(view[start : start + SLICE])
        await connection.drained()
        await asyncio.sleep(0)


def _gzipped(body: bytes) -> bytes:
    return zlib.compress(body, 1, wbits=31)


def takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


async def _dressed(request: Request, answer: Answer) -> tuple[bytes, str]:
    """JSON as the client reads it best: as it is, indented, or as YAML."""
    if answer.content_type != JSON or "Content-Encoding" in answer.headers or not answer.body:
        return answer.body, answer.content_type
    if accept.wants_yaml(request.headers.get("Accept", "")):
        return await as_yaml.written(answer.body), as_yaml.CONTENT_TYPE
    if wants_indented(request):
        if len(answer.body) <= SLICE:
            return _indented(answer.body), JSON
        return await asyncio.to_thread(_indented, answer.body), JSON
    return answer.body, JSON


def _indented(body: bytes) -> bytes:
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def wants_indented(request: Request) -> bool:
    pretty = request.query.get("pretty")
    return pretty in ("1", "true") or (pretty is None and request.user_agent.startswith(_PRETTY_AGENTS))


async def send_stream(exchange: Exchange, stream: Stream) -> int:
    request, connection = exchange.request, exchange.connection
    sized = any(name.lower() == "content-length" for name, _ in stream.headers)
    encoded = any(name.lower() == "content-encoding" for name, _ in stream.headers)
    bodiless = (
        stream.code in _WITHOUT_BODY
    )  # not even a last chunk: the client would take it for the next answer's head
    chunked = not sized and not bodiless and exchange.version != "1.0"
    if not sized and not chunked and not bodiless:
        exchange.last = True
    head = exchange.head(stream.code, stream.content_type)
    head += [_header(name, value) for name, value in stream.headers]
    compressor = None
    if bodiless:
        pass
    elif stream.whole and not encoded and takes_gzip(request):
        compressor = zlib.compressobj(1, wbits=31)
        head.append(b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n")
    head.append(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    connection.write(b"".join(head))
    sent = 0
    async with aclosing(cast("Any", stream.chunks)) as chunks:
        if request.method == "HEAD" or bodiless:
            await connection.drained()
            return 0
        async for chunk in _compressed(compressor, chunks) if compressor else chunks:
            sent += len(chunk)
            await _send_chunk(connection, chunk, chunked=chunked)
    if chunked:
        connection.write(LAST_CHUNK)
    await connection.drained()
    return sent


async def _compressed(compressor: Any, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if piece := await asyncio.to_thread(compressor.compress, chunk):
            yield piece
    yield compressor.flush()


async def _send_chunk(connection: Connection, chunk: bytes, *, chunked: bool) -> None:
    if not chunk:
        return  # an empty chunk would end the answer
    if len(chunk) <= SLICE:
        connection.write(framed(chunk) if chunked else chunk)
        await connection.drained()
        return
    if chunked:
        connection.write(b"%x\r\n" % len(chunk))
    await _slices(connection, chunk)
    if chunked:
        connection.write(b"\r\n")


class _Unchunked:
    """`exchange.Outlet` to a client of HTTP/1.0."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def unsent(self) -> int:
        return self._connection.unsent

    def write(self, piece: bytes) -> None:
        self._connection.write(unframed(piece))

    async def drained(self) -> None:
        await self._connection.drained()


async def send_feed(exchange: Exchange, feed: Feed) -> None:
    connection = exchange.connection
    chunked = exchange.version != "1.0"
    if not chunked:
        exchange.last = True
    head = exchange.head(feed.code, feed.content_type)
    head.append(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    connection.write(b"".join(head))
    if exchange.request.method == "HEAD":
        return
    await feed.run(connection if chunked else _Unchunked(connection))
    if chunked:
        connection.write(LAST_CHUNK)
