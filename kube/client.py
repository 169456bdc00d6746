"""The API client: typed objects over one pool of connections.

It speaks only what a stock kube-apiserver offers. Answers decode to the kind's type; requests are Structs or plain
mappings. Every failure is `ApiError` (the server answered) or `ApiUnreachable` (it did not, or what answered is no API
server: HTML of a proxy, a redirect); see `kube.errors`.
"""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import orjson

from kube.errors import ApiError, ApiUnreachable, api_error
from kube.kubeconfig import Connection
from kube.meta import Identified, Typed, to_wire
from kube.resources import PODS, Resource
from kube.version import WHERRY

__all__ = ["Client", "Connection", "Page", "Patch", "WatchEvent"]

T = TypeVar("T", bound=Identified)
D = TypeVar("D")
Body = Typed | Mapping[str, Any]
Observe = Callable[[str, str, str, float], None]  # method, host, status code (`<error>` without an answer), seconds


class Patch(Enum):
    """The patch kinds, by content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """All items of a list, and the version a watch goes on from."""

    items: tuple[T, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """`object` of a BOOKMARK carries only its metadata.resourceVersion (and annotations)."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: T


class _Frame(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class Client:
    """One pool of connections to one server. Use it as an async context manager.

    `timeout`: seconds for a whole ordinary request; watches and streams have none but the server's.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        user_agent: str = "wherry",
        timeout: float = 30.0,
        observe: Observe | None = None,
    ) -> None:
        self._connection = connection
        self._observe = observe
        self._host = urlsplit(connection.server).netloc
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
        self._agent = f"{user_agent}/{WHERRY}"
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | bool = True

    @property
    def server(self) -> str:
        return self._connection.server

    def switch(self, connection: Connection) -> None:
        """Speak to the same server with another proof of identity: from the next request on, over connections of its own.
        Watches go on as they are until the server ends them. Raises UsageError when it cannot be used."""
        tls = connection.ssl_context() or True
        self._connection, self._tls = connection, tls
        if self._session is not None:
            self._session.headers.pop("Authorization", None)
            if connection.token:
                self._session.headers["Authorization"] = f"Bearer {connection.token}"

    async def __aenter__(self) -> Self:
        self._tls = self._connection.ssl_context() or True
        headers = {"User-Agent": self._agent, "Accept": "application/json"}
        if self._connection.token:
            headers["Authorization"] = f"Bearer {self._connection.token}"
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """One request as bytes in, bytes out, for paths that no typed method covers."""
        assert self._session, "use the client as an async context manager"
        if self._connection.pending:
            raise ApiUnreachable(f"{method} {path} at {self._connection.server}: {self._connection.pending}")
        data = None if body is None else orjson.dumps(to_wire(body))
        headers = {"Content-Type": content_type} if data is not None else None
        begun, code = time.monotonic(), "<error>"
        try:
            async with self._session.request(
                method,
                self._connection.server + path,
                params=query or None,
                data=data,
                headers=headers,
                ssl=self._tls,
                server_hostname=self._connection.server_name,
                allow_redirects=False,
            ) as answer:
                payload = await answer.read()
                code = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"{method} {path} at {self._connection.server}: {_words(error)}") from error
        finally:
            if self._observe is not None:
                self._observe(method, self._host, code, time.monotonic() - begun)
        if answer.status >= 300:
            raise _refusal(answer, payload)
        return payload

    async def object(self, method: str, path: str, *, body: Any = None) -> dict[str, Any]:
        """One request whose answer is an object that is passed on whole, also what no type of ours has."""
        return self._decoded(await self.request(method, path, body=body), dict[str, Any], path)

    def _decoded(self, payload: bytes, kind: type[D], path: str) -> D:
        try:
            return msgspec.json.decode(payload, type=kind)
        except msgspec.DecodeError as error:
            raise ApiUnreachable(
                f"{path} at {self._connection.server}: the answer is no {kind.__name__}: {error}; "
                f"it begins {bytes(payload)[:60]!r}"
            ) from error

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        path = resource.path(namespace, name)
        return self._decoded(await self.request("GET", path), resource.type, path)

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str | None = None,
        limit: int = 500,
    ) -> Page[T]:
        """All objects, read page by page from one snapshot; `resource_version="0"` accepts any cached state."""
        query = _selection(label_selector, field_selector)
        if resource_version is not None:
            query["resourceVersion"] = resource_version
        else:
            query["limit"] = str(limit)
        items: list[T] = []
        while True:
            path = resource.path(namespace)
            page = self._decoded(await self.request("GET", path, query=query), _List, path)
            for item in page.items or ():
                items.append(self._decoded(item, resource.type, path))  # noqa: PERF401
            if not page.metadata.continue_:
                return Page(tuple(items), page.metadata.resource_version)
            query = {**query, "continue": page.metadata.continue_}

    async def create(self, resource: Resource[T], obj: Body, namespace: str | None = None) -> T:
        """`obj` may leave out apiVersion and kind; its own namespace wins over `namespace`."""
        body = _complete(resource, obj)
        path = resource.path(body["metadata"].get("namespace") or namespace)
        return self._decoded(await self.request("POST", path, body=body), resource.type, path)

    async def update(self, resource: Resource[T], obj: Body, *, subresource: str = "") -> T:
        """PUT of the whole object. Only for objects whose every field the caller knows; others are patched."""
        body = _complete(resource, obj)
        meta = body["metadata"]
        path = resource.path(meta.get("namespace"), meta["name"], subresource)
        return self._decoded(await self.request("PUT", path, body=body), resource.type, path)

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        namespace: str | None = None,
        *,
        kind: Patch = Patch.MERGE,
        subresource: str = "",
    ) -> T:
        path = resource.path(namespace, name, subresource)
        payload = await self.request("PATCH", path, body=body, content_type=kind.value)
        return self._decoded(payload, resource.type, path)

    async def delete(
        self,
        resource: Resource[T],
        name: str,
        namespace: str | None = None,
        *,
        grace_period_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
    ) -> None:
        """`uid` and `resource_version` are preconditions: Conflict when the object is another one by now."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation:
            options["propagationPolicy"] = propagation
        preconditions = {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}
        if preconditions:
            options["preconditions"] = preconditions
        await self.request("DELETE", resource.path(namespace, name), body=options)

    async def create_subresource(
        self, resource: Resource[T], name: str, subresource: str, body: Mapping[str, Any], namespace: str | None = None
    ) -> dict[str, Any]:
        """POST to a subresource (binding, eviction, token); the answer as plain JSON."""
        path = resource.path(namespace, name, subresource)
        return self._decoded(await self.request("POST", path, body=body), dict[str, Any], path)

    async def bind(self, name: str, namespace: str, node: str, uid: str) -> None:
        """Give a pod its node; Conflict when it has one or is another pod by now."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self.create_subresource(PODS, name, "binding", body, namespace)

    async def watch(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout: int = 300,
        idle: float = 150.0,
    ) -> AsyncIterator[WatchEvent[T]]:
        """Events after `resource_version`, until the server ends the watch (about `timeout` seconds) or this iterator is
        closed. Raises Expired when the version is older than the server's history, ApiUnreachable when the connection
        breaks or nothing, not even a bookmark, comes for `idle` seconds."""
        assert self._session, "use the client as an async context manager"
        if self._connection.pending:
            raise ApiUnreachable(f"watch of {resource.plural} at {self._connection.server}: {self._connection.pending}")
        query = _selection(label_selector, field_selector)
        query |= {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout),
        }
        path = resource.path(namespace)
        try:
            async with self._session.get(
                self._connection.server + path,
                params=query,
                ssl=self._tls,
                server_hostname=self._connection.server_name,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=idle),
                read_bufsize=2**18,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise _refusal(answer, await answer.read())
                async for line in _lines(answer.content):
                    yield self._event(line, resource.type, path)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"watch {path} at {self._connection.server}: {_words(error)}") from error

    def _event(self, line: bytes, kind: type[T], path: str) -> WatchEvent[T]:
        frame = self._decoded(line, _Frame, path)
        match frame.type:
            case "ADDED" | "MODIFIED" | "DELETED":
                return WatchEvent(frame.type, self._decoded(frame.object, kind, path))
            case "BOOKMARK":
                metadata = bytes(self._decoded(frame.object, _Bookmark, path).metadata)
                return WatchEvent("BOOKMARK", self._decoded(b'{"metadata":%b}' % metadata, kind, path))
            case _:
                status = _status_of(bytes(frame.object))
                code = status.get("code")
                raise api_error(code if isinstance(code, int) else 500, status)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Newline-framed JSON without aiohttp's limit on a line's length: one object may be megabytes."""
    rest = bytearray()
    while chunk := await stream.readany():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *whole, tail = bytes(rest).split(b"\n")
        rest = bytearray(tail)
        for line in whole:
            if line:
                yield line


def _refusal(answer: aiohttp.ClientResponse, payload: bytes) -> ApiError:
    return api_error(answer.status, _status_of(payload), answer.headers.get("Retry-After", ""))


def _words(error: BaseException) -> str:
    """What went wrong, without aiohttp's picture of our own TLS context: the caller names the server."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the server's certificate is refused: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            return _words(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case TimeoutError():
            return str(error) or "no answer in time"
        case _:
            return str(error) or type(error).__name__


def _status_of(payload: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {"message": payload[:500].decode(errors="replace").strip()}
    return body if isinstance(body, dict) else {"message": str(body)[:500]}


def _selection(label_selector: str, field_selector: str) -> dict[str, str]:
    pairs = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return {key: value for key, value in pairs if value}


class _List(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] | None = None
    metadata: ListMeta = ListMeta()


def _complete(resource: Resource[T], obj: Body) -> dict[str, Any]:
    body: dict[str, Any] = to_wire(obj)
    return {**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": body.get("metadata") or {}}
