"""What is wanted (the API's pods of this node) and what is there (the runtime's), as values.
 The runtime is asked for everything at once, by one flight at a time: who needs a fresh look while one is under way
gets the next, and all who wait share it. Details of a container are asked once for each state it is in: an exited one
never changes again.
"""

import asyncio
from collections.abc import Callable, Iterable

from kube.informer import Change, Informer
from kube.pods import Pod
from kubelet.model import Seen
from kubelet.runtime import ContainerRecord, ContainerState, ContainerStatus, NotFound, PodIdentity, PodRecord, Runtime


class PodSource:
    """The API's pods of this node by uid. `changed(uid)` is called for each that came, changed or went."""

    def __init__(self, informer: Informer[Pod], changed: Callable[[str], None]) -> None:
        self._informer = informer
        self._changed = changed
        self._pods: dict[str, Pod] = {}
        informer.subscribe(self._take)

    def _take(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self._pods.pop(old.metadata.uid, None)
            self._changed(old.metadata.uid)
        if new is not None:
            self._pods[new.metadata.uid] = new
            self._changed(new.metadata.uid)

    @property
    def synced(self) -> bool:
        """Whether the API has told all pods once: before that nothing may be taken for an orphan."""
        return self._informer.synced.is_set()

    def get(self, uid: str) -> Pod | None:
        return self._pods.get(uid)

    def pods(self) -> list[Pod]:
        return list(self._pods.values())


class RuntimeView:
    """What the runtime has. `records` is the last look; `look` takes a fresh one at a pod. `changed(uid)` tells of the others."""

    def __init__(self, runtime: Runtime, changed: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._changed = changed
        self._records: dict[str, PodRecord] = {}
        self._details: dict[tuple[str, ContainerState], ContainerStatus] = {}
        self._lock = asyncio.Lock()
        self._begun = 0
        self._finished = 0
        self.listed = False

    @property
    def records(self) -> Iterable[PodRecord]:
        return self._records.values()

    def identity(self, uid: str) -> PodIdentity | None:
        record = self._records.get(uid)
        return record.pod if record else None

    def forget(self, uid: str) -> None:
        """The pod was removed from the runtime; should something of it be there after all, the next look tells."""
        self._records.pop(uid, None)

    async def relist(self, looking_at: str = "") -> None:
        """Look at everything, in a look that begins after this call."""
        ticket = self._begun
        async with self._lock:
            if self._finished > ticket:
                return  # one that began after we asked has just ended
            self._begun += 1
            mine, before = self._begun, self._records
            records = {record.pod.uid: record for record in await self._runtime.list_pods()}
            self._records, self._finished, self.listed = records, mine, True
            alive = {(c.id, c.state) for record in records.values() for c in record.containers}
            self._details = {key: status for key, status in self._details.items() if key in alive}
        for uid in before.keys() | records.keys():
            if uid != looking_at and before.get(uid) != records.get(uid):
                self._changed(uid)

    async def look(self, uid: str) -> Seen:
        """All there is of one pod, now."""
        await self.relist(looking_at=uid)
        record = self._records.get(uid)
        if record is None:
            return Seen()
        found = await asyncio.gather(*(self._detail(container) for container in record.containers))
        statuses = sorted((s for s in found if s is not None), key=lambda s: (s.created_at, s.attempt), reverse=True)
        sandboxes = sorted(record.sandboxes, key=lambda s: (s.attempt, s.created_at), reverse=True)
        return Seen(tuple(sandboxes), tuple(statuses))

    async def _detail(self, record: ContainerRecord) -> ContainerStatus | None:
        known = self._details.get((record.id, record.state))
        if known is not None:
            return known
        try:
            status = await self._runtime.container_status(record.id)
        except NotFound:
            return None
        if status.state is ContainerState.EXITED or status.state is record.state:
            self._details[record.id, status.state] = status
        return status
