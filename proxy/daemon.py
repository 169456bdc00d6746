"""Wiring: three informers wake one loop; the loop's passes write rules; two small servers tell how it goes.

Nothing is written before Services and EndpointSlices have both been listed: half the picture would delete good rules.
Stopping leaves the rules in place; only `--cleanup` removes them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from kube import core, discovery, serving, settings
from kube.client import Client, Connection
from kube.errors import Retry, UsageError
from kube.informer import Informer
from kube.reconcile import Wake, forever
from kube.resources import ENDPOINTSLICES, NODES, SERVICES
from linux import process
from linux.capabilities import Capability, effective
from linux.iptables import backend, generation, legacy_reader
from linux.iptables.restore import Iptables
from linux.iptables.rules import Family
from proxy.config import Config
from proxy.health import Health, node_is_eligible
from proxy.iptables import apply
from proxy.metrics import Metrics
from proxy.observe import SERVICES_SELECTOR, SLICES_SELECTOR
from proxy.sync import Pass

FAMILY = Family.V4
_FAMILY_NAME = f"IPv{FAMILY}"

log = logging.getLogger(__name__)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Keep the rules true until cancelled; with `--cleanup` delete them and return."""
    if not effective(Capability.NET_ADMIN):
        raise UsageError("iptables rules need CAP_NET_ADMIN: run as root (sudo)")
    if config.cleanup:
        await cleanup()
        return
    connection = Connection.from_kubeconfig(config.client_connection.kubeconfig)
    chosen = await _backend()
    node = config.hostname_override or socket.gethostname().lower()
    log.info("writing %s rules with %s for node %s", chosen.flavor, chosen.restore, node)
    wake, metrics = Wake(), Metrics(_FAMILY_NAME)
    health = Health(config.iptables.sync_period, time.time())
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(connection, user_agent="wherry-proxy"))
        objects = Informed(client, node, wake, metrics, health)
        await _serve(stack, config, metrics, health, objects)
        rules = apply.Rules(Iptables(chosen))
        watch = Watch(rules, wake, seen=chosen.flavor is backend.Flavor.NFT)
        if chosen.flavor is backend.Flavor.NFT:
            await stack.enter_async_context(watch.generations)
        one = Pass(
            config,
            node,
            objects,
            rules,
            watch,
            random_fully=chosen.random_fully,
            metrics=metrics,
            health=health,
            family=FAMILY,
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        objects.start(group)
        await objects.synced()
        group.create_task(_loop(one, wake, config, ready))


async def _loop(one: Pass, wake: Wake, config: Config, ready: Callable[[], None]) -> None:
    said = False

    async def sync() -> None:
        nonlocal said
        await one.sync()
        if not said:
            said = True
            ready()

    rules = config.iptables
    await forever(sync, wake, resync=rules.sync_period, min_interval=rules.min_sync_period, name="proxy rules")


class Informed:
    """The objects a pass reads, from informers that wake it."""

    def __init__(self, client: Client, node: str, wake: Wake, metrics: Metrics, health: Health) -> None:
        self._services = Informer(client, SERVICES, label_selector=SERVICES_SELECTOR)
        self._slices = Informer(client, ENDPOINTSLICES, label_selector=SLICES_SELECTOR)
        self._nodes = Informer(client, NODES, field_selector=f"metadata.name={node}")
        self._node = node

        def queued() -> None:
            now = time.time()
            health.queued(now)
            metrics.last_queued.set(now)
            wake.set()

        def service_changed(_change: object) -> None:
            metrics.service_changes.inc()
            metrics.service_changes_pending.inc()
            queued()

        def slice_changed(_change: object) -> None:
            metrics.endpoint_changes.inc()
            metrics.endpoint_changes_pending.inc()
            queued()

        self._services.subscribe(service_changed)
        self._slices.subscribe(slice_changed)

    def start(self, group: asyncio.TaskGroup) -> None:
        for informer in (self._services, self._slices, self._nodes):
            group.create_task(informer.run())

    async def synced(self) -> None:
        await self._services.synced.wait()
        await self._slices.synced.wait()

    def services(self) -> Sequence[core.Service]:
        return self._services.items()

    def slices(self) -> Sequence[discovery.EndpointSlice]:
        return self._slices.items()

    def node(self) -> core.Node | None:
        return self._nodes.get(self._node)

    def eligible(self) -> bool:
        """An unknown node is ineligible only once the server has answered."""
        return not self._nodes.synced.is_set() or node_is_eligible(self.node())


class Watch:
    """Doubts the rules as soon as nf_tables says that somebody else committed something. Where nobody says (`seen` is
    false: legacy tables) it claims to know nothing, so that the rules are read every sync period."""

    def __init__(self, rules: apply.Rules, wake: Wake, *, seen: bool) -> None:
        self._rules = rules
        self._wake = wake
        self._seen = seen
        self._at_read: int | None = None
        self._ours = False
        self.generations = generation.Generations(self._changed)

    def _changed(self) -> None:
        if self._seen and not self._ours:
            self._rules.doubt()
            self._wake.set()

    def untouched(self) -> bool:
        return self._seen and self._at_read == generation.current()

    def verified(self) -> None:
        self._at_read = generation.current() if self._seen else None

    def begin(self) -> None:
        self._ours = True

    def catch_up(self) -> None:
        self._ours = False
        if self._seen:
            self.generations.catch_up()


async def _backend() -> backend.Backend:
    try:
        return await backend.detect(FAMILY)
    except (backend.Unusable, process.CommandFailed) as error:
        raise UsageError(str(error)) from error


async def _serve(stack: AsyncExitStack, config: Config, metrics: Metrics, health: Health, objects: Informed) -> None:
    async def healthz(_request: web.Request) -> web.Response:
        status, body = health.report(time.time(), _FAMILY_NAME, eligible=objects.eligible())
        metrics.healthz.labels(str(status)).inc()
        return web.json_response(body, status=status)

    async def livez(_request: web.Request) -> web.Response:
        status, body = health.report(time.time(), _FAMILY_NAME, eligible=None)
        metrics.livez.labels(str(status)).inc()
        return web.json_response(body, status=status)

    if config.healthz_bind_address:
        flag = "--healthz-bind-address"
        host, port = serving.split_address(config.healthz_bind_address, flag)
        await stack.enter_async_context(serving.serve(host, port, {"/healthz": healthz, "/livez": livez}, flag=flag))
    if config.metrics_bind_address:
        flag = "--metrics-bind-address"
        host, port = serving.split_address(config.metrics_bind_address, flag)
        routes = {
            "/metrics": serving.metrics(metrics.registry),
            "/healthz": serving.health({"ping": lambda: None}),
            "/proxyMode": serving.text(config.mode),
            "/configz": serving.json(lambda: {"kubeproxy.config.k8s.io": settings.render(config)}),
        }
        await stack.enter_async_context(serving.serve(host, port, routes, flag=flag))


async def cleanup() -> None:
    """Delete our rules from whichever of the two kernel interfaces holds any. Does nothing on a clean node."""
    deleted, found = 0, 0
    for flavor in backend.Flavor:
        try:
            packets = Iptables(await backend.named(FAMILY, flavor))
        except backend.Unusable as error:
            log.info("%s tables are left alone: %s", flavor, error)
            continue
        found += 1
        reader = packets if flavor is backend.Flavor.NFT else legacy_reader.LegacyTables(packets, sys.executable)
        try:
            deleted += await apply.forget(reader)
        except Retry as error:
            raise UsageError(f"--cleanup: {error}; run it again when nobody else changes these rules") from error
    if not found:
        raise UsageError("--cleanup: there is no iptables on PATH: install the package iptables")
    log.info("%d chains deleted", deleted)
