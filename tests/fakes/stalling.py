"""A door before a container runtime that holds back the calls a test chooses: a runtime that hangs for one pod and works for
all others, which no real one does on request.

`Stalling` listens on a socket of its own and passes everything on, for Docker's HTTP and for CRI's gRPC. `stall("create",
"stuck")` holds every later call of that kind that names `stuck` until `release`; `held` says what is held now. What was held is
done when the door opens, also when its caller has given up, as a daemon does that was frozen; only over gRPC a call that was
cancelled is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server, Stream

DOCKER: Mapping[str, tuple[bytes, ...]] = {
    "create": (b"POST", b"/containers/create"),
    "start": (b"POST", b"/start"),
    "pull": (b"POST", b"/images/create"),
    "list": (b"GET", b"/containers/json"),
}
CRI: Mapping[str, str] = {
    "create": "CreateContainer",
    "start": "StartContainer",
    "pull": "PullImage",
    "list": "ListPodSandbox",
}
SERVICES: Mapping[str, tuple[str, ...]] = {
    "runtime.v1.RuntimeService": (
        *("Version", "Status", "RuntimeConfig", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"),
        *(
            "PodSandboxStatus",
            "ListPodSandbox",
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "RemoveContainer",
        ),
        *("ListContainers", "ContainerStatus", "UpdateContainerResources", "ReopenContainerLog", "ExecSync", "Exec"),
        *("Attach", "GetContainerEvents"),
    ),
    "runtime.v1.ImageService": ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"),
}
STREAMED = ("GetContainerEvents",)


@dataclass
class Stalling:
    behind: str
    """The runtime's own socket."""
    path: str
    """Ours."""
    held: list[str] = field(default_factory=list)
    _chosen: set[tuple[str, str]] = field(default_factory=set)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _channel: Channel | None = None
    _connections: "set[asyncio.Task[None]]" = field(default_factory=set)

    def stall(self, call: str, about: str = "") -> None:
        assert call in CRI
        self._open.clear()
        self._chosen.add((call, about))

    def release(self) -> None:
        self._chosen.clear()
        self._open.set()

    async def _pass(self, call: str, text: bytes) -> None:
        if any(call == kind and about.encode() in text for kind, about in self._chosen):
            self.held.append(call)
            try:
                await self._open.wait()
            finally:
                self.held.remove(call)

    # --- Docker: HTTP, one request at a time on a connection ----------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._http(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def end(self) -> None:
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs = await asyncio.open_unix_connection(self.behind)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                answers = group.create_task(_copied(theirs[0], writer))
                await self._asked(reader, theirs[1])
                await answers
        except* OSError:
            pass  # one of the two is gone, and so is the other
        finally:
            for end in (writer, theirs[1]):
                end.close()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            head = chunk.partition(b"\r\n")[0]
            for call, (method, path) in DOCKER.items():
                if head.startswith(method) and path in head:
                    await self._pass(call, chunk)
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    # --- CRI: gRPC, messages passed on as bytes -----------------------------------------------------------------------

    def __mapping__(self) -> dict[str, Handler]:
        channel = self._channel = Channel(path=self.behind, codec=Bytes())
        mapping: dict[str, Handler] = {}
        for service, methods in SERVICES.items():
            for name in methods:
                path = f"/{service}/{name}"
                kind = Cardinality.UNARY_STREAM if name in STREAMED else Cardinality.UNARY_UNARY
                mapping[path] = Handler(self._handler(channel, path, name), kind, bytes, bytes)
        return mapping

    def _handler(self, channel: Channel, path: str, name: str) -> Any:
        call = next((kind for kind, method in CRI.items() if method == name), "")
        once, streamed = UnaryUnaryMethod(channel, path, bytes, bytes), UnaryStreamMethod(channel, path, bytes, bytes)

        async def handle(stream: "Stream[bytes, bytes]") -> None:
            message = await stream.recv_message() or b""
            await self._pass(call, message)
            if name not in STREAMED:
                await stream.send_message(await once(message))
                return
            async with streamed.open() as behind:
                await behind.send_message(message, end=True)
                async for answer in behind:
                    await stream.send_message(answer)

        return handle


class Bytes(CodecBase):
    """Messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@asynccontextmanager
async def stalling(behind: str, path: str, *, grpc: bool) -> AsyncIterator[Stalling]:
    """A door at `path` before the runtime that listens at `behind`."""
    door = Stalling(behind, path)
    if not grpc:
        server = await asyncio.start_unix_server(door._connected, path)
        try:
            yield door
        finally:
            door.release()
            server.close()
            await door.end()
        return
    servers: Collection[Any] = [door]
    rpc = Server(servers, codec=Bytes())
    await rpc.start(path=path)
    try:
        yield door
    finally:
        door.release()
        rpc.close()
        await rpc.wait_closed()
        if door._channel is not None:
            door._channel.close()
