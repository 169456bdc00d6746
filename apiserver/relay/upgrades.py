"""Connections that are taken over: a request's head goes to a backend, its answer comes back, and from a 101 on bytes go both
ways unread.

What a backend answers instead of 101 is passed on as it is: kubectl shows such a text behind `unable to upgrade connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Duplex, Takeover
from apiserver.relay.kubelets import authority

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
PIECE: Final = 1 << 16
_FORWARDED: Final = ("connection", "upgrade", "origin", "user-agent", "x-stream-protocol-version", "content-length")


@dataclass(frozen=True, slots=True)
class Backend:
    host: str
    port: int
    tls: ssl.SSLContext | None
    name: str  # in messages: `the kubelet`

    @property
    def authority(self) -> str:
        return authority(self.host, self.port)

    def unreachable(self, error: BaseException) -> StatusError:
        why = str(error) or type(error).__name__
        return StatusError(502, "BadGateway", f"cannot reach {self.name} at {self.authority}: {why}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend's answer to a request for an upgrade, and the connection it came on."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def code(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def upgraded(self) -> bool:
        return self.code == 101

    def header(self, name: str) -> str:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return ""

    async def refusal(self) -> Answer:
        """What was answered instead of an upgrade. Closes the connection."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                body = await self._body()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            body = b""
        finally:
            self.writer.close()
        text = body or f"the backend answered {self.code}".encode()
        return Answer(self.code, text, self.header("Content-Type") or "text/plain; charset=utf-8")

    async def _body(self) -> bytes:
        length = self.header("Content-Length")
        if length.isdigit():
            return await self.reader.readexactly(min(int(length), PIECE))
        if self.header("Transfer-Encoding").lower() == "chunked":
            size = int((await self.reader.readline()).split(b";")[0].strip() or b"0", 16)
            return await self.reader.readexactly(min(size, PIECE))
        return await self.reader.read(PIECE)


async def ask(backend: Backend, head: bytes) -> Opened:
    """Send a request's head and await the answer's. Raises 502."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(backend.host, backend.port, ssl=backend.tls, limit=PIECE)
    except (TimeoutError, OSError) as error:
        raise backend.unreachable(error) from error
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write(head)
            opened = Opened(await reader.readuntil(b"\r\n\r\n"), reader, writer)
            int(opened.code)  # an answer that is not HTTP is nobody's
            return opened
    except (TimeoutError, OSError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise backend.unreachable(error) from error
    except BaseException:
        writer.close()
        raise


def passed_through(opened: Opened) -> Takeover:
    return Takeover(lambda client: splice(client, opened))


async def splice(client: Duplex, opened: Opened) -> None:
    reader, writer = opened.reader, opened.writer

    async def inward() -> None:
        with contextlib.suppress(OSError):
            while piece := await client.read():
                writer.write(piece)
                await writer.drain()
        writer.close()

    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(inward())
            await client.write(opened.head)
            with contextlib.suppress(OSError):
                while piece := await reader.read(PIECE):
                    await client.write(piece)
            sending.cancel()
    finally:
        writer.close()


def head_of(method: str, path: str, authority: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request's head. `path` is encoded already; line breaks end nothing but lines."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}", *(f"{key}: {value}" for key, value in headers)]
    return ("\r\n".join(line.replace("\r", "").replace("\n", "") for line in lines) + "\r\n\r\n").encode()


def upgrade_headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Those of a request that the upgrade is about; a name may come several times."""
    return [
        (key, value)
        for key, value in headers.items()
        if key.lower() in _FORWARDED or key.lower().startswith("sec-websocket-")
    ]


def stream_query(raw: str) -> str:
    """The API's options in the kubelet's words (k8s.io/kubelet/pkg/cri/streaming/remotecommand)."""
    words = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
    found: list[tuple[str, str]] = []
    for key, value in parse_qsl(raw, keep_blank_values=True):
        if key == "command":
            found.append((key, value))
        elif key == "ports":
            found += [("port", one) for one in value.split(",")]
        elif key in words and value.lower() in ("1", "true", "t"):
            found.append((words[key], "1"))
    return urlencode(found)
