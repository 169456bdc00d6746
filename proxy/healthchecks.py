"""healthCheckNodePort: where a load balancer asks whether this node has endpoints of a Service of its own.

With `externalTrafficPolicy: Local` a node hands outsiders only to its own endpoints, so the load balancer must know which
nodes have any. Each such Service has a port for the question, on every address that has NodePorts, in each family:

    200  ready endpoints are here and the proxy keeps up        X-Load-Balancing-Endpoint-Weight: how many
    503  otherwise (an endpoint that terminates does not count: the balancer shall turn away before it is gone)

One HTTP server answers on all the ports; which Service is asked about is told by the port that the question came to. A port
that cannot be had is told in an Event on the Service and tried again. (upstream: pkg/proxy/healthcheck/service_health.go)
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import LooseHeaders

from linux.iptables.rules import Family
from proxy.model import Address, ServicePort

FAILED = "FailedToStartServiceHealthcheck"
_AGAIN = 5.0
"""Seconds between two attempts at a port."""
_BACKLOG = 128
_ANY: Mapping[Family, Address] = {Family.V4: IPv4Address(0), Family.V6: IPv6Address(0)}

Tell = Callable[[str, str, str], None]
"""Puts a Warning Event on a Service: its `namespace/name`, the reason, the message."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """What one Service wants of this node in one family, and what there is to answer."""

    service: str
    port: int
    ready: int


class HealthChecks:
    """The ports of all families. `node` is its name, for the Event; `healthy` says whether the proxy keeps up."""

    def __init__(
        self, node: str, tell: Tell, healthy: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node, self._tell, self._healthy, self._clock = node, tell, healthy, clock
        self._wanted: dict[Family, dict[str, Check]] = {}
        self._addresses: dict[Family, tuple[Address, ...]] = {}
        self._asked: dict[tuple[Family, int], str] = {}
        self._open: dict[tuple[Address, int], asyncio.Server] = {}
        self._failed: dict[tuple[Address, int], tuple[float, str]] = {}
        self._moved = False  # a place is wanted or no longer is
        self._turn = asyncio.Lock()  # the families' passes come at the same time, and would bind the same port twice
        self._server = web.Server(self._answer, access_log=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listening in self._open.values():
            listening.close()
        self._open.clear()
        await self._server.shutdown(1.0)

    def note(
        self,
        family: Family,
        services: Mapping[str, tuple[ServicePort, ...]],
        changed: Collection[str] | None,
        addresses: Sequence[Address] | None,
    ) -> None:
        """The rules for `changed` (None: all) are in. `addresses` are those that have NodePorts; None is every one."""
        wanted = self._wanted.setdefault(family, {})
        places = (_ANY[family],) if addresses is None else tuple(addresses)
        self._moved = self._moved or self._addresses.get(family) != places
        self._addresses[family] = places
        for key in (wanted.keys() | services.keys()) if changed is None else changed:
            port = next((port for port in services.get(key, ()) if port.health_check_node_port), None)
            known = wanted.pop(key, None)
            if port is not None:
                wanted[key] = Check(key, port.health_check_node_port, port.ready_here)
            before, after = known and known.port, port and port.health_check_node_port
            self._moved = self._moved or before != after

    async def sync(self) -> None:
        """Listen where that is wanted and nowhere else. A port that cannot be had is told once for each reason."""
        async with self._turn:
            if self._moved or self._failed:
                await self._move()

    async def _move(self) -> None:
        self._moved = False
        places: dict[tuple[Address, int], Check] = {}
        self._asked = {}
        for family, checks in self._wanted.items():
            for check in checks.values():
                self._asked.setdefault((family, check.port), check.service)
                places |= {(address, check.port): check for address in self._addresses[family] if _bindable(address)}
        for place in self._open.keys() - places.keys():
            self._open.pop(place).close()
            log.info("health checks are no longer answered on %s port %d", *place)
        self._failed = {place: failed for place, failed in self._failed.items() if place in places}
        for place in places.keys() - self._open.keys():
            when, _ = self._failed.get(place, (0.0, ""))
            if place not in self._failed or self._clock() - when >= _AGAIN:
                await self._listen(*place, places[place].service)

    async def _listen(self, address: Address, port: int, service: str) -> None:
        try:
            server = await _serving(self._server, address, port)
        except OSError as error:
            words = f'node {self._node} failed to start healthcheck "{service}" on port {port}: {_why(error, address)}'
            if self._failed.get((address, port), (0.0, ""))[1] != words:
                log.warning("%s; it is tried again", words)
                self._tell(service, FAILED, words)
            self._failed[address, port] = self._clock(), words
            return
        self._failed.pop((address, port), None)
        self._open[address, port] = server
        log.info("health checks of %s are answered on %s port %d", service, address, port)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.transport.get_extra_info("sockname") if request.transport else None
        family = Family.V6 if name and len(name) == 4 else Family.V4
        check = self._wanted.get(family, {}).get(self._asked.get((family, name[1]), "")) if name else None
        if check is None:  # the Service went while the balancer kept its connection
            gone = web.Response(status=503, text="no Service has its health check here\n")
            gone.force_close()
            return gone
        namespace, _, service = check.service.partition("/")
        healthy = self._healthy()
        headers: LooseHeaders = {
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(check.ready),
        }
        body = {
            "service": {"namespace": namespace, "name": service},
            "localEndpoints": check.ready,
            "serviceProxyHealthy": healthy,
        }
        return web.json_response(body, status=200 if check.ready and healthy else 503, headers=headers)


def _bindable(address: Address) -> bool:
    """Link-local addresses are no place without an interface."""
    return address.version == 4 or not address.is_link_local


async def _serving(answer: web.Server, address: Address, port: int) -> asyncio.Server:
    """Where two bind at the same time, only one may listen: that is refused late."""
    listener = _listener(address, port)
    try:
        return await asyncio.get_running_loop().create_server(answer, sock=listener, backlog=_BACKLOG)
    except OSError:
        listener.close()
        raise


def _listener(address: Address, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((str(address), port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _why(error: OSError, address: Address) -> str:
    return f"cannot listen on {address}: {os.strerror(error.errno or 0)}"
