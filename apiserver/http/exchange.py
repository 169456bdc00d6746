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
    is no such header."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    code: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Takeover:
    """Hands the connection to `run`, which writes the response's head itself."""

    run: Callable[[Duplex], Awaitable[None]]


Reply = Answer | Stream | Takeover


def json_answer(value: Any, code: int = 200, warnings: tuple[str, ...] = ()) -> Answer:
    return Answer(code, value if isinstance(value, bytes) else orjson.dumps(value), warnings=warnings)


def error_answer(error: StatusError) -> Answer:
    return Answer(error.code, orjson.dumps(error.to_dict()), headers=error.headers)
