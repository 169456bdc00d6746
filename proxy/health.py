"""Whether this proxy keeps up: what /healthz and /livez say. Pure; times are seconds given by the caller.

Upstream's rule: unhealthy when a change of Services has waited for more than two sync periods in any family, whatever the
reason. /healthz also fails where load balancers should send nothing new: the node is being deleted (or is unknown), or the
autoscaler has marked it for removal. Upstream source: pkg/proxy/healthcheck/proxy_health.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kube.core import Node

TAINT_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"


class Waiting:
    """One family's changes, and since when the oldest of them waits; the start counts as a first one."""

    def __init__(self, now: float) -> None:
        self._since: float | None = now
        self.updated = now

    def queued(self, now: float) -> None:
        """A change arrived; the oldest that waits counts."""
        if self._since is None:
            self._since = now

    def taken(self) -> float | None:
        """A pass begins and takes what waits; give its answer back to `failed` if the pass fails."""
        since, self._since = self._since, None
        return since

    def failed(self, since: float | None) -> None:
        if since is not None:
            self._since = since if self._since is None else min(since, self._since)

    def done(self, now: float) -> None:
        self.updated = now

    def late(self, now: float, allowed: float) -> bool:
        return self._since is not None and now - self._since >= allowed


class Health:
    """`period`: the sync period in seconds; `families`: their names as in `IPv4`; `now`: the start."""

    def __init__(self, period: float, families: Iterable[str], now: float) -> None:
        self._allowed = 2 * period
        self.families = {family: Waiting(now) for family in families}

    def is_healthy(self, now: float) -> bool:
        return not any(waiting.late(now, self._allowed) for waiting in self.families.values())

    def report(self, now: float, *, eligible: bool | None) -> tuple[int, dict[str, Any]]:
        """HTTP status and body; `eligible` is None where the node's fate is not asked (/livez)."""
        healthy = self.is_healthy(now)
        status = {name: self._status(waiting, now) for name, waiting in self.families.items()}
        ok = healthy and eligible is not False
        updated = now if healthy else max(waiting.updated for waiting in self.families.values())
        body: dict[str, Any] = {"lastUpdated": _timestamp(updated), "currentTime": _timestamp(now)}
        if eligible is not None:
            body["nodeEligible"] = eligible
        body["healthy"] = ok
        body["status"] = status
        return 200 if ok else 503, body

    def _status(self, waiting: Waiting, now: float) -> dict[str, Any]:
        healthy = not waiting.late(now, self._allowed)
        return {"lastUpdated": _timestamp(now if healthy else waiting.updated), "healthy": healthy}


def node_is_eligible(node: Node | None) -> bool:
    """Load balancers may send new connections here."""
    if node is None or node.metadata.deletion_timestamp is not None:
        return False
    return all(taint.key != TAINT_TO_BE_DELETED for taint in node.spec.taints)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
