"""The kubelet's own series, under upstream's names (pkg/kubelet/metrics/metrics.go). Containers' series are the metrics
room's, probes' are in `kubelet.probing.tallies`.

Only what is measured has a family: there is none for evictions, devices or volumes of claims until the kubelet has these, as
upstream has no series of these before the first.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from kube.errors import Invalid
from kube.pods import Pod
from kube.version import GIT_VERSION, MAJOR, MINOR
from kubelet.observe.view import RuntimeView
from kubelet.plan import is_static
from kubelet.runtime import ContainerState, SandboxState
from kubelet.volumes import plugin_of

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PULL_BUCKETS = (1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600)
_MB: Final = 1 << 20
_SIZES: Final = (
    (10 * _MB, "0-10MB"),
    (100 * _MB, "10MB-100MB"),
    (500 * _MB, "100MB-500MB"),
    (1 << 30, "500MB-1GB"),
    (5 << 30, "1GB-5GB"),
    (10 << 30, "5GB-10GB"),
    (20 << 30, "10GB-20GB"),
    (30 << 30, "20GB-30GB"),
    (40 << 30, "30GB-40GB"),
    (60 << 30, "40GB-60GB"),
    (100 << 30, "60GB-100GB"),
)
_LONG: Final = frozenset({"exec", "attach", "portForward", "debug"})


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


class Wanted(Collector):
    """How many pods the kubelet is asked to run, and how many of them it works on."""

    def __init__(self, desired: Callable[[], Iterable[Pod]], active: Callable[[], Iterable[Pod]]) -> None:
        self._families = (
            ("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", desired),
            ("kubelet_active_pods", "The number of pods the kubelet considers active.", active),
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, text, pods in self._families:
            static = [is_static(pod) for pod in pods()]
            family = GaugeMetricFamily(name, text, labels=["static"])
            family.add_metric([""], static.count(False))
            family.add_metric(["true"], static.count(True))
            yield family


class Mounted(Collector):
    """The volumes of this node's pods: those that are there, and those that are to be. `paths` are by pod and name."""

    def __init__(self, pods: Callable[[], Iterable[Pod]], paths: Mapping[str, Mapping[str, str]]) -> None:
        self._pods = pods
        self._paths = paths

    def collect(self) -> Iterable[GaugeMetricFamily]:
        counts: Counts[tuple[str, str]] = Counts()
        for pod in self._pods():
            there = self._paths.get(pod.metadata.uid, {})
            for volume in pod.spec.volumes:
                try:
                    plugin = f"kubernetes.io/{plugin_of(volume)}"
                except Invalid:  # a pod that is refused for it
                    continue
                counts[plugin, "desired_state_of_world"] += 1
                counts[plugin, "actual_state_of_world"] += volume.name in there
        found = GaugeMetricFamily(
            "volume_manager_total_volumes", "Number of volumes in Volume Manager", labels=["plugin_name", "state"]
        )
        for labels, count in sorted(counts.items()):
            found.add_metric(list(labels), count)
        yield found


class _Fallbacks(Collector):
    def __init__(self, count: Callable[[], float]) -> None:
        self._count = count

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(
            "kubelet_lifecycle_handler_http_fallbacks",
            "The number of times lifecycle handlers successfully fell back to http from https.",
            value=self._count(),
        )


