"""The proxy's own metrics, under kube-proxy's names, so that its dashboards and alerts work.

One registry; what differs by family is a `FamilyMetrics`. Only the series of the mode that runs are there, as with
kube-proxy. Upstream has gauges that end in `_total`, which `promtool check metrics` refuses; here those are exposed without
a type. Series that upstream lacks are called `wherry_proxy_*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily

from linux import nfacct

_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
_FAMILY = ("ip_family",)
_SYNC = "kubeproxy_sync_proxy_rules"
_COUNTED = {
    "ct_state_invalid_dropped_pkts": (
        "ct_state_invalid_dropped_packets",
        "packets dropped by iptables to work around conntrack problems",
    ),
    "localhost_nps_accepted_pkts": (
        "localhost_nodeports_accepted_packets",
        "Number of packets accepted on nodeports of loopback interface",
    ),
}
"""Upstream's names of counters in the kernel, and of their metrics."""


class Metrics:
    """`families`: their names as in `IPv4`."""

    def __init__(self, mode: str, families: Iterable[str]) -> None:
        self.registry = registry = CollectorRegistry()
        self._counts = _Counts(mode)
        registry.register(self._counts)
        if mode == "iptables":
            registry.register(_Accounted())
        names = tuple(families)
        self.changes = Changes(names)
        registry.register(self.changes)
        self.healthz = Counter(
            "kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", ("code",), registry=registry
        )
        self.livez = Counter(
            "kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", ("code",), registry=registry
        )
        self.skipped = Counter(
            "wherry_proxy_skipped_total",
            "Parts of Services and EndpointSlices that could not be used",
            ("reason",),
            registry=registry,
        )
        shared = _Shared(registry, mode)
        self.families = {family: FamilyMetrics(shared, self._counts, family) for family in names}


class _Shared:
    """The metrics that carry a family, before they do."""

    def __init__(self, registry: CollectorRegistry, mode: str) -> None:
        def seconds(name: str, about: str, buckets: tuple[float, ...] = _BUCKETS) -> Histogram:
            return Histogram(f"kubeproxy_{name}_seconds", about, _FAMILY, buckets=buckets, registry=registry)

        def counter(name: str, about: str) -> Counter:
            return Counter(f"{name}_total", about, _FAMILY, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"{_SYNC}_{name}", about, (*labels, *_FAMILY), registry=registry)

        latency = "SyncProxyRules latency in seconds"
        self.sync = seconds("sync_proxy_rules_duration", latency)
        self.full_sync = seconds("sync_full_proxy_rules_duration", f"{latency} for full resyncs")
        self.partial_sync = seconds("sync_partial_proxy_rules_duration", f"{latency} for partial resyncs")
        self.programming = seconds(
            "network_programming_duration",
            "In Cluster Network Programming Latency in seconds",
            _PROGRAMMING_BUCKETS,
        )
        self.conntrack = seconds(
            "conntrack_reconciler_sync_duration", "ReconcileConntrackFlowsLatency latency in seconds"
        )
        self.conntrack_deleted = counter(
            "kubeproxy_conntrack_reconciler_deleted_entries",
            "Cumulative conntrack flows deleted by conntrack reconciler",
        )
        self.last_sync = gauge("last_timestamp_seconds", "The last time proxy rules were synced")
        self.refused = Gauge(
            "wherry_proxy_refused_service_ports",
            "Service ports whose rules the kernel did not take",
            _FAMILY,
            registry=registry,
        )
        self.repairs = counter("wherry_proxy_repairs", "Passes that repaired rules which somebody else had changed")
        self.rules_last: Gauge | None = None
        if mode == "iptables":
            self.rules_last = gauge(
                "iptables_last", "Number of iptables rules written by kube-proxy in last sync", "table"
            )
            self.failures = counter(f"{_SYNC}_iptables_restore_failures", "Cumulative proxy iptables restore failures")
            self.partial_failures: Counter | None = counter(
                f"{_SYNC}_iptables_partial_restore_failures", "Cumulative proxy iptables partial restore failures"
            )
            self.cleanup_failures: Counter | None = None
        else:
            self.failures = counter(f"{_SYNC}_nftables_sync_failures", "Cumulative proxy nftables sync failures")
            self.partial_failures = None
            self.cleanup_failures = counter(
                f"{_SYNC}_nftables_cleanup_failures", "Cumulative proxy nftables cleanup failures"
            )


