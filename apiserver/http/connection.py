"""One client's connection: bytes to requests, requests one after the other to replies, replies to bytes.

httptools' parser calls us for each part it finds. A request is answered as soon as its head is there; its body may still be
coming (`bodies`). Requests that are sent ahead wait, a few of them, and then the socket does. One task a connection answers
them in order; when the client vanishes, the task is cancelled, and with it whatever was being done for that client.

Every wait for the client has an end: for a head, for more of a body, for somebody to read what we write. `overdue` is asked
about it by the server's clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
from multidict import CIMultiDict

from apiserver.authentication import User, user_of
from apiserver.errors import StatusError
from apiserver.http.bodies import Body
from apiserver.http.duplex import RawConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD: Final = (1 << 20) + 4096  # upstream's http.DefaultMaxHeaderBytes, and what Go adds to it
MAX_AHEAD: Final = 16  # requests sent before the answer to an earlier one
IDLE_SECONDS: Final = 90.0
HEAD_SECONDS: Final = 32.0
BODY_SECONDS: Final = 60.0  # without a byte of a body that we wait for
STALL_SECONDS: Final = 60.0  # without taking a byte of what we have for it
UNSENT: Final = 512 << 10  # bytes on their way out before a writer has to wait


class Incoming:
    """A request's head, and its body if it has one. `refusal`: it is no HTTP, or too much of it; nothing follows it."""

    __slots__ = ("body", "expects", "headers", "keep_alive", "method", "refusal", "target", "upgrade", "version")

    def __init__(self, refusal: StatusError | None = None) -> None:
        self.refusal = refusal
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.body: Body | None = None
        self.keep_alive = False
        self.upgrade = False
        self.expects = False


Serve = Callable[["Connection", Incoming], Awaitable[bool]]
Refuse = Callable[[int, str], StatusError]


