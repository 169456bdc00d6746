"""Which resources are served, where each is stored, and what is special about it.

A resource is a row of the schema table plus the few facts that the generic verbs ask for. Events are one store behind two
groups: `events.k8s.io/v1` is the core event with other field names, converted at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from apiserver import fields, layout, schema
from apiserver.cache import Describe
from apiserver.conversion import PAIRS, Convert, events
from apiserver.schema import GVK, ResourceInfo

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
        return layout.prefix(self.stored.group, self.stored.plural)

    def key(self, namespace: str, name: str) -> str:
        return layout.key(self.stored.group, self.stored.plural, namespace, name)

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


class Registry:
    def __init__(self) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        for info in schema.served():
            if "get" not in info.verbs:
                continue
            pair = PAIRS.get((info.group, info.version, info.plural))
            if pair is None:
                found = Resource(info, info)
            else:
                stored = schema.resource(*pair.stored)
                assert stored is not None, pair.stored
                found = Resource(info, stored, pair.inward, pair.outward)
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
    return lambda obj: {**fields.selectable(renamed, events.from_core(obj)), **fields.selectable(gvk, obj)}
