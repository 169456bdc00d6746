"""One pass: read the informers, plan, write what differs, say how it went."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

from kube import core, discovery
from kube.errors import Retry
from linux.iptables.rules import Chain, Family, Table
from proxy import conntrack
from proxy.config import PRIMARY, Config
from proxy.health import Health
from proxy.iptables import plan
from proxy.iptables.apply import Applied, Rules
from proxy.iptables.fragments import Fragment
from proxy.metrics import Metrics
from proxy.model import Address, PodNetwork, Policy
from proxy.observe import Services, address, conntrack_is_liberal, local_addresses, node_port_addresses

log = logging.getLogger(__name__)


class Objects(Protocol):
    """The three kinds a pass reads; `daemon` answers from informers."""

    def services(self) -> Sequence[core.Service]: ...

    def slices(self) -> Sequence[discovery.EndpointSlice]: ...

    def node(self) -> core.Node | None: ...


class Watch(Protocol):
    """Who can tell whether somebody else changed the rules."""

    def untouched(self) -> bool:
        """Nobody has committed anything since the last `verified`."""
        ...

    def verified(self) -> None:
        """The rules are being read: what is committed from now on is news."""
        ...

    def begin(self) -> None:
        """What is committed until `catch_up` is ours."""
        ...

    def catch_up(self) -> None: ...


class Pass:
    """Everything one pass needs, and what it keeps from one to the next."""

    def __init__(
        self,
        config: Config,
        node: str,
        objects: Objects,
        rules: Rules,
        watch: Watch,
        *,
        random_fully: bool,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.time,
        family: Family = Family.V4,
    ) -> None:
        self._config = config
        self._objects = objects
        self._rules = rules
        self._watch = watch
        self._random_fully = random_fully
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._family = family
        self._services = Services(node, family)
        self._flows = conntrack.Flows(family)
        self._fragments = plan.Fragments()
        self._read_at = 0.0

    async def sync(self) -> None:
        """Raises Retry when the kernel refuses."""
        begun = self._clock()
        waiting = self._health.taken()
        self._metrics.service_changes_pending.set(0)
        self._metrics.endpoint_changes_pending.set(0)
        if begun - self._read_at >= self._config.iptables.sync_period and not self._watch.untouched():
            self._rules.doubt()
        full = self._rules.doubted
        if full:
            self._watch.verified()
        self._watch.begin()
        try:
            applied = await self._apply()
        except Retry:
            self._health.failed(waiting)
            (self._metrics.restore_failures if full else self._metrics.partial_restore_failures).inc()
            raise
        finally:
            self._watch.catch_up()
        now = self._clock()
        if full:
            self._read_at = now
        self._health.updated(now)
        self._measure(applied, now, now - begun)
        if self._flows.due:
            await self._clean_flows()

    async def _apply(self) -> Applied:
        policy = self._policy()
        ports = self._services.ports(self._objects.services(), self._objects.slices())
        parts = self._fragments.of(sorted(ports, key=lambda port: (port.name, port.protocol.value)), policy)
        wanted = plan.joined(parts, policy)
        applied = await self._rules.apply(wanted)
        self._flows.note(
            {key: tuple(mine) for key, mine in groupby(ports, lambda port: port.name.partition(":")[0])}, None
        )
        if applied.full or applied.chains_written or applied.chains_deleted:
            self._count(parts, list(wanted.chains()))
        return applied

    async def _clean_flows(self) -> None:
        begun = self._clock()
        deleted = await self._flows.clean(self._node_port_addresses())
        self._metrics.conntrack_seconds.observe(self._clock() - begun)
        self._metrics.conntrack_deleted.inc(deleted)
        if deleted:
            log.info("%d stale UDP flows deleted", deleted)

    def _policy(self) -> Policy:
        config = self._config
        pods = next((net for net in config.cluster_networks if net.version == self._family), None)
        return Policy(
            family=self._family,
            masquerade_bit=config.iptables.masquerade_bit,
            masquerade_all=config.iptables.masquerade_all,
            random_fully=self._random_fully,
            pods=PodNetwork(pods) if pods else None,
            node_port_addresses=self._node_port_addresses(),
            drop_invalid=not conntrack_is_liberal(),
        )

    def _node_port_addresses(self) -> tuple[Address, ...] | None:
        config = self._config
        if PRIMARY in config.node_port_addresses:
            primary = config.node_ip or self._node_address()
            if primary is None:
                raise Retry("nodePortAddresses: primary: this Node has no InternalIP yet; set bindAddress to name it")
            return (primary,)
        networks = config.node_port_networks
        return node_port_addresses(networks, local_addresses(), self._family) if networks else None

    def _node_address(self) -> Address | None:
        node = self._objects.node()
        found = (
            (address(entry.address) for entry in node.status.addresses if entry.type == "InternalIP") if node else ()
        )
        return next((ip for ip in found if ip is not None and ip.version == self._family), None)

    def _count(self, parts: Sequence[Fragment], chains: Sequence[Chain]) -> None:
        counts = self._metrics.counts
        for table in (Table.NAT, Table.FILTER):
            total = sum(len(chain.rules) for chain in chains if chain.table is table)
            counts.rules[table.value] = total
        counts.without_local_endpoints = {
            "internal": sum(part.internal_without_local for part in parts),
            "external": sum(part.external_without_local for part in parts),
        }

    def _measure(self, applied: Applied, now: float, seconds: float) -> None:
        metrics = self._metrics
        metrics.sync_seconds.observe(seconds)
        (metrics.full_sync_seconds if applied.full else metrics.partial_sync_seconds).observe(seconds)
        metrics.last_sync.set(now)
        for table, written in applied.rules_written.items():
            metrics.rules_last.labels(table.value, f"IPv{self._family}").set(written)
        if applied.repaired:
            log.warning("rules were changed behind our back: %d chains written again", applied.chains_written)
        if applied.chains_written or applied.chains_deleted:
            log.info(
                "%d chains written, %d deleted in %.0f ms%s",
                applied.chains_written,
                applied.chains_deleted,
                seconds * 1000,
                ", the kernel compared" if applied.full else "",
            )
