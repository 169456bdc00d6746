"""The kubelet's own series, under upstream's names (pkg/kubelet/metrics/metrics.go). Container series are the metrics
room's."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubelet.observe import RuntimeView
from kubelet.runtime import ContainerState, SandboxState

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Running(Collector):
    """How many pods and containers there are, from the last look at the runtime."""

    def __init__(self, view: RuntimeView) -> None:
        self._view = view

    def collect(self) -> Iterable[GaugeMetricFamily]:
        records = list(self._view.records)
        pods = GaugeMetricFamily("kubelet_running_pods", "Number of pods that have a running pod sandbox")
        pods.add_metric([], sum(any(s.state is SandboxState.READY for s in record.sandboxes) for record in records))
        yield pods
        found = GaugeMetricFamily("kubelet_running_containers", "Number of containers", labels=["container_state"])
        for state in ContainerState:
            count = sum(c.state is state for record in records for c in record.containers)
            found.add_metric([state.value], count)
        yield found


class Metrics:
    def __init__(self, node: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Gauge("kubelet_node_name", "The node's name. The count is always 1.", ["node"], registry=self.registry).labels(
            node
        ).set(1)
        self.pod_start = self._histogram(
            "kubelet_pod_start_duration_seconds", "Seconds from the kubelet seeing a pod to its running"
        )
        self.pod_worker = self._histogram(
            "kubelet_pod_worker_duration_seconds", "Seconds of one pass over a pod", ["operation_type"]
        )
        self.relist = self._histogram("kubelet_pleg_relist_duration_seconds", "Seconds of one look at the runtime")
        self.operations = Counter(
            "kubelet_runtime_operations_total", "Runtime operations", ["operation_type"], registry=self.registry
        )
        self.operation_errors = Counter(
            "kubelet_runtime_operations_errors_total", "Those that failed", ["operation_type"], registry=self.registry
        )
        self.operation_seconds = self._histogram(
            "kubelet_runtime_operations_duration_seconds", "Their seconds", ["operation_type"]
        )

    def _histogram(self, name: str, text: str, labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, list(labels), buckets=BUCKETS, registry=self.registry)

    def operation(self, kind: str, seconds: float, failed: bool) -> None:
        """One call of the runtime; may be called from any thread."""
        self.operations.labels(kind).inc()
        self.operation_seconds.labels(kind).observe(seconds)
        if failed:
            self.operation_errors.labels(kind).inc()
