"""SPDY/3.1 on the wire: bytes to frames and back, no sockets (draft-mbelshe-httpbis-spdy-00, section 2).

    control  |1| version 3 (15) | type (16) |  flags (8) | length (24) |  payload
    data     |0| stream (31)                |  flags (8) | length (24) |  payload

Headers travel as a zlib stream that lasts as long as the connection, one a direction, begun with a dictionary that both
sides know; so header frames must be coded in the order in which they are sent. Names are lower case on the wire; several
values of a name are one value, joined by NUL.

A data frame is handed on in the pieces in which it arrives, only the last of which carries the frame's FIN: a frame may be
16 MiB long and need not be held.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

Headers = tuple[tuple[str, str], ...]

VERSION: Final = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN, UNIDIRECTIONAL = 0x01, 0x02
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6

LONGEST_CONTROL: Final = 1 << 16
LONGEST_HEADERS: Final = 1 << 18  # inflated
_CONTROL: Final = struct.Struct(">HHI")
_DATA: Final = struct.Struct(">II")
_WORD: Final = struct.Struct(">I")
_PAIR: Final = struct.Struct(">II")
_ID: Final = 0x7FFFFFFF

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length content-location "
    "content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match "
    "if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range "
    "referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get "
    "status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = (
    b"".join(_WORD.pack(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TAIL.encode()
)


class MalformedFrame(Exception):
    """What came is not SPDY/3.1; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class SynStream:
    stream: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False
    associated: int = 0


@dataclass(frozen=True, slots=True)
class SynReply:
    stream: int
    headers: Headers = ()
    fin: bool = False


@dataclass(frozen=True, slots=True)
class MoreHeaders:
    stream: int
    headers: Headers
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    """(id, value) pairs."""

    entries: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """The client's are odd, the server's even; the answer to one is the same frame."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    stream: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | MoreHeaders | Reset | Settings | Ping | GoAway | WindowUpdate | Data


class Encoder:
    def __init__(self) -> None:
        self._deflate = zlib.compressobj(level=6, zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        match frame:
            case Data(stream, data, fin):
                return _DATA.pack(stream, (FIN if fin else 0) << 24 | len(data)) + data
            case SynStream(stream, headers, fin, unidirectional, associated):
                flags = (FIN if fin else 0) | (UNIDIRECTIONAL if unidirectional else 0)
                block = _PAIR.pack(stream, associated) + b"\0\0" + self._headers(headers)
                return _control(SYN_STREAM, flags, block)
            case SynReply(stream, headers, fin):
                return _control(SYN_REPLY, FIN if fin else 0, _WORD.pack(stream) + self._headers(headers))
            case MoreHeaders(stream, headers, fin):
                return _control(HEADERS, FIN if fin else 0, _WORD.pack(stream) + self._headers(headers))
            case Reset(stream, status):
                return _control(RST_STREAM, 0, _PAIR.pack(stream, status))
            case Settings(entries):
                return _control(SETTINGS, 0, _WORD.pack(len(entries)) + b"".join(_PAIR.pack(*one) for one in entries))
            case Ping(identity):
                return _control(PING, 0, _WORD.pack(identity))
            case GoAway(last, status):
                return _control(GOAWAY, 0, _PAIR.pack(last, status))
            case WindowUpdate(stream, delta):
                return _control(WINDOW_UPDATE, 0, _PAIR.pack(stream, delta))

    def _headers(self, headers: Headers) -> bytes:
        joined: dict[str, str] = {}
        for name, value in headers:
            key = name.lower()
            joined[key] = f"{joined[key]}\0{value}" if key in joined else value
        parts = [_WORD.pack(len(joined))]
        for name, value in joined.items():
            for text in (name.encode("latin-1", "replace"), value.encode()):
                parts += [_WORD.pack(len(text)), text]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _control(kind: int, flags: int, payload: bytes) -> bytes:
    return _CONTROL.pack(0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload


class Decoder:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()
        self._stream = 0  # of the data frame that is under way,
        self._left = 0  # how much of it is still to come,
        self._fin = False  # and whether it is the stream's last

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises MalformedFrame. Exhaust it before feeding more."""
        self._buffer += data
        while True:
            if self._left:
                if not self._buffer:
                    return
                yield self._piece()
                continue
            if len(self._buffer) < 8:
                return
            first, second = _PAIR.unpack_from(self._buffer)
            length, flags = second & 0xFFFFFF, second >> 24
            if not first & 0x80000000:
                del self._buffer[:8]
                self._stream, self._left, self._fin = first & _ID, length, bool(flags & FIN)
                if not self._stream:
                    raise MalformedFrame("a data frame of stream 0")
                if not length:
                    yield Data(self._stream, b"", self._fin)
                continue
            if length > LONGEST_CONTROL:
                raise MalformedFrame(f"a control frame of {length} bytes")
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
            if version != VERSION:
                raise MalformedFrame(f"a control frame of version {version}, not {VERSION}")
            try:
                frame = self._frame(kind, flags, payload)
            except struct.error as error:
                raise MalformedFrame(f"a frame of type {kind} that is too short: {error}") from error
            if frame is not None:
                yield frame

    def _piece(self) -> Data:
        size = min(self._left, len(self._buffer))
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._left -= size
        return Data(self._stream, piece, self._fin and not self._left)

    def _frame(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        """None for a type that is not known: receivers ignore those (section 2.2.1)."""
        fin = bool(flags & FIN)
        match kind:
            case 1:
                stream, associated = _PAIR.unpack_from(payload)
                headers = self._headers(payload[10:])
                return SynStream(stream & _ID, headers, fin, bool(flags & UNIDIRECTIONAL), associated & _ID)
            case 2:
                return SynReply(_WORD.unpack_from(payload)[0] & _ID, self._headers(payload[4:]), fin)
            case 8:
                return MoreHeaders(_WORD.unpack_from(payload)[0] & _ID, self._headers(payload[4:]), fin)
            case 3:
                stream, status = _PAIR.unpack_from(payload)
                return Reset(stream & _ID, status)
            case 4:
                count = _WORD.unpack_from(payload)[0]
                if count > len(payload) // 8:
                    raise MalformedFrame(f"{count} settings in {len(payload)} bytes")
                pairs = (_PAIR.unpack_from(payload, 4 + 8 * index) for index in range(count))
                return Settings(tuple((identity & 0xFFFFFF, value) for identity, value in pairs))
            case 6:
                return Ping(_WORD.unpack_from(payload)[0])
            case 7:
                last, status = _PAIR.unpack_from(payload)
                return GoAway(last & _ID, status)
            case 9:
                stream, delta = _PAIR.unpack_from(payload)
                return WindowUpdate(stream & _ID, delta & _ID)
            case _:
                return None

    def _headers(self, block: bytes) -> Headers:
        try:
            raw = self._inflate.decompress(block, LONGEST_HEADERS)
        except zlib.error as error:
            raise MalformedFrame(f"headers: {error}") from error
        if self._inflate.unconsumed_tail:
            raise MalformedFrame(f"headers of more than {LONGEST_HEADERS} bytes")
        count, at = _WORD.unpack_from(raw)[0], 4
        found: list[tuple[str, str]] = []
        for _ in range(count):
            name, at = _text(raw, at)
            values, at = _text(raw, at)
            found += [(name.lower(), value) for value in values.split("\0")]
        return tuple(found)


def _text(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + _WORD.unpack_from(raw, at)[0]
    if end > len(raw):
        raise MalformedFrame("a header that is longer than its frame")
    return raw[at + 4 : end].decode(errors="replace"), end
