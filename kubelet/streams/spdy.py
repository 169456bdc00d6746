"""A command's streams over SPDY/3.1, as kubectl exec and attach speak it up to 1.29, and every older client.

The client opens a stream for each thing it wants, named by the header `streamtype`: error always, stdin, stdout, stderr as
asked for, resize with a terminal. Four versions of the protocol differ in two ways: from v3 on there is a resize stream,
and v4 tells the end as a metav1.Status on the error stream where older ones write plain words, or nothing.
(Upstream: kubelet/pkg/cri/streaming/remotecommand/httpstream.go.)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from kube.spdy import Session
from kube.spdy import Stream as Carried
from kubelet.runtime import Stream, StreamOptions
from kubelet.streams.remotecommand import Line, converse, size_of

PROTOCOLS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
CREATION_SECONDS: Final = 30.0
_LONGEST_SIZE: Final = 1 << 12
_TYPES: Final = frozenset({"error", "stdin", "stdout", "stderr", "resize"})


def expected(options: StreamOptions, protocol: str) -> frozenset[str]:
    """The streams that a client must open before the command starts."""
    wanted = {"error": True, "stdin": options.stdin, "stdout": options.stdout, "stderr": options.stderr}
    wanted["resize"] = options.tty and protocol.startswith(("v3.", "v4."))
    return frozenset(name for name, asked in wanted.items() if asked)


async def serve(
    session: Session, protocol: str, options: StreamOptions, begin: Callable[[], Awaitable[Stream]]
) -> None:
    """Within `session.run`. A client that does not open its streams in time is left."""
    streams: dict[str, Carried] = {}
    missing = set(expected(options, protocol))
    try:
        async with asyncio.timeout(CREATION_SECONDS):
            while missing:
                stream = await session.accept()
                if stream is None:
                    return
                kind = stream.headers["streamtype"]
                streams[kind] = stream
                missing.discard(kind)
    except TimeoutError:
        return
    await converse(SpdyClient(session, streams, protocol), options, begin)


def admit(headers: dict[str, str]) -> bool:
    return headers.get("streamtype") in _TYPES


class SpdyClient:
    """`remotecommand.Client` over the streams of one session."""

    def __init__(self, session: Session, streams: Mapping[str, Carried], protocol: str) -> None:
        self._session = session
        self._streams = streams
        self._protocol = protocol

    async def output(self, line: Line, data: bytes) -> None:
        if stream := self._streams.get("stderr" if line is Line.STDERR else "stdout"):
            await stream.write(data)

    async def end(self, status: Mapping[str, Any], words: str) -> None:
        for name in ("stdout", "stderr"):
            if stream := self._streams.get(name):
                await stream.close()
        last = msgspec.json.encode(status) if self._protocol.startswith("v4.") else words.encode()
        if last:
            await self._streams["error"].write(last)
        await self._streams["error"].close()

    async def stdin(self) -> AsyncIterator[bytes]:
        if stream := self._streams.get("stdin"):
            while data := await stream.read():
                yield data

    async def sizes(self) -> AsyncIterator[tuple[int, int]]:
        if stream := self._streams.get("resize"):
            text, decoder = "", json.JSONDecoder()
            while data := await stream.read():
                text = (text + data.decode(errors="replace")).lstrip()
                while text:
                    try:
                        _, end = decoder.raw_decode(text)
                    except ValueError:
                        break
                    if size := size_of(text[:end].encode()):
                        yield size
                    text = text[end:].lstrip()
                if len(text) > _LONGEST_SIZE:
                    return

    async def gone(self) -> None:
        await self._session.ended.wait()
