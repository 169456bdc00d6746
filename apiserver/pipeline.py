"""One write: fetch, change, admit, default, validate, commit.

`Writer` is the shared part: every verb that changes an object ends in `create`, `modify` or (in `deletion`) `remove`.
A change is optimistic: it is computed from the cached object and committed only if the store still has that version. When
another writer was faster, it is computed again from the newer object, unless the client pinned a version, which makes it
the client's 409.

Writes that change nothing write nothing: no new resource version, no event. The reply leaves only when the cache has
seen the write, so whoever reads next sees it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from apiserver import errors, strategy
from apiserver.admission import Admission
from apiserver.allocators import Allocators
from apiserver.authentication import SERVER, User
from apiserver.cache import Cache, Entry, Shelf, stamp, storage_bytes
from apiserver.naming import generated_name
from apiserver.registry import Resource
from apiserver.store import Committed, Op, Store

Obj = dict[str, Any]
RETRIES: Final = 5
NAME_TRIES: Final = 8
COMMIT_WAIT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a write is about, and whose it is; `namespace` is empty for cluster scope. `manager` owns the fields that the
    write sets (`?fieldManager=`)."""

    resource: Resource
    namespace: str
    name: str
    dry_run: bool = False
    user: User = SERVER
    manager: str = SERVER.name

    def not_found(self) -> errors.StatusError:
        return errors.not_found(self.resource.info.group, self.resource.plural, self.name)

    def conflict(self, why: str = errors.OPTIMISTIC_LOCK) -> errors.StatusError:
        return errors.conflict(self.resource.info.group, self.resource.plural, self.name, why)


@dataclass(frozen=True, slots=True)
class Written:
    """The object as it is served, and whether this write created it."""

    body: bytes
    created: bool = False


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> datetime:
    return datetime.now(UTC)


class Writer:
    def __init__(
        self, store: Store, cache: Cache, admission: Admission, allocators: Allocators, *, event_ttl: float
    ) -> None:
        self.store = store
        self.cache = cache
        self.admission = admission
        self.allocators = allocators
        self._event_ttl = event_ttl

    def shelf(self, resource: Resource) -> Shelf:
        return self.cache.shelf(resource.prefix)

    def get(self, target: Target) -> Entry:
        entry = self.shelf(target.resource).get(target.namespace, target.name)
        if entry is None:
            raise target.not_found()
        return entry

    async def create(self, target: Target, obj: Obj) -> Written:
        """`obj` is decoded, its namespace is the target's, and it becomes what is stored. Raises StatusErrors."""
        resource, metadata = target.resource, obj["metadata"]
        if metadata.get("resourceVersion") not in (None, "", "0"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        generated = bool(metadata.get("generateName")) and not metadata.get("name")
        if generated:
            metadata["name"] = self._free_name(resource, target.namespace, metadata["generateName"])
        for key in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "resourceVersion"):
            metadata.pop(key, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": rfc3339(now())}
        if resource.has_generation:
            metadata["generation"] = 1
        strategy.prepare_create(resource, obj)
        await self.admission.create(resource, target.namespace, obj)
        strategy.check(resource, obj, strategy.validate_create(resource, obj))
        written = None
        if not self.shelf(resource).get(target.namespace, metadata["name"]):
            written = await self._commit_new(target, obj)
        if written is None:
            taken = errors.generate_name_conflict if generated else errors.already_exists
            raise taken(resource.info.group, resource.plural, metadata["name"])
        return written

    def _free_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        """Free as far as the cache knows; who loses the race for it is told to try again."""
        names = (generated_name(prefix) for _ in range(NAME_TRIES))
        name = generated_name(prefix)
        return next((one for one in names if not self.shelf(resource).get(namespace, one)), name)

    async def _commit_new(self, target: Target, obj: Obj) -> Written | None:
        resource = target.resource
        with self.allocators.assigning(resource, obj, None):
            value = storage_bytes(obj)
            if target.dry_run:
                return Written(value, True)
            key = resource.key(target.namespace, obj["metadata"]["name"])
            rv = await self.commit(Op(key, value, 0, self._ttl(resource)))
            return None if rv is None else Written(stamp(value, rv), True)

    async def modify(
        self,
        target: Target,
        change: Callable[[Obj], Obj],
        *,
        subresource: str = "",
        pinned: bool = False,
    ) -> Written:
        """Commits `change(current)`; with `pinned` another writer's interference is a 409, otherwise it is retried."""
        for _ in range(RETRIES + 1):
            entry = self.get(target)
            written = await self.replace(target, entry, change(entry.parse()), subresource=subresource)
            if written is not None:
                return written
            if pinned:
                break
        raise target.conflict()

    async def replace(self, target: Target, entry: Entry, new: Obj, *, subresource: str = "") -> Written | None:
        """Writes `new` over `entry`; None when somebody else wrote first."""
        resource, old = target.resource, entry.parse()
        _check_version(target, entry, new, old)
        strategy.prepare_update(resource, new, old, subresource)
        if subresource in ("", "status"):
            strategy.check(resource, new, strategy.validate_update(resource, new, old))
        if strategy.finished(new):
            return await self._finish(target, entry, new)
        with self.allocators.assigning(resource, new, old):
            if strategy.same(new, old):
                return Written(entry.body)
            if subresource != "binding" and strategy.bumps_generation(resource, new, old):
                new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
            value = storage_bytes(new)
            if target.dry_run:
                return Written(stamp(value, entry.rv))
            rv = await self.commit(Op(resource.key(entry.namespace, entry.name), value, entry.rv, self._ttl(resource)))
            return None if rv is None else Written(stamp(value, rv))

    async def drop(self, target: Target, entry: Entry) -> bool:
        """Deletes what `entry` shows; False when somebody else wrote first."""
        if target.dry_run:
            return True
        return await self.commit(Op(target.resource.key(entry.namespace, entry.name), None, entry.rv)) is not None

    async def commit(self, op: Op) -> int | None:
        """The write's resource version, once the cache shows it; None when the key is no longer as expected, once the
        cache shows that."""
        result = await self.store.txn([op])
        if isinstance(result, Committed):
            rv, outcome = result.rvs[0], result.rvs[0]
        else:
            rv, outcome = result.actual[0] or await self.store.current(), None
        if not await self.cache.reached(rv, COMMIT_WAIT):
            raise errors.timeout("the write is on disk but the cache has not shown it yet; read it before you retry")
        return outcome

    async def _finish(self, target: Target, entry: Entry, new: Obj) -> Written | None:
        """The last finalizer of a deleted object is gone: so is the object."""
        body = stamp(storage_bytes(new), entry.rv)
        return Written(body) if await self.drop(target, entry) else None

    def _ttl(self, resource: Resource) -> float | None:
        return self._event_ttl if resource.expires else None


def _check_version(target: Target, entry: Entry, new: Obj, old: Obj) -> None:
    """The identity and version that the writer had in mind, if it said so."""
    metadata = new["metadata"]
    uid = metadata.get("uid")
    if uid and uid != old["metadata"]["uid"]:
        raise target.conflict(
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
        )
    rv = metadata.get("resourceVersion")
    if rv in (None, "", "0"):
        if not target.resource.unconditional_update:
            cause = errors.cause("metadata.resourceVersion", errors.INVALID, 0, "must be specified for an update")
            raise errors.invalid(target.resource.info.group, target.resource.info.kind, target.name, [cause])
    elif rv != str(entry.rv):
        raise target.conflict()
