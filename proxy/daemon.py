"""Wiring: informers feed a tracker for each family and wake its loop; each loop's passes write rules through its backend.

The families are two passes over one set of informers, and neither waits for the other. Nothing is written before Services
and EndpointSlices have both been listed: half the picture would delete good rules. What the other mode, or a stock
kube-proxy in it, has left is deleted when the new rules are in, so that there is no moment without any. Stopping leaves the
rules in place; only `--cleanup` removes them. When the configuration's file changes the proxy ends, and its supervisor
starts it again with the new one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from kube.client import Client, Connection
from kube.errors import UsageError
from kube.events import Recorder, Reference
from kube.reconcile import Backoff, Pace, Wake, forever
from linux.addresses import LocalAddresses
from linux.capabilities import Capability, effective
from linux.iptables.rules import Family
from proxy import cleanup, config_file, modes, server
from proxy.config import Config
from proxy.health import Health
from proxy.healthchecks import HealthChecks
from proxy.host import Host
from proxy.informed import Informed
from proxy.metrics import Metrics
from proxy.news import News
from proxy.observe import Tracker
from proxy.policy import Policies
from proxy.sync import Pass

_EVERYTHING_FROM = 4
"""The verbosity from which everything is logged."""

log = logging.getLogger(__name__)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Keep the rules true until cancelled or the configuration's file changes; with `--cleanup`, `--init-only` or
    `--write-config-to` do just that."""
    if config.logging.verbosity >= _EVERYTHING_FROM:
        logging.getLogger().setLevel(logging.DEBUG)
    if config.write_config_to:
        config_file.write(config, config.write_config_to)
        return
    if not effective(Capability.NET_ADMIN):
        raise UsageError("packet filter rules need CAP_NET_ADMIN: run as root (sudo)")
    if config.cleanup:
        await cleanup.everything()
        return
    host = Host(config)
    if config.init_only:
        host.prepare()
        return
    if config.detect_local_mode == "ClusterCIDR" and not config.cluster_cidr:
        log.warning("clusterCIDR is empty: nobody is taken for a pod; set it, or another detectLocalMode")
    async with AsyncExitStack() as stack:
        node = (config.hostname_override or socket.gethostname()).strip().lower()
        client = await stack.enter_async_context(Client(_connection(config), user_agent="wherry-proxy"))
        await _Daemon(config, node, client, host, ready).run(stack)


def _connection(config: Config) -> Connection:
    path = config.client_connection.kubeconfig
    if not path:
        return Connection(server=config.master.rstrip("/"))
    found = Connection.from_kubeconfig(path)
    return dataclasses.replace(found, server=config.master.rstrip("/")) if config.master else found


class _Daemon:
    def __init__(self, config: Config, node: str, client: Client, host: Host, ready: Callable[[], None]) -> None:
        self._config = config
        self._node = node
        self._client = client
        self._host = host
        self._ready: Callable[[], None] | None = ready
        self._tried: set[int] = set()
        self._wrote: set[int] = set()
        self._soon: asyncio.TimerHandle | None = None

    async def run(self, stack: AsyncExitStack) -> None:
        config = self._config
        backends = await modes.usable(config.mode)
        names = {family: f"IPv{family}" for family in backends}
        now = time.time()
        self._metrics = Metrics(config.mode, names.values())
        self._health = Health(config.rules.sync_period, names.values(), now)
        self._wakes = {family: Wake() for family in backends}
        trackers = {family: Tracker(self._node, family, now) for family in backends}
        self._objects = Informed(
            self._client, config, self._node, tuple(trackers.values()), self._metrics, self._queued
        )
        self._recorder = Recorder(
            self._client,
            "kube-proxy",
            self._node,
            qps=max(0.0, config.client_connection.qps),
            burst=config.client_connection.burst,
        )
        checks = await stack.enter_async_context(HealthChecks(self._node, self._tell, self._keeps_up))
        local = await stack.enter_async_context(LocalAddresses(self._queued))
        policies = Policies(config, self._objects.node, local.known, self._objects.service_cidrs)
        news = News(self._tell, lambda reason: self._metrics.skipped.labels(reason).inc())
        passes = [
            Pass(
                family,
                backend,
                trackers[family],
                partial(policies.of, family),
                waiting=self._health.families[names[family]],
                metrics=self._metrics.families[names[family]],
                checks=checks,
                news=news,
                sync_period=config.rules.sync_period,
            )
            for family, backend in backends.items()
        ]
        for one in passes:
            stack.callback(one.backend.close)
            await stack.enter_async_context(one.backend.watching(self._wakes[one.family].set))
        try:
            async with asyncio.TaskGroup() as group:
                await server.serve(stack, group, config, self._metrics, self._health, self._objects.eligible)
                if config.config_file:
                    group.create_task(config_file.unchanged(config.config_file))
                group.create_task(self._recorder.run())
                self._host.prepare()  # not before all is known to be well: who is refused changes nothing
                about = Reference("v1", "Node", "", self._node, self._node)  # upstream's: the uid is the name
                self._recorder.event(about, "Normal", "Starting", f"Starting wherry-proxy, mode {config.mode}.")
                self._objects.start(group)
                await self._objects.synced()
                gc.disable()  # the first passes make a hundred thousand values that stay: until they have, none is garbage
                for one in passes:
                    group.create_task(self._loop(one, len(passes)))
        except* config_file.Changed as changed:
            log.warning("%s", changed.exceptions[0])

    def _queued(self, after: float = 0.0) -> None:
        """A change that may wait `after` seconds; others that come meanwhile take it along."""
        now = time.time()
        for waiting in self._health.families.values():
            waiting.queued(now)
        self._metrics.changes.queued = now
        if not after:
            self._wake()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(after, self._wake)

    def _wake(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        for wake in self._wakes.values():
            wake.set()

    def _keeps_up(self) -> bool:
        return self._health.is_healthy(time.time())

    def _tell(self, key: str, reason: str, message: str) -> None:
        service = self._objects.service(key)
        if service is not None:
            self._recorder.event(service.reference, "Warning", reason, message)

    async def _loop(self, one: Pass, families: int) -> None:
        rules = self._config.rules
        left = cleanup.Leftovers(self._config.mode, one.family, one.backend, self._metrics, rules.sync_period)

        async def sync() -> None:
            self._metrics.changes.taken()
            try:
                await one.sync()
                self._written(one.family)
            finally:
                self._attempted(one, families)
            if len(self._tried) == families:  # not while another family's first rules are being made
                await left.clear()

        await forever(
            sync,
            self._wakes[one.family],
            resync=rules.sync_period,
            pace=Pace(rules.min_sync_period),
            backoff=Backoff(most=rules.sync_period),
            name=f"IPv{one.family} rules",
        )

    def _written(self, family: Family) -> None:
        if family is Family.V4 and family not in self._wrote:
            self._host.open_loopback()
        self._wrote.add(family)

    def _attempted(self, one: Pass, families: int) -> None:
        """Ready when every family has tried and one has succeeded: a broken one must not hide that the other works."""
        first = one.family not in self._tried
        self._tried.add(one.family)
        if first and len(self._tried) == families:
            gc.enable()
            for wake in self._wakes.values():
                wake.set()  # what the other mode left is next
        if self._ready is not None and len(self._tried) == families and self._wrote:
            ready, self._ready = self._ready, None
            self._host.prepare()  # conntrack's values are there now
            ready()
