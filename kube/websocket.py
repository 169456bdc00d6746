"""WebSocket frames (RFC 6455), bytes to messages and back, over any wire of bytes; for the end that has no HTTP library at hand.

    |FIN|0 0 0|opcode (4)|  |MASK|length (7), or 126 + 16 bits, or 127 + 64 bits|  [mask (4)]  payload

A client masks what it sends, a server does not. `Decoder` joins fragments; `Connection` answers pings and closes.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

LARGEST: Final = 16 << 20
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Opcode(enum.IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class MalformedMessage(Exception):
    """What came breaks the protocol; `code` is what a close frame says of it."""

    def __init__(self, message: str, code: int = 1002) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    opcode: Opcode
    data: bytes


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def masked(data: bytes, mask: bytes) -> bytes:
    """XOR with the mask, repeated: of one big number, which is what Python does fast."""
    size = len(data)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")


def encode(opcode: Opcode, data: bytes, mask: bytes = b"") -> bytes:
    size, bit = len(data), 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, bit | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, bit | 127, size)
    return head + mask + (masked(data, mask) if mask else data)


class Decoder:
    """Raises MalformedMessage; `from_client`: whether frames must be masked, or must not."""

    def __init__(self, *, from_client: bool, largest: int = LARGEST) -> None:
        self._from_client = from_client
        self._largest = largest
        self._buffer = bytearray()
        self._opcode: Opcode | None = None  # of the message whose fragments are being joined
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes."""
        self._buffer += data
        while (frame := self._frame()) is not None:
            final, opcode, payload = frame
            if opcode >= Opcode.CLOSE:
                yield Message(opcode, payload)
            elif (message := self._joined(final, opcode, payload)) is not None:
                yield message

    def _joined(self, final: bool, opcode: Opcode, payload: bytes) -> Message | None:
        if (opcode == Opcode.CONTINUATION) != (self._opcode is not None):
            raise MalformedMessage("a fragment of no message, or a message amid another's fragments")
        self._opcode = opcode if self._opcode is None else self._opcode
        self._parts.append(payload)
        self._size += len(payload)
        if self._size > self._largest:
            raise MalformedMessage(f"a message of more than {self._largest} bytes", 1009)
        if not final:
            return None
        whole = Message(self._opcode, b"".join(self._parts))
        self._opcode, self._parts, self._size = None, [], 0
        return whole

    def _frame(self) -> tuple[bool, Opcode, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        size, at = second & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            at += width
            if len(buffer) < at:
                return None
            size = int.from_bytes(buffer[2:at], "big")
        opcode = _opcode(first, size)
        if bool(second & 0x80) != self._from_client:
            raise MalformedMessage("a frame that is masked and may not be, or is not and must be")
        if size > self._largest:
            raise MalformedMessage(f"a message of more than {self._largest} bytes", 1009)
        mask = bytes(buffer[at : at + 4]) if self._from_client else b""
        at += 4 if self._from_client else 0
        if len(buffer) < at + size:
            return None
        payload = bytes(memoryview(buffer)[at : at + size])
        del buffer[: at + size]
        return bool(first & 0x80), opcode, masked(payload, mask) if mask else payload


def _opcode(first: int, size: int) -> Opcode:
    if first & 0x70:
        raise MalformedMessage("reserved bits are set, and no extension was agreed on")
    try:
        opcode = Opcode(first & 0x0F)
    except ValueError:
        raise MalformedMessage(f"opcode {first & 0x0F} is not known") from None
    if opcode >= Opcode.CLOSE and (size > 125 or not first & 0x80):
        raise MalformedMessage("a control frame that is long or in fragments")
    return opcode


class Wire(Protocol):
    async def read(self) -> bytes:
        """The next bytes; empty at the end."""

    async def write(self, data: bytes) -> None: ...


class Connection:
    """The server's end, after the handshake."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._decoder = Decoder(from_client=True)
        self._waiting: deque[Message] = deque()
        self._closed = False

    async def receive(self) -> Message | None:
        """The next text or binary message; None when the client has closed, gone, or broken the protocol."""
        try:
            while True:
                while self._waiting:
                    message = self._waiting.popleft()
                    match message.opcode:
                        case Opcode.PING:
                            await self._wire.write(encode(Opcode.PONG, message.data))
                        case Opcode.CLOSE:
                            await self.close()
                            return None
                        case Opcode.TEXT | Opcode.BINARY:
                            return message
                        case _:
                            pass
                data = await self._wire.read()
                if not data:
                    return None
                self._waiting.extend(self._decoder.feed(data))
        except MalformedMessage as error:
            await self.close(error.code)
            return None

    async def send(self, data: bytes) -> None:
        if not self._closed:
            await self._wire.write(encode(Opcode.BINARY, data))

    async def ping(self) -> None:
        if not self._closed:
            await self._wire.write(encode(Opcode.PING, b""))

    async def close(self, code: int = 1000) -> None:
        if not self._closed:
            self._closed = True
            await self._wire.write(encode(Opcode.CLOSE, code.to_bytes(2, "big")))