class Metrics:
    """What is counted where it happens. May be used from any thread."""

    def __init__(self, node: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._gauge("kubelet_node_name", "The node's name. The count is always 1.", ["node"]).labels(node).set(1)
        self._gauge(
            "kubernetes_build_info", "A metric with a constant 1 value.", ["major", "minor", "git_version", "platform"]
        ).labels(MAJOR, MINOR, GIT_VERSION, "linux").set(1)
        self._pods()
        self._runtime()
        self._served()

    def _pods(self) -> None:
        self.pod_start = self._histogram(
            "kubelet_pod_start_duration_seconds", "Seconds from the kubelet seeing a pod to its running"
        )
        self.pod_worker = self._histogram(
            "kubelet_pod_worker_duration_seconds", "Seconds of one pass over a pod", ["operation_type"]
        )
        self.pod_worker_start = self._histogram(
            "kubelet_pod_worker_start_duration_seconds", "Seconds from the kubelet seeing a pod to starting work on it"
        )
        self.unexpected = self._counter(
            "kubelet_unexpected_errors", "Errors that are bugs, by what was given up for now", ["operation_type"]
        )
        self.started_pods = self._counter("kubelet_started_pods", "Cumulative number of pods started")
        self.started_pods_errors = self._counter(
            "kubelet_started_pods_errors", "Cumulative number of errors when starting pods"
        )
        self.started_containers = self._counter(
            "kubelet_started_containers", "Cumulative number of containers started", ["container_type"]
        )
        self.started_containers_errors = self._counter(
            "kubelet_started_containers_errors",
            "Cumulative number of errors when starting containers",
            ["container_type", "code"],
        )
        self._cgroups = self._histogram(
            "kubelet_cgroup_manager_duration_seconds", "Seconds of cgroup operations", ["operation_type"]
        )
        self._stored = self._histogram(
            "storage_operation_duration_seconds",
            "Storage operation duration",
            ["migrated", "operation_name", "status", "volume_plugin"],
        )
        self._stored_errors = self._counter(
            "storage_operation_errors", "Storage operations that failed", ["operation_name", "volume_plugin"]
        )

    def _runtime(self) -> None:
        self.relist = self._histogram("kubelet_pleg_relist_duration_seconds", "Seconds of one look at the runtime")
        self.relist_interval = self._histogram(
            "kubelet_pleg_relist_interval_seconds", "Seconds between two looks at the runtime"
        )
        self.last_seen = self._gauge("kubelet_pleg_last_seen_seconds", "When the runtime was last looked at, Unix time")
        self.operations = self._counter("kubelet_runtime_operations", "Runtime operations", ["operation_type"])
        self.operation_errors = self._counter(
            "kubelet_runtime_operations_errors", "Those that failed", ["operation_type"]
        )
        self.operation_seconds = self._histogram(
            "kubelet_runtime_operations_duration_seconds", "Their seconds", ["operation_type"]
        )
        self._pulls = Histogram(
            "kubelet_image_pull_duration_seconds",
            "Duration in seconds to pull an image.",
            ["image_size_in_bytes"],
            buckets=PULL_BUCKETS,
            registry=self.registry,
        )
        self._collected = self._counter(
            "kubelet_image_garbage_collected", "Images removed to give their space back", ["reason"]
        )

    def _served(self) -> None:
        self._requests = self._counter(
            "kubelet_http_requests",
            "Number of the http requests received since the server started",
            ["long_running", "method", "path", "server_type"],
        )
        self._request_seconds = self._histogram(
            "kubelet_http_requests_duration_seconds",
            "Duration in seconds to serve http requests",
            ["long_running", "method", "path", "server_type"],
        )
        self._inflight = self._gauge(
            "kubelet_http_inflight_requests",
            "Number of the inflight http requests",
            ["long_running", "method", "path", "server_type"],
        )
        self._asked = self._counter(
            "rest_client_requests",
            "Number of HTTP requests, by status code, method and host.",
            ["code", "host", "method"],
        )
        self._asked_seconds = self._histogram(
            "rest_client_request_duration_seconds", "Request latency in seconds, by verb and host.", ["host", "verb"]
        )

    def _histogram(self, name: str, text: str, labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, list(labels), buckets=BUCKETS, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        """Its name gets `_total` at its end."""
        return Counter(name, text, list(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, list(labels), registry=self.registry)

    def fallbacks(self, count: Callable[[], float]) -> None:
        """Where to ask how many https hooks were answered in plain HTTP."""
        self.registry.register(_Fallbacks(count))

    def operation(self, kind: str, seconds: float, failed: bool) -> None:
        """One call of the runtime."""
        self.operations.labels(kind).inc()
        self.operation_seconds.labels(kind).observe(seconds)
        if failed:
            self.operation_errors.labels(kind).inc()

    def starting(self, kind: str) -> None:
        """pod_sandbox, init_container, container or ephemeral_container."""
        self.started_containers.labels(kind).inc()
        if kind == "pod_sandbox":
            self.started_pods.inc()

    def start_failed(self, kind: str, reason: str) -> None:
        self.started_containers_errors.labels(kind, reason).inc()
        if kind == "pod_sandbox":
            self.started_pods_errors.inc()

    def relisted(self, seconds: float, since_last: float | None) -> None:
        self.relist.observe(seconds)
        if since_last is not None:
            self.relist_interval.observe(since_last)
        self.last_seen.set_to_current_time()

    def image_pulled(self, size: int, seconds: float) -> None:
        words = next((words for most, words in _SIZES if size < most), "GT100GB")
        self._pulls.labels(words).observe(seconds)

    def image_collected(self, reason: str) -> None:
        self._collected.labels(reason).inc()

    @contextmanager
    def cgroup(self, operation: str) -> Iterator[None]:
        """Around create, update or destroy."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._cgroups.labels(operation).observe(time.monotonic() - begun)

    @contextmanager
    def storage(self, operation: str, plugin: str) -> Iterator[None]:
        """Around what is done to one volume; `plugin` is its name without `kubernetes.io/`."""
        begun, status, plugin = time.monotonic(), "fail-unknown", f"kubernetes.io/{plugin}"
        try:
            yield
            status = "success"
        finally:
            if status != "success":
                self._stored_errors.labels(operation, plugin).inc()
            self._stored.labels("false", operation, status, plugin).observe(time.monotonic() - begun)

    @contextmanager
    def request(self, method: str, path: str, server: str) -> Iterator[None]:
        """Around one request that we serve; `path` is its root, `server` readwrite or readonly."""
        labels = ("true" if path in _LONG else "false", method, path, server)
        self._requests.labels(*labels).inc()
        begun = time.monotonic()
        with self._inflight.labels(*labels).track_inprogress():
            try:
                yield
            finally:
                self._request_seconds.labels(*labels).observe(time.monotonic() - begun)

    def asked(self, method: str, host: str, code: str, seconds: float) -> None:
        """One request to the API server; `code` is `<error>` where there was no answer."""
        self._asked.labels(code, host, method).inc()
        self._asked_seconds.labels(host, method).observe(seconds)
