"""The garbage loop: a key is an object's uid; its own changes, its owners' ends and its dependents' ends wake it.

The graph is kept by the informers of every kind that the server serves: objects by uid, dependents by owner. It is only
ever a hint: deletions carry the resourceVersion that the verdict was reached on, and absence is asked of the server.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any

from controllers import apply
from controllers.kinds import metadata_only
from controllers.model import AnyResource
from controllers.observe import World
from controllers.plan import garbage as plan
from controllers.plan.garbage import Item, State
from kube.errors import NotFound
from kube.informer import Change
from kube.labels import FOREGROUND_DELETION, ORPHAN_DEPENDENTS
from kube.meta import OwnerReference, Typed
from kube.reconcile import Keys, by_key
from kube.resources import Resource

log = logging.getLogger(__name__)

_REMEMBERED = 10_000


class Garbage:
    def __init__(self, world: World) -> None:
        self._client = world.client
        self._items: dict[str, Item] = {}
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._kinds: dict[tuple[str, str], Resource[Typed]] = {}
        self.keys: Keys[str] = Keys()
        for resource, informer in world.informers.items():
            self._kinds[resource.group, resource.kind] = metadata_only(resource)
            self._follow(resource, informer)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=8, name="garbage")

    def _follow(self, resource: AnyResource, informer: Any) -> None:
        plain = metadata_only(resource)
        informer.subscribe(lambda change: self._changed(plain, change))

    def _changed(self, resource: Resource[Typed], change: Change[Typed]) -> None:
        old, new = change.old, change.new
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self._gone(old)
        elif old is not None:
            self._unlink(old)
        if new is None:
            return
        item = Item(resource, new.metadata)
        self._items[new.metadata.uid] = item
        for reference in new.metadata.owner_references:
            self._dependents[reference.uid].add(new.metadata.uid)
        if new.metadata.owner_references or item.waits_for_dependents or item.lets_go:
            self.keys.add(new.metadata.uid)
        if old is not None and old.metadata.owner_references != new.metadata.owner_references:
            self._wake_owners(old)  # an owner may have waited for being let go

    def _unlink(self, obj: Typed) -> None:
        for reference in obj.metadata.owner_references:
            self._dependents[reference.uid].discard(obj.metadata.uid)
            if not self._dependents[reference.uid]:
                del self._dependents[reference.uid]

    def _gone(self, obj: Typed) -> None:
        self._unlink(obj)
        self._items.pop(obj.metadata.uid, None)
        for uid in self._dependents.get(obj.metadata.uid, ()):
            self.keys.add(uid)
        self._wake_owners(obj)

    def _wake_owners(self, obj: Typed) -> None:
        for reference in obj.metadata.owner_references:
            owner = self._items.get(reference.uid)
            if owner and owner.is_deleting:
                self.keys.add(reference.uid)

    async def sync(self, uid: str) -> None:
        item = self._items.get(uid)
        if item is None:
            return
        if item.lets_go:
            await self._orphan(item)
        elif item.waits_for_dependents:
            await self._wait(item)
        elif not item.is_deleting and item.meta.owner_references:
            await self._judge(item)

    def _of(self, uid: str) -> list[Item]:
        return [self._items[d] for d in self._dependents.get(uid, ()) if d in self._items]

    async def _orphan(self, item: Item) -> None:
        """Dependents first: once the finalizer is off, the owner is gone and its dependents would be collected."""
        for dependent in self._of(item.meta.uid):
            await apply.amend(plan.without_owners(dependent, [item.meta.uid]), self._client)
        await apply.amend(plan.without_finalizer(item, ORPHAN_DEPENDENTS), self._client)

    async def _wait(self, item: Item) -> None:
        dependents = self._of(item.meta.uid)
        for dependent in dependents:
            if not dependent.is_deleting:
                self.keys.add(dependent.meta.uid)
        if not any(plan.blocks(item.meta.uid, d) for d in dependents):
            await apply.amend(plan.without_finalizer(item, FOREGROUND_DELETION), self._client)

    async def _judge(self, item: Item) -> None:
        owners = {r.uid: await self._state(item, r) for r in item.meta.owner_references}
        match plan.verdict(item, owners, has_dependents=bool(self._of(item.meta.uid))):
            case plan.Keep():
                return
            case plan.Forget(amend):
                await apply.amend(amend, self._client)
            case plan.Collect(propagation):
                meta = item.meta
                log.info("%s %s: its owners are gone; deleting it", item.resource.kind, meta.key)
                try:
                    await self._client.delete(
                        item.resource,
                        meta.name,
                        meta.namespace or None,
                        uid=meta.uid,
                        resource_version=meta.resource_version,
                        propagation=propagation,
                    )
                except NotFound:
                    return

    async def _state(self, item: Item, reference: OwnerReference) -> State:
        owner = self._items.get(reference.uid)
        if owner is not None:
            return plan.state_of(owner)
        if reference.uid in self._absent:
            return State.ABSENT
        group, _, _ = reference.api_version.rpartition("/")
        resource = self._kinds.get((group, reference.kind))
        if resource is None or (resource.namespaced and not item.meta.namespace):
            return State.SOLID  # no way to ask: an owner of a kind unknown here keeps what it owns
        namespace = item.meta.namespace if resource.namespaced else None
        try:
            live = await self._client.get(resource, reference.name, namespace)
        except NotFound:
            self._remember((reference.uid,))
            return State.ABSENT
        if live.metadata.uid != reference.uid:
            self._remember((reference.uid,))
            return State.ABSENT
        return plan.state_of(Item(resource, live.metadata))

    def _remember(self, uids: Iterable[str]) -> None:
        """A uid that is gone never comes back."""
        for uid in uids:
            self._absent[uid] = None
        while len(self._absent) > _REMEMBERED:
            self._absent.popitem(last=False)
