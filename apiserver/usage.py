"""metrics.k8s.io/v1beta1, what `kubectl top` and autoscalers read: computed here when asked for, no extra server.

    request ──> the nodes it is about ──> two points of each kubelet's /metrics/resource ──> CPU over the time between them

A node that was asked about lately has its earlier point still: then one fetch gives a rate over the time since, and a second
request within FRESH costs nothing. A node asked about for the first time is looked at twice, FIRST seconds apart. Nodes that
do not answer, and containers that were restarted between the points, are left out. (Upstream: sigs.k8s.io/metrics-server.)
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite, nan
from typing import Any, Final

from apiserver import errors
from apiserver.cache import Cache, Entry
from apiserver.errors import StatusError
from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.routes import Route
from apiserver.outward import Outward
from apiserver.registry import Registry
from apiserver.relay import Trust
from apiserver.relay.kubelets import Kubelet, kubelet_at
from kube.selectors import parse_fields, parse_labels

Obj = dict[str, Any]
GROUP: Final = "metrics.k8s.io"
VERSION: Final = "v1beta1"
FRESH: Final = 10.0  # seconds for which a pair of points is good enough
STALE: Final = 300.0  # seconds after which an earlier point says nothing about now
FIRST: Final = 1.5
FETCH_SECONDS: Final = 5.0

_LINE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? ([-+0-9.eE]+|NaN|\+Inf)(?: (\d+))?$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Point:
    """`when` in seconds since the epoch, `cpu` in seconds since the container's start, `memory` in bytes."""

    when: float
    cpu: float = 0.0
    memory: int = 0
    started: float = 0.0


Name = tuple[str, str, str]  # namespace, pod, container


