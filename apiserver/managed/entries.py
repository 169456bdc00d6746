"""`metadata.managedFields`: the list, and the managers it stands for.

A manager is told apart by name, operation, subresource and (for updates) apiVersion: an applier stays the same when it moves
to another version. Upstream: k8s.io/apimachinery/pkg/util/managedfields/internal/{managedfields,capmanagers}.go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from apiserver.managed import fieldset
from apiserver.managed.elements import Malformed
from apiserver.managed.fieldset import FieldSet

UPDATE: Final = "Update"
APPLY: Final = "Apply"
MOST_UPDATERS: Final = 10
ANCIENT: Final = "ancient-changes"
BEFORE_APPLY: Final = "before-first-apply"


@dataclass(frozen=True, slots=True)
class Manager:
    name: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> Identity:
        version = "" if self.operation == APPLY else self.api_version
        return self.name, self.operation, version, self.subresource


Identity = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Owner:
    """A manager with its set and the time of its last change (RFC 3339, whole seconds; empty when unknown)."""

    manager: Manager
    fields: FieldSet
    time: str = ""


Owners = dict[Identity, Owner]


def resets(sent: Any) -> bool:
    """`[]` and `[{}]` ask to forget all owners."""
    return isinstance(sent, list) and sent in ([], [{}])


def decoded(many: Any, *, trusted: bool = False) -> Owners:
    """The owners of a list; raises Malformed. What this server wrote (`trusted`) has its sets in order already."""
    owners: Owners = {}
    for index, one in enumerate(many or ()):
        operation, version = one.get("operation"), one.get("apiVersion")
        if operation not in (APPLY, UPDATE):
            raise Malformed("operation must be `Apply` or `Update`")
        if not version:
            raise Malformed("apiVersion must not be empty")
        if one.get("fieldsType") != "FieldsV1":
            raise Malformed(f"invalid fieldsType {one.get('fieldsType', '')!r} in managed fields entry {index}")
        fields = one.get("fieldsV1") or {}
        manager = Manager(one.get("manager", ""), operation, version, one.get("subresource", ""))
        owner = Owner(manager, fields if trusted else fieldset.ordered(fieldset.parse(fields)), one.get("time") or "")
        owners[manager.identity] = owner
    return owners


def encoded(owners: Owners) -> list[dict[str, Any]]:
    """In upstream's order: appliers first, then by time, name, version and subresource."""
    many = sorted(owners.values(), key=_place)
    return [_entry(one) for one in many]


def _place(owner: Owner) -> tuple[str, ...]:
    one = owner.manager
    return one.operation, owner.time, one.name, one.api_version, one.subresource


def _entry(owner: Owner) -> dict[str, Any]:
    one = owner.manager
    entry: dict[str, Any] = {"manager": one.name, "operation": one.operation, "apiVersion": one.api_version}
    if not one.name:
        del entry["manager"]
    if owner.time:
        entry["time"] = owner.time
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": owner.fields}
    if one.subresource:
        entry["subresource"] = one.subresource
    return entry


def capped(owners: Owners) -> Owners:
    """At most ten updaters: the oldest of each apiVersion are merged into one entry, `ancient-changes`."""
    updaters = [one for one in owners.values() if one.manager.operation == UPDATE]
    if len(updaters) <= MOST_UPDATERS:
        return owners
    kept, count = dict(owners), len(updaters)
    first: dict[str, Identity] = {}
    for one in sorted(updaters, key=_age):
        if count <= MOST_UPDATERS:
            break
        version = one.manager.api_version
        bucket = Manager(ANCIENT, UPDATE, version)
        if version not in first:
            first[version] = one.manager.identity
            continue
        if bucket.identity not in kept:
            kept[bucket.identity] = replace(kept.pop(first[version]), manager=bucket)
        older = kept[bucket.identity]
        del kept[one.manager.identity]
        merged = fieldset.ordered(fieldset.union(one.fields, older.fields))
        kept[bucket.identity] = Owner(bucket, merged, one.time)
        count -= 1
    return kept


def _age(owner: Owner) -> tuple[str, ...]:
    """Among those of one second, the bucket itself comes first, so that it stays the one that others join."""
    one = owner.manager
    return owner.time, "" if one.name == ANCIENT else one.name, one.api_version, one.subresource
