"""The server: who is connected, and the one door between connections and the API.

A request becomes an `exchange.Request`, `dispatch` makes a reply of it, and the reply goes out (`writing`). This is the one
door at which an unforeseen exception becomes an answer (500 with a Status) and a traceback in the log.

The end, as upstream has it: while `delay` runs, /readyz fails and everything is served, so that load balancers look
elsewhere; then nobody new is let in, idle connections close, watches end with a clean last chunk, answers say
`Connection: close`, and what is running has `DRAIN_SECONDS` to finish.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from time import perf_counter
from typing import Final

from apiserver import errors
from apiserver.errors import StatusError
from apiserver.http import heads
from apiserver.http.connection import Connection, Incoming
from apiserver.http.exchange import Answer, Feed, Reply, Request, Stream, Takeover, error_answer
from apiserver.http.writing import Exchange, send_answer, send_feed, send_stream
from apiserver.store import StoreFailed, StoreLost
from apiserver.store.refusal import refused
from kube.errors import UsageError
from kube.tls import server_tls

DRAIN_SECONDS: Final = 60.0
CLOCK_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 << 20  # of a refused body, so that its sender reads the refusal
BACKLOG: Final = 1024

log = logging.getLogger(__name__)

Dispatch = Callable[[Request], Awaitable[Reply]]
Observe = Callable[[Request, int, float, int], None]
Lasting = Callable[[Request], AbstractContextManager[None]]


async def _no_body() -> bytes:
    return b""


async def _encoded() -> bytes:
    raise StatusError(415, "UnsupportedMediaType", "a compressed body is not served; send it without Content-Encoding")


def _is_encoded(incoming: Incoming) -> bool:
    encoding = incoming.headers.get("Content-Encoding")
    return encoding is not None and encoding.lower() not in ("", "identity")


async def _no_pieces() -> AsyncIterator[bytes]:
    return
    yield b""


class Server:
    """`observe` is told of each request: its code, the seconds until its answer was there, the bytes of its answer. What lasts
    as long as its client likes is done inside `lasting`."""

    def __init__(self, dispatch: Dispatch, observe: Observe, lasting: Lasting = lambda _: nullcontext()) -> None:
        self._lasting = lasting
        self._dispatch = dispatch
        self._observe = observe
        self._tasks: asyncio.TaskGroup | None = None
        self.connections: dict[Connection, asyncio.Task[None]] = {}
        self.ending = False

    def connection(self) -> Connection:
        return Connection(self._answer, _refusal, self._opened, self._closed)

    def _opened(self, connection: Connection) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self.connections[connection] = self._tasks.create_task(connection.run())
        return task

    def _closed(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    async def _answer(self, connection: Connection, incoming: Incoming) -> bool:
        """Answers one request; whether another may follow."""
        started = perf_counter()
        keep = incoming.keep_alive and not self.ending
        try:
            if incoming.refusal:
                raise incoming.refusal
            request = _request(connection, incoming)
        except StatusError as error:
            request = _malformed(connection, incoming)
            reply: Reply = error_answer(error)
            keep = keep and incoming.refusal is None
        else:
            reply = await self._replied(request)
        keep = keep and incoming.keep_alive  # its body may have turned out to be no HTTP
        exchange = Exchange(connection, request, incoming.version, last=not keep)
        body = incoming.body
        if body is not None and not body.complete:
            exchange.last = True
        try:
            await self._sent(exchange, reply, perf_counter() - started)
        except ConnectionError:
            raise
        except Exception:
            log.exception("%s %s, while it was being answered", request.method, request.path)
            connection.abort()
            return False
        if body is not None and not body.complete:
            await _lingered(incoming)
        return not exchange.last and not self.ending

    async def _sent(self, exchange: Exchange, reply: Reply, seconds: float) -> None:
        request, connection = exchange.request, exchange.connection
        match reply:
            case Answer():
                exchange.last = exchange.last or self.ending
                self._observe(request, reply.code, seconds, await send_answer(exchange, reply))
            case Stream():
                if reply.whole:
                    self._observe(request, reply.code, seconds, await send_stream(exchange, reply))
                    return
                self._observe(request, reply.code, seconds, 0)
                connection.lasting = True
                with self._lasting(request):
                    await send_stream(exchange, reply)
                connection.lasting = False
            case Feed():
                self._observe(request, reply.code, seconds, 0)
                with self._lasting(request):
                    await send_feed(exchange, reply)
            case Takeover():
                exchange.last = connection.lasting = True
                self._observe(request, 101, seconds, 0)
                with self._lasting(request):
                    await _taken(connection, reply)

    async def _replied(self, request: Request) -> Reply:
        try:
            return await self._dispatch(request)
        except StatusError as error:
            return error_answer(error)
        except (StoreFailed, StoreLost) as error:
            log.error("%s %s: the store: %s", request.method, request.path, error)
            return error_answer(refused(error))
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            return error_answer(errors.internal(f"{type(error).__name__}: {error}"))

    async def clock(self) -> None:
        """Closes connections whose client keeps us waiting."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            now = loop.time()
            for connection in [one for one in self.connections if one.overdue(now)]:
                connection.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Owns the connections' tasks; on exit those that are still there are aborted."""
        async with asyncio.TaskGroup() as self._tasks:
            clock = self._tasks.create_task(self.clock())
            try:
                yield
            finally:
                clock.cancel()
                for connection in tuple(self.connections):
                    connection.abort()
                for task in tuple(self.connections.values()):
                    task.cancel()

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Lets what is running finish; whatever is idle ends now."""
        self.ending = True
        for connection, task in tuple(self.connections.items()):
            if connection.idle:
                connection.close()
            elif connection.lasting:
                task.cancel()
        tasks = [task for connection, task in self.connections.items() if not connection.idle]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            if late:
                log.warning("%d requests did not finish within %g s; their connections are cut", len(late), seconds)


def _refusal(code: int, why: str) -> StatusError:
    reasons = {400: "BadRequest", 431: "RequestHeaderFieldsTooLarge"}
    return StatusError(code, reasons[code], why)


def _request(connection: Connection, incoming: Incoming) -> Request:
    """Raises 400."""
    path, raw_path, query = heads.split(incoming.target)
    headers, body = incoming.headers, incoming.body
    return Request(
        incoming.method,
        path,
        heads.query_of(query),
        query,
        headers,
        _no_body if body is None else _encoded if _is_encoded(incoming) else body.whole,
        connection.user,
        connection.source,
        heads.audit_id(headers.get("Audit-Id")),
        raw_path,
        _no_pieces if body is None else body.pieces,
    )


def _malformed(connection: Connection, incoming: Incoming) -> Request:
    """Stands for what was no request, where one is counted."""
    return Request(
        incoming.method,
        "",
        heads.query_of(""),
        "",
        incoming.headers,
        _no_body,
        connection.user,
        connection.source,
        heads.audit_id(None),
    )


async def _taken(connection: Connection, takeover: Takeover) -> None:
    try:
        await takeover.run(connection.take_over())
    except* ConnectionError:
        pass


async def _lingered(incoming: Incoming) -> None:
    """Reads on for a moment: closing at once would reset the connection before the client has read why."""
    if incoming.body is None or incoming.expects:
        return
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await incoming.body.discarded(LINGER_BYTES)
    except TimeoutError:
        pass


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
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
    server: Server,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    closing: Callable[[], None],
    *,
    ending: Callable[[], None] = lambda: None,
    delay: float = 0.0,
) -> AsyncIterator[int]:
    """Serves while the context is open. On exit calls `ending` (not ready any more), goes on for `delay` seconds, stops
    accepting, calls `closing` (which ends the watches) and waits for what is running. Yields the port; raises UsageError
    naming the address when it is taken."""
    try:
        sockets = await asyncio.get_running_loop().create_server(
            server.connection,
            host or None,
            port,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            backlog=BACKLOG,
            reuse_address=True,
            start_serving=False,
        )
    except OSError as error:
        where = f"{host or '*'}:{port}"
        raise UsageError(
            f"cannot listen on {where} ({error.strerror or error}); set --bind-address and --secure-port to a free one"
        ) from error
    async with server.running():
        await sockets.start_serving()
        try:
            yield sockets.sockets[0].getsockname()[1]
        finally:
            ending()
            await asyncio.sleep(delay)
            sockets.close()
            closing()
            await server.drain()
