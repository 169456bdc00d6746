"""Which resources are served, where each is stored, and what is special about it.

A resource is a row of the schema table plus the few facts that the generic verbs ask for (`facts`). Some are one object in
the store and two on the wire, converted at the edge (`conversion`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from apiserver import facts, fields, layout, schema
from apiserver.cache import Describe
from apiserver.conversion import PAIRS, Convert
from apiserver.schema import GVK, ResourceInfo


@dataclass(frozen=True, slots=True)
class Resource:
    """`info` is how clients address it; `stored` is the kind whose bytes are in the store, below `prefix`."""

    info: ResourceInfo
    stored: ResourceInfo
    inward: Convert | None = None
    outward: Convert | None = None
    prefix: str = field(init=False)
    has_status: bool = field(init=False)
    has_generation: bool = field(init=False)
    creates_on_update: bool = field(init=False)
    unconditional_update: bool = field(init=False)
    returns_deleted: bool = field(init=False)

    def __post_init__(self) -> None:
        plural = self.info.plural
        for name, value in (
            ("prefix", layout.prefix(self.stored.group, self.stored.plural)),
            ("has_status", facts.has_status(self.info)),
            ("has_generation", plural in facts.WITH_GENERATION),
            ("creates_on_update", plural in facts.CREATE_ON_UPDATE),
            ("unconditional_update", plural not in facts.CONDITIONAL_UPDATE),
            ("returns_deleted", plural in facts.RETURN_DELETED),
        ):
            object.__setattr__(self, name, value)

    @property
    def plural(self) -> str:
        return self.info.plural

    @property
    def gvk(self) -> GVK:
        return self.stored.gvk

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if namespace else f"{self.prefix}{name}"

    @property
    def graceful(self) -> bool:
        return self.plural == "pods"

    @property
    def expires(self) -> bool:
        """Events live for --event-ttl."""
        return self.plural == "events"


class Registry:
    def __init__(self) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        for info in schema.served():
            if not schema.stored(info):
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
    return fields.stored_event() if resource.expires else fields.reader(resource.gvk.group, resource.gvk.kind)
