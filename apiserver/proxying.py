"""The subresource `proxy` of nodes, pods and services: HTTP to what runs in the cluster, for people who reach only the API.

    /api/v1/nodes/[scheme:]N[:port]/proxy/PATH               the kubelet as our certificate sees it, or a port of the node
    /api/v1/namespaces/NS/pods/[scheme:]P[:port]/proxy/...   the pod's address; its first containerPort, else 80
    /api/v1/namespaces/NS/services/[scheme:]S[:port]/proxy/...   a ready endpoint of the port, by its name or number

Bodies stream both ways, whatever their size; an Upgrade is handed over raw. Passed on is all that is not about one
connection (hop by hop) or about who asks us: what proves that to us is nobody else's. A Location on the backend's own host
comes back with our path before it. (Upstream: apimachinery/pkg/util/proxy, registry/core/{node,pod,service}.)
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from yarl import URL

from apiserver import errors
from apiserver.cache import Cache
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Reply, Request, Stream
from apiserver.outward import Outward
from apiserver.pipeline import Target, Writer
from apiserver.registry import Registry
from apiserver.relay import Trust, upgrades
from apiserver.relay.kubelets import authority, kubelet_at
from apiserver.relay.upgrades import CONNECT_SECONDS, Backend

if TYPE_CHECKING:
    import aiohttp
from kube.ports import port_of

Obj = dict[str, Any]
Slices = Callable[[str, str], list[Obj]]  # the EndpointSlices of a service, by namespace and name

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS: Final = ("authorization", "host", "x-remote-user", "x-remote-group")
_SLASH: Final = re.compile("/|%2F", re.IGNORECASE)
_SLASHES: Final = re.compile("(?:/|%2F)*", re.IGNORECASE)
_CLUSTER: Final = len(("api", "v1", "nodes", "N", "proxy"))
_NAMESPACED: Final = len(("api", "v1", "namespaces", "NS", "pods", "P", "proxy"))
_DEFAULTS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


@dataclass(frozen=True, slots=True)
class Place:
    """A backend. `kubelet`: met with our certificate, and verified; anything else over TLS is not."""

    scheme: str
    host: str
    port: int
    kubelet: bool = False


def named(text: str, kind: str) -> tuple[str, str, str]:
    """Scheme, name and port of `[scheme:]name[:port]`; empty where not given. Raises 400."""
    parts = text.split(":")
    match parts:
        case [name] if name:
            return "", name, ""
        case [name, port] if name:
            return "", name, port
        case [("http" | "https" | "") as scheme, name, port] if name:
            return scheme, name, port
        case _:
            raise errors.bad_request(f'invalid {kind} request "{text}"')


def backend_path(raw_path: str) -> tuple[str, str]:
    """Our part of a raw path, up to and with `/proxy`, and the backend's; empty when not even a slash follows.

    Ours has as many segments as its route; anything may be called `proxy`. What parted them for the route, which was read
    from the decoded path, is `/` or `%2F`."""
    start = _SLASHES.match(raw_path)
    slashes = list(islice(_SLASH.finditer(raw_path, start.end() if start else 0), _NAMESPACED))
    kind = unquote(raw_path[slashes[1].end() : slashes[2].start()]) if len(slashes) > 2 else ""
    at = (_NAMESPACED if kind == "namespaces" else _CLUSTER) - 1
    if len(slashes) <= at:
        return raw_path, ""
    return raw_path[: slashes[at].start()], f"/{raw_path[slashes[at].end() :]}"


class Proxying:
    def __init__(self, writer: Writer, trust: Trust, session: Outward, slices: Slices) -> None:
        self._writer = writer
        self._trust = trust
        self._session = session
        self._slices = slices
        self._stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # our certificate is for kubelets only
        self._stranger.check_hostname = False
        self._stranger.verify_mode = ssl.CERT_NONE

    def _tls(self, place: Place) -> ssl.SSLContext:
        return self._trust.verified if place.kubelet else self._stranger

    async def nodes(self, target: Target, request: Request) -> Reply:
        scheme, name, port = named(target.name, "node")
        kubelet = kubelet_at(name, self._get(target, name))
        if port in ("", str(kubelet.port)):
            return await self._serve(Place("https", kubelet.host, kubelet.port, kubelet=True), request)
        number = _port(port)
        return await self._serve(Place(scheme or "http", await _resolved(kubelet.host), number), request)

    async def pods(self, target: Target, request: Request) -> Reply:
        scheme, name, port = named(target.name, "pod")
        pod = self._get(target, name)
        chosen = port or next(
            (str(one["ports"][0]["containerPort"]) for one in pod["spec"].get("containers") or () if one.get("ports")),
            "",
        )
        host = (pod.get("status") or {}).get("podIP") or ""
        _proxyable(host)
        return await self._serve(Place(scheme or "http", host, _port(chosen, scheme)), request)

    async def services(self, target: Target, request: Request) -> Reply:
        scheme, name, port = named(target.name, "service")
        service = self._get(target, name)
        wanted = _port_name(service, name, port)
        found = endpoints(self._slices(target.namespace, name), wanted)
        if not found:
            raise errors.service_unavailable(f'no endpoints available for service "{target.name}"')
        host, number = random.choice(found)
        _proxyable(host)
        return await self._serve(Place(scheme or "http", host, number), request)

    def _get(self, target: Target, name: str) -> Obj:
        return self._writer.get(replace(target, name=name)).parse()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _serve(self, place: Place, request: Request) -> Reply:
        prefix, path = backend_path(request.raw_path or request.path)
        if not path:
            if request.method in ("GET", "HEAD") and "Upgrade" not in request.headers:
                # Relative links of the page that is to come would lead astray without the slash.
                query = f"?{request.raw_query}" if request.raw_query else ""
                return Answer(301, b"", "text/plain; charset=utf-8", {"Location": f"{prefix}/{query}"})
            path = "/"
        query = f"?{request.raw_query}" if request.raw_query else ""
        if "upgrade" in request.headers.get("Connection", "").lower() and request.headers.get("Upgrade"):
            return await self._upgraded(place, f"{path}{query}", prefix, request)
        return await self._asked(place, f"{path}{query}", prefix, request)

    async def _upgraded(self, place: Place, path: str, prefix: str, request: Request) -> Reply:
        tls = self._tls(place) if place.scheme == "https" else None
        backend = Backend(place.host, place.port, tls, "the backend")
        # No length: what follows the head are the upgraded connection's bytes, of which a body would take some.
        headers = [(k, v) for k, v in forwarded(request, prefix) if k.lower() not in ("host", "content-length")]
        headers += [("Connection", "Upgrade"), ("Upgrade", request.headers["Upgrade"])]
        host = request.headers.get("Host") or backend.authority
        try:
            opened = await upgrades.ask(backend, upgrades.head_of(request.method, path, host, headers))
        except StatusError as error:
            raise _unreachable(error) from error
        return upgrades.passed_through(opened)

    async def _asked(self, place: Place, path: str, prefix: str, request: Request) -> Reply:
        import aiohttp

        where = authority(place.host, place.port)
        url = URL(f"{place.scheme}://{where}{path}", encoded=True)
        headers = forwarded(request, prefix)
        with_body = "Content-Length" in request.headers or "Transfer-Encoding" in request.headers
        try:
            response = await self._session.request(
                request.method,
                url,
                headers=headers,
                data=request.chunks() if with_body else None,
                ssl=self._tls(place),
                allow_redirects=False,
                skip_auto_headers=_DEFAULTS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error) from error
        host = request.headers.get("Host", "")
        found = tuple(answered(response.headers, prefix, {where, host}))
        if request.method == "HEAD" or response.status in (204, 304):
            response.close()
            return Stream(_nothing(), "", response.status, found)
        return Stream(_pieces(response), "", response.status, found)


def forwarded(request: Request, prefix: str) -> list[tuple[str, str]]:
    """The request's headers for the backend."""
    named_here = {one.strip().lower() for one in request.headers.get("Connection", "").split(",")}
    dropped = HOP_BY_HOP | named_here | set(_OURS)
    kept = [(k, v) for k, v in request.headers.items() if k.lower() not in dropped and not _impersonates(k)]
    before = request.headers.get("X-Forwarded-For", "")
    kept = [(k, v) for k, v in kept if k.lower() != "x-forwarded-for"]
    if request.source:
        kept.append(("X-Forwarded-For", f"{before}, {request.source}" if before else request.source))
    host = request.headers.get("Host", "")
    rest = request.raw_path[len(prefix) :]
    kept += [("X-Forwarded-Uri", f"{prefix}{rest}"), ("X-Forwarded-Host", host), ("X-Forwarded-Proto", "https")]
    if host:
        kept.append(("Host", host))
    return kept


