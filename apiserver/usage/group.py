"""The group's resources, `nodes` and `pods`: who is meant, and what is answered.

A node that is lost or has not two points is left out, and so is a pod of which a container has none: half of a pod's use is no
use to an autoscaler, which would take it for the whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import orjson

from apiserver import errors, schema
from apiserver.cache import Cache, Entry
from apiserver.errors import StatusError
from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.routes import Route
from apiserver.http.wire import view_of
from apiserver.registry import Registry, Resource
from apiserver.relay.kubelets import Kubelet, kubelet_at
from apiserver.usage.points import Name, Sample, Usage, between
from apiserver.usage.samples import Samples
from kube.selectors import parse_fields, parse_labels

Obj = dict[str, Any]

log = logging.getLogger(__name__)


class UsageApi:
    """Answers the group's requests."""

    def __init__(self, cache: Cache, registry: Registry, samples: Samples) -> None:
        self._nodes = cache.shelf(registry.core("nodes").prefix)
        self._pods = cache.shelf(registry.core("pods").prefix)
        self._samples = samples

    async def handle(self, route: Route, request: Request) -> Reply:
        """Raises 400, 404, 405, 406."""
        info = next((one for one in schema.BESIDE if one.plural == route.plural), None)
        if info is None or route.subresource or (route.namespace and not info.namespaced):
            raise errors.unknown_path()
        if request.method != "GET" or request.query.get("watch", "") in ("1", "true"):
            verb = request.method.lower() if request.method != "GET" else "watch"
            raise errors.method_not_allowed(info.group, route.plural, verb)
        view = view_of(request, Resource(info, info))
        chosen = _chosen(request)
        self._samples.keep(entry.name for entry in self._nodes.entries())
        found = await (self._of_pods if info.namespaced else self._of_nodes)(route, chosen)
        head = {"kind": info.kind, "apiVersion": info.group_version}
        items = [_entry(head | item) for item in found]
        if not route.name:
            return json_answer(b"".join(view.slices(items, {})))
        if not items:
            raise errors.not_found(info.group, route.plural, route.name)
        return json_answer(view.one(items[0].body))

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
            if (pair := pairs.get(node := str(entry.fields.get("spec.nodeName")))) is None:
                continue
            older, newer = pair
            found = {
                name[2]: between(older.containers.get(name), newer.containers.get(name))
                for name in names[node].get(entry.key, ())
            }
            usages = {name: usage for name, usage in found.items() if usage is not None}
            if usages and len(usages) == len(found):
                containers = [{"name": name, "usage": usage.to_dict()} for name, usage in usages.items()]
                items.append(_head(entry, next(iter(usages.values()))) | {"containers": containers})
        return items

    def _kubelets(self, names: Iterable[str]) -> dict[str, Kubelet]:
        found: dict[str, Kubelet] = {}
        for name in set(names):
            entry = self._nodes.get("", name)
            node = entry.parse() if entry else None
            if node is not None and _lost(node):
                continue
            try:
                found[name] = kubelet_at(name, node)
            except StatusError as error:
                log.debug("no metrics of node %s: %s", name, error)
        return found


def _lost(node: Obj) -> bool:
    """Whether the controllers have given up hearing of it: nobody is to wait for its kubelet."""
    conditions = node.get("status", {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "Unknown" for each in conditions)


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


def _entry(obj: Obj) -> Entry:
    metadata = obj["metadata"]
    return Entry(metadata.get("namespace", ""), metadata["name"], 0, (orjson.dumps(obj),), {}, {})


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
