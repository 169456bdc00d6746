"""/metrics/slis: what each health check of a component says, and how often it has said so (KEP-3466)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Health(Collector):
    """A check answers None when all is well; each scrape asks."""

    def __init__(self, checks: Mapping[str, Callable[[], str | None]]) -> None:
        self._checks = checks
        self._counts = {(name, status): 0 for name in checks for status in ("success", "error")}

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        now = GaugeMetricFamily("kubernetes_healthcheck", "Result of one healthcheck.", labels=["name", "type"])
        total = CounterMetricFamily(
            "kubernetes_healthchecks", "Results of all healthchecks.", labels=["name", "status", "type"]
        )
        for name, check in self._checks.items():
            well = check() is None
            self._counts[name, "success" if well else "error"] += 1
            now.add_metric([name, "healthz"], int(well))
        for (name, status), count in self._counts.items():
            total.add_metric([name, status, "healthz"], count)
        yield now
        yield total


def registry(checks: Mapping[str, Callable[[], str | None]]) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(Health(checks))
    return made
