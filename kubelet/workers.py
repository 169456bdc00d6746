"""Each pod's serial life: which stage it is in, and what one pass does there.

    API object, runtime, probes, timers --> a key --> one pass over the pod, never two at once
        SYNC         plan, do, look again, until there is nothing left to do; word the status
        TERMINATING  stop everything; the grace only shrinks, and a shorter one cuts a stop that is under way short
        TERMINATED   nothing can run: settle volumes and cgroup, word the final status; the publisher then deletes the object
        FINISHED     once the API has forgotten the pod, remove what is left of it in the runtime, its logs and directories
 Nothing of this is on disk. A kubelet that starts anew finds pods in the API and containers in the runtime and enters
each life where it stands; what the runtime has and the API does not is an orphan, which is known only after the API has
told its pods once. (pkg/kubelet/pod_workers.go)
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from kube.errors import Invalid, Retry
from kube.pods import Pod, PodStatus
from kube.reconcile import Keys
from kubelet import backoff, plan, refusals
from kubelet.apply import Deeds, StartFailed, Told
from kubelet.containers import termination_messages
from kubelet.departure import Departed, Departure
from kubelet.model import CreateSandbox, Held, Plan, Seen, Stage, StartContainer, StopContainer, Waiting
from kubelet.observe import PodSource, RuntimeView
from kubelet.probes import Probes
from kubelet.publish import Publisher
from kubelet.runtime import ContainerState
from kubelet.status import FAILED, TERMINAL, Report, Sentence, pod_status
from kubelet.volumes import MountFailed

log = logging.getLogger(__name__)

DEFAULT_GRACE = 30
ORPHAN_GRACE = 1
ROUNDS = 50  # of plan, do, look in one pass; a pod that needs more yields to the others


@dataclass(slots=True)
class Life:
    uid: str
    pod: Pod | None
    status: PodStatus = field(default_factory=PodStatus)
    stage: Stage = Stage.SYNC
    grace: int | None = None
    sentence: Sentence | None = None
    backoffs: dict[str, backoff.Entry] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    told: set[tuple[str, str]] = field(default_factory=set)  # back-offs that were told, by container id
    mount_failures: int = 0
    shorter: asyncio.Event = field(default_factory=asyncio.Event)
    first_seen: datetime = field(default_factory=lambda: datetime.now(UTC))
    ran: bool = False
    departure: Departure = field(default_factory=Departure)
    warned: set[str] = field(default_factory=set)  # of what the pod does not get


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What all pods of the node share."""

    host_ips: tuple[str, ...]
    scheme: str
    sync_frequency: float
    crash_cap: float


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
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        started: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._facts = facts
        self._source = source
        self._view = view
        self._deeds = deeds
        self._probes = probes
        self._publisher = publisher
        self._told = told
        self._clock = clock
        self._started = started
        self._lives: dict[str, Life] = {}
        self._leftovers: set[str] = set()
        self._keys = keys

    # --- triggers -----------------------------------------------------------------------------------------------------

    def wake(self, uid: str) -> None:
        """Something about the pod changed. A shorter grace is taken at once, also by a stop that is under way."""
        life, pod = self._lives.get(uid), self._source.get(uid)
        if life is not None and pod is not None and life.stage is Stage.TERMINATING:
            self._shrink(life, pod.metadata.deletion_grace_period_seconds)
        if life is not None and (pod is None or pod.metadata.deletion_timestamp is not None):
            life.departure.set()
        self._publisher.check(uid)
        self._keys.add(uid)

    def objects_changed(self, uid: str) -> None:
        """A ConfigMap or Secret of the pod came or changed: what waited for one is tried again now."""
        life = self._lives.get(uid)
        if life is not None:
            life.held = {n: h for n, h in life.held.items() if h.waiting.reason != "CreateContainerConfigError"}
            life.mount_failures = 0
        self._keys.add(uid)

    def gone(self, uid: str) -> None:
        """The API said, in answer to us, that the pod is no more; the watch says it too, perhaps later."""
        self._keys.add(uid, after=1.0)

    def wake_all(self) -> None:
        for uid in self._lives:
            self._keys.add(uid)

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

    def pods(self) -> list[Pod]:
        """The pods of this node with the status last known, which the API may not know yet."""
        known = {uid: life for uid, life in self._lives.items() if life.pod is not None}
        fresh = [pod for pod in self._source.pods() if pod.metadata.uid not in known]
        return fresh + [msgspec.structs.replace(life.pod, status=life.status) for life in known.values() if life.pod]

    # --- a pass -------------------------------------------------------------------------------------------------------

    async def sync(self, uid: str) -> float | None:
        life = self._enter(uid)
        if life is None:
            return None
        self._advance(life)
        if life.stage is Stage.SYNC:
            return await self._sync(life)
        self._probes_only_readiness(life)
        if life.stage is Stage.TERMINATING:
            await self._terminate(life)
        if life.stage is Stage.TERMINATED:
            await self._settle(life)
        if life.stage is Stage.FINISHED and self._source.get(uid) is None:
            await self._remove(life)
        return None

    def _enter(self, uid: str) -> Life | None:
        life, pod = self._lives.get(uid), self._source.get(uid)
        if life is not None:
            life.pod = pod or life.pod
            return life
        if not self._source.synced:
            return None
        if pod is None and self._view.identity(uid) is None and uid not in self._leftovers:
            return None
        self._leftovers.discard(uid)
        life = Life(uid, pod, status=pod.status if pod else PodStatus())
        if pod is None:
            life.stage, life.grace = Stage.TERMINATING, ORPHAN_GRACE
        else:
            life.backoffs = plan.remembered_backoffs(pod)
        self._lives[uid] = life
        return life

    def _advance(self, life: Life) -> None:
        """SYNC ends when the pod is to be deleted, was forgotten by the API, or has ended."""
        pod = self._source.get(life.uid)
        if pod is not None and pod.status.phase in TERMINAL and life.status.phase not in TERMINAL:
            # Someone else ended it (the pod garbage collector does); a terminal phase is final whoever wrote it.
            ended = pod.status
            life.status = msgspec.structs.replace(
                life.status, phase=ended.phase, reason=ended.reason, message=ended.message
            )
        if life.stage is Stage.SYNC and (
            pod is None or pod.metadata.deletion_timestamp is not None or life.status.phase in TERMINAL
        ):
            life.stage = Stage.TERMINATING
            spec = life.pod.spec.termination_grace_period_seconds if life.pod else None
            self._shrink(life, DEFAULT_GRACE if spec is None else spec)
        if life.stage is Stage.TERMINATING and pod is not None:
            self._shrink(life, pod.metadata.deletion_grace_period_seconds)

    def _shrink(self, life: Life, wish: int | None) -> None:
        grace = plan.shrunk(life.grace, wish)
        if grace != life.grace:
            life.grace = grace
            life.shorter.set()

    def _probes_only_readiness(self, life: Life) -> None:
        if life.stage is not Stage.TERMINATING:
            self._probes.forget(life.uid)

    # --- SYNC ---------------------------------------------------------------------------------------------------------

    async def _sync(self, life: Life) -> float | None:
        pod = life.pod
        assert pod is not None
        self._deeds.objects.need(life.uid, pod.metadata.namespace, self._deeds.references(pod))
        over = self._deadline(life, pod) or self._forbidden(life, pod)
        prepared = False
        for _ in range(ROUNDS):
            seen = await self._view.look(life.uid)
            self._track(life, pod, seen)
            if refused := self._refused(life, pod, seen):
                self._word(life, seen, refused)
                return self._until(life, pod, refused)
            todo = self._plan(life, pod, seen)
            self._word(life, seen, todo)
            if over or todo.finished:
                life.stage = Stage.TERMINATING
                self._shrink(life, pod.spec.termination_grace_period_seconds or DEFAULT_GRACE)
                return 0.0
            if not prepared:
                delay = await self._prepare(life, pod)
                if delay is not None:
                    await self._do(life, pod, seen, tuple(a for a in todo.actions if isinstance(a, StopContainer)))
                    return delay
                prepared = True
            if not todo.actions:
                return self._until(life, pod, todo)
            await self._do(life, pod, seen, todo.actions)
            fresh = self._source.get(life.uid)
            if fresh is None or fresh.metadata.deletion_timestamp is not None:
                return 0.0
            pod = life.pod = fresh
        return 0.0

    def _deadline(self, life: Life, pod: Pod) -> bool:
        limit, begun = pod.spec.active_deadline_seconds, life.status.start_time or pod.status.start_time
        if limit is None or begun is None or self._clock() < begun + timedelta(seconds=limit):
            return False
        message = "Pod was active on the node longer than the specified deadline"
        life.sentence = Sentence(FAILED, "DeadlineExceeded", message)
        self._told.pod(pod, "Normal", "DeadlineExceeded", message)
        return True

    def _forbidden(self, life: Life, pod: Pod) -> bool:
        reason, message = refusals.forbidden(pod)
        if reason and life.sentence is None:
            life.sentence = Sentence(FAILED, reason, f"Pod was rejected: {message}", rejected=True)
            self._told.pod(pod, "Warning", reason, message)
        return bool(reason)

    def _refused(self, life: Life, pod: Pod, seen: Seen) -> Plan | None:
        """A plan of waiting, for a pod that asks for what this kubelet does not do. What runs already is left to run."""
        if life.sentence is not None:
            return None
        found = () if seen.live else refusals.refusals(pod)
        self._warn(life, pod, "Failed", [f"Error: {refusal.message}" for refusal in found])
        self._warn(life, pod, "NotSupported", refusals.added(pod) if seen.live else refusals.shortcomings(pod))
        if not found:
            return None
        everyone = (*pod.spec.init_containers, *pod.spec.containers)
        words = {c.name: refusals.words(found, c.name) for c in everyone}
        return Plan(waiting={name: Waiting("CreateContainerConfigError", said) for name, said in words.items() if said})

    def _warn(self, life: Life, pod: Pod, reason: str, messages: Sequence[str]) -> None:
        for message in messages:
            if message not in life.warned:
                life.warned.add(message)
                self._told.pod(pod, "Warning", reason, message)

    def _track(self, life: Life, pod: Pod, seen: Seen) -> None:
        sandbox = plan.usable_sandbox(pod, seen)
        ips = self._facts.host_ips if pod.spec.host_network else tuple(str(ip) for ip in sandbox.ips) if sandbox else ()
        running = [c for c in seen.containers if c.state is ContainerState.RUNNING]
        leaving = life.stage is not Stage.SYNC
        self._probes.track(pod, running, ips[0] if ips else "", life.status, self._clock(), leaving=leaving)

    def _plan(self, life: Life, pod: Pod, seen: Seen) -> Plan:
        return plan.pod_actions(
            plan.Situation(
                pod=pod,
                seen=seen,
                previous=life.status,
                health=self._probes.health(life.uid),
                backoffs=life.backoffs,
                held=life.held,
                now=self._clock(),
                cap=self._facts.crash_cap,
            )
        )

    def _word(self, life: Life, seen: Seen, todo: Plan, *, finished: bool = False) -> None:
        pod = life.pod
        if pod is None:
            return
        status = pod_status(
            Report(
                pod=pod,
                seen=seen,
                previous=life.status,
                health=self._probes.health(life.uid),
                waiting=todo.waiting,
                messages=termination_messages(seen),
                stage=life.stage,
                host_ips=self._facts.host_ips,
                scheme=self._facts.scheme,
                sentence=life.sentence,
                over=todo.finished or life.stage is not Stage.SYNC,
                now=self._clock(),
            )
        )
        self._tell_backoffs(life, pod, seen, todo)
        if status.phase == "Running" and not life.ran:
            life.ran = True
            if life.status.phase == "Pending":
                self._started((self._clock() - life.first_seen).total_seconds())
        life.status = status
        self._publisher.say(life.uid, status, finished=finished)

    def _tell_backoffs(self, life: Life, pod: Pod, seen: Seen, todo: Plan) -> None:
        for name, waiting in todo.waiting.items():
            latest = seen.latest(name)
            mark = (name, latest.id if latest else waiting.reason)
            if waiting.reason == "CrashLoopBackOff" and mark not in life.told:
                life.told.add(mark)
                message = f"Back-off restarting failed container {name} in pod {plan.pod_label(pod)}"
                self._told.container(pod, name, "Warning", "BackOff", message)

    async def _prepare(self, life: Life, pod: Pod) -> float | None:
        """Volumes, directories and cgroups. Seconds to wait when something is missing; None when all is there."""
        try:
            await self._deeds.prepare(pod, self._source.pods())
        except MountFailed as error:
            self._told.pod(pod, "Warning", "FailedMount", str(error))
            life.mount_failures += 1
            return min(122.0, 0.5 * 2.0 ** min(life.mount_failures - 1, 8))
        except Invalid as error:
            # The author must change the pod, and a pod's volumes cannot be changed: no second try, only the resync's.
            self._told.pod(pod, "Warning", "FailedMount", str(error))
            return self._facts.sync_frequency
        life.mount_failures = 0
        return None

    async def _do(self, life: Life, pod: Pod, seen: Seen, actions: tuple[object, ...]) -> None:
        for action in actions:
            match action:
                case StartContainer():
                    await self._start(life, pod, seen, action)
                case CreateSandbox():
                    await self._sandbox(life, pod, seen, action)
                case StopContainer():
                    grace = action.grace if action.grace is not None else pod.spec.termination_grace_period_seconds
                    grace = DEFAULT_GRACE if grace is None else grace
                    await self._deeds.stop(pod, action, float(grace), life.status.pod_ip)
                case _:
                    await self._deeds.tidy(action)

    async def _start(self, life: Life, pod: Pod, seen: Seen, action: StartContainer) -> None:
        name = action.container.name
        if action.backoff is not None:
            life.backoffs[plan.backoff_key(pod, action.container)] = action.backoff
        if refused := refusals.words(refusals.refusals(pod), name):  # an older kubelet may have begun with the pod
            until = self._clock() + timedelta(seconds=self._facts.sync_frequency)
            life.held[name] = Held(Waiting("CreateContainerConfigError", refused), until)
            return
        try:
            await self._deeds.start(pod, action, seen, life.departure)
        except Departed:
            log.info("pod %s: container %s is not waited for: the pod is to go", pod.metadata.key, name)
        except StartFailed as error:
            until = self._clock() + timedelta(seconds=error.retry_after)
            life.held[name] = Held(Waiting(error.reason, error.message), until)
        else:
            life.held.pop(name, None)

    async def _sandbox(self, life: Life, pod: Pod, seen: Seen, action: CreateSandbox) -> None:
        if seen.sandboxes:
            self._told.pod(pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        try:
            await self._deeds.create_sandbox(pod, action.attempt)
        except StartFailed as error:
            until = self._clock() + timedelta(seconds=error.retry_after)
            life.held[""] = Held(Waiting(error.reason, error.message), until)
        else:
            life.held.pop("", None)

    def _until(self, life: Life, pod: Pod, todo: Plan) -> float:
        """Seconds until time alone gives something to do."""
        moments = [self._facts.sync_frequency]
        now = self._clock()
        if todo.again_at is not None:
            moments.append((todo.again_at - now).total_seconds())
        if pod.spec.active_deadline_seconds is not None and life.status.start_time is not None:
            end = life.status.start_time + timedelta(seconds=pod.spec.active_deadline_seconds)
            moments.append((end - now).total_seconds())
        return max(0.0, min(moments))

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _terminate(self, life: Life) -> None:
        for _ in range(ROUNDS):
            life.shorter.clear()
            seen = await self._view.look(life.uid)
            if life.pod is not None:
                self._track(life, life.pod, seen)
            actions = plan.termination_actions(seen, life.grace or ORPHAN_GRACE)
            if not actions:
                life.stage = Stage.TERMINATED
                self._probes.forget(life.uid)
                self._word(life, seen, Plan())
                return
            self._word(life, seen, Plan())
            await self._stop_all(life, actions)
        raise Retry(f"pod {life.uid}: the runtime says it stops containers, and they run")

    async def _stop_all(self, life: Life, actions: tuple[object, ...]) -> None:
        """Stop everything at once; return early when the grace has become shorter, to begin again with that."""
        grace = float(life.grace or ORPHAN_GRACE)

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                for action in actions:
                    if isinstance(action, StopContainer):
                        group.create_task(self._deeds.stop(life.pod, action, grace, life.status.pod_ip))
                    else:
                        group.create_task(self._deeds.tidy(action))

        try:
            async with asyncio.TaskGroup() as group:
                stops = group.create_task(all_of_them())
                shorter = group.create_task(life.shorter.wait())
                await asyncio.wait({stops, shorter}, return_when=asyncio.FIRST_COMPLETED)
                shorter.cancel()
                if not stops.done():
                    stops.cancel()
        except* Retry as errors:
            raise Retry(f"stopping pod {life.uid}: {_first(errors)}") from errors

    async def _settle(self, life: Life) -> None:
        """Give back what the pod held, then say its last word."""
        seen = await self._view.look(life.uid)
        if seen.live:
            # Someone started something behind our back; a terminated pod runs nothing.
            for container in seen.live:
                stop = StopContainer(container.id, container.name, f"Stopping container {container.name}")
                await self._deeds.stop(life.pod, stop, 1.0, life.status.pod_ip)
            seen = await self._view.look(life.uid)
        self._word(life, seen, Plan())  # before the pod's directory goes, and the termination messages with it
        await self._deeds.settle(life.uid, life.pod)
        self._deeds.objects.forget(life.uid)
        if life.pod is not None:
            self._publisher.say(life.uid, life.status, finished=True)
        life.stage = Stage.FINISHED

    async def _remove(self, life: Life) -> None:
        seen = await self._view.look(life.uid)
        for action in plan.removal_actions(seen):
            await self._deeds.tidy(action)
        await self._deeds.erase(life.uid)
        self._view.forget(life.uid)
        self._publisher.forget(life.uid)
        self._probes.forget(life.uid)
        del self._lives[life.uid]
        log.info("pod %s is gone", life.pod.metadata.key if life.pod else life.uid)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
