"""A gRPC client: one question with one answer, or with answers without end, over one HTTP/2 connection.

By hand, because the whole stack of libraries for it took 0.8 ms of processor for each call to the runtime, which was a third of
what the kubelet used to start a pod. What is here is what such a client needs of RFC 9113 and no more: no push, no priorities,
headers without a dynamic table (kubelet.hpack), both flow controls, PING, GOAWAY, RST_STREAM. No TLS and no compression.

    Channel   dials at the first call and again after a loss; a connection that the server bids farewell is left to its last calls
    _Link     one connection: frames in and out
    _Stream   one call: what is still to be sent, what has come, how it ended
"""

import asyncio
import enum
import struct
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

from kubelet.hpack import HeaderError, decoded, literal

LIMIT = 16 * 1024 * 1024  # bytes of an answer, as upstream has it
_WINDOW = (1 << 31) - 1
_REFILL = 1 << 20  # bytes after which the server may send as many more
_FRAME = 1 << 20  # the longest frame we take
_LAST = 1 << 30  # streams of a connection
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_TABLE, _PUSH, _STREAMS, _INITIAL, _LONGEST = 1, 2, 3, 4, 5
_CANCEL, _REFUSED = 8, 7


class Status(enum.IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GRPCError(Exception):
    """What the server answered instead."""

    def __init__(self, status: Status, message: str = "") -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Lost(OSError):
    """The connection, before the answer was there."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


@dataclass(slots=True, eq=False)
class _Stream:
    number: int
    window: int
    left: bytes  # of the question
    came: bytearray = field(default_factory=bytearray)
    messages: deque[bytes] = field(default_factory=deque)
    unfilled: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    over: bool = False
    error: Exception | None = None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, error: Exception | None = None) -> None:
        if not self.over:
            self.over, self.error = True, error
            self.stirred.set()

    def take(self, data: bytes) -> None:
        """Part of the answer: messages, each with a byte of flags and its length before it."""
        self.came += data
        while len(self.came) >= 5:
            packed, length = self.came[0], int.from_bytes(self.came[1:5], "big")
            if packed or length > LIMIT:
                why = "compressed" if packed else f"larger than {LIMIT} bytes: {length}"
                raise GRPCError(Status.RESOURCE_EXHAUSTED, f"received message {why}")
            if len(self.came) < 5 + length:
                return
            self.messages.append(bytes(self.came[5 : 5 + length]))
            del self.came[: 5 + length]
            self.stirred.set()

    def verdict(self) -> Exception | None:
        """Of headers and trailers."""
        said = self.headers.get("grpc-status", "")
        if said == "0":
            return None
        message = unquote(self.headers.get("grpc-message", ""))
        if said.isascii() and said.isdigit():
            known = len(said) <= 2 and int(said) <= 16
            return GRPCError(Status(int(said)) if known else Status.UNKNOWN, message)
        http = self.headers.get(":status", "")
        codes = {"400": Status.INTERNAL, "401": Status.UNAUTHENTICATED, "403": Status.PERMISSION_DENIED}
        codes |= {"404": Status.UNIMPLEMENTED, **dict.fromkeys(("429", "502", "503", "504"), Status.UNAVAILABLE)}
        return GRPCError(codes.get(http, Status.UNKNOWN), f"unexpected HTTP status code received from server: {http}")


class _Link(asyncio.Protocol):
    def __init__(self, authority: str, agent: str) -> None:
        self._fixed = b"\x83\x86" + b"".join(  # POST, http
            literal(name, value)
            for name, value in (
                (":authority", authority), ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", agent),
            )
        )  # fmt: skip
        self._paths: dict[str, bytes] = {}
        self._transport: asyncio.Transport | None = None
        self._came = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._window = self._initial = 65_535
        self._longest, self._most = 16_384, _LAST
        self._unfilled = 0
        self._block: tuple[int, int, bytearray] | None = None  # headers that have not all come
        self._room = asyncio.Event()
        self._lost: Exception | None = None
        self.leaving = False

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        ours = ((_TABLE, 0), (_PUSH, 0), (_INITIAL, _WINDOW), (_LONGEST, _FRAME))
        settings = b"".join(struct.pack(">HI", *one) for one in ours)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _update(0, _WINDOW - 65_535))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or Lost("the server closed it"))

    def _fail(self, error: Exception) -> None:
        self._lost, self.leaving = error, True
        for stream in list(self._streams.values()):
            stream.end(error if isinstance(error, OSError) else Lost(str(error)))
        self._streams.clear()
        self._room.set()
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """No new calls; it closes with the last one."""
        self.leaving = True
        if not self._streams and self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        self._fail(Lost("closed"))

    def data_received(self, data: bytes) -> None:
        self._came += data
        came, at = self._came, 0
        try:
            while len(came) - at >= 9:
                length, kind = int.from_bytes(came[at : at + 3], "big"), came[at + 3]
                if length > _FRAME:
                    raise Lost(f"a frame of {length} bytes: is this gRPC?")
                if len(came) - at < 9 + length:
                    break
                number = int.from_bytes(came[at + 5 : at + 9], "big") & _WINDOW
                self._frame(kind, came[at + 4], number, bytes(came[at + 9 : at + 9 + length]))
                at += 9 + length
        except (HeaderError, struct.error, IndexError, OSError) as error:
            self._fail(Lost(f"the server speaks no HTTP/2 that we know: {error}"))
        del came[:at]

    # --- frames -------------------------------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        match kind:
            case 0:
                self._data(flags, number, payload)
            case 1:
                self._head(number, flags & _END_STREAM, flags & _END_HEADERS, _bare(flags, payload))
            case 9 if self._block is not None:
                whole = bytes(self._block[2]) + payload
                self._head(self._block[0], self._block[1], flags & _END_HEADERS, whole)
            case 3:
                (code,) = struct.unpack(">I", payload)
                status = (
                    Status.UNAVAILABLE if code == _REFUSED else Status.CANCELLED if code == _CANCEL else Status.INTERNAL
                )
                self._ended(number, GRPCError(status, f"stream terminated by RST_STREAM with error code: {code}"))
            case 4 if not flags & _ACK:
                self._settings(payload)
            case 6 if not flags & _ACK:
                self._write(_frame(_PING, _ACK, 0, payload))
            case 7:
                last, code = struct.unpack(">II", payload[:8])
                for stream in list(self._streams.values()):
                    if stream.number > last & _WINDOW:
                        why = payload[8:].decode(errors="replace") or f"GOAWAY {code}"
                        self._ended(stream.number, GRPCError(Status.UNAVAILABLE, f"the server goes away: {why}"))
                self.leave()
            case 8:
                (more,) = struct.unpack(">I", payload)
                if number == 0:
                    self._window += more & _WINDOW
                elif number in self._streams:
                    self._streams[number].window += more & _WINDOW
                self._flush()
            case _:
                pass  # priorities, acknowledgements and what is newer than we are

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._unfilled += len(payload)
        more = b""
        if self._unfilled >= _REFILL:
            more, self._unfilled = _update(0, self._unfilled), 0
        stream = self._streams.get(number)
        if stream is not None:
            stream.unfilled += len(payload)
            if stream.unfilled >= _REFILL and not flags & _END_STREAM:
                more, stream.unfilled = more + _update(number, stream.unfilled), 0
            try:
                stream.take(payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload)
            except GRPCError as error:
                self.reset(stream, error)
            if flags & _END_STREAM:
                self._ended(number, stream.verdict())
        if more:
            self._write(more)

    def _head(self, number: int, last: int, whole: int, block: bytes) -> None:
        if not whole:
            if len(block) > _FRAME:
                raise Lost("headers without end")
            self._block = number, last, bytearray(block)
            return
        self._block = None
        found, stream = decoded(block), self._streams.get(number)
        if stream is not None:
            stream.headers.update(found)
            if last:
                self._ended(number, stream.verdict())

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = struct.unpack(">HI", payload[at : at + 6])
            if name == _STREAMS:
                self._most = value
                self._room.set()
            elif name == _LONGEST:
                self._longest = value
            elif name == _INITIAL:
                for stream in self._streams.values():
                    stream.window += value - self._initial
                self._initial = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))
        self._flush()

    def _ended(self, number: int, error: Exception | None) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.end(error)
            self._room.set()
            if self.leaving:
                self.leave()

    # --- calls --------------------------------------------------------------------------------------------------------

    async def open(self, path: str, question: bytes, timeout: float | None) -> _Stream:
        while len(self._streams) >= self._most and not self.leaving:
            self._room.clear()
            await self._room.wait()
        if self.leaving or self._next > _LAST:
            self.leave()
            raise Lost(str(self._lost or "the server is going away"))
        number, self._next = self._next, self._next + 2
        if path not in self._paths:
            self._paths[path] = literal(":path", path)
        block = self._fixed[:2] + self._paths[path] + self._fixed[2:]
        if timeout:
            block += literal("grpc-timeout", f"{min(99_999_999, max(1, round(timeout * 1000)))}m")
        stream = _Stream(number, self._initial, b"\0" + struct.pack(">I", len(question)) + question)
        self._streams[number] = stream
        self._write(_frame(_HEADERS, _END_HEADERS, number, block) + self._more_of(stream))
        return stream

    def _more_of(self, stream: _Stream) -> bytes:
        """As much of a question as the server takes now."""
        out = b""
        while stream.left and (size := min(len(stream.left), self._window, stream.window, self._longest)) > 0:
            piece, stream.left = stream.left[:size], stream.left[size:]
            self._window -= size
            stream.window -= size
            out += _frame(_DATA, 0 if stream.left else _END_STREAM, stream.number, piece)
        return out

    def _flush(self) -> None:
        self._write(b"".join(self._more_of(stream) for stream in self._streams.values() if stream.left))

    def reset(self, stream: _Stream, error: Exception | None = None) -> None:
        """Nobody waits for its answer any more."""
        if stream.number in self._streams:
            self._write(_frame(_RESET, 0, stream.number, struct.pack(">I", _CANCEL)))
            self._ended(stream.number, error)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and self._lost is None:
            self._transport.write(data)


def _update(number: int, more: int) -> bytes:
    return _frame(_UPDATE, 0, number, struct.pack(">I", more))


def _bare(flags: int, payload: bytes) -> bytes:
    """Headers without padding and priority."""
    start, end = 0, len(payload)
    if flags & _PADDED:
        start, end = 1, end - payload[0]
    return payload[start + (5 if flags & _PRIORITY else 0) : end]


class Channel:
    """To a unix socket (`path`), or to a host and port."""

    def __init__(self, host: str = "", port: int = 0, *, path: str = "", agent: str = "wherry") -> None:
        self._where = host, port, path
        self._agent = agent
        self._link: _Link | None = None
        self._dialing = asyncio.Lock()

    async def connect(self) -> None:
        """Raises OSError."""
        await self._linked()

    async def _linked(self) -> _Link:
        async with self._dialing:
            if self._link is None or self._link.leaving:
                host, port, path = self._where
                loop = asyncio.get_running_loop()
                authority = "localhost" if path else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                link = _Link(authority, self._agent)
                if path:
                    await loop.create_unix_connection(lambda: link, path)
                else:
                    await loop.create_connection(lambda: link, host, port)
                self._link = link
            return self._link

    async def ask(self, path: str, question: bytes, *, timeout: float | None = None) -> bytes:
        """The answer. Raises GRPCError, Lost and other OSErrors, and TimeoutError."""
        async with asyncio.timeout(timeout):
            link = await self._linked()
            stream = await link.open(path, question, timeout)
            try:
                while not stream.over:
                    stream.stirred.clear()
                    await stream.stirred.wait()
            finally:
                link.reset(stream)
        if stream.error is not None:
            raise stream.error
        if not stream.messages:
            raise GRPCError(Status.INTERNAL, "the server gave no answer")
        return stream.messages[0]

    async def follow(self, path: str, question: bytes) -> AsyncIterator[bytes]:
        """Answers as they come. Raises GRPCError, Lost and other OSErrors."""
        link = await self._linked()
        stream = await link.open(path, question, None)
        try:
            while True:
                while stream.messages:
                    yield stream.messages.popleft()
                if stream.over:
                    break
                stream.stirred.clear()
                await stream.stirred.wait()
        finally:
            link.reset(stream)
        if stream.error is not None:
            raise stream.error

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
