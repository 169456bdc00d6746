"""The server's own figures, under upstream's names."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from apiserver.cache import Cache
from apiserver.http.exchange import Request
from apiserver.http.routes import parse
from apiserver.listing import flag
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

    def observe(self, request: Request, code: int, seconds: float) -> None:
        route = parse(request.path)
        if route is None:
            values = (request.method, "", "", "", "", "")
        else:
            scope = "resource" if route.name else "namespace" if route.namespace else "cluster"
            values = (
                _verb(request, route.name), route.group, route.version, route.plural, route.subresource, scope,
            )  # fmt: skip
        if code == 404 and route is not None:
            values = (values[0], "", "", "", "", "")  # unknown paths must not invent series
        self._requests.labels(*values, str(code)).inc()
        self._seconds.labels(*values).observe(seconds)


def _verb(request: Request, name: str) -> str:
    if request.method == "GET":
        if flag(request.query, "watch"):
            return "WATCH"
        return "GET" if name else "LIST"
    if request.method == "DELETE" and not name:
        return "DELETECOLLECTION"
    return _VERBS.get(request.method, request.method)


class CacheFigures(Collector):
    """Counted when asked for: objects, watchers and the newest resource version."""

    def __init__(self, cache: Cache, watches: Watches) -> None:
        self._cache = cache
        self._watches = watches

    def collect(self) -> Iterable[GaugeMetricFamily]:
        objects = GaugeMetricFamily("apiserver_storage_objects", "Stored objects by resource.", labels=["resource"])
        watchers = GaugeMetricFamily("apiserver_longrunning_requests", "Open watches by resource.", labels=["resource"])
        open_watches = list(self._watches.open.values())
        for prefix, shelf in self._cache.shelves():
            group, plural = prefix.strip("/").split("/")[1:]
            name = plural if group == "core" else f"{plural}.{group}"
            objects.add_metric([name], len(shelf))
            watchers.add_metric([name], open_watches.count(prefix))
        version = GaugeMetricFamily("apiserver_cache_resource_version", "Newest change the watch cache has seen.")
        version.add_metric([], self._cache.rv)
        return [objects, watchers, version]
