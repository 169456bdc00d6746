"""Streams over one connection, at either end of it.

    wire ──read──> decoder ──> streams' queues ──> readers          one task reads,
    wire <─write── buffer  <── encoder         <── writers          one task writes, and the caller's body runs beside them

What peers of Kubernetes do (moby/spdystream) and so do we: no flow control by windows (they neither send WINDOW_UPDATE nor
heed it), so a reader who is slow holds up the connection once UNREAD bytes of its stream wait; a stream is answered as soon
as it is opened; FIN closes one direction; GOAWAY announces the end, the connection's end is the end.

Answers that the reading task itself gives (replies, pings) go to the buffer without waiting: two ends that both wait for
room to answer would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from kube.spdy.frames import (
    CANCEL,
    INVALID_STREAM,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Headers,
    MalformedFrame,
    Ping,
    Reset,
    SynReply,
    SynStream,
)

UNREAD: Final = 1 << 20  # bytes of one stream that may wait for its reader
UNSENT: Final = 1 << 18  # bytes that may wait for the wire before writers do
ABSURD: Final = 1 << 20  # of unsent answers: the peer asks and never reads
STREAMS: Final = 1000  # open at a time; and not yet accepted, be they reset since
PIECE: Final = 1 << 15
KEEPALIVE: Final = 30.0  # seconds; a write is what finds out that a silent peer is gone
REPLY_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 3.0  # for the peer to close first: bytes it still sends would reset what it has not yet read


class Wire(Protocol):
    """A connection of bytes."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Raises OSError when the peer is gone."""


class StreamRefused(Exception):
    """The peer did not take the stream."""


class Stream:
    """One of a session's; made by the session. Reading and writing end independently."""

    def __init__(self, session: Session, identity: int, headers: Headers) -> None:
        self.id = identity
        self.headers = dict(headers)
        self.closed_by_us = False
        self.replied = asyncio.Event()
        self.was_reset = False
        self._session = session
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._ended = False
        self._unwanted = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def read(self) -> bytes:
        """The next bytes; empty when the peer has closed its side, reset the stream, or is gone."""
        while not self._pieces:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        piece = self._pieces.popleft()
        self._unread -= len(piece)
        if self._unread <= UNREAD:
            self._room.set()
        return piece

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when nobody takes it any more."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            if self.closed_by_us or self.was_reset:
                raise ConnectionResetError(f"stream {self.id} is closed")
            await self._session.send(Data(self.id, bytes(view[start : start + PIECE])))

    async def close(self) -> None:
        """No more from us."""
        if not self.closed_by_us and not self.was_reset:
            self.closed_by_us = True
            self._session.post(Data(self.id, b"", fin=True))
            self._session.forget(self)

    def reset(self, status: int = CANCEL) -> None:
        if not self.was_reset:
            self._session.post(Reset(self.id, status))
            self.broken()

    def discard(self) -> None:
        """Nobody here reads any more: what still comes is dropped, and holds up no other stream."""
        self._unwanted = True
        self._pieces.clear()
        self._unread = 0
        self._room.set()

    # The session's side

    @property
    def over(self) -> bool:
        return self.was_reset or (self._ended and self.closed_by_us)

    def arrived(self, data: bytes, fin: bool) -> None:
        if data and not self._ended and not self._unwanted:
            self._pieces.append(data)
            self._unread += len(data)
            if self._unread > UNREAD:
                self._room.clear()
        if fin:
            self._ended = True
            self._room.set()
        self._arrived.set()

    async def room(self) -> None:
        await self._room.wait()

    def broken(self) -> None:
        """Reset by either side, or the connection is gone; what has arrived may still be read."""
        self.was_reset = True
        self.arrived(b"", fin=True)
        self.replied.set()
        self._session.forget(self)


