"""What the controllers see: one informer for each kind, shared by all loops, and indexes over them.

`OwnWrites` bridges the milliseconds between the answer to a write and its watch event. Upstream counts expectations for
this; here the objects themselves are remembered, so a loop that looks again at once sees what it has just done, and what
stays unseen for long is looked up instead of being waited for.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controllers.kinds import IGNORED
from kube import resources
from kube.client import Client
from kube.coordination import Lease
from kube.errors import NotFound
from kube.informer import Change, Informer
from kube.labels import NODE_LEASE_NAMESPACE
from kube.meta import Typed
from kube.resources import Resource

T = TypeVar("T", bound=Typed)


class Index(Generic[T]):
    """An informer's objects by whatever `terms` says of each."""

    def __init__(self, informer: Informer[T], terms: Callable[[T], Iterable[Hashable]]) -> None:
        self._terms = terms
        self._objects: defaultdict[Hashable, dict[str, T]] = defaultdict(dict)
        informer.subscribe(self._changed)

    def get(self, term: Hashable) -> list[T]:
        found = self._objects.get(term)
        return list(found.values()) if found else []

    def _changed(self, change: Change[T]) -> None:
        if change.old is not None:
            for term in self._terms(change.old):
                self._objects[term].pop(change.key, None)
                if not self._objects[term]:
                    del self._objects[term]
        if change.new is not None:
            for term in self._terms(change.new):
                self._objects[term][change.key] = change.new


def owners(obj: Typed) -> Iterable[str]:
    return [o.uid for o in obj.metadata.owner_references]


def namespace(obj: Typed) -> Iterable[str]:
    return (obj.metadata.namespace,)


@dataclass(slots=True)
class _Unseen(Generic[T]):
    obj: T
    since: float


class OwnWrites(Generic[T]):
    """Objects of one kind that this process has created or deleted and that the informer does not show so yet."""

    def __init__(self, client: Client, resource: Resource[T], informer: Informer[T], patience: float = 30.0) -> None:
        self._client = client
        self._resource = resource
        self._informer = informer
        self._patience = patience
        self._created: dict[str, _Unseen[T]] = {}
        self._deleted: dict[str, _Unseen[T]] = {}
        informer.subscribe(self._changed)

    def created(self, obj: T) -> None:
        shown = self._informer.get(obj.metadata.name, obj.metadata.namespace or None)
        if shown is None or shown.metadata.uid != obj.metadata.uid:
            self._created[obj.metadata.uid] = _Unseen(obj, time.monotonic())

    def deleted(self, obj: T) -> None:
        shown = self._informer.get(obj.metadata.name, obj.metadata.namespace or None)
        if shown and shown.metadata.uid == obj.metadata.uid and shown.metadata.deletion_timestamp is None:
            self._deleted[obj.metadata.uid] = _Unseen(obj, time.monotonic())

    def over(self, shown: Iterable[T], mine: Callable[[T], bool]) -> list[T]:
        """`shown` as it is with our writes in it; `mine` picks of those that we created."""
        kept = [obj for obj in shown if obj.metadata.uid not in self._deleted]
        return kept + [unseen.obj for unseen in self._created.values() if mine(unseen.obj)]

    async def verify(self) -> None:
        """Ask the server about what the informer should have shown long ago: it may have come and gone in a gap."""
        late = time.monotonic() - self._patience
        for uid, unseen in [(u, e) for u, e in self._created.items() if e.since < late]:
            meta = unseen.obj.metadata
            try:
                alive = (await self._client.get(self._resource, meta.name, meta.namespace)).metadata.uid == uid
            except NotFound:
                alive = False
            if alive:
                unseen.since = time.monotonic()
            else:
                self._created.pop(uid, None)
        for uid in [u for u, e in self._deleted.items() if e.since < late]:
            del self._deleted[uid]  # still shown as alive: a deletion that did not take; the next pass decides anew

    def _changed(self, change: Change[T]) -> None:
        if change.new is not None:
            self._created.pop(change.new.metadata.uid, None)
            if change.new.metadata.deletion_timestamp is not None:
                self._deleted.pop(change.new.metadata.uid, None)
        if change.old is not None and (change.new is None or change.new.metadata.uid != change.old.metadata.uid):
            self._created.pop(change.old.metadata.uid, None)
            self._deleted.pop(change.old.metadata.uid, None)


class World:
    """The informers. Kinds that no loop reads by name are watched for their metadata alone."""

    def __init__(self, client: Client, served: Iterable[Resource[Typed]] = ()) -> None:
        self.client = client
        self.pods = Informer(client, resources.PODS)
        self.nodes = Informer(client, resources.NODES)
        self.services = Informer(client, resources.SERVICES)
        self.endpoints = Informer(client, resources.ENDPOINTS)
        self.slices = Informer(client, resources.ENDPOINTSLICES)
        self.namespaces = Informer(client, resources.NAMESPACES)
        self.service_accounts = Informer(client, resources.SERVICEACCOUNTS)
        self.deployments = Informer(client, resources.DEPLOYMENTS)
        self.replica_sets = Informer(client, resources.REPLICASETS)
        self.leases = Informer(client, resources.LEASES)
        self.quotas = Informer(client, resources.RESOURCEQUOTAS)
        self.budgets = Informer(client, resources.PODDISRUPTIONBUDGETS)
        self.informers: dict[Resource[Any], Informer[Any]] = {
            resources.PODS: self.pods,
            resources.NODES: self.nodes,
            resources.SERVICES: self.services,
            resources.ENDPOINTS: self.endpoints,
            resources.ENDPOINTSLICES: self.slices,
            resources.NAMESPACES: self.namespaces,
            resources.SERVICEACCOUNTS: self.service_accounts,
            resources.DEPLOYMENTS: self.deployments,
            resources.REPLICASETS: self.replica_sets,
            resources.LEASES: self.leases,
            resources.RESOURCEQUOTAS: self.quotas,
            resources.PODDISRUPTIONBUDGETS: self.budgets,
        }
        typed = {(r.group, r.plural) for r in self.informers}
        for resource in served:
            if (resource.group, resource.plural) not in typed | IGNORED:
                self.informers[resource] = Informer(client, resource)
        self.pods_by_namespace = Index(self.pods, namespace)
        self.pods_by_owner = Index(self.pods, owners)
        self.pods_by_node = Index(self.pods, lambda pod: (pod.spec.node_name,))
        self.sets_by_namespace = Index(self.replica_sets, namespace)
        self.deployments_by_namespace = Index(self.deployments, namespace)
        self.services_by_namespace = Index(self.services, namespace)
        self.slices_by_namespace = Index(self.slices, namespace)
        self.quotas_by_namespace = Index(self.quotas, namespace)
        self.budgets_by_namespace = Index(self.budgets, namespace)

    def kind(self, group: str, kind: str) -> Resource[Any] | None:
        """A kind that is served, by what an owner reference says of it."""
        return next((r for r in self.informers if (r.group, r.kind) == (group, kind)), None)

    def node_lease(self, node: str) -> Lease | None:
        return self.leases.get(node, NODE_LEASE_NAMESPACE)

    @property
    def synced(self) -> bool:
        return all(i.synced.is_set() for i in self.informers.values())
