"""What is there: the runtime's sandboxes and containers, as values.

The runtime is asked for everything at once, by one flight at a time: who needs a fresh look while one is under way gets the
next, and all who wait share it. Details of a container are asked once for each state it is in: an exited one never changes
again.

A look costs as much as there are pods. So who has just done something to one thing asks after that thing only (`learn`), and
goes on from there (`recall`). A look that began before that and ends after it is too old to say anything about that pod.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from kube.errors import Retry
from kubelet.model import Seen
from kubelet.runtime import (
    ContainerRecord,
    ContainerState,
    ContainerStatus,
    NotFound,
    PodIdentity,
    PodRecord,
    Runtime,
    SandboxRecord,
    SandboxState,
)

SETTLED = 10.0  # seconds after the first look: what an earlier kubelet had begun is there to be seen by then
Gist = tuple[frozenset[object], frozenset[object]]


def _gist(record: PodRecord | None) -> Gist:
    """What makes a pod worth another look when it changes."""
    if record is None:
        return frozenset(), frozenset()
    return (
        frozenset((s.id, s.state, s.ips) for s in record.sandboxes),
        frozenset((c.id, c.state) for c in record.containers),
    )


class RuntimeView:
    """`records` is what is known; `changed(uid)` tells of pods that turned out to be otherwise than was known."""

    def __init__(self, runtime: Runtime, changed: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._changed = changed
        self._records: dict[str, PodRecord] = {}
        self._details: dict[tuple[str, ContainerState], ContainerStatus] = {}
        self._lock = asyncio.Lock()
        self._begun = 0
        self._finished = 0
        self._learned: dict[str, int] = {}  # by uid: looks up to this one are too old
        self._stale: set[str] = set()  # uids of which more may have happened than is known
        self._first = float("inf")

    @property
    def listed(self) -> bool:
        return self._finished > 0

    @property
    def settled(self) -> bool:
        """Whether a pod that has only now become known can be taken for new to the runtime too."""
        return time.monotonic() > self._first + SETTLED

    @property
    def records(self) -> Iterable[PodRecord]:
        return self._records.values()

    def identity(self, uid: str) -> PodIdentity | None:
        record = self._records.get(uid)
        return record.pod if record else None

    def forget(self, uid: str) -> None:
        """The pod was removed from the runtime; should something of it be there after all, the next look tells."""
        self._records.pop(uid, None)
        self._learned.pop(uid, None)
        self._stale.discard(uid)

    async def relist(self, looking_at: str = "") -> None:
        """Look at everything, in a look that begins after this call."""
        ticket = self._begun
        async with self._lock:
            if self._finished > ticket:
                return  # one that began after we asked has just ended
            self._begun += 1
            mine = self._begun
            stale, self._stale = self._stale, set()
            try:
                records = {record.pod.uid: record for record in await self._runtime.list_pods()}
            except BaseException:
                self._stale |= stale
                raise
            for uid, newest in list(self._learned.items()):
                if newest < mine:
                    del self._learned[uid]
                elif uid in self._records:
                    records[uid] = self._records[uid]
                else:
                    records.pop(uid, None)
            before, self._records, self._finished = self._records, records, mine
            self._first = min(self._first, time.monotonic())
            alive = {(c.id, c.state) for record in records.values() for c in record.containers}
            self._details = {key: status for key, status in self._details.items() if key in alive}
        for uid in before.keys() | records.keys():
            if uid != looking_at and _gist(before.get(uid)) != _gist(records.get(uid)):
                self._changed(uid)

    async def look(self, uid: str) -> Seen:
        """All there is of one pod, now."""
        await self.relist(looking_at=uid)
        return await self._seen(uid)

    async def recall(self, uid: str) -> Seen:
        """All that is known of one pod: what was seen of it last, and learned since."""
        if uid in self._stale or not self.listed:
            return await self.look(uid)
        return await self._seen(uid)

    def doubt(self, uid: str) -> None:
        """Something was done with an outcome that is not known: the next recall is a look."""
        self._stale.add(uid)

    async def learn(
        self, uid: str, *, container: str = "", sandbox: str = "", status: ContainerStatus | None = None
    ) -> None:
        """See what has become of one thing that was just made, started or stopped; `status` is the container's, where it is
        known already."""
        try:
            if container:
                self._take_container(uid, status or await self._runtime.container_status(container))
            if sandbox:
                await self._take_sandbox(uid, sandbox)
        except (Retry, NotFound):
            self.doubt(uid)

    def stopped(self, uid: str, sandbox_id: str) -> None:
        """A sandbox was stopped, and said so."""
        record = self._records.get(uid)
        if record is not None:
            ended = (
                replace(one, state=SandboxState.NOT_READY, ips=()) if one.id == sandbox_id else one
                for one in record.sandboxes
            )
            self._put(uid, replace(record, sandboxes=tuple(ended)))

    def _take_container(self, uid: str, status: ContainerStatus) -> None:
        found = ContainerRecord(
            id=status.id,
            sandbox_id=status.sandbox_id,
            name=status.name,
            attempt=status.attempt,
            image=status.image,
            image_id=status.image_id,
            state=status.state,
            created_at=status.created_at,
            annotations=status.annotations,
        )
        record = self._records.get(uid, PodRecord(pod=status.pod))
        others = tuple(one for one in record.containers if one.id != status.id)
        self._put(uid, replace(record, containers=(found, *others)))
        self._details[status.id, status.state] = status

    async def _take_sandbox(self, uid: str, sandbox_id: str) -> None:
        status = await self._runtime.sandbox_status(sandbox_id)
        record = self._records.get(uid, PodRecord(pod=status.pod))
        known = next((one for one in record.sandboxes if one.id == sandbox_id), None)
        found = SandboxRecord(
            id=status.id,
            attempt=status.attempt,
            state=status.state,
            created_at=status.created_at,
            ips=status.ips,
            annotations=known.annotations if known else {},
        )
        others = tuple(one for one in record.sandboxes if one.id != sandbox_id)
        self._put(uid, replace(record, sandboxes=(found, *others)))

    def lose(self, uid: str, identity: str) -> None:
        """A container or sandbox was removed; the containers of a sandbox go with it."""
        record = self._records.get(uid)
        if record is not None:
            sandboxes = tuple(one for one in record.sandboxes if one.id != identity)
            containers = tuple(one for one in record.containers if identity not in (one.id, one.sandbox_id))
            self._put(uid, replace(record, sandboxes=sandboxes, containers=containers))

    def _put(self, uid: str, record: PodRecord) -> None:
        self._learned[uid] = self._begun
        if record.sandboxes or record.containers:
            self._records = {**self._records, uid: record}
        else:
            self._records = {key: value for key, value in self._records.items() if key != uid}

    async def _seen(self, uid: str) -> Seen:
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
