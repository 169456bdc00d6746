"""One pass of one family: take what changed, let the backend write it, then tell everybody who waits for the rules.

The order after the rules is upstream's: health and metrics first, then the health checks of load balancers, then the flows
that the old rules had pinned. What a pass could not write stays `changed` until one could.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from kube.errors import Retry
from linux.iptables.rules import Family
from proxy import conntrack
from proxy.backend import Applied, Backend, Wish
from proxy.firewalls import Firewalls
from proxy.health import Waiting
from proxy.healthchecks import HealthChecks
from proxy.metrics import FamilyMetrics
from proxy.model import Policy, Reach, ServicePort
from proxy.news import News
from proxy.observe import Taken, Tracker

_MOST_TRIGGERED = 4096
"""Of the causes that wait for their rules while passes fail, the oldest are enough to tell how long it took."""

log = logging.getLogger(__name__)


class Pass:
    """Everything a family's pass needs, and what it keeps from one to the next. `sync_period`: seconds after which rules are
    compared with the kernel's where nobody tells of changes."""

    def __init__(
        self,
        family: Family,
        backend: Backend,
        tracker: Tracker,
        policy: Callable[[], Policy],
        *,
        waiting: Waiting,
        metrics: FamilyMetrics,
        checks: HealthChecks,
        news: News,
        sync_period: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.family = family
        self.backend = backend
        self.tracker = tracker
        self._policy = policy
        self._waiting = waiting
        self._metrics = metrics
        self._checks = checks
        self._news = news
        self._sync_period = sync_period
        self._clock = clock
        self._flows = conntrack.Flows(family)
        self._firewalls = Firewalls(family)
        self._local = WithoutLocal()
        self._changed: set[str] = set()
        self._triggered: list[float] = []
        self._written: Policy | None = None  # what the rules in the kernel were made with; None: not yet, or unknown
        self._refused = False  # the last time
        self._compared = 0.0

    async def sync(self) -> None:
        """Raises Retry when the kernel refuses."""
        begun = self._clock()
        waited = self._waiting.taken()
        taken = self.tracker.take()
        self._changed |= taken.changed
        self._triggered += taken.triggered[: _MOST_TRIGGERED - len(self._triggered)]
        self._news.skipped(taken.skipped)
        policy = self._policy()
        if not self.backend.sees_changes and begun - self._compared >= self._sync_period:
            self.backend.doubt()
        changed = frozenset(self._changed) if policy == self._written else None
        try:
            applied = await self.backend.apply(Wish(taken.services, changed, policy))
        except Retry:
            self._waiting.failed(waited)
            self._metrics.failures.inc()
            if changed is not None and not self._refused and self._metrics.partial_failures is not None:
                self._metrics.partial_failures.inc()
            self._refused = True  # so the next one compares the kernel: no partial one
            await self._answer(taken, changed, policy)  # a load balancer's question must not wait for a refusal
            raise
        first, self._written, self._refused = self._written is None, policy, False
        self._changed.clear()
        self._flows.note(taken.services, changed, applied.refused)  # at once: whatever fails below, this is known
        if applied.repaired:
            self._flows.doubt()
        self._tell(taken, changed, applied, begun)
        await self._answer(taken, changed, policy)
        if self._flows.due:
            await self._clean_flows(policy)
        if first or applied.repaired:
            await self._firewalls.look()

    async def _answer(self, taken: Taken, changed: Collection[str] | None, policy: Policy) -> None:
        self._checks.note(self.family, taken.services, changed, policy.node_port_addresses)
        await self._checks.sync()

    def _tell(self, taken: Taken, changed: Collection[str] | None, applied: Applied, begun: float) -> None:
        now, metrics = self._clock(), self._metrics
        seconds = now - begun
        if applied.full:
            self._compared = now
        self._waiting.done(now)
        metrics.sync_seconds.observe(seconds)
        (metrics.full_sync_seconds if applied.full else metrics.partial_sync_seconds).observe(seconds)
        metrics.last_sync.set(now)
        metrics.rules(applied.rules, applied.rules_written)
        for moment in self._triggered:
            metrics.programming_seconds.observe(max(0.0, now - moment))
        self._triggered.clear()
        self._local.note(taken.services, changed)
        metrics.without_local(internal=self._local.internal, external=self._local.external)
        metrics.refused.set(len(applied.refused))
        self._news.refused(self.family, applied.refused)
        if applied.repaired:
            metrics.repairs.inc()
            log.warning(
                "IPv%d: rules were changed behind our back and are back: %s", self.family, _some(applied.repaired)
            )
        if applied.written or applied.deleted:
            log.log(
                logging.INFO if applied.full or changed is None else logging.DEBUG,
                "IPv%d: %d written, %d deleted in %.0f ms%s",
                self.family,
                applied.written,
                applied.deleted,
                seconds * 1000,
                ", the kernel compared" if applied.full else "",
            )

    async def _clean_flows(self, policy: Policy) -> None:
        begun = self._clock()
        deleted = await self._flows.clean(policy.node_port_addresses)
        self._metrics.conntrack_seconds.observe(self._clock() - begun)
        self._metrics.conntrack_deleted.inc(deleted)
        if deleted:
            log.info("IPv%d: %d stale UDP flows deleted", self.family, deleted)


class WithoutLocal:
    """How many service ports of a Local policy have endpoints, but none on this node, by the side they are asked from."""

    def __init__(self) -> None:
        self.internal, self.external = 0, 0
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, services: Mapping[str, tuple[ServicePort, ...]], changed: Collection[str] | None) -> None:
        """`changed` is None where any may have."""
        for key in (services.keys() | self._known.keys()) if changed is None else changed:
            old = self._known.pop(key, (0, 0))
            new = _without_local(services.get(key, ()))
            if new != (0, 0):
                self._known[key] = new
            self.internal += new[0] - old[0]
            self.external += new[1] - old[1]


def _without_local(ports: Collection[ServicePort]) -> tuple[int, int]:
    bare = [port for port in ports if port.endpoints.any and not port.endpoints.local]
    return (
        sum(port.internal is Reach.LOCAL for port in bare),
        sum(port.external is Reach.LOCAL and port.externally_reachable for port in bare),
    )


def _some(words: Collection[str], most: int = 5) -> str:
    shown = ", ".join(list(words)[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
