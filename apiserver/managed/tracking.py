"""What a write that is no apply does to the owners: it owns what it changed, and what it removed nobody owns.

`created` and `updated` put the list into the new object's metadata. Both take the objects as they are stored, after
defaulting and before admission changes them: what the server adds on its own account has no owner. An object without owners
stays without until it is applied (`before-first-apply`), which is how a client opts out (`managedFields: []`).
Upstream: k8s.io/apimachinery/pkg/util/managedfields/internal, structured-merge-diff merge/update.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from apiserver.managed import entries, fieldset, owned, stripped, versions
from apiserver.managed.compare import Comparison, compared
from apiserver.managed.elements import Malformed
from apiserver.managed.entries import UPDATE, Identity, Manager, Owner, Owners
from apiserver.registry import Resource

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes what: the field manager's name, the endpoint, and the time (RFC 3339)."""

    resource: Resource
    name: str
    time: str
    subresource: str = ""

    def manager(self, operation: str = UPDATE) -> Manager:
        return Manager(self.name, operation, self.resource.info.group_version, self.subresource)


def created(writer: Writer, obj: Obj, sent: Any = None) -> None:
    """`sent` is the list that the client put into the new object, which it may."""
    resource = writer.resource
    version = versions.of(resource).get(resource.info.group_version)
    if version is None or entries.resets(sent):
        return
    fields = owned.created(version.shape, version.out(obj), stripped.left_out(resource))
    owners = _valid(sent)
    mine = Owner(writer.manager(), fields, writer.time)
    if owners:
        owners = _taken(writer, owners, None, obj)
    if fields:
        before = owners.get(mine.manager.identity)
        union = fields if before is None else fieldset.ordered(fieldset.union(before.fields, fields))
        owners[mine.manager.identity] = replace(mine, fields=union)
    if owners:
        obj["metadata"]["managedFields"] = entries.encoded(entries.capped(owners))


def updated(writer: Writer, old: Obj, new: Obj) -> None:
    """Sets the owners of `new`, in whose metadata stands the list that the client sent back, if it did."""
    had = old["metadata"].pop("managedFields", None)
    sent = new["metadata"].pop("managedFields", None)
    try:
        found = _updated(writer, old, new, had, sent)
    finally:
        if had is not None:
            old["metadata"]["managedFields"] = had
    if found:
        new["metadata"]["managedFields"] = found


def _updated(writer: Writer, old: Obj, new: Obj, had: Any, sent: Any) -> list[dict[str, Any]] | None:
    version = versions.of(writer.resource).get(writer.resource.info.group_version)
    if version is None:
        return None
    base = had
    if not writer.subresource and sent is not None and sent != had:
        if entries.resets(sent):
            return None
        if owners := _valid(sent):
            base = entries.encoded(owners)
    if not base:
        return None
    change = _comparison(writer, writer.resource.info.group_version, old, new)
    if not change:
        return list(base)
    try:
        owners = entries.decoded(base, trusted=True)
    except Malformed:
        return None
    owners = _taken(writer, owners, old, new, change)
    mine = fieldset.difference(change.changed, stripped.SERVERS)
    if mine:
        manager = writer.manager()
        before = owners.get(manager.identity)
        union = mine if before is None else fieldset.union(before.fields, mine)
        owners[manager.identity] = Owner(manager, fieldset.ordered(union), writer.time)
        owners = entries.capped(owners)
    return entries.encoded(owners)


def _valid(sent: Any) -> Owners:
    """The owners that a client sent; a list that cannot be read is as good as none."""
    try:
        return entries.decoded(sent)
    except Malformed:
        return {}


def _comparison(writer: Writer, api_version: str, old: Obj | None, new: Obj) -> Comparison:
    version = versions.of(writer.resource)[api_version]
    before = {} if old is None else version.out(old)
    return compared(version.shape, before, version.out(new)).without(
        stripped.ignored(writer.resource, writer.subresource)
    )


def _taken(writer: Writer, owners: Owners, old: Obj | None, new: Obj, change: Comparison | None = None) -> Owners:
    """The owners after the writer made `new` out of `old`, without what changed and without what is gone; `change` is that
    in the version that the writer speaks."""
    mine = writer.resource.info.group_version

    def changed(api_version: str) -> Comparison:
        return change if change and api_version == mine else _comparison(writer, api_version, old, new)

    return without(owners, writer.resource, changed)


def without(owners: Owners, resource: Resource, change: Callable[[str], Comparison]) -> Owners:
    """`change` answers what changed as an apiVersion calls it; owners that speak an unknown one are dropped."""
    seen: dict[str, Comparison] = {}
    kept: dict[Identity, Owner] = {}
    for identity, owner in owners.items():
        api_version = owner.manager.api_version
        if api_version not in versions.of(resource):
            continue
        if api_version not in seen:
            seen[api_version] = change(api_version)
        left = remaining(owner.fields, seen[api_version])
        if left is owner.fields:
            kept[identity] = owner
        elif left:
            kept[identity] = replace(owner, fields=left)
    return kept


def remaining(fields: fieldset.FieldSet, change: Comparison) -> fieldset.FieldSet:
    left = fields
    for gone in (change.changed, change.removed):
        if gone and fieldset.intersection(left, gone):
            left = fieldset.difference(left, gone)
    return left
