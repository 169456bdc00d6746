"""ResourceQuota: what an object counts for is charged in the transaction that stores it.

So a quota is never exceeded, however many servers write, and never charged for an object that was not stored: the new
`status.used` is a compare-and-swap beside the object's own (upstream charges first and lets its controller find the
difference). Writers of one namespace that has quotas take turns here; a namespace without quotas costs a look at an empty
list. What leaves is counted by the controller (`controllers.quota`), which also sets `status.hard`; until it has, a quota
holds nobody back. Upstream: k8s.io/apiserver/pkg/admission/plugin/resourcequota.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final
from weakref import WeakValueDictionary

from apiserver.admission.attributes import Attributes
from apiserver.admission.sight import Sight
from apiserver.cache import Entry, storage_bytes
from apiserver.errors import StatusError
from apiserver.store import Op
from kube import quota

Obj = dict[str, Any]
NAME: Final = "ResourceQuota"
_CHANGING: Final = frozenset({("services", ""), ("persistentvolumeclaims", ""), ("pods", "resize")})
_UNCOUNTED: Final = frozenset({"events", "events.events.k8s.io"})


class Quotas:
    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def concern(self, attributes: Attributes) -> bool:
        """Whether there is anything to charge: cheap, as every write asks."""
        if not attributes.namespace or attributes.operation == "DELETE":
            return False
        if attributes.operation == "UPDATE" and (attributes.kind, attributes.subresource) not in _CHANGING:
            return False
        if attributes.operation == "CREATE" and attributes.kind in _UNCOUNTED:
            return False
        return any(True for _ in self._sight.entries("resourcequotas", attributes.namespace))

    @asynccontextmanager
    async def charged(self, attributes: Attributes) -> AsyncIterator[list[Op]]:
        """The writes that charge the namespace's quotas; raises 403 when one would be exceeded."""
        turn = self._turns.setdefault(attributes.namespace, asyncio.Lock())
        async with turn:
            try:
                charges = self._charges(attributes)
            except StatusError:
                await self._sight.fresh()  # somebody else may have made room a moment ago
                charges = self._charges(attributes)
            key = self._sight.key
            yield [
                Op(key("resourcequotas", entry.namespace, entry.name), storage_bytes(new), entry.rv)
                for entry, new in charges
            ]

    def _charges(self, attributes: Attributes) -> list[tuple[Entry, Obj]]:
        found: list[tuple[Entry, Obj]] = []
        for entry in self._sight.entries("resourcequotas", attributes.namespace):
            used = charge(attributes, entry.parse())
            if used is not None:
                found.append((entry, used))
        return found


def charge(attributes: Attributes, limited: Obj) -> Obj | None:
    """The quota with the object charged; None when it does not count. Raises 403."""
    kind, obj, name = attributes.kind, attributes.new, limited["metadata"]["name"]
    status = limited.get("status") or {}
    hard, used = quota.amounts(status.get("hard")), quota.amounts(status.get("used"))
    concerned = quota.matching(kind, hard)
    if not concerned or not quota.in_scope(limited.get("spec") or {}, kind, obj):
        return None
    if kind == "pods" and (why := quota.unspecified(concerned, obj)):
        raise attributes.refused(f"failed quota: {name}: {why}")
    if concerned - used.keys():
        names = ",".join(sorted(concerned))
        raise attributes.refused(f"status unknown for quota: {name}, resources: {names}")
    asked = _more(attributes, datetime.now(UTC))
    asked = {one: amount for one, amount in asked.items() if amount > 0 and one in hard}
    if not asked:
        return None
    total = quota.added(used, asked)
    exceeded = {one for one in asked if total[one] > hard[one]}
    if exceeded:
        requested, before, limit = (_only(values, exceeded) for values in (asked, used, hard))
        raise attributes.refused(f"exceeded quota: {name}, requested: {requested}, used: {before}, limited: {limit}")
    return limited | {"status": status | {"used": status["used"] | quota.written(_part(total, asked))}}


def _more(attributes: Attributes, now: datetime) -> quota.Amounts:
    """What the write adds: all of a new object, of a changed one what it has more than before."""
    new = quota.usage(attributes.kind, attributes.new, now)
    if attributes.old is None:
        return new
    before = quota.usage(attributes.kind, attributes.old, now)
    return {name: amount - before.get(name, Fraction(0)) for name, amount in new.items()}


def _part(values: quota.Amounts, names: quota.Amounts) -> quota.Amounts:
    return {name: values[name] for name in names}


def _only(values: quota.Amounts, names: set[str]) -> str:
    return quota.shown({name: values[name] for name in names})