class FamilyMetrics:
    def __init__(self, shared: _Shared, counts: _Counts, family: str) -> None:
        self._family = family
        self._counts = counts
        self._rules_last = shared.rules_last
        self.sync_seconds = shared.sync.labels(family)
        self.full_sync_seconds = shared.full_sync.labels(family)
        self.partial_sync_seconds = shared.partial_sync.labels(family)
        self.programming_seconds = shared.programming.labels(family)
        self.conntrack_seconds = shared.conntrack.labels(family)
        self.conntrack_deleted = shared.conntrack_deleted.labels(family)
        self.last_sync = shared.last_sync.labels(family)
        self.refused = shared.refused.labels(family)
        self.repairs = shared.repairs.labels(family)
        self.failures = shared.failures.labels(family)
        self.partial_failures = shared.partial_failures.labels(family) if shared.partial_failures else None
        self.cleanup_failures = shared.cleanup_failures.labels(family) if shared.cleanup_failures else None
        self.without_local(internal=0, external=0)

    def rules(self, total: Mapping[str, int], written: Mapping[str, int]) -> None:
        """By table: how many there are, and how many the last pass wrote."""
        for table, count in total.items():
            self._counts.rules[table, self._family] = count
        if self._rules_last is not None:
            for table in total:
                self._rules_last.labels(table, self._family).set(written.get(table, 0))

    def without_local(self, *, internal: int, external: int) -> None:
        """How many service ports of a Local policy have no endpoint on this node."""
        self._counts.without_local[self._family, "internal"] = internal
        self._counts.without_local[self._family, "external"] = external


class _Accounted:
    """What the kernel's named counters have counted, where it has them: asked for at each scrape."""

    def describe(self) -> Iterator[CounterMetricFamily]:
        for name, about in _COUNTED.values():
            yield CounterMetricFamily(f"kubeproxy_iptables_{name}", about)

    def collect(self) -> Iterator[CounterMetricFamily]:
        try:
            counted = nfacct.packets()
        except OSError:
            return
        for counter, (name, about) in _COUNTED.items():
            if counter in counted:
                yield CounterMetricFamily(f"kubeproxy_iptables_{name}", about, value=counted[counter])


class Changes:
    """What is counted for each event: a list brings ten thousand at once, so these are plain numbers until somebody asks."""

    def __init__(self, families: tuple[str, ...]) -> None:
        self._families = families
        self.services, self.services_pending = 0, 0
        self.endpoints, self.endpoints_pending = 0, 0
        self.queued = 0.0
        """When the last one came, in seconds since the epoch."""

    def service(self) -> None:
        self.services += 1
        self.services_pending += 1

    def endpoint(self) -> None:
        self.endpoints += 1
        self.endpoints_pending += 1

    def taken(self) -> None:
        """A pass has begun: nothing is pending."""
        self.services_pending = self.endpoints_pending = 0

    def describe(self) -> Iterator[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        for noun, total, pending in (
            ("Service", self.services, self.services_pending),
            ("Endpoint", self.endpoints, self.endpoints_pending),
        ):
            name = f"{_SYNC}_{noun.lower()}_changes"
            yield CounterMetricFamily(name, f"Cumulative proxy rules {noun} changes", value=total)
            yield GaugeMetricFamily(f"{name}_pending", f"Pending proxy rules {noun} changes", value=pending)
        about = "The last time a sync of proxy rules was queued"
        queued = GaugeMetricFamily(f"{_SYNC}_last_queued_timestamp_seconds", about, labels=_FAMILY)
        for family in self._families:
            queued.add_metric((family,), self.queued)
        yield queued


class _Counts:
    """The gauges whose names end in `_total`, set whole after each pass."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.rules: dict[tuple[str, str], int] = {}
        self.without_local: dict[tuple[str, str], int] = {}

    def describe(self) -> Iterator[UnknownMetricFamily]:
        return self.collect()

    def collect(self) -> Iterator[UnknownMetricFamily]:
        if self._mode == "iptables":
            about = "Total number of iptables rules owned by kube-proxy"
            rules = UnknownMetricFamily(f"{_SYNC}_iptables_total", about, labels=("table", *_FAMILY))
        else:
            about = "Elements in each map and set of the table kube-proxy"
            rules = UnknownMetricFamily("wherry_proxy_nftables_elements", about, labels=("table", *_FAMILY))
        for labels, count in self.rules.items():
            rules.add_metric(labels, count)
        yield rules
        local = UnknownMetricFamily(
            f"{_SYNC}_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            labels=(*_FAMILY, "traffic_policy"),
        )
        for labels, count in self.without_local.items():
            local.add_metric(labels, count)
        yield local
