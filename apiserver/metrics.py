"""The server's own figures, under upstream's names."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from apiserver import schema
from apiserver.cache import Cache
from apiserver.http.exchange import Request
from apiserver.http.routes import parse
from apiserver.listing import NOT_TRUE
from apiserver.watch import Watches

_BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 10.0, 30.0, 60.0)
_VERBS = {"POST": "CREATE", "PUT": "UPDATE", "PATCH": "PATCH", "DELETE": "DELETE"}


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("verb", "group", "version", "resource", "subresource", "scope")
        self._requests = Counter(
            "apiserver_request_total", "Requests by verb, resource and code.", (*labels, "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "apiserver_request_duration_seconds",
            "Response latency; of watches, the time until they start.",
            labels,
            buckets=_BUCKETS,
            registry=self.registry,
        )

        self._series: dict[tuple[str, ...], tuple[Counter, Histogram]] = {}

    def observe(self, request: Request, code: int, seconds: float, size: int = 0) -> None:
        del size
        labels = (*_labels(request), str(code))
        series = self._series.get(labels)
        if series is None:  # looking labels up in prometheus_client costs more than counting
            series = self._requests.labels(*labels), self._seconds.labels(*labels[:-1])
            self._series[labels] = series
        series[0].inc()
        series[1].observe(seconds)


def _labels(request: Request) -> tuple[str, ...]:
    """Only words that we know: whoever can connect chooses paths and methods, and must not make series of them."""
    route = parse(request.path)
    verb = _verb(request, route.name if route else "")
    known = schema.resource(route.group, route.version, route.plural) if route else None
    if route is None or known is None or (route.subresource and known.subresource(route.subresource) is None):
        return verb, "", "", "", "", ""
    scope = "resource" if route.name else "namespace" if route.namespace else "cluster"
    return verb, route.group, route.version, route.plural, route.subresource, scope


def _verb(request: Request, name: str) -> str:
    if request.method == "GET":
        if request.query.get("watch", "") not in NOT_TRUE:
            return "WATCH"
        return "GET" if name else "LIST"
    if request.method == "DELETE" and not name:
        return "DELETECOLLECTION"
    return _VERBS.get(request.method, "OTHER")


class CacheFigures(Collector):
    """Counted when asked for: objects, watchers and the newest resource version."""

    def __init__(self, cache: Cache, watches: Watches) -> None:
        self._cache = cache
        self._watches = watches

    def collect(self) -> Iterable[GaugeMetricFamily]:
        objects = GaugeMetricFamily("apiserver_storage_objects", "Stored objects by resource.", labels=["resource"])
        watchers = GaugeMetricFamily("apiserver_longrunning_requests", "Open watches by resource.", labels=["resource"])
        open_watches = Tally(self._watches.open.values())
        for prefix, shelf in self._cache.shelves():
            group, plural = prefix.strip("/").split("/")[1:]
            name = plural if group == "core" else f"{plural}.{group}"
            objects.add_metric([name], len(shelf))
            watchers.add_metric([name], open_watches[prefix])
        version = GaugeMetricFamily("apiserver_cache_resource_version", "Newest change the watch cache has seen.")
        version.add_metric([], self._cache.rv)
        return [objects, watchers, version]
