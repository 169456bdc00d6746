"""The proxy's own metrics, under kube-proxy's names, so that its dashboards and alerts work.

Upstream has gauges that end in `_total`, which `promtool check metrics` refuses; here those are exposed without a type.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import UnknownMetricFamily

_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_FAMILY = ("ip_family",)


class Metrics:
    """One registry; `family` is `IPv4` or `IPv6`."""

    def __init__(self, family: str) -> None:
        self.registry = CollectorRegistry()
        self.counts = Counts(family)
        self.registry.register(self.counts)
        self.sync_seconds = self._seconds("sync_proxy_rules", "").labels(family)
        self.full_sync_seconds = self._seconds("sync_full_proxy_rules", " for full resyncs").labels(family)
        self.partial_sync_seconds = self._seconds("sync_partial_proxy_rules", " for partial resyncs").labels(family)
        self.last_sync = self._gauge("last_timestamp_seconds", "The last time proxy rules were synced").labels(family)
        self.last_queued = self._gauge(
            "last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued"
        ).labels(family)
        self.rules_last = self._gauge(
            "iptables_last", "Number of iptables rules written by kube-proxy in last sync", ("table", *_FAMILY)
        )
        self.service_changes = self._counter("service_changes", "Cumulative proxy rules Service changes")
        self.endpoint_changes = self._counter("endpoint_changes", "Cumulative proxy rules Endpoint changes")
        self.service_changes_pending = self._gauge("service_changes_pending", "Pending proxy rules Service changes", ())
        self.endpoint_changes_pending = self._gauge(
            "endpoint_changes_pending", "Pending proxy rules Endpoint changes", ()
        )
        self.restore_failures = self._counter(
            "iptables_restore_failures", "Cumulative proxy iptables restore failures", _FAMILY
        ).labels(family)
        self.partial_restore_failures = self._counter(
            "iptables_partial_restore_failures", "Cumulative proxy iptables partial restore failures", _FAMILY
        ).labels(family)
        self.conntrack_seconds = Histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "ReconcileConntrackFlowsLatency latency in seconds",
            _FAMILY,
            buckets=_BUCKETS,
            registry=self.registry,
        ).labels(family)
        self.conntrack_deleted = Counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Cumulative conntrack flows deleted by conntrack reconciler",
            _FAMILY,
            registry=self.registry,
        ).labels(family)
        self.healthz = Counter(
            "kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", ("code",), registry=self.registry
        )
        self.livez = Counter(
            "kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", ("code",), registry=self.registry
        )

    def _seconds(self, noun: str, about: str) -> Histogram:
        return Histogram(
            f"kubeproxy_{noun}_duration_seconds",
            f"SyncProxyRules latency in seconds{about}",
            _FAMILY,
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def _gauge(self, noun: str, about: str, labels: tuple[str, ...] = _FAMILY) -> Gauge:
        return Gauge(f"kubeproxy_sync_proxy_rules_{noun}", about, labels, registry=self.registry)

    def _counter(self, noun: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"kubeproxy_sync_proxy_rules_{noun}_total", about, labels, registry=self.registry)


class Counts:
    """The gauges whose names end in `_total`, set whole after each pass."""

    def __init__(self, family: str) -> None:
        self._family = family
        self.rules: dict[str, int] = {}
        self.without_local_endpoints: dict[str, int] = {"internal": 0, "external": 0}

    def describe(self) -> Iterator[UnknownMetricFamily]:
        return self.collect()

    def collect(self) -> Iterator[UnknownMetricFamily]:
        rules = UnknownMetricFamily(
            "kubeproxy_sync_proxy_rules_iptables_total",
            "Total number of iptables rules owned by kube-proxy",
            labels=("table", "ip_family"),
        )
        for table, count in self.rules.items():
            rules.add_metric((table, self._family), count)
        yield rules
        local = UnknownMetricFamily(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            labels=("ip_family", "traffic_policy"),
        )
        for policy, count in self.without_local_endpoints.items():
            local.add_metric((self._family, policy), count)
        yield local
