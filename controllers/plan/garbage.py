"""Garbage: objects whose owners are gone, and owners that wait for what they own.

    background   the owner goes at once; its dependents follow, because every owner they name is gone
    foreground   the owner stays (finalizer foregroundDeletion) until no dependent with blockOwnerDeletion is left
    orphan       the owner stays (finalizer orphan) until no dependent names it any more; they stay

An object with at least one owner that is there (`SOLID`) is kept, and loses the references to those that are not. That an
owner is absent is believed only when the server says so for its uid: an informer that lags proves nothing.
Upstream: kubernetes/pkg/controller/garbagecollector.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from controllers.model import Amend, AnyResource
from kube.labels import FOREGROUND_DELETION, ORPHAN_DEPENDENTS
from kube.meta import ObjectMeta, OwnerReference, to_wire

Propagation = Literal["Background", "Foreground", "Orphan"]


class State(Enum):
    """An owner, seen from its dependent: there, gone, or going in the foreground and waiting for its dependents."""

    SOLID = "solid"
    ABSENT = "absent"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Item:
    """One object of any kind."""

    resource: AnyResource
    meta: ObjectMeta

    @property
    def is_deleting(self) -> bool:
        return self.meta.deletion_timestamp is not None

    @property
    def waits_for_dependents(self) -> bool:
        return self.is_deleting and FOREGROUND_DELETION in self.meta.finalizers

    @property
    def lets_go(self) -> bool:
        return self.is_deleting and ORPHAN_DEPENDENTS in self.meta.finalizers


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Stay, without the references to owners that are gone."""

    amend: Amend


@dataclass(frozen=True, slots=True)
class Collect:
    """Go, taking dependents along as said."""

    propagation: Propagation


Verdict = Keep | Forget | Collect


def state_of(owner: Item) -> State:
    return State.WAITING if owner.waits_for_dependents else State.SOLID


def verdict(item: Item, owners: Mapping[str, State], *, has_dependents: bool) -> Verdict:
    """`owners` by uid, one for each of the object's references."""
    if item.is_deleting or not item.meta.owner_references:
        return Keep()
    states = {r.uid: owners[r.uid] for r in item.meta.owner_references}
    if State.SOLID in states.values():
        gone = {uid for uid, state in states.items() if state is not State.SOLID}
        return Forget(without_owners(item, gone)) if gone else Keep()
    if State.WAITING in states.values() and has_dependents:
        return Collect("Foreground")
    if ORPHAN_DEPENDENTS in item.meta.finalizers:
        return Collect("Orphan")
    return Collect("Foreground" if FOREGROUND_DELETION in item.meta.finalizers else "Background")


def without_owners(item: Item, uids: Iterable[str]) -> Amend:
    gone = frozenset(uids)
    kept = [r for r in item.meta.owner_references if r.uid not in gone]
    return _amend(item, {"ownerReferences": to_wire(kept) or None})


def without_finalizer(item: Item, finalizer: str) -> Amend:
    return _amend(item, {"finalizers": [f for f in item.meta.finalizers if f != finalizer] or None})


def _amend(item: Item, metadata: Mapping[str, Any]) -> Amend:
    """Lists are written whole, so the write is refused when the object has changed since. A merge patch, because kinds
    that are not built in know no strategic one."""
    body = {"metadata": {"uid": item.meta.uid, "resourceVersion": item.meta.resource_version, **metadata}}
    return Amend(item.resource, item.meta.namespace, item.meta.name, body)


def blocks(owner_uid: str, dependent: Item) -> bool:
    reference = _reference(owner_uid, dependent.meta.owner_references)
    return reference is not None and reference.block_owner_deletion is True


def _reference(uid: str, references: Sequence[OwnerReference]) -> OwnerReference | None:
    return next((r for r in references if r.uid == uid), None)
