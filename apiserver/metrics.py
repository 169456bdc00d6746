"""The server's own figures, under upstream's names and labels (apiserver/pkg/endpoints/metrics).

Only words that we know become labels: whoever can connect chooses paths and methods, and must not make series of them. What a
request counts for is looked up once per shape of request, and counted in plain numbers that become families when somebody asks:
prometheus_client's own values take a lock each, which cost a tenth of a GET.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from apiserver import layout, schema
from apiserver.cache import Cache
from apiserver.http.exchange import Request
from apiserver.http.routes import REMEMBERED, Route, parse
from apiserver.listing import NOT_TRUE
from apiserver.schema import ResourceInfo
from apiserver.watch import Watches

COMPONENT: Final = "apiserver"
_SECONDS: Final = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
)  # fmt: skip
_SIZES: Final = (1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_CONNECT: Final = frozenset({"exec", "attach", "portforward", "proxy", "log"})
_WHAT: Final = ("verb", "group", "version", "resource", "subresource", "scope", "component")
_LASTING: Final = frozenset({"WATCH", "CONNECT"})


class Distribution:
    """A histogram's numbers; one thread counts."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as they are exposed."""
        names = (*(str(float(bound)) for bound in self.bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


@dataclass(slots=True, eq=False)
class Distributions(Collector):
    """One histogram family, its series by label values."""

    name: str
    text: str
    labels: tuple[str, ...]
    bounds: Sequence[float]
    series: dict[tuple[str, ...], Distribution] = field(default_factory=dict)

    def of(self, *values: str) -> Distribution:
        found = self.series.get(values)
        if found is None:
            found = self.series[values] = Distribution(self.bounds)
        return found

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for values, one in self.series.items():
            family.add_metric(values, one.buckets(), one.total)
        return [family]


@dataclass(slots=True, eq=False)
class Totals(Collector):
    """One counter family, its counts by label values."""

    name: str
    text: str
    labels: tuple[str, ...]
    series: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def of(self, *values: str) -> list[int]:
        """A list of one number, to be raised in place."""
        return self.series.setdefault(values, [0])

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, (count,) in self.series.items():
            family.add_metric(values, count)
        return [family]


@dataclass(slots=True)
class _Series:
    """What one shape of request counts for."""

    total: list[int]
    seconds: Distribution | None
    sizes: Distribution | None


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        verb, *rest = _WHAT
        self._total = Totals(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope,"
            " component, and HTTP response code.",
            (verb, "dry_run", *rest, "code"),
        )
        self._seconds = Distributions(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds, until the answer is made.",
            (verb, "dry_run", *rest),
            _SECONDS,
        )
        self._sizes = Distributions(
            "apiserver_response_sizes", "Response size distribution in bytes, as sent.", _WHAT, _SIZES
        )
        self._stored = Distributions(
            "etcd_request_duration_seconds",
            "Latency of a write to the store, whichever it is, until it is on disk.",
            ("operation", "group", "resource"),
            _SECONDS,
        )
        for family in (self._total, self._seconds, self._sizes, self._stored):
            self.registry.register(family)
        self._lasting = Gauge(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests.",
            _WHAT,
            registry=self.registry,
        )
        self._series: dict[tuple[str, ...], _Series] = {}
        self._writes: dict[tuple[str, str], Distribution] = {}
        self._names = stored_resources()

    def observe(self, request: Request, code: int, seconds: float, size: int = 0) -> None:
        labels = labels_of(request)
        dry_run = "All" if request.query.get("dryRun") == "All" else ""
        key = (*labels, dry_run, str(code))
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._new(labels, dry_run, str(code))
        series.total[0] += 1
        if series.seconds is not None:
            series.seconds.observe(seconds)
        if series.sizes is not None:
            series.sizes.observe(size)

    def _new(self, labels: tuple[str, ...], dry_run: str, code: str) -> _Series:
        verb, *rest = labels
        total = self._total.of(verb, dry_run, *rest, code)
        seconds = None if verb in _LASTING else self._seconds.of(verb, dry_run, *rest)
        return _Series(total, seconds, self._sizes.of(*labels) if verb in ("GET", "LIST") else None)

    @contextmanager
    def lasting(self, request: Request) -> Iterator[None]:
        """A watch, a followed log, an exec: while it is open."""
        gauge = self._lasting.labels(*labels_of(request))
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def stored(self, operation: str, key: str, seconds: float) -> None:
        """A write was acknowledged; `operation` is create, update or delete."""
        found = layout.split(key)
        prefix = found[0] if found else ""
        series = self._writes.get((operation, prefix))
        if series is None:
            info = self._names.get(prefix)
            labels = (operation, info.group, info.plural) if info else (operation, "", "")
            series = self._writes[operation, prefix] = self._stored.of(*labels)
        series.observe(seconds)


def stored_resources() -> Mapping[str, ResourceInfo]:
    """Which resource is below which prefix; of those with several versions, the newest one."""
    return {layout.prefix(one.group, one.plural): one for one in schema.served() if schema.stored(one)}


def labels_of(request: Request) -> tuple[str, ...]:
    """In the order of `_WHAT`."""
    method, route = request.method, parse(request.path)
    watching = method in ("GET", "HEAD") and request.query.get("watch", "") not in NOT_TRUE
    applying = method == "PATCH" and request.headers.get("Content-Type", "").startswith("application/apply-patch")
    look_up = _labels if len(request.path) <= REMEMBERED else _labels.__wrapped__
    return look_up(method if method in _METHODS else "OTHER", route, watching, applying)


@lru_cache(maxsize=2048)
def _labels(method: str, route: Route | None, watching: bool, applying: bool) -> tuple[str, ...]:
    if route is None:
        return _verb(method, "x", "", watching, applying), "", "", "", "", "", COMPONENT
    verb = _verb(method, route.name, route.subresource, watching, applying)
    known = schema.resource(route.group, route.version, route.plural)
    if known is None or (route.subresource and known.subresource(route.subresource) is None):
        return verb, "", "", "", "", "", COMPONENT
    scope = "resource" if route.name else "namespace" if route.namespace else "cluster"
    return verb, route.group, route.version, route.plural, route.subresource, scope, COMPONENT


def _verb(method: str, name: str, subresource: str, watching: bool, applying: bool) -> str:
    if subresource in _CONNECT:
        return "CONNECT"
    if method in ("GET", "HEAD"):
        return "WATCH" if watching else "GET" if name else "LIST"
    if method == "DELETE" and not name:
        return "DELETECOLLECTION"
    return "APPLY" if applying else method


class CacheFigures(Collector):
    """Counted when asked for: objects, what watchers were told, and the newest resource version."""

    def __init__(self, cache: Cache, watches: Watches) -> None:
        self._cache = cache
        self._watches = watches
        self._names = stored_resources()

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        objects = GaugeMetricFamily("apiserver_storage_objects", "Stored objects by resource.", labels=["resource"])
        named = GaugeMetricFamily(
            "apiserver_resource_objects", "Stored objects by resource and group.", labels=["group", "resource"]
        )
        for prefix, shelf in self._cache.shelves():
            if info := self._names.get(prefix):
                objects.add_metric([f"{info.plural}.{info.group}" if info.group else info.plural], len(shelf))
                named.add_metric([info.group, info.plural], len(shelf))
        labels = ["group", "version", "resource"]
        events = CounterMetricFamily("apiserver_watch_events_total", "Events sent to watch clients.", labels=labels)
        sizes = CounterMetricFamily("apiserver_watch_events_bytes_total", "Their bytes.", labels=labels)
        for prefix, (count, size) in self._watches.sent.items():
            if info := self._names.get(prefix):
                events.add_metric([info.group, info.version, info.plural], count)
                sizes.add_metric([info.group, info.version, info.plural], size)
        version = GaugeMetricFamily("apiserver_cache_resource_version", "Newest change the watch cache has seen.")
        version.add_metric([], self._cache.rv)
        return [objects, named, events, sizes, version]