class Connection(asyncio.Protocol):
    """`serve` answers one request and says whether another may follow; `opened` and `closed` are told of us."""

    def __init__(
        self,
        serve: Serve,
        refuse: Refuse,
        opened: Callable[[Connection], asyncio.Task[None]],
        closed: Callable[[Connection], None],
    ) -> None:
        self._serve = serve
        self._refuse = refuse
        self._opened = opened
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._parser = cast("Any", httptools.HttpRequestParser)(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Incoming] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._reading: Incoming | None = None  # whose head or body is coming
        self._headers: list[tuple[str, str]] = []
        self._head = 0  # bytes so far of a head that is not complete; 0 outside of one
        self._framing = 0  # bytes of a body's framing since its last piece: trailers, which nobody here wants
        self._mute = False  # what comes is not looked at any more
        self._paused = False
        self._held: bytearray | None = None  # what came after an Upgrade whose answer is not known yet
        self._raw: RawConnection | None = None
        self._writable: asyncio.Future[None] | None = None
        self.deadline = self._loop.time() + HEAD_SECONDS
        self.user: User = user_of(None)
        self.source = ""
        self.current: Incoming | None = None
        self.lasting = False  # what is being answered lasts as long as the client likes

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT, low=UNSENT // 2)
        self.user = user_of(cast("Mapping[str, Any] | None", transport.get_extra_info("peercert")))
        self.source = str((transport.get_extra_info("peername") or ("",))[0])
        self._task = self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._reading is not None and self._reading.body is not None:
            self._reading.body.end(self._refuse(400, "the client is gone"))
        if self._raw is not None:
            self._raw.end()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        self._closed(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        self.deadline = self._loop.time() + STALL_SECONDS

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        self._rest()

    def data_received(self, data: bytes) -> None:
        if self._raw is not None:
            self._raw.feed(data)
        elif self._held is not None:
            self._held += data
            if len(self._held) > MAX_HEAD:
                self.pause()
        elif not self._mute:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._held = bytearray(data[upgrade.args[0] :])
            if self._waiting:
                self._waiting[-1].upgrade = True
            elif self.current is not None:
                self.current.upgrade = True
        except httptools.HttpParserError as error:
            self._broken(400, f"malformed HTTP: {error}")
        if self._head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._broken(431, f"the request's head is longer than {MAX_HEAD} bytes")
        elif self._reading is not None:
            self._framing += len(data)
            if self._framing > MAX_HEAD:
                self._broken(431, f"the request's trailers are longer than {MAX_HEAD} bytes")

    def _broken(self, code: int, why: str) -> None:
        """What follows cannot be told apart any more: the refusal is the last answer."""
        self._mute = True
        self._head = 0
        refusal = self._refuse(code, why)
        reading, self._reading = self._reading, None
        if reading is not None and reading.body is not None and not reading.body.complete:
            reading.keep_alive = False
            reading.body.end(refusal)
        else:
            self._arrived(Incoming(refusal))

    # the parser's events

    def on_message_begin(self) -> None:
        self._reading = Incoming()
        self._headers = []
        self._head = 1
        if not self._busy:
            self.deadline = self._loop.time() + HEAD_SECONDS

    def on_url(self, piece: bytes) -> None:
        if self._reading is not None:
            self._reading.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head:  # else a trailer
            self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        incoming = self._reading
        if incoming is None:
            return
        self._head = self._framing = 0
        parser = self._parser
        incoming.method = parser.get_method().decode("latin-1")
        incoming.version = parser.get_http_version()
        incoming.keep_alive = parser.should_keep_alive()
        headers = incoming.headers = CIMultiDict(self._headers)
        length = headers.get("Content-Length")
        if length is not None or "Transfer-Encoding" in headers:
            announced = int(length) if length is not None and length.isdigit() else 0
            if announced or length is None:
                incoming.body = Body(self, announced)
                incoming.expects = headers.get("Expect", "").lower() == "100-continue"
        self._arrived(incoming)

    def on_body(self, piece: bytes) -> None:
        incoming = self._reading
        if incoming is not None and incoming.body is not None:
            incoming.expects = False
            self._framing = 0
            incoming.body.feed(piece)
            self._rest()

    def on_message_complete(self) -> None:
        incoming, self._reading = self._reading, None
        if incoming is not None and incoming.body is not None:
            incoming.body.end()

    def _arrived(self, incoming: Incoming) -> None:
        self._waiting.append(incoming)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        if len(self._waiting) > MAX_AHEAD:
            self.pause()

    # the task

    async def run(self) -> None:
        """Answers request by request until the client or one of the answers ends the connection."""
        try:
            while True:
                while not self._waiting:
                    self._arrival = self._loop.create_future()
                    self.deadline = self._loop.time() + (HEAD_SECONDS if self._head else IDLE_SECONDS)
                    await self._arrival
                self.current = self._waiting.popleft()
                self._rest()
                if not await self._serve(self, self.current):
                    break
                self.current = None
                if len(self._waiting) <= MAX_AHEAD:
                    self.resume()
                if self._held is not None:
                    self._unheld()
        except ConnectionError:
            pass  # there is nobody to tell
        finally:
            self.current = None
            self.close()

    @property
    def _busy(self) -> bool:
        return self.current is not None

    @property
    def idle(self) -> bool:
        """Whether it could be closed and nobody would miss an answer."""
        return not self._busy and not self._waiting and not self._head

    def _rest(self) -> None:
        """The next deadline while a request is being answered: none, unless its body or its reader keeps us waiting."""
        reading = self._reading
        if self._writable is not None:
            self.deadline = self._loop.time() + STALL_SECONDS
        elif reading is not None and reading.body is not None and not reading.body.complete and not self._paused:
            self.deadline = self._loop.time() + BODY_SECONDS
        elif self._busy:
            self.deadline = float("inf")

    def overdue(self, now: float) -> bool:
        return now > self.deadline

    # what answers need

    def write(self, data: bytes | memoryview) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def drained(self) -> None:
        if self._writable is not None:
            await self._writable
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """After what was written has been sent; the clock sees to it that this has an end."""
        self._mute = True
        self.deadline = self._loop.time() + STALL_SECONDS
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def take_over(self) -> RawConnection:
        """From here on bytes are the answer's own affair, beginning with those that came behind the head."""
        self._raw = RawConnection(self)
        held, self._held = self._held, None
        if held:
            self._raw.feed(bytes(held))
        self.resume()
        return self._raw

    def _unheld(self) -> None:
        """The upgrade was not taken: the client goes on in HTTP."""
        held, self._held = self._held, None
        self.resume()
        if held:
            self._parse(bytes(held))

    # bodies.Source

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
            self._rest()

    def resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
            self._rest()

    def go_on(self) -> None:
        if self.current is not None and self.current.expects:
            self.current.expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
