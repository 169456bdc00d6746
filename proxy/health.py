"""Whether this proxy keeps up: what /healthz and /livez say. Pure; times are seconds given by the caller.

Upstream's rule: unhealthy when a change of Services has waited for more than two sync periods, whatever the reason.
/healthz also fails where load balancers should send nothing new: the node is being deleted (or is unknown), or the
autoscaler has marked it for removal. Upstream source: pkg/proxy/healthcheck/proxy_health.go.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kube.core import Node

TAINT_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"


class Health:
    """`period`: the sync period in seconds; `now`: the start, which counts as a first change that waits."""

    def __init__(self, period: float, now: float) -> None:
        self._allowed = 2 * period
        self._waiting_since: float | None = now
        self._updated = now

    def queued(self, now: float) -> None:
        """A change arrived; the oldest that waits counts."""
        if self._waiting_since is None:
            self._waiting_since = now

    def taken(self) -> float | None:
        """A pass begins and takes what waits; give its answer back to `failed` if the pass fails."""
        since, self._waiting_since = self._waiting_since, None
        return since

    def failed(self, since: float | None) -> None:
        if since is not None:
            self._waiting_since = since if self._waiting_since is None else min(since, self._waiting_since)

    def updated(self, now: float) -> None:
        self._updated = now

    def is_healthy(self, now: float) -> bool:
        return self._waiting_since is None or now - self._waiting_since < self._allowed

    def report(self, now: float, family: str, *, eligible: bool | None) -> tuple[int, dict[str, Any]]:
        """HTTP status and body; `eligible` is None where the node's fate is not asked (/livez)."""
        healthy = self.is_healthy(now)
        ok = healthy and eligible is not False
        updated = _timestamp(now if healthy else self._updated)
        body: dict[str, Any] = {"lastUpdated": updated, "currentTime": _timestamp(now)}
        if eligible is not None:
            body["nodeEligible"] = eligible
        body["healthy"] = ok
        body["status"] = {family: {"lastUpdated": updated, "healthy": healthy}}
        return 200 if ok else 503, body


def node_is_eligible(node: Node | None) -> bool:
    """Load balancers may send new connections here."""
    if node is None or node.metadata.deletion_timestamp is not None:
        return False
    return all(taint.key != TAINT_TO_BE_DELETED for taint in node.spec.taints)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