def answered(headers: Mapping[str, str], prefix: str, hosts: set[str]) -> list[tuple[str, str]]:
    """The backend's headers for the client."""
    named_here = {one.strip().lower() for one in headers.get("Connection", "").split(",")}
    kept = [(k, v) for k, v in headers.items() if k.lower() not in HOP_BY_HOP | named_here]
    return [(k, rewritten(v, prefix, hosts) if k.lower() == "location" else v) for k, v in kept]


def rewritten(location: str, prefix: str, hosts: set[str]) -> str:
    """A Location as seen from outside: what leads to the backend's own host leads through us."""
    try:
        found = urlsplit(location)
    except ValueError:
        return location
    if (found.netloc and found.netloc not in hosts) or not found.path.startswith("/"):
        return location
    path = found.path if found.path.startswith(prefix) else prefix + found.path
    return SplitResult("", "", path, found.query, found.fragment).geturl()


def slices_of(cache: Cache, registry: Registry) -> Slices:
    kind = registry.find("discovery.k8s.io", "v1", "endpointslices")
    assert kind is not None
    shelf = cache.shelf(kind.prefix)

    def found(namespace: str, service: str) -> list[Obj]:
        return [e.parse() for e in shelf.entries(namespace) if e.labels.get("kubernetes.io/service-name") == service]

    return found


