"""Which resources are served, where each is stored, and what is special about it.

A resource is a row of the schema table plus the few facts that the generic verbs ask for. Events are one store behind two
groups: `events.k8s.io/v1` is the core event with other field names, converted at the edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from apiserver import fields, schema
from apiserver.cache import Describe, shelf_prefix, storage_key
from apiserver.schema import GVK, ResourceInfo

Convert = Callable[[dict[str, Any]], dict[str, Any]]

EVENT_FIELDS: Final = {  # core/v1 name -> events.k8s.io/v1 name
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_CREATE_ON_UPDATE: Final = frozenset({"leases", "endpoints", "events", "services"})
_WITH_GENERATION: Final = frozenset({"pods", "deployments", "replicasets", "endpointslices"})
_RETURN_DELETED: Final = frozenset({"pods", "services", "serviceaccounts"})


@dataclass(frozen=True, slots=True)
class Resource:
    """`info` is how clients address it; `stored` is the kind whose bytes are in the store."""

    info: ResourceInfo
    stored: ResourceInfo
    inward: Convert | None = None
    outward: Convert | None = None

    @property
    def plural(self) -> str:
        return self.info.plural

    @property
    def gvk(self) -> GVK:
        return self.stored.gvk

    @property
    def prefix(self) -> str:
        return shelf_prefix(self.stored.group, self.stored.plural)

    def key(self, namespace: str, name: str) -> str:
        return storage_key(self.stored.group, self.stored.plural, namespace, name)

    @property
    def has_status(self) -> bool:
        return self.info.subresource("status") is not None

    @property
    def has_generation(self) -> bool:
        return self.plural in _WITH_GENERATION

    @property
    def graceful(self) -> bool:
        return self.plural == "pods"

    @property
    def creates_on_update(self) -> bool:
        return self.plural in _CREATE_ON_UPDATE

    @property
    def unconditional_update(self) -> bool:
        return self.plural != "leases"

    @property
    def returns_deleted(self) -> bool:
        return self.plural in _RETURN_DELETED

    @property
    def expires(self) -> bool:
        """Events live for --event-ttl."""
        return self.plural == "events"


def _renamed(obj: Mapping[str, Any], names: Mapping[str, str], api_version: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": api_version}


def event_to_core(obj: dict[str, Any]) -> dict[str, Any]:
    return _renamed(obj, {new: old for old, new in EVENT_FIELDS.items()}, "v1")


def event_from_core(obj: dict[str, Any]) -> dict[str, Any]:
    return _renamed(obj, EVENT_FIELDS, "events.k8s.io/v1")


class Registry:
    def __init__(self) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        core_event = schema.resource("", "v1", "events")
        for info in schema.served():
            if "get" not in info.verbs:
                continue
            if info.plural == "events" and info.group and core_event:
                found = Resource(info, core_event, event_to_core, event_from_core)
            else:
                found = Resource(info, info)
            self._resources[info.group, info.version, info.plural] = found

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def core(self, plural: str) -> Resource:
        return self._resources["", "v1", plural]

    def serves(self, group: str, version: str) -> bool:
        return any(key[:2] == (group, version) for key in self._resources)

    def describers(self) -> dict[str, Describe]:
        """For each storage prefix, what its objects' selectable fields are."""
        return {one.prefix: _describer(one) for one in self._resources.values() if one.info is one.stored}


def _describer(resource: Resource) -> Describe:
    gvk = resource.gvk
    if not resource.expires:
        return lambda obj: fields.selectable(gvk, obj)
    renamed = GVK("events.k8s.io", "v1", "Event")
    return lambda obj: {**fields.selectable(renamed, event_from_core(obj)), **fields.selectable(gvk, obj)}
