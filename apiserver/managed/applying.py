"""Server-side apply: an object that says only what its writer cares about becomes part of the live one.

    merge      the applied object is laid over the live one, list elements by their keys
    prune      what this applier applied before and no longer does goes, unless somebody else owns it
    compare    what differs from the live object now is what this apply changes
    conflict   a change of what others own is refused, or takes it from them when forced
    own        the applier owns exactly what it applied

One departure from upstream: values are compared in canonical form, so that applying `cpu: 1000m` where another manager wrote
`1` is no conflict; upstream compares the spellings. Upstream: structured-merge-diff merge/update.go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from apiserver import errors
from apiserver.codec.body import conforming
from apiserver.codec.conform import Mismatch
from apiserver.errors import StatusError
from apiserver.managed import (
    conflicts,
    entries,
    fieldset,
    last_applied,
    merge,
    owned,
    stripped,
    tracking,
    typed,
    versions,
)
from apiserver.managed.compare import Comparison, compared
from apiserver.managed.elements import Malformed
from apiserver.managed.entries import APPLY, BEFORE_APPLY, Identity, Owner, Owners
from apiserver.managed.fieldset import FieldSet
from apiserver.managed.tracking import Obj, Writer
from apiserver.managed.versions import Version

_IDENTITY: Final = ("apiVersion", "kind")


@dataclass(frozen=True, slots=True)
class _Apply:
    """One apply; `live` and `config` are of the version that the request speaks."""

    writer: Writer
    version: Version
    live: Obj
    config: Obj
    force: bool

    @property
    def api_version(self) -> str:
        return self.writer.resource.info.group_version


def apply(writer: Writer, stored: Obj | None, config: Obj, *, force: bool) -> Obj:
    """The object to store over `stored`, or as a new one over None, its owners in its metadata.

    Raises 400 for what cannot be applied and 409 for conflicts. Neither argument is changed.
    """
    _check_kind(writer, config)
    version = versions.of(writer.resource)[writer.resource.info.group_version]
    live, listed = _live(version, stored)
    asked = _Apply(writer, version, live, config, force)
    if wrong := typed.findings(version.shape, config):
        raise errors.bad_request(f"failed to create typed patch object ({_named(asked)}): {typed.sentence(wrong)}")
    new, owners = _applied(asked, _owners(asked, listed))
    if writer.name == last_applied.MANAGER:
        last_applied.refreshed(new, config)
    new = new if version.inward is None else version.inward(new)
    told = entries.encoded(owners)
    return new | {"metadata": new["metadata"] | ({"managedFields": told} if told else {})}


def _live(version: Version, stored: Obj | None) -> tuple[Obj, Any]:
    """The live object as this version shows it, without its list of owners, and that list."""
    if stored is None:
        return {"metadata": {}}, None
    metadata = {key: one for key, one in stored["metadata"].items() if key != "managedFields"}
    return version.out(stored | {"metadata": metadata}), stored["metadata"].get("managedFields")


def _check_kind(writer: Writer, config: Obj) -> None:
    info = writer.resource.info
    said = tuple(config.get(key) or "" for key in _IDENTITY)
    if said != (info.group_version, info.kind):
        raise errors.bad_request(f"invalid object type: {said[0]}, Kind={said[1]}")
    metadata = config.get("metadata")
    if isinstance(metadata, dict) and metadata.get("managedFields") is not None:
        raise errors.bad_request("metadata.managedFields must be nil")


def _named(asked: _Apply) -> str:
    metadata = asked.config.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    info = asked.writer.resource.info
    return f"{known.get('namespace', '')}/{known.get('name', '')}; {info.group_version}, Kind={info.kind}"


def _owners(asked: _Apply, listed: Any) -> Owners:
    """Those of the live object; one without any belongs to `before-first-apply`."""
    try:
        found = entries.decoded(listed, trusted=True)
    except Malformed as wrong:
        raise errors.bad_request(f"failed to decode managed fields: {wrong}") from None
    if found or not asked.live["metadata"].get("uid"):
        return found
    writer = replace(asked.writer, name=BEFORE_APPLY)
    fields = owned.created(asked.version.shape, asked.live, stripped.left_out(writer.resource))
    if not fields:
        return {}
    first = Owner(writer.manager(), fields, writer.time)
    return {first.manager.identity: first}


def _applied(asked: _Apply, owners: Owners) -> tuple[Obj, Owners]:
    writer = asked.writer
    mine = Owner(writer.manager(APPLY), _asked_for(asked), writer.time)
    last = owners.get(mine.manager.identity)
    others = {identity: one for identity, one in owners.items() if one is not last}
    new = _merged(asked, mine, last, others)
    conformed = _conformed(asked, new)
    change = _change(asked, new, conformed)
    hits = _hits(asked, others, conformed, change)
    if hits and not asked.force:
        allowed = _migrating(asked, hits)
        if allowed:
            raise conflicts.refused(allowed)
    kept = tracking.without(others, writer.resource, lambda version: _change_in(asked, version, conformed, change))
    fields = fieldset.difference(mine.fields, stripped.SERVERS)
    if fields and last is not None and last.fields == fields:
        same = last.manager == mine.manager and not change
        kept[mine.manager.identity] = replace(last, manager=mine.manager, time=last.time if same else mine.time)
    elif fields:
        kept[mine.manager.identity] = replace(mine, fields=fieldset.ordered(fields))
    return conformed, kept


def _asked_for(asked: _Apply) -> FieldSet:
    ignored = stripped.ignored(asked.writer.resource, asked.writer.subresource)
    return fieldset.without(owned.applied(asked.version.shape, asked.config), ignored)


def _merged(asked: _Apply, mine: Owner, last: Owner | None, others: Owners) -> Obj:
    """The live object with what is applied and without what no longer is."""
    shape = asked.version.shape
    merged: Obj = merge.laid_over(shape, asked.live, asked.config)
    if last is None or last.manager.api_version not in versions.of(asked.writer.resource):
        return merged
    if last.manager.api_version == asked.api_version and not fieldset.difference(last.fields, mine.fields):
        return merged  # nothing that was applied is missing
    managed = fieldset.union(mine.fields, _owned(others, asked.api_version))
    if last.manager.api_version != asked.api_version:
        return _pruned_elsewhere(asked, merged, last, managed, others)
    found: Obj = merge.pruned(shape, merged, last.fields, managed)
    return found


def _owned(owners: Owners, api_version: str) -> FieldSet:
    """What those who speak that version own together."""
    found: FieldSet = {}
    for one in owners.values():
        if one.manager.api_version == api_version:
            found = fieldset.union(found, one.fields)
    return found


def _pruned_elsewhere(asked: _Apply, merged: Obj, last: Owner, managed: FieldSet, others: Owners) -> Obj:
    """An applier that moved here from another version: what it applied there is taken out there, and what is owned in this
    version stays."""
    then, here = versions.of(asked.writer.resource)[last.manager.api_version], asked.version
    translated = _conformed(asked, merged)
    translated = then.out(translated if here.inward is None else here.inward(translated))
    left = merge.pruned(then.shape, translated, last.fields, _owned(others, last.manager.api_version)) or {}
    rest = owned.applied(here.shape, here.out(left if then.inward is None else then.inward(left)))
    found: Obj = merge.kept(here.shape, merged, fieldset.union(rest, managed))
    return found


def _change(asked: _Apply, new: Obj, conformed: Obj) -> Comparison:
    """What differs from the live object, but for spelling."""
    shape, ignored = asked.version.shape, stripped.ignored(asked.writer.resource, asked.writer.subresource)
    raw = compared(shape, asked.live, new).without(ignored)
    if not raw:
        return raw
    true = compared(shape, asked.live, conformed)
    differs = fieldset.union(true.changed, true.removed)
    return Comparison(fieldset.intersection(raw.changed, differs), fieldset.intersection(raw.removed, differs))


def _change_in(asked: _Apply, api_version: str, conformed: Obj, change: Comparison) -> Comparison:
    """The change as another version calls it."""
    if api_version == asked.api_version:
        return change
    other, inward = versions.of(asked.writer.resource)[api_version], asked.version.inward
    live, after = asked.live, conformed
    if inward is not None:
        live, after = inward(live), inward(after)
    return compared(other.shape, other.out(live), other.out(after))


def _hits(asked: _Apply, others: Owners, conformed: Obj, change: Comparison) -> dict[Identity, Owner]:
    """The owners whose fields this apply changes, with those fields."""
    found: dict[Identity, Owner] = {}
    if not change.changed:
        return found
    known = versions.of(asked.writer.resource)
    for identity, one in others.items():
        if one.manager.api_version in known:
            theirs = _change_in(asked, one.manager.api_version, conformed, change)
            hit = fieldset.intersection(one.fields, theirs.changed)
            if hit:
                found[identity] = replace(one, fields=hit)
    return found


def _migrating(asked: _Apply, hits: dict[Identity, Owner]) -> dict[entries.Manager, FieldSet]:
    """The conflicts that remain when kubectl takes over what its own client-side apply wrote."""
    allowed: FieldSet = {}
    if asked.writer.name == last_applied.MANAGER:
        allowed = last_applied.allowed(asked.version.shape, asked.live, asked.api_version)
    left = {one.manager: fieldset.difference(one.fields, allowed) for one in hits.values()}
    return {manager: fields for manager, fields in left.items() if fields}


def _conformed(asked: _Apply, new: Obj) -> Obj:
    """The object as its type has it: canonical values, no nulls."""
    try:
        return conforming(_copied(new), asked.writer.resource.info.gvk, "Ignore").obj
    except Mismatch as wrong:
        raise _unfit(str(wrong)) from None


def _copied(value: Any) -> Any:
    match value:
        case dict():
            return {key: _copied(one) for key, one in value.items()}
        case list():
            return [_copied(one) for one in value]
        case _:
            return value


def _unfit(why: str) -> StatusError:
    return errors.bad_request(f"failed to convert new typed object to object: {why}")