class Session:
    """`admit` says whether the peer may open a stream with these headers (ours are always let through)."""

    def __init__(
        self, wire: Wire, *, server: bool, admit: Callable[[dict[str, str]], bool] = lambda _headers: True
    ) -> None:
        self._wire = wire
        self._server = server
        self._admit = admit
        self._encoder, self._decoder = Encoder(), Decoder()
        self._streams: dict[int, Stream] = {}
        self._next = 2 if server else 1
        self._highest = 0  # of the peer's
        self._incoming: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._buffer = bytearray()
        self._unsent, self._sent = asyncio.Event(), asyncio.Event()
        self._leaving = False
        self._farewell = asyncio.Event()  # the peer opens and asks nothing more
        self.ended = asyncio.Event()

    async def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Carry the streams while `body` runs; then say goodbye. A peer that goes ends every stream; `body` goes on."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for work in (self._read, self._write, self._keep_alive)]
            try:
                await body()
                await self._leave()
            finally:
                for task in tasks:
                    task.cancel()

    async def accept(self) -> Stream | None:
        """The next stream the peer opened; None when there will be no more."""
        return await self._incoming.get()

    async def open(self, headers: Headers) -> Stream:
        """Raises StreamRefused."""
        stream = Stream(self, self._next, headers)
        self._next += 2
        self._streams[stream.id] = stream
        await self.send(SynStream(stream.id, headers))
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await stream.replied.wait()
        except TimeoutError:
            stream.reset()
            raise StreamRefused(f"no answer to a stream within {REPLY_SECONDS:g} s") from None
        if stream.was_reset:
            raise StreamRefused("the peer refused the stream")
        return stream

    def post(self, frame: Frame) -> None:
        """Into the buffer, whatever it holds."""
        if not self.ended.is_set():
            self._buffer += self._encoder.encode(frame)
            self._unsent.set()

    async def send(self, frame: Frame) -> None:
        """Into the buffer, when it has room. Raises ConnectionResetError."""
        while len(self._buffer) > UNSENT and not self.ended.is_set():
            self._sent.clear()
            await self._sent.wait()
        if self.ended.is_set():
            raise ConnectionResetError("the connection has ended")
        self.post(frame)

    def forget(self, stream: Stream) -> None:
        if stream.over:
            self._streams.pop(stream.id, None)

    # --- the three tasks ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            with contextlib.suppress(OSError, MalformedFrame):
                while data := await self._wire.read():
                    for frame in self._decoder.feed(data):
                        await self._took(frame)
        finally:
            self._end()

    async def _write(self) -> None:
        with contextlib.suppress(OSError):
            while not self.ended.is_set():
                await self._unsent.wait()
                self._unsent.clear()
                while self._buffer:
                    data = bytes(self._buffer)
                    self._buffer.clear()
                    await self._wire.write(data)
                    self._sent.set()
        self._end()

    async def _keep_alive(self) -> None:
        number = 2 if self._server else 1
        while not self.ended.is_set():
            await asyncio.sleep(KEEPALIVE)
            self.post(Ping(number))
            number += 2

    async def _took(self, frame: Frame) -> None:
        match frame:
            case Data(identity, data, fin):
                stream = self._streams.get(identity)
                if stream is None:
                    return  # of a stream that is over: its last bytes cross our FIN or RST
                if not self._leaving:
                    stream.arrived(data, fin)
                    await stream.room()
                self.forget(stream)
            case SynStream():
                self._opened(frame)
            case SynReply(identity, _, fin):
                if stream := self._streams.get(identity):
                    stream.replied.set()
                    stream.arrived(b"", fin)
            case Reset(identity, _):
                if stream := self._streams.get(identity):
                    stream.broken()
            case Ping(number) if number % 2 == (1 if self._server else 0):
                self._answer(frame)
            case GoAway():
                self._farewell.set()
                self._incoming.put_nowait(None)
            case _:
                pass  # windows, settings, our own pings: nothing follows from them

    def _answer(self, frame: Frame) -> None:
        if len(self._buffer) > ABSURD:
            raise MalformedFrame("a peer that asks for answers and does not read them")
        self.post(frame)

    def _opened(self, frame: SynStream) -> None:
        stream = Stream(self, frame.stream, frame.headers)
        if frame.stream % 2 != (1 if self._server else 0) or frame.stream <= self._highest:
            self._answer(Reset(frame.stream, PROTOCOL_ERROR if frame.stream else INVALID_STREAM))
            return
        self._highest = frame.stream
        full = len(self._streams) >= STREAMS or self._incoming.qsize() >= STREAMS
        if self._leaving or full or not self._admit(stream.headers):
            self._answer(Reset(frame.stream, REFUSED_STREAM))
            return
        self._streams[stream.id] = stream
        stream.arrived(b"", frame.fin)
        stream.closed_by_us = frame.unidirectional
        self._answer(SynReply(stream.id))
        self._incoming.put_nowait(stream)

    def abandon(self) -> None:
        """End every stream as if the peer had gone."""
        self._end()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        self._farewell.set()
        for stream in list(self._streams.values()):
            stream.broken()
        self._incoming.put_nowait(None)
        self._sent.set()
        self._unsent.set()

    async def _leave(self) -> None:
        """Everything that was written reaches the peer before the connection closes."""
        self._leaving = True
        for stream in list(self._streams.values()):
            await stream.close()
            stream.arrived(b"", fin=True)
        self.post(GoAway(self._highest))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._buffer and not self.ended.is_set():
                    self._sent.clear()
                    await self._sent.wait()
                if self._server:  # who asked closes first
                    await self._farewell.wait()
