"""Logs, exec and attach: the API server's side is a relay to the kubelet of the pod's node.

Logs are one HTTPS request whose body is passed on as it comes. Exec and attach are upgraded connections: the kubelet
speaks the WebSocket protocol (v5/v4.channel.k8s.io) itself, so after the handshake bytes go both ways unread. The
kubelet's refusal (before any upgrade) becomes the client's answer.

The kubelet's address is the Node's InternalIP and daemonEndpoints port; our identity there is the kubelet client
certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import aiohttp

from apiserver import errors
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Duplex, Reply, Request, Stream, Takeover
from apiserver.listing import flag

Obj = dict[str, Any]
CONNECT_SECONDS: Final = 10.0
PIECE: Final = 1 << 16
_LOG_OPTIONS: Final = (
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
)
_FORWARDED: Final = ("connection", "upgrade", "origin", "user-agent")


@dataclass(frozen=True, slots=True)
class Kubelet:
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def kubelet_of(pod: Obj, node: Obj | None) -> Kubelet:
    """Where the pod's kubelet listens; raises 400 or 500 when that is unknown."""
    name = pod["metadata"]["name"]
    if not pod["spec"].get("nodeName"):
        raise errors.bad_request(f"pod {name} does not have a host assigned")
    if node is None:
        raise errors.not_found("", "nodes", pod["spec"]["nodeName"])
    status = node.get("status") or {}
    known = {one.get("type"): one.get("address") for one in status.get("addresses") or ()}
    host = known.get("InternalIP") or known.get("ExternalIP") or known.get("Hostname")
    if not host:
        raise errors.internal(
            f"no preferred addresses found for node {pod['spec']['nodeName']}; is its kubelet running?"
        )
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
    return Kubelet(host, port)


