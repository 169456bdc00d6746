"""The versions in which one stored object is known, each with its shape and the way there and back.

Entries of managedFields name fields as their apiVersion does, so a change is compared in each version that owners speak. A
version that is no longer served has no shape here: upstream drops such owners, and so do we.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from apiserver import schema
from apiserver.conversion import PAIRS, Convert
from apiserver.managed import shapes
from apiserver.managed.shapes import Struct
from apiserver.registry import Resource


@dataclass(frozen=True, slots=True)
class Version:
    """`outward` makes a stored object one of this version, `inward` the reverse; None where they are the same."""

    shape: Struct
    outward: Convert | None = None
    inward: Convert | None = None

    def out(self, obj: dict[str, Any]) -> dict[str, Any]:
        return obj if self.outward is None else self.outward(obj)


def of(resource: Resource) -> dict[str, Version]:
    """By apiVersion; empty for kinds without a schema, whose fields nobody owns."""
    stored = resource.stored
    return _of(stored.group, stored.version, stored.plural)


@cache
def _of(*address: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    stored = schema.resource(*address)
    if stored is not None and (shape := shapes.of_kind(stored.gvk)):
        found[stored.group_version] = Version(shape)
    for (group, version, plural), pair in PAIRS.items():
        info = schema.resource(group, version, plural)
        if pair.stored == address and info is not None and (shape := shapes.of_kind(info.gvk)):
            found[info.group_version] = Version(shape, pair.outward, pair.inward)
    return found
