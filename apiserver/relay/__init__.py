"""Logs, exec, attach and port-forward: the API server's side is a relay to the kubelet of the pod's node.

Logs are one HTTPS request whose body is passed on as it comes. The others are upgraded connections: our kubelet speaks
WebSocket and SPDY/3.1 itself, so the client's handshake is passed on and bytes go both ways unread. A kubelet that refuses
a WebSocket which the API promises is a stock one: `translation` then speaks for the client. Any other answer
becomes the client's, in the kubelet's own words.

The kubelet's address is the Node's InternalIP and daemonEndpoints port; our identity there is the kubelet client
certificate.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from apiserver import errors
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Reply, Request, Stream
from apiserver.listing import flag
from apiserver.outward import Outward
from apiserver.relay import logs, translation, upgrades
from apiserver.relay.kubelets import Kubelet, container_of, kubelet_of
from apiserver.relay.upgrades import CONNECT_SECONDS, Backend, stream_query

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Relay", "Trust"]

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trust:
    """How we meet kubelets: both show our certificate, `unverified` asks nothing of theirs."""

    verified: ssl.SSLContext
    unverified: ssl.SSLContext


class Relay:
    def __init__(self, node: Callable[[str], Obj | None], trust: Trust, session: Outward) -> None:
        self._node = node
        self._trust = trust
        self._session = session

    async def logs(self, pod: Obj, request: Request) -> Reply:
        import aiohttp

        metadata = pod["metadata"]
        query = logs.asked(request.query, metadata["name"])
        container = container_of(pod, request.query.get("container", ""))
        if not pod["spec"].get("nodeName"):
            return Answer(200, b"", "text/plain")
        kubelet = self._kubelet(pod)
        path = f"/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
        url = f"https://{kubelet.authority}{path}" + (f"?{urlencode(query)}" if query else "")
        insecure = flag(request.query, "insecureSkipTLSVerifyBackend")
        try:
            # A quiet log stays open for hours: only connecting is timed.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            tls = self._trust.unverified if insecure else self._trust.verified
            response = await self._session.get(url, ssl=tls, timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._backend(kubelet).unreachable(error) from error
        if response.status != 200:
            raise _refusal(response.status, await response.text())
        return Stream(_pieces(response, flag(request.query, "follow")), "text/plain")

    async def upgrade(self, what: str, pod: Obj, request: Request) -> Reply:
        """`what` is exec, attach or portForward."""
        if not request.headers.get("Upgrade"):
            raise errors.bad_request("Upgrade request required")
        metadata = pod["metadata"]
        path = f"/{what}/{metadata['namespace']}/{metadata['name']}"
        if what != "portForward":
            path += f"/{quote(container_of(pod, request.query.get('container', '')))}"
        backend, query = self._backend(self._kubelet(pod)), stream_query(request.raw_query)
        path += f"?{query}" if query else ""
        head = upgrades.head_of(request.method, path, backend.authority, upgrades.upgrade_headers(request.headers))
        opened = await upgrades.ask(backend, head)
        if opened.upgraded:
            return upgrades.passed_through(opened)
        refusal = await opened.refusal()
        protocol = translation.needed(opened.code, request.headers)
        if not protocol:
            return refusal
        opened = await upgrades.ask(backend, translation.spdy_head(path, backend.authority, protocol))
        if not opened.upgraded:
            return await opened.refusal()
        return translation.translated(opened, request.headers, protocol, dict(parse_qsl(query)))

    def _kubelet(self, pod: Obj) -> Kubelet:
        return kubelet_of(pod, self._node(pod["spec"].get("nodeName", "")))

    def _backend(self, kubelet: Kubelet) -> Backend:
        return Backend(kubelet.host, kubelet.port, self._trust.verified, "the kubelet")


async def _pieces(response: aiohttp.ClientResponse, follow: bool) -> AsyncIterator[bytes]:
    import aiohttp

    try:
        if follow:
            yield b""  # send the head now: the first line may be hours away
        with contextlib.suppress(aiohttp.ClientError, OSError):  # the kubelet went away: the log ends here
            async for piece in response.content.iter_any():
                yield piece
    finally:
        response.close()


def _refusal(code: int, text: str) -> StatusError:
    if code == 500:
        return errors.internal(text.strip())
    reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 503: "ServiceUnavailable"}
    return StatusError(code, reasons.get(code, "InternalError"), text.strip() or f"the kubelet answered {code}")