@dataclass(frozen=True, slots=True)
class Sample:
    node: Point | None
    containers: Mapping[Name, Point]

    @property
    def when(self) -> float:
        points = [self.node] if self.node else list(self.containers.values())
        return max((point.when for point in points), default=0.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Between two points."""

    when: float
    window: float
    cpu: float  # cores
    memory: int

    def to_dict(self) -> dict[str, str]:
        return {"cpu": f"{nano}n" if (nano := round(self.cpu * 1e9)) else "0", "memory": binary(self.memory)}


def binary(amount: int) -> str:
    """A quantity in the largest binary unit that keeps it whole."""
    for suffix in ("", "Ki", "Mi"):
        if not amount or amount % 1024:
            return f"{amount}{suffix}"
        amount //= 1024
    return f"{amount}Gi"


def parsed(text: str, now: float) -> Sample:
    """From a kubelet's /metrics/resource; a line without a time is of `now`."""
    found: dict[Name | None, dict[str, float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line) if not line.startswith("#") else None
        if match is None:
            continue
        family, labels, value, when = match.groups()
        scope, _, what = family.partition("_")
        if scope not in ("node", "container") or what not in _FAMILIES:
            continue
        given = dict(_LABEL.findall(labels or ""))
        name = (given.get("namespace", ""), given.get("pod", ""), given.get("container", ""))
        row = found.setdefault(None if scope == "node" else name, {})
        row[_FAMILIES[what]] = float(value)
        if what != "start_time_seconds":
            row["when"] = int(when) / 1000 if when else now
    points = {name: point for name, row in found.items() if (point := _point(row)) is not None}
    return Sample(points.pop(None, None), {name: point for name, point in points.items() if name is not None})


_FAMILIES: Final = {
    "cpu_usage_seconds_total": "cpu",
    "memory_working_set_bytes": "memory",
    "start_time_seconds": "started",
}


def _point(row: Mapping[str, float]) -> Point | None:
    if not (isfinite(row.get("cpu", nan)) and isfinite(row.get("memory", nan))):
        return None
    return Point(row["when"], row["cpu"], int(row["memory"]), row.get("started", 0.0))


def between(older: Point | None, newer: Point | None) -> Usage | None:
    """None where there are not two points of one life."""
    if older is None or newer is None or older.started != newer.started:
        return None
    window, used = newer.when - older.when, newer.cpu - older.cpu
    return Usage(newer.when, window, used / window, newer.memory) if window > 0 and used >= 0 else None


@dataclass(slots=True)
class _Known:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    older: Sample | None = None
    newer: Sample | None = None
    fetched: float = -STALE


Fetch = Callable[[Kubelet], Awaitable[str]]
Pair = tuple[Sample, Sample]


class Samples:
    """The last two samples of each node that somebody asked about."""

    def __init__(
        self,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wait = wait
        self._known: dict[str, _Known] = {}

    async def of(self, nodes: Mapping[str, Kubelet]) -> dict[str, Pair]:
        """By node; those that gave none are missing."""
        names = list(nodes)
        pairs = await asyncio.gather(*(self._pair(name, nodes[name]) for name in names))
        return {name: pair for name, pair in zip(names, pairs, strict=True) if pair is not None}

    def keep(self, nodes: Iterable[str]) -> None:
        """Forget all others."""
        wanted = set(nodes)
        self._known = {name: known for name, known in self._known.items() if name in wanted}

    async def _pair(self, name: str, kubelet: Kubelet) -> Pair | None:
        known = self._known.setdefault(name, _Known())
        async with known.lock:
            if not (known.older and known.newer and self._clock() - known.fetched < FRESH):
                if self._clock() - known.fetched >= STALE:
                    known.newer = None
                await self._look(known, kubelet)
                if known.older is None and known.newer is not None:
                    await self._wait(FIRST)
                    await self._look(known, kubelet)
            return (known.older, known.newer) if known.older and known.newer else None

    async def _look(self, known: _Known, kubelet: Kubelet) -> None:
        import aiohttp

        try:
            sample = parsed(await self._fetch(kubelet), time.time())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning("metrics of the kubelet at %s: %s", kubelet.authority, str(error) or type(error).__name__)
            known.older = known.newer = None
            return
        if known.newer is None or sample.when > known.newer.when:
            known.older, known.newer = known.newer, sample
            known.fetched = self._clock()


def fetching(session: Outward, trust: Trust) -> Fetch:
    async def fetch(kubelet: Kubelet) -> str:
        import aiohttp

        url = f"https://{kubelet.authority}/metrics/resource"
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        headers = {"Accept-Encoding": "identity"}
        async with session.get(url, ssl=trust.verified, timeout=timeout, headers=headers) as response:
            response.raise_for_status()
            return await response.text()

    return fetch


class UsageApi:
    """Answers the group's requests."""

    def __init__(self, cache: Cache, registry: Registry, samples: Samples) -> None:
        self._nodes = cache.shelf(registry.core("nodes").prefix)
        self._pods = cache.shelf(registry.core("pods").prefix)
        self._samples = samples

    async def handle(self, route: Route, request: Request) -> Reply:
        """Raises 400, 404, 405."""
        if route.plural not in ("nodes", "pods") or route.subresource or (route.plural == "nodes" and route.namespace):
            raise errors.unknown_path()
        if request.method != "GET":
            raise errors.method_not_allowed(GROUP, route.plural, request.method.lower())
        chosen = _chosen(request)
        self._samples.keep(entry.name for entry in self._nodes.entries())
        if route.plural == "nodes":
            items = await self._of_nodes(route, chosen)
        else:
            items = await self._of_pods(route, chosen)
        kind = "NodeMetrics" if route.plural == "nodes" else "PodMetrics"
        if route.name and not items:
            raise errors.not_found(GROUP, route.plural, route.name)
        head = {"kind": kind, "apiVersion": f"{GROUP}/{VERSION}"}
        if route.name:
            return json_answer(head | items[0])
        return json_answer(head | {"kind": f"{kind}List", "metadata": {}, "items": items})

    async def _of_nodes(self, route: Route, chosen: Callable[[Entry], bool]) -> list[Obj]:
        one = self._nodes.get("", route.name) if route.name else None
        entries = ([one] if one else []) if route.name else [e for e in self._nodes.entries() if chosen(e)]
        pairs = await self._samples.of(self._kubelets(entry.name for entry in entries))
        return [
            _head(entry, usage) | {"usage": usage.to_dict()}
            for entry in entries
            if (pair := pairs.get(entry.name)) and (usage := between(pair[0].node, pair[1].node))
        ]

    async def _of_pods(self, route: Route, chosen: Callable[[Entry], bool]) -> list[Obj]:
        one = self._pods.get(route.namespace or "", route.name) if route.name else None
        entries = (
            ([one] if one else []) if route.name else [e for e in self._pods.entries(route.namespace) if chosen(e)]
        )
        entries = [entry for entry in entries if entry.fields.get("spec.nodeName")]
        pairs = await self._samples.of(self._kubelets(str(e.fields.get("spec.nodeName")) for e in entries))
        names = {node: _by_pod(pair[1]) for node, pair in pairs.items()}
        items: list[Obj] = []
        for entry in entries:
            node = str(entry.fields.get("spec.nodeName"))
            if node not in pairs:
                continue
            older, newer = pairs[node]
            found = {
                name[2]: usage
                for name in names[node].get(entry.key, ())
                if (usage := between(older.containers.get(name), newer.containers.get(name)))
            }
            if found:
                containers = [{"name": name, "usage": usage.to_dict()} for name, usage in found.items()]
                items.append(_head(entry, next(iter(found.values()))) | {"containers": containers})
        return items

    def _kubelets(self, names: Iterable[str]) -> dict[str, Kubelet]:
        found: dict[str, Kubelet] = {}
        for name in set(names):
            entry = self._nodes.get("", name)
            try:
                found[name] = kubelet_at(name, entry.parse() if entry else None)
            except StatusError as error:
                log.debug("no metrics of node %s: %s", name, error)
        return found


def _by_pod(sample: Sample) -> dict[tuple[str, str], list[Name]]:
    found: dict[tuple[str, str], list[Name]] = {}
    for name in sample.containers:
        found.setdefault(name[:2], []).append(name)
    return found


def _chosen(request: Request) -> Callable[[Entry], bool]:
    try:
        labels = parse_labels(request.query.get("labelSelector", ""))
        fields = parse_fields(request.query.get("fieldSelector", ""))
    except ValueError as error:
        raise errors.bad_request(str(error)) from error

    def matches(entry: Entry) -> bool:
        return labels.matches(entry.labels) and fields.matches(
            {"metadata.name": entry.name, "metadata.namespace": entry.namespace}
        )

    return matches


def _head(entry: Entry, usage: Usage) -> Obj:
    metadata: Obj = {"name": entry.name}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    metadata["creationTimestamp"] = _time(time.time())
    if entry.labels:
        metadata["labels"] = dict(entry.labels)
    return {"metadata": metadata, "timestamp": _time(usage.when), "window": f"{round(usage.window, 3):g}s"}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
