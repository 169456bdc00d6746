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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final

from apiserver import errors, partial, strategy
from apiserver.admission import Admission, Attributes
from apiserver.allocators import Allocators
from apiserver.authentication import SERVER, User
from apiserver.cache import Cache, Entry, Shelf, stamp, storage_bytes
from apiserver.managed import tracking
from apiserver.naming import generated_name
from apiserver.registry import Resource
from apiserver.store import Committed, Op, Store

Obj = dict[str, Any]
RETRIES: Final = 5
NAME_TRIES: Final = 8
COMMIT_WAIT: Final = 10.0
COMPANY_TRIES: Final = 100  # another server's writes interfere, each time with a success of their own


@dataclass(frozen=True, slots=True)
class Target:
    """What a write is about, and whose it is; `namespace` is empty for cluster scope. `manager` owns the fields that the
    write sets (`?fieldManager=`), in the name of the subresource `part` where the object itself is what is written (a
    scale); `applied` says that the object comes with its owners already told."""

    resource: Resource
    namespace: str
    name: str
    dry_run: bool = False
    user: User = SERVER
    manager: str = SERVER.name
    part: str = ""
    applied: bool = False

    def not_found(self) -> errors.StatusError:
        return errors.not_found(self.resource.info.group, self.resource.plural, self.name)

    def conflict(self, why: str = errors.OPTIMISTIC_LOCK) -> errors.StatusError:
        return errors.conflict(self.resource.info.group, self.resource.plural, self.name, why)


