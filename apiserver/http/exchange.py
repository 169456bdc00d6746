"""A request and its possible answers, as values; no web framework beyond this point."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from apiserver.authentication import User
from apiserver.errors import StatusError

JSON = "application/json"


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


class Duplex(Protocol):
    """The client's connection after an Upgrade: raw bytes both ways, the request's head already read."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""

    async def write(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    raw_query: str
    headers: Mapping[str, str]
    body: Callable[[], Awaitable[bytes]]
    user: User  # the client certificate's until dispatch has asked for more
    source: str = ""  # the peer's address
    audit_id: str = ""
    raw_path: str = ""  # as sent, percent-encoded
    chunks: Callable[[], AsyncIterator[bytes]] = _nothing  # the body as it comes, of any size, instead of `body`

    @property
    def user_agent(self) -> str:
        return self.headers.get("User-Agent", "")


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """Chunks that are flushed one by one; the answer ends when the iterator does.

    `headers` may repeat a name; with a Content-Length among them there is no chunked framing. Without a content type there
    is no such header. `whole`: it is one document in slices, which may be compressed, not bytes as they come."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    code: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Takeover:
    """Hands the connection to `run`, which writes the response's head itself."""

    run: Callable[[Duplex], Awaitable[None]]


class Outlet(Protocol):
    """The client's side of a `Feed`."""

    @property
    def unsent(self) -> int:
        """Bytes written that the client has not taken yet."""

    def write(self, piece: bytes) -> None:
        """Sends a piece that `framed` made. Never waits, and does nothing when the client is gone."""

    async def drained(self) -> None:
        """Waits until the client has taken most of what was written. Raises ConnectionError when it is gone."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A watch: `run` writes to the client whenever it has something, and the answer ends when it returns."""

    run: Callable[[Outlet], Awaitable[None]]
    content_type: str = JSON
    code: int = 200


Reply = Answer | Stream | Takeover | Feed


def framed(data: bytes) -> bytes:
    """`data` as one chunk of a chunked answer, so that a thousand watchers are sent the very same bytes."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unframed(piece: bytes) -> bytes:
    return piece[piece.index(b"\n") + 1 : -2]


def json_answer(value: Any, code: int = 200, warnings: tuple[str, ...] = ()) -> Answer:
    return Answer(code, value if isinstance(value, bytes) else orjson.dumps(value), warnings=warnings)


def error_answer(error: StatusError) -> Answer:
    return Answer(error.code, orjson.dumps(error.to_dict()), headers=error.headers)