def container_of(pod: Obj, asked: str) -> str:
    """The container that is meant; raises 400 when that is not clear."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    plain = [one["name"] for one in spec.get("containers") or ()]
    init = [one["name"] for one in spec.get("initContainers") or ()]
    ephemeral = [one["name"] for one in spec.get("ephemeralContainers") or ()]
    if not asked:
        if len(plain) == 1 and not init and not ephemeral:
            return str(plain[0])
        default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if default in plain:
            return str(default)
        if len(plain) == 1:
            return str(plain[0])
        hint = f", choose one of: [{' '.join(plain)}]"
        if init:
            hint += f" or one of the init containers: [{' '.join(init)}]"
        raise errors.bad_request(f"a container name must be specified for pod {name}{hint}")
    if asked not in (*plain, *init, *ephemeral):
        raise errors.bad_request(f"container {asked} is not valid for pod {name}")
    return asked


class Relay:
    def __init__(self, node: Callable[[str], Obj | None], tls: ssl.SSLContext, session: aiohttp.ClientSession) -> None:
        self._node = node
        self._tls = tls
        self._session = session

    async def logs(self, pod: Obj, request: Request) -> Reply:
        container = container_of(pod, request.query.get("container", ""))
        if not pod["spec"].get("nodeName"):
            return Answer(200, b"", "text/plain")
        kubelet = self._kubelet(pod)
        query = {key: request.query[key] for key in _LOG_OPTIONS if key in request.query}
        metadata = pod["metadata"]
        path = f"/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
        url = f"https://{kubelet.authority}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            # A quiet log stays open for hours: only connecting is timed.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            response = await self._session.get(url, ssl=self._tls, timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(kubelet, error) from error
        if response.status != 200:
            raise _refusal(response.status, await response.text())
        return Stream(_pieces(response, flag(request.query, "follow")), "text/plain")

    async def upgrade(self, what: str, pod: Obj, request: Request) -> Reply:
        """`what` is exec or attach."""
        protocol = request.headers.get("Upgrade", "")
        if not protocol:
            raise errors.bad_request("Upgrade request required")
        container = container_of(pod, request.query.get("container", ""))
        kubelet = self._kubelet(pod)
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            phase = pod["status"]["phase"]
            raise errors.bad_request(f"cannot {what} into a container in a completed pod; current phase is {phase}")
        metadata = pod["metadata"]
        path = f"/{what}/{metadata['namespace']}/{metadata['name']}/{container}?{stream_query(request.raw_query)}"
        head = request_head(path, kubelet.authority, request.headers)
        reader, writer = await self._connect(kubelet)
        if protocol.lower() != "websocket":
            # Said last: kubectl tries SPDY after any refused WebSocket and shows what this second try was told.
            writer.close()
            raise errors.bad_request(
                f"{what} over {protocol} is not served; use kubectl 1.30 or newer, which speaks WebSocket"
            )
        try:
            writer.write(head)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), CONNECT_SECONDS)
            refusal = await _refused(reader, answer)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.close()
            raise _unreachable(kubelet, error) from error
        except asyncio.CancelledError:
            writer.close()
            raise
        if refusal:
            writer.close()
            raise refusal
        return Takeover(lambda client: _splice(client, answer, reader, writer))

    def _kubelet(self, pod: Obj) -> Kubelet:
        return kubelet_of(pod, self._node(pod["spec"].get("nodeName", "")))

    async def _connect(self, kubelet: Kubelet) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.wait_for(
                asyncio.open_connection(kubelet.host, kubelet.port, ssl=self._tls), CONNECT_SECONDS
            )
        except (TimeoutError, OSError) as error:
            raise _unreachable(kubelet, error) from error


def stream_query(raw: str) -> str:
    """The API's exec options in the kubelet's words (k8s.io/kubelet/pkg/cri/streaming/remotecommand)."""
    words = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
    found: list[tuple[str, str]] = []
    for key, value in parse_qsl(raw, keep_blank_values=True):
        if key == "command":
            found.append((key, value))
        elif key in words and value.lower() in ("1", "true", "t"):
            found.append((words[key], "1"))
    return urlencode(found)


def request_head(path: str, authority: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {authority}"]
    lines += [
        f"{key}: {value}"
        for key, value in headers.items()
        if key.lower() in _FORWARDED or key.lower().startswith("sec-websocket-")
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _refused(reader: asyncio.StreamReader, head: bytes) -> StatusError | None:
    code = int(head.split(b" ", 2)[1])
    return None if code == 101 else _refusal(code, (await _body(reader, head)).decode(errors="replace"))


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    lines = head.decode(errors="replace").lower().split("\r\n")
    length = next((line.partition(":")[2].strip() for line in lines if line.startswith("content-length:")), "")
    if not length.isdigit():
        return b""
    return await asyncio.wait_for(reader.readexactly(min(int(length), PIECE)), CONNECT_SECONDS)


async def _splice(client: Duplex, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def inward() -> None:
        with contextlib.suppress(OSError):
            while piece := await client.read():
                writer.write(piece)
                await writer.drain()
        writer.close()

    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(inward())
            await client.write(head)
            with contextlib.suppress(OSError):
                while piece := await reader.read(PIECE):
                    await client.write(piece)
            sending.cancel()
    finally:
        writer.close()


async def _pieces(response: aiohttp.ClientResponse, follow: bool) -> AsyncIterator[bytes]:
    try:
        if follow:
            yield b""  # send the head now: the first line may be hours away
        with contextlib.suppress(aiohttp.ClientError, OSError):  # the kubelet went away: the log ends here
            async for piece in response.content.iter_any():
                yield piece
    finally:
        response.close()


def _unreachable(kubelet: Kubelet, error: BaseException) -> StatusError:
    why = str(error) or type(error).__name__
    return StatusError(502, "BadGateway", f"cannot reach the kubelet at {kubelet.authority}: {why}")


def _refusal(code: int, text: str) -> StatusError:
    reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
    return StatusError(code, reasons.get(code, "InternalError"), text.strip() or f"the kubelet answered {code}")
