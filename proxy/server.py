"""The proxy's two small servers: health for load balancers and supervisors, metrics and state for people.

    10256  /healthz /livez                                   whether it keeps up (`proxy.health`)
    10249  /metrics /metrics/slis /proxyMode /configz /healthz

An address that cannot be bound ends the daemon only with `bindAddressHardFail`, as upstream has it; otherwise it is tried
again every few seconds: often the old process is just about to leave it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from kube import serving, settings, slis
from kube.errors import UsageError
from proxy.config import Config
from proxy.health import Health
from proxy.metrics import Metrics

_AGAIN = 5.0
"""Seconds; upstream's."""

log = logging.getLogger(__name__)


async def serve(
    stack: AsyncExitStack,
    group: asyncio.TaskGroup,
    config: Config,
    metrics: Metrics,
    health: Health,
    eligible: Callable[[], bool],
) -> None:
    """Open both servers until `stack` closes. Raises UsageError for an address that is none, or is taken with
    bindAddressHardFail."""
    doors = (
        ("--healthz-bind-address", config.healthz_bind_address, _health_routes(metrics, health, eligible)),
        ("--metrics-bind-address", config.metrics_bind_address, _metrics_routes(config, metrics)),
    )
    for flag, address, routes in doors:
        if not address:
            continue
        host, port = serving.split_address(address, flag)
        try:
            await stack.enter_async_context(serving.serve(host, port, routes, flag=flag))
        except UsageError as error:
            if config.bind_address_hard_fail:
                raise
            log.warning("%s; tried again every %.0f s", error, _AGAIN)
            group.create_task(_later(flag, address, routes))


async def _later(flag: str, address: str, routes: Mapping[str, serving.Handler]) -> None:
    host, port = serving.split_address(address, flag)
    while True:
        await asyncio.sleep(_AGAIN)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(serving.serve(host, port, routes, flag=flag))
            except UsageError:
                continue
            log.info("listening on %s", address)
            await asyncio.Event().wait()


def _health_routes(metrics: Metrics, health: Health, eligible: Callable[[], bool]) -> Mapping[str, serving.Handler]:
    async def healthz(_request: web.Request) -> web.Response:
        status, body = health.report(time.time(), eligible=eligible())
        metrics.healthz.labels(str(status)).inc()
        return web.json_response(body, status=status)

    async def livez(_request: web.Request) -> web.Response:
        status, body = health.report(time.time(), eligible=None)
        metrics.livez.labels(str(status)).inc()
        return web.json_response(body, status=status)

    return {"/healthz": healthz, "/livez": livez}


def _metrics_routes(config: Config, metrics: Metrics) -> Mapping[str, serving.Handler]:
    checks: Mapping[str, serving.Check] = {"ping": lambda: None}
    return {
        "/metrics": serving.metrics(metrics.registry),
        "/metrics/slis": serving.metrics(slis.registry(checks)),
        "/healthz": serving.health(checks),
        "/proxyMode": serving.text(config.mode),
        "/configz": serving.json(lambda: {"kubeproxy.config.k8s.io": settings.render(config)}),
    }
