"""Each pod's serial life: which stage it is in, and what one pass does there.

    API object, runtime, probes, timers --> a key --> one pass over the pod, never two at once
        SYNC         (`living`)   plan, do, look again, until there is nothing left to do; word the status
        TERMINATING  (`leaving`)  stop everything; the grace only shrinks, and a shorter one cuts a stop that is under way short
        TERMINATED                nothing can run: settle volumes and cgroup, word the final status; the publisher then deletes
                                  the object
        FINISHED                  once the API has forgotten the pod, remove what is left of it

Nothing of this is on disk. A kubelet that starts anew finds pods in the API and containers in the runtime and enters
each life where it stands; what the runtime has and the API does not is an orphan, which is known only after the API has
told its pods once. (pkg/kubelet/pod_workers.go)
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from kube.errors import Retry
from kube.pods import Pod, PodStatus
from kube.reconcile import Keys
from kubelet import plan
from kubelet.admission.door import Door
from kubelet.admission.gate import Gate
from kubelet.apply import Deeds, Told
from kubelet.leaving import Leaving
from kubelet.life import ORPHAN_GRACE, Facts, Life
from kubelet.living import Living
from kubelet.model import Stage
from kubelet.observe.pods import PodSource
from kubelet.observe.view import RuntimeView
from kubelet.probing.probes import Probes
from kubelet.publish import Publisher
from kubelet.resizing import Resizing
from kubelet.status import TERMINAL, Sentence
from kubelet.wording import Wording

__all__ = ["Facts", "Workers"]

log = logging.getLogger(__name__)

SOON = 0.1


class Workers:
    def __init__(
        self,
        facts: Facts,
        source: PodSource,
        view: RuntimeView,
        deeds: Deeds,
        probes: Probes,
        publisher: Publisher,
        told: Told,
        keys: Keys[str],
        gate: Gate,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        started: Callable[[float], None] = lambda _seconds: None,
        left: Callable[[str], None] = lambda _uid: None,
    ) -> None:
        """`left(uid)` is called when nothing is left of a pod."""
        self._tell_left = left
        self._source = source
        self._view = view
        self._deeds = deeds
        self._probes = probes
        self._publisher = publisher
        self._told = told
        wording = self._wording = Wording(facts, probes, publisher, told, clock, started)
        self._lives: dict[str, Life] = {}
        door = Door(gate, self._lives, source, told, self.end)
        resizing = Resizing(gate, deeds, view, told, door.inside)
        self._living = Living(facts, source, view, deeds, probes, wording, told, clock, door, resizing)
        self._leaving = Leaving(view, deeds, self._living, publisher, wording, source.pods)
        self._leftovers: set[str] = set()
        self._keys = keys

    # --- triggers -----------------------------------------------------------------------------------------------------

    def wake(self, uid: str) -> None:
        """Something about the pod changed. A shorter grace is taken at once, also by a stop that is under way."""
        life, pod = self._lives.get(uid), self._source.get(uid)
        if life is not None:
            life.forgotten = life.forgotten or pod is None
            if life.stage is Stage.TERMINATING:
                self._hasten(life, pod)
            if pod is None or pod.metadata.deletion_timestamp is not None:
                life.departure.set()
        self._publisher.check(uid)
        self._keys.add(uid)

    def look(self, uid: str) -> None:
        """The runtime hints at something: look."""
        life = self._lives.get(uid)
        if life is not None:
            life.hinted = True
            life.stirred.set()
        self._keys.add(uid)

    def news(self, uid: str) -> None:
        """A probe has come to a verdict, or a look has shown more than was known."""
        life = self._lives.get(uid)
        if life is not None:
            life.stirred.set()
            if life.stage is Stage.SYNC:
                self._wording.verdict(life)
        self._keys.add(uid)

    def end(self, uid: str, sentence: Sentence, grace: int | None = None) -> None:
        """This node ends the pod (eviction, preemption): the sentence is its last word, `grace` shortens what it asks for."""
        life = self._lives.get(uid)
        if life is None or life.sentence is not None or life.stage > Stage.TERMINATING:
            return
        life.sentence, life.evicted = sentence, True
        life.shrink(grace, _now())
        life.departure.set()
        self._keys.add(uid)

    def answered(self) -> None:
        """The API speaks at last. What was worded of its pods went on from what was kept of them: it is worded anew, on what
        the API was told last."""
        for uid, life in self._lives.items():
            pod = self._source.get(uid)
            if pod is not None and life.stage is Stage.SYNC and not self._source.is_static(uid):
                life.status = pod.status
                self._publisher.forget(uid)

    def objects_changed(self, uid: str) -> None:
        """A ConfigMap or Secret of the pod came or changed: what waited for one is tried again now."""
        life = self._lives.get(uid)
        if life is not None:
            life.held = {n: h for n, h in life.held.items() if h.waiting.reason != "CreateContainerConfigError"}
            life.mount_failures, life.prepared = 0, None
        self._keys.add(uid)

    def gone(self, uid: str) -> None:
        """The API said, in answer to us, that the pod is no more; the watch says it too, perhaps later."""
        self._keys.add(uid, after=1.0)

    def knows(self, uid: str) -> bool:
        return uid in self._lives

    def wake_all(self) -> None:
        for uid in self._lives:
            self.look(uid)

    def orphans(self) -> None:
        """What the runtime has and the API does not, and nobody is at work on yet."""
        if self._source.synced:
            for record in self._view.records:
                if record.pod.uid not in self._lives and self._source.get(record.pod.uid) is None:
                    self._keys.add(record.pod.uid)

    def leftovers(self) -> None:
        """Directories and cgroups of pods that neither the API nor the runtime has."""
        if not (self._source.synced and self._view.listed):
            return
        for uid in self._deeds.leftovers():
            if uid not in self._lives and self._source.get(uid) is None:
                self._leftovers.add(uid)
                self._keys.add(uid)

    def lives(self, uid: str) -> bool:
        """Whether there is anything left of the pod."""
        return uid in self._lives

    def pods(self) -> list[Pod]:
        """The pods of this node with the status last known, which the API may not know yet."""
        known = {uid: life for uid, life in self._lives.items() if life.pod is not None}
        fresh = [pod for pod in self._source.pods() if pod.metadata.uid not in known]
        return fresh + [msgspec.structs.replace(life.pod, status=life.status) for life in known.values() if life.pod]

    # --- a pass -------------------------------------------------------------------------------------------------------

    async def sync(self, uid: str) -> float | None:
        """One pass. One that fails may have met a race, and the next look settles that; when that fails too, it is told."""
        try:
            wait = await self._sync(uid)
        except Retry as error:
            life = self._lives.get(uid)
            if life is not None and life.pod is not None:
                life.failures += 1
                if life.failures > 1:
                    self._told.pod(life.pod, "Warning", "FailedSync", f"Error syncing pod, skipping: {error}")
            raise
        if uid in self._lives:
            self._lives[uid].failures = 0
        return wait

    async def _sync(self, uid: str) -> float | None:
        if not self._view.listed and self._source.is_static(uid):
            await self._view.relist()  # an earlier content of the manifest may run
        life = self._enter(uid)
        if life is None:
            return None
        self._advance(life)
        if life.stage is Stage.SYNC:
            wait = await self._living.sync(life)
            if not (life.over or life.sentence):
                return wait
            self._terminating(life)
        if life.stage is Stage.TERMINATING:
            await self._leaving.terminate(life)
            self._probes.forget(uid)
        if life.stage is Stage.TERMINATED:
            await self._leaving.settle(life)
            for other in self._lives.values():
                if other.awaits_room or other.pending:
                    self._keys.add(other.uid)
        if life.stage is Stage.FINISHED and (life.forgotten or self._source.get(uid) is None):
            await self._leaving.remove(life)
            self._left(life)
        return None

    def _enter(self, uid: str) -> Life | None:
        life, pod = self._lives.get(uid), self._source.get(uid)
        if life is not None:
            if pod is not None:
                life.take(pod)
            return life
        if pod is None and not self._to_end(uid):
            return None
        if pod is not None and not self._up_to_date(pod):
            self._keys.add(uid, after=SOON)
            return None
        if pod is not None and plan.is_static(pod) and self._in_the_way(pod):
            return None  # the one before it has to be gone first; `_left` comes back to it
        self._leftovers.discard(uid)
        life = Life(uid, pod, status=pod.status if pod else PodStatus())
        if pod is None:
            life.stage, life.forgotten = Stage.TERMINATING, True
            life.shrink(ORPHAN_GRACE, _now())
        else:
            life.hinted = not self._view.settled  # later on, what is new to us is new to the runtime
            life.backoffs = plan.remembered_backoffs(pod)
            life.take(pod)
        self._lives[uid] = life
        return life

    def _up_to_date(self, pod: Pod) -> bool:
        """Whether the pod's past is known. What an earlier kubelet kept of it may be older than what it told the API: a life
        begun from that would take readiness back. What nothing runs of has no past."""
        if self._source.latest:
            return True
        return plan.is_static(pod) and self._view.listed and self._view.identity(pod.metadata.uid) is None

    def _to_end(self, uid: str) -> bool:
        """Whether a pod that no source names is an orphan: not before all sources have told theirs, unless a manifest names
        another content under its name."""
        identity = self._view.identity(uid)
        if identity is not None and self._source.superseded(identity):
            return True
        return self._source.synced and (identity is not None or uid in self._leftovers)

    def _in_the_way(self, pod: Pod) -> bool:
        """Whether another pod of that name is not gone yet: an earlier content of the same manifest. Of one that an earlier
        kubelet ran only the runtime knows; it is ended."""
        key, uid = pod.metadata.key, pod.metadata.uid
        known = [life.uid for life in self._lives.values() if life.pod and life.pod.metadata.key == key]
        left = [r.pod.uid for r in self._view.records if f"{r.pod.namespace}/{r.pod.name}" == key]
        left = [one for one in left if one != uid and self._source.get(one) is None]
        for one in left:
            self._keys.add(one)
        return bool(left) or any(one != uid for one in known)

    def _left(self, life: Life) -> None:
        self._probes.forget(life.uid)
        del self._lives[life.uid]
        self._tell_left(life.uid)
        if self._source.get(life.uid) is not None:
            self._keys.add(life.uid)  # named again while it ended: another life
        for pod in self._source.pods():
            if pod.metadata.uid not in self._lives and plan.is_static(pod):
                self._keys.add(pod.metadata.uid)  # it may have waited for this one

    def _advance(self, life: Life) -> None:
        """SYNC ends when the pod is to be deleted, was forgotten by its source, was sentenced, or has ended."""
        pod = self._source.get(life.uid)
        if pod is not None and pod.status.phase in TERMINAL and life.status.phase not in TERMINAL:
            # Someone else ended it (the pod garbage collector does); a terminal phase is final whoever wrote it.
            ended = pod.status
            life.status = msgspec.structs.replace(
                life.status, phase=ended.phase, reason=ended.reason, message=ended.message
            )
        going = life.forgotten or pod is None or pod.metadata.deletion_timestamp is not None
        if life.stage is Stage.SYNC and (going or life.sentence or life.status.phase in TERMINAL):
            self._terminating(life)
        if life.stage is Stage.TERMINATING:
            self._hasten(life, pod)

    def _terminating(self, life: Life) -> None:
        life.stage = Stage.TERMINATING
        self._hasten(life, self._source.get(life.uid))
        if life.grace is None:
            life.shrink(life.wish(), _now())

    def _hasten(self, life: Life, pod: Pod | None) -> None:
        """What the source has to say about the grace. A pod of the API that is no more was deleted by force."""
        if pod is not None:
            life.shrink(pod.metadata.deletion_grace_period_seconds, _now())
        elif life.pod is None or not plan.is_static(life.pod):
            life.shrink(ORPHAN_GRACE, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