@dataclass(frozen=True, slots=True)
class Written:
    """The object as it is served, whether this write created it, and what admission has to say about it."""

    body: bytes
    created: bool = False
    warnings: tuple[str, ...] = ()


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
        self.timed: Callable[[str, str, float], None] = lambda *_: None  # told of each answer of the store

    def shelf(self, resource: Resource) -> Shelf:
        return self.cache.shelf(resource.prefix)

    def get(self, target: Target) -> Entry:
        entry = self.shelf(target.resource).get(target.namespace, target.name)
        if entry is None:
            raise target.not_found()
        return entry

    async def found(self, target: Target) -> Entry:
        """`get`, once this server has seen what others wrote to the same store."""
        if self.cache.shared and not self.shelf(target.resource).get(target.namespace, target.name):
            await self.cache.caught_up(COMMIT_WAIT)
        return self.get(target)

    async def create(self, target: Target, obj: Obj) -> Written:
        """`obj` is decoded, its namespace is the target's, and it becomes what is stored. Raises StatusErrors."""
        resource, metadata = target.resource, obj["metadata"]
        if metadata.get("resourceVersion") not in (None, "", "0"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        generated = bool(metadata.get("generateName")) and not metadata.get("name")
        if generated:
            metadata["name"] = self._free_name(resource, target.namespace, metadata["generateName"])
        owners = metadata.pop("managedFields", None)
        for key in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"):
            metadata.pop(key, None)
        moment = rfc3339(now())
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": moment}
        if resource.has_generation:
            metadata["generation"] = 1
        if resource.plural == "certificatesigningrequests":
            partial.asked_by(obj, target.user.info())
        strategy.default(resource, obj)
        if not target.applied:
            tracking.created(tracking.Writer(resource, target.manager, moment), obj, owners)
        elif owners:
            metadata["managedFields"] = owners
        shown = metadata["generateName"] if generated else metadata.get("name", "")
        asked = Attributes(resource, "CREATE", target.namespace, shown, obj, user=target.user, dry_run=target.dry_run)
        await self.admission.mutate(asked)
        strategy.prepare_create(resource, obj)
        strategy.check(resource, obj, strategy.validate_create(resource, obj))
        asked.name = metadata["name"]
        await self.admission.validate(asked)
        written = await self._commit_new(target, asked)
        if written is None:
            taken = errors.generate_name_conflict if generated else errors.already_exists
            raise taken(resource.info.group, resource.plural, metadata["name"])
        return written

    def _free_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        """Free as far as the cache knows; who loses the race for it is told to try again."""
        names = (generated_name(prefix) for _ in range(NAME_TRIES))
        name = generated_name(prefix)
        return next((one for one in names if not self.shelf(resource).get(namespace, one)), name)

    async def _commit_new(self, target: Target, asked: Attributes) -> Written | None:
        """None when there is one of that name."""
        shelf = self.shelf(target.resource)
        if not self._has_company(asked):
            return None if shelf.get(target.namespace, asked.name) else await self._put_new(target, asked)
        decided = asked.new
        for _ in range(COMPANY_TRIES):
            if shelf.get(target.namespace, asked.name):
                return None
            asked.new = strategy.copied(decided)
            async with self._company(asked) as beside:
                if written := await self._put_new(target, asked, beside):
                    return written
        raise target.conflict("others keep changing the quotas or addresses that it needs; try again")

    async def _put_new(self, target: Target, asked: Attributes, beside: Sequence[Op] = ()) -> Written | None:
        value = storage_bytes(asked.new)
        if target.dry_run:
            return Written(value, True, tuple(asked.warnings))
        key = target.resource.key(target.namespace, asked.name)
        with self.cache.expecting(key, value, asked.new, self.shelf(target.resource).describe):
            rv = await self.commit(Op(key, value, 0, self._ttl(target.resource)), beside)
        return None if rv is None else Written(stamp(value, rv), True, tuple(asked.warnings))

    def _has_company(self, asked: Attributes) -> bool:
        quotas = self.admission.quotas
        return asked.resource.plural == "services" or (quotas is not None and quotas.concern(asked))

    @asynccontextmanager
    async def _company(self, asked: Attributes) -> AsyncIterator[Sequence[Op]]:
        """What is written in the same transaction: the addresses a Service takes or leaves, the quotas that are charged."""
        beside: list[Op] = []
        async with AsyncExitStack() as stack:
            if asked.resource.plural == "services":
                writing = self.allocators.writing(asked.resource, asked.new, asked.old)
                beside += await stack.enter_async_context(writing)
            if self.admission.quotas is not None and self.admission.quotas.concern(asked):
                beside += await stack.enter_async_context(self.admission.quotas.charged(asked))
            yield () if asked.dry_run else beside

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
            entry = await self.found(target)
            written = await self.replace(target, entry, change(entry.parse()), subresource=subresource)
            if written is not None:
                return written
            if pinned and self.get(target).rv != entry.rv:
                break
        raise target.conflict()

    async def replace(self, target: Target, entry: Entry, new: Obj, *, subresource: str = "") -> Written | None:
        """Writes `new` over `entry`; None when somebody else wrote first."""
        resource, old = target.resource, entry.parse()
        _check_version(target, entry, new, old)
        strategy.prepare_update(resource, new, old, subresource)
        if not target.applied and subresource != "binding":  # who binds a pod owns nothing of it
            whose = tracking.Writer(resource, target.manager, rfc3339(now()), target.part or subresource)
            tracking.updated(whose, old, new)
        asked = Attributes(
            resource, "UPDATE", entry.namespace, entry.name, new, old, subresource, target.user, target.dry_run
        )
        await self.admission.mutate(asked)
        if subresource in ("", "status"):
            strategy.check(resource, new, strategy.validate_update(resource, new, old))
        await self.admission.validate(asked)
        if strategy.finished(new):
            return await self._finish(target, entry, new)
        if not self._has_company(asked):
            return await self._put(target, entry, asked)
        async with self._company(asked) as beside:
            return await self._put(target, entry, asked, beside)

    async def _put(self, target: Target, entry: Entry, asked: Attributes, beside: Sequence[Op] = ()) -> Written | None:
        resource, new, old = target.resource, asked.new, asked.old or {}
        warnings = tuple(asked.warnings)
        if strategy.same(new, old):
            return Written(entry.body, False, warnings)
        if asked.subresource != "binding" and strategy.bumps_generation(resource, new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        value = storage_bytes(new)
        if target.dry_run:
            return Written(stamp(value, entry.rv), False, warnings)
        op = Op(resource.key(entry.namespace, entry.name), value, entry.rv, self._ttl(resource))
        with self.cache.expecting(op.key, value, new, self.shelf(resource).describe):
            rv = await self.commit(op, beside)
        return None if rv is None else Written(stamp(value, rv), False, warnings)

    async def drop(self, target: Target, entry: Entry) -> bool:
        """Deletes what `entry` shows; False when somebody else wrote first."""
        if target.dry_run:
            return True
        op = Op(target.resource.key(entry.namespace, entry.name), None, entry.rv)
        if target.resource.plural != "services":
            return await self.commit(op) is not None
        async with self.allocators.writing(target.resource, None, entry.parse()) as beside:
            return await self.commit(op, beside) is not None

    async def commit(self, op: Op, beside: Sequence[Op] = ()) -> int | None:
        """The write's resource version, once the cache shows it; None when its key, or one of those beside it, is no longer
        as expected, once the cache shows that."""
        started = perf_counter()
        result = await self.store.txn([op, *beside])
        word = "delete" if op.value is None else "create" if op.expect == 0 else "update"
        self.timed(word, op.key, perf_counter() - started)
        if isinstance(result, Committed):
            rv, outcome = result.rvs[-1], result.rvs[0]
        else:
            rv, outcome = max(result.actual) if all(result.actual) else await self.store.current(), None
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
