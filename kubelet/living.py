"""A pod that is to run: plan, do, look again, until there is nothing left to do.

What must not go on is stopped first, all of it at once; then sandboxes and containers are started one after the other, as the
plan has them. Word that the pod is to go cuts waiting short (pulls, postStart hooks, stops), never what the runtime was asked
to create or start.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from kube.errors import Invalid, Retry
from kube.pods import Pod
from kubelet import plan
from kubelet.admission import refusals
from kubelet.admission.door import Door
from kubelet.apply import Deeds, StartFailed, Told
from kubelet.departure import Departed, Departure
from kubelet.life import DEFAULT_GRACE, Facts, Life
from kubelet.model import (
    Action,
    CreateSandbox,
    Farewell,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Seen,
    StartContainer,
    StopContainer,
    StopSandbox,
    Waiting,
)
from kubelet.observe.pods import PodSource
from kubelet.observe.view import RuntimeView
from kubelet.probing.probes import Probes
from kubelet.resizing import Resizing
from kubelet.status import FAILED, Sentence
from kubelet.volumes import MountFailed
from kubelet.wording import Wording

log = logging.getLogger(__name__)

ROUNDS = 50  # of plan, do, look in one pass; a pod that needs more yields to the others
ROOM = 1.0  # seconds after which a pod that waits at the door looks again, should nobody have told it to
JITTER = 1.5  # a resync comes between one and so many times syncFrequency after the last


def _made_from(pod: Pod) -> tuple[object, ...]:
    return pod.spec, pod.metadata.labels, pod.metadata.annotations


class Living:
    def __init__(
        self,
        facts: Facts,
        source: PodSource,
        view: RuntimeView,
        deeds: Deeds,
        probes: Probes,
        wording: Wording,
        told: Told,
        clock: Callable[[], datetime],
        door: Door,
        resizing: Resizing,
    ) -> None:
        self._facts = facts
        self._source = source
        self._view = view
        self._deeds = deeds
        self._probes = probes
        self._wording = wording
        self._told = told
        self._clock = clock
        self._door = door
        self._resizing = resizing

    async def sync(self, life: Life) -> float:
        """One pass; the seconds after which time alone gives something to do, 0 when the pod's life is to end."""
        pod = life.pod
        assert pod is not None
        self._deeds.objects.need(life.uid, pod.metadata.namespace, self._deeds.references(pod))
        self._judge(life, pod)
        prepared = False
        if life.takes_hint():
            self._view.doubt(life.uid)  # until a look has told: the first try may fail
        seen = await self._view.recall(life.uid)
        for _ in range(ROUNDS):
            if not (life.admitted or life.sentence) and not self._door.admit(life, pod, seen):
                return ROOM
            pod = self._resizing.decide(life) or pod
            self._wording.track(life, pod, seen)
            if refused := self._refused(life, pod, seen):
                self._wording.word(life, seen, refused)
                return self._until(life, pod, refused)
            todo = plan.pod_actions(self.situation(life, pod, seen))
            self._wording.word(life, seen, todo)
            life.over = todo.finished
            if life.sentence or life.over:
                return 0.0
            if not prepared and (todo.actions or self._outdated(life, pod)):
                delay = await self._prepare(life, pod)
                if delay is not None:
                    await self._stop(life, pod, todo.actions)
                    return delay
                prepared = True
            if not todo.actions and life.before is None:
                return self._until(life, pod, todo)
            try:
                if not todo.actions:
                    await self._resize(life, pod, seen)
                else:
                    await self._do(life, pod, seen, todo.actions)
            except BaseException:
                self._view.doubt(life.uid)
                raise
            seen = await self._view.recall(life.uid)
            fresh = self._source.get(life.uid)
            if fresh is None or fresh.metadata.deletion_timestamp is not None or life.sentence or life.forgotten:
                return 0.0
            life.take(fresh)
            pod = life.pod or fresh
        return 0.0

    async def _resize(self, life: Life, pod: Pod, seen: Seen) -> None:
        stops = await self._resizing.carry_out(life, pod, seen)
        if stops:
            await self._stop(life, pod, stops)

    def situation(self, life: Life, pod: Pod, seen: Seen) -> plan.Situation:
        everyone = (*pod.spec.init_containers, *pod.spec.containers)
        wiped = [container.name for container in everyone if seen.latest(container.name) is None]
        return plan.Situation(
            pod=pod,
            seen=seen,
            previous=life.status,
            health=self._probes.health(life.uid),
            backoffs=life.backoffs,
            held=life.held,
            doomed=life.doomed,
            logged={name: count for name in wiped if (count := self._deeds.attempts(pod, name))},
            now=self._clock(),
            cap=self._facts.crash_cap,
        )

    # --- what is decided about the whole pod --------------------------------------------------------------------------

    def _judge(self, life: Life, pod: Pod) -> None:
        """Sentence a pod that has run too long."""
        if life.sentence is not None:
            return
        limit, begun = pod.spec.active_deadline_seconds, life.status.start_time or pod.status.start_time
        if limit is not None and begun is not None and (self._clock() - begun).total_seconds() >= limit:
            message = "Pod was active on the node longer than the specified deadline"
            life.sentence = Sentence(FAILED, "DeadlineExceeded", message)
            self._told.pod(pod, "Normal", "DeadlineExceeded", message)

    def _refused(self, life: Life, pod: Pod, seen: Seen) -> Plan | None:
        """A plan of waiting, for a pod that asks for what this kubelet does not do. What runs already is left to run."""
        if life.sentence is not None:
            return None
        found = () if seen.live else refusals.refusals(pod)
        self._wording.warn(life, pod, "Failed", [f"Error: {refusal.message}" for refusal in found])
        self._wording.warn(life, pod, "NotSupported", () if seen.live else refusals.shortcomings(pod))
        if not found:
            return None
        everyone = (*pod.spec.init_containers, *pod.spec.containers)
        words = {c.name: refusals.words(found, c.name) for c in everyone}
        return Plan(waiting={name: Waiting("CreateContainerConfigError", said) for name, said in words.items() if said})

    # --- deeds --------------------------------------------------------------------------------------------------------

    async def _prepare(self, life: Life, pod: Pod) -> float | None:
        """Volumes, directories and cgroups. Seconds to wait when something is missing; None when all is there."""
        try:
            await self._deeds.prepare(pod, self._source.pods(), life.before)
        except MountFailed as error:
            self._told.pod(pod, "Warning", "FailedMount", str(error))
            life.mount_failures += 1
            return min(122.0, 0.5 * 2.0 ** min(life.mount_failures - 1, 8))
        except OSError as error:
            self._told.pod(pod, "Warning", "Failed", f"error making pod data directories: {error}")
            life.mount_failures += 1
            return min(122.0, 0.5 * 2.0 ** min(life.mount_failures - 1, 8))
        except Retry as error:  # something hangs, or was never read
            self._told.pod(pod, "Warning", "FailedMount", str(error))
            life.mount_failures += 1
            return min(10.0, 0.5 * 2.0 ** min(life.mount_failures - 1, 8))
        except Invalid as error:
            # The author must change the pod, and a pod's volumes cannot be changed: no second try, only the resync's.
            self._told.pod(pod, "Warning", "FailedMount", str(error))
            return self._facts.sync_frequency
        life.mount_failures = 0
        life.prepared, life.prepared_at = _made_from(pod), time.monotonic()
        return None

    def _outdated(self, life: Life, pod: Pod) -> bool:
        """Whether what was prepared may have to be made anew, or a token in it renewed."""
        return life.prepared != _made_from(pod) or time.monotonic() > life.prepared_at + self._facts.sync_frequency

    async def _do(self, life: Life, pod: Pod, seen: Seen, actions: Sequence[Action]) -> None:
        await self._stop(life, pod, actions)
        starts = sum(1 for action in actions if isinstance(action, StartContainer))
        for action in actions:
            match action:
                case StartContainer():
                    await self.start(life, pod, seen, action, life.departure)
                    starts -= 1
                    if starts:  # the next one's image may take its time
                        known = await self._view.recall(life.uid)
                        self._wording.track(life, pod, known)
                        self._wording.word(life, known, plan.pod_actions(self.situation(life, pod, known)))
                case CreateSandbox():
                    await self._sandbox(life, pod, seen, action)
                case StopContainer() | Farewell():
                    pass
                case StopSandbox():
                    await self._deeds.tidy(action)
                    self._view.stopped(life.uid, action.id)
                case RemoveContainer() | RemoveSandbox():
                    await self._deeds.tidy(action)
                    self._view.lose(life.uid, action.id)

    async def _stop(self, life: Life, pod: Pod, actions: Sequence[Action]) -> None:
        """All that is to be stopped, at once. A pod that is to go meanwhile has its own ways to stop the rest."""
        stops = [action for action in actions if isinstance(action, StopContainer)]
        if not stops:
            return
        whole = pod.spec.termination_grace_period_seconds
        try:
            async with life.departure.cuts(), asyncio.TaskGroup() as group:
                for action in stops:
                    if action.again:
                        life.doomed.add(action.id)
                    grace = action.grace if action.grace is not None else DEFAULT_GRACE if whole is None else whole
                    group.create_task(self._part(life, pod, action, float(grace)))
        except Departed:
            log.info("pod %s: stops are left to its end: it is to go", pod.metadata.key)

    async def _part(self, life: Life, pod: Pod, action: StopContainer, grace: float) -> None:
        await self._deeds.stops.part(pod, action, grace, life.status.pod_ip, life.farewells)
        await self._view.learn(life.uid, container=action.id)

    async def start(self, life: Life, pod: Pod, seen: Seen, action: StartContainer, departure: Departure) -> None:
        """A start that fails holds the container back for a while."""
        name = action.container.name
        if action.backoff is not None:
            life.backoffs[plan.backoff_key(pod, action.container)] = action.backoff
        if refused := refusals.words(refusals.refusals(pod), name):  # an older kubelet may have begun with the pod
            until = self._clock() + timedelta(seconds=self._facts.sync_frequency)
            life.hold(name, "CreateContainerConfigError", refused, until)
            return
        try:
            started = await self._deeds.start(pod, action, seen, departure)
        except Departed:
            self._view.doubt(life.uid)
            log.info("pod %s: container %s is not waited for: the pod is to go", pod.metadata.key, name)
        except StartFailed as error:
            self._view.doubt(life.uid)
            life.hold(name, error.reason, error.message, self._clock() + timedelta(seconds=error.retry_after))
        else:
            await self._view.learn(life.uid, container=started.id, status=started.status)
            life.held.pop(name, None)
            life.doomed.intersection_update(one.id for one in seen.containers if one.name != name)

    async def _sandbox(self, life: Life, pod: Pod, seen: Seen, action: CreateSandbox) -> None:
        if seen.sandboxes:
            self._told.pod(pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        try:
            identity = await self._deeds.create_sandbox(pod, action.attempt)
        except StartFailed as error:
            self._view.doubt(life.uid)
            life.hold("", error.reason, error.message, self._clock() + timedelta(seconds=error.retry_after))
        else:
            await self._view.learn(life.uid, sandbox=identity)
            life.held.pop("", None)

    def _until(self, life: Life, pod: Pod, todo: Plan) -> float:
        """Seconds until time alone gives something to do."""
        moments = [self._facts.sync_frequency * random.uniform(1.0, JITTER)]
        now = self._clock()
        if todo.again_at is not None:
            moments.append((todo.again_at - now).total_seconds())
        if pod.spec.active_deadline_seconds is not None and life.status.start_time is not None:
            moments.append(pod.spec.active_deadline_seconds - (now - life.status.start_time).total_seconds())
        return max(0.0, min(moments))