def endpoints(slices: list[Obj], port: str) -> list[tuple[str, int]]:
    """Address and port of each ready endpoint that has the port of this name."""
    found: list[tuple[str, int]] = []
    for one in slices:
        number = next((p.get("port") for p in one.get("ports") or () if (p.get("name") or "") == port), None)
        if number is None or one.get("addressType") == "FQDN":
            continue
        found += [
            (endpoint["addresses"][0], int(number))
            for endpoint in one.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False and endpoint.get("addresses")
        ]
    return found


def _port_name(service: Obj, name: str, asked: str) -> str:
    ports = service["spec"].get("ports") or []
    if not asked:
        return (ports[0].get("name") or "") if len(ports) == 1 else ""
    if not asked.isdigit():
        return asked
    for one in ports:
        if str(one.get("port")) == asked:
            return str(one.get("name") or "")
    raise errors.service_unavailable(f'no service port {asked} found for service "{name}"')


def _port(text: str, scheme: str = "") -> int:
    if not text:
        return 443 if scheme == "https" else 80
    number = port_of(text)
    if number is None:
        raise errors.bad_request(f'invalid port "{text}": give a number between 1 and 65535')
    return number


async def _resolved(host: str) -> str:
    """An address of a node's: the very one that was checked, a second question might be answered otherwise. Raises 400."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError too; UnicodeError: no name that DNS could carry
        raise errors.bad_request(f"lookup {host}: {str(error) or type(error).__name__}") from error
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        _proxyable(address)
    return addresses[0]


def _proxyable(host: str) -> None:
    """Raises 400: what is local to the API server's own machine is not reached through it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise errors.bad_request("address not allowed") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # ::ffff:127.0.0.1 is loopback to the kernel
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        raise errors.bad_request("address not allowed")


def _impersonates(name: str) -> bool:
    return name.lower().startswith(("impersonate-", "x-remote-extra-"))


def _unreachable(error: BaseException) -> StatusError:
    return errors.service_unavailable(f"error trying to reach service: {str(error) or type(error).__name__}")


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    finally:
        response.close()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
