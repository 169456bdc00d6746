"""When to probe which container, and what the outcomes add up to.

One heap of due times for all probes of the node, one task per probe in flight. The rules (pkg/kubelet/prober/worker.go):
- A verdict changes after `successThreshold` or `failureThreshold` equal outcomes in a row; an attempt that could not be made
  at all (the runtime is away) counts as none.
- Before the first outcome liveness holds, readiness does not, startup is unknown. The startup probe gates the other two and
  stops once it has succeeded. A condemned container is not probed again; its successor is another container. Of a pod that
  is to go only readiness is probed.
- A container that ran, ready, before this kubelet did stays so until a probe says otherwise: restarting a kubelet moves no
  endpoint. All these are met at once, so their first probes are spread over a period; a container that starts later is
  probed as soon as its initial delay has passed.

So many attempts may be under way at a time, or the node would do nothing else when many fall due together. One that hangs is
not counted for long, and next time waits in a line with its like: a thousand that hang delay none that answers.
"""

import asyncio
import enum
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kube.pods import Container, Pod, PodStatus, Probe
from kube.reconcile import Wake
from kubelet.model import Health, Verdict
from kubelet.plan import reported
from kubelet.probing.tallies import Subject, Tallies
from kubelet.runtime import ContainerState, ContainerStatus

log = logging.getLogger(__name__)

PATIENCE = 0.5  # seconds; who takes longer hangs, or is slow
NEVER = -1.0  # until further notice


class Kind(enum.StrEnum):
    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt. `healthy` None: it could not be made, which says nothing about the container."""

    healthy: bool | None
    message: str = ""
    warning: bool = False  # healthy, and worth an Event


@dataclass(frozen=True, slots=True)
class Streak:
    verdict: Verdict
    last: bool | None = None
    run: int = 0


def judged(streak: Streak, outcome: Outcome, probe: Probe) -> Streak:
    """The streak after one more outcome."""
    if outcome.healthy is None:
        return streak
    run = streak.run + 1 if streak.last == outcome.healthy else 1
    needed = probe.success_threshold if outcome.healthy else probe.failure_threshold
    verdict = streak.verdict
    if run >= needed:
        verdict = Verdict.SUCCESS if outcome.healthy else Verdict.FAILURE
    return Streak(verdict, outcome.healthy, run)


@dataclass(frozen=True, slots=True)
class Target:
    """What a probe is aimed at: enough to make the attempt and to tell about it."""

    pod: Pod
    container: Container
    container_id: str
    started_at: datetime
    pod_ip: str
    kind: Kind
    probe: Probe


def words(target: Target, outcome: Outcome) -> tuple[str, str] | None:
    """Reason and message of the Event that an attempt is worth, if any."""
    if outcome.healthy is None:
        return "Unhealthy", f"{target.kind} probe errored and resulted in unknown state: {outcome.message}"
    if not outcome.healthy:
        return "Unhealthy", f"{target.kind} probe failed: {outcome.message}"
    return ("ProbeWarning", f"{target.kind} probe warning: {outcome.message}") if outcome.warning else None


@dataclass(slots=True)
class _Watched:
    target: Target
    streak: Streak
    due: float = NEVER  # by the loop's clock
    flying: bool = False
    slow: bool = False


Key = tuple[str, Kind]  # container id, kind
Attempt = Callable[[Target], Awaitable[Outcome]]


def probes_of(container: Container) -> Iterable[tuple[Kind, Probe]]:
    for kind, probe in (
        (Kind.STARTUP, container.startup_probe),
        (Kind.LIVENESS, container.liveness_probe),
        (Kind.READINESS, container.readiness_probe),
    ):
        if probe is not None:
            yield kind, probe


INITIAL: Mapping[Kind, Verdict] = {
    Kind.STARTUP: Verdict.UNKNOWN,
    Kind.LIVENESS: Verdict.SUCCESS,
    Kind.READINESS: Verdict.FAILURE,
}


def first_streak(kind: Kind, container_id: str, previous: PodStatus, name: str) -> Streak:
    """Where a probe starts: the last word of the API about this very container, or the kind's initial verdict."""
    before = reported(previous, name)
    if before is not None and before.container_id.endswith(f"://{container_id}"):
        if kind is Kind.READINESS and before.ready:
            return Streak(Verdict.SUCCESS)
        if kind is Kind.STARTUP and before.started:
            return Streak(Verdict.SUCCESS)
    return Streak(INITIAL[kind])


class Probes:
    """All probes of the node. `changed(uid)` is called when a verdict changed, `tell(target, reason, message)` for what is
    worth an Event, `broken()` when an attempt met a bug of ours. `since` is when this kubelet started."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        changed: Callable[[str], None],
        tell: Callable[[Target, str, str], None],
        broken: Callable[[], None] = lambda: None,
        at_once: int = 64,
        since: datetime | None = None,
    ) -> None:
        self._attempt = attempt
        self._changed = changed
        self._tell = tell
        self._broken = broken
        self._lanes = {slow: asyncio.Semaphore(at_once) for slow in (False, True)}
        self._since = since or datetime.now(UTC)
        self._watched: dict[Key, _Watched] = {}
        self._by_pod: dict[str, set[Key]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0
        self._wake = Wake()
        self.tallies = Tallies()

    def track(
        self,
        pod: Pod,
        running: Iterable[ContainerStatus],
        pod_ip: str,
        previous: PodStatus,
        now: datetime,
        *,
        leaving: bool = False,
    ) -> None:
        """Probe exactly these containers of the pod from now on; `leaving`: the pod is being stopped."""
        specs = {c.name: c for c in pod.spec.init_containers if c.restart_policy == "Always"}
        specs |= {container.name: container for container in pod.spec.containers}
        wanted: set[Key] = set()
        for status in running:
            spec = specs.get(status.name)
            if spec is None or status.state is not ContainerState.RUNNING:
                continue
            for kind, probe in probes_of(spec):
                if leaving and kind is not Kind.READINESS:
                    continue
                wanted.add((status.id, kind))
                started = status.started_at or status.created_at
                target = Target(pod, spec, status.id, started, pod_ip, kind, probe)
                known = self._watched.get((status.id, kind))
                if known is not None:
                    known.target = target
                else:
                    self._enter(target, previous, now)
        for key in self._by_pod.get(pod.metadata.uid, set()) - wanted:
            self._watched.pop(key, None)
        self._by_pod[pod.metadata.uid] = wanted
        if not wanted:
            del self._by_pod[pod.metadata.uid]
        self._resume(wanted)

    def _enter(self, target: Target, previous: PodStatus, now: datetime) -> None:
        key = target.container_id, target.kind
        streak = first_streak(target.kind, target.container_id, previous, target.container.name)
        self._watched[key] = _Watched(target, streak)
        delay = max(0.0, target.probe.initial_delay_seconds - (now - target.started_at).total_seconds())
        if target.started_at < self._since:
            delay += random.uniform(0, target.probe.period_seconds)
        self._schedule(key, delay)

    def forget(self, uid: str) -> None:
        for key in self._by_pod.pop(uid, set()):
            self._watched.pop(key, None)
        self.tallies.forget(uid)

    def health(self, uid: str) -> dict[str, Health]:
        """Verdicts by container id, for the containers that have any probe."""
        found: dict[str, Health] = {}
        for container_id, kind in sorted(self._by_pod.get(uid, set())):
            verdict = self._watched[container_id, kind].streak.verdict
            health = found.get(container_id, Health())
            match kind:
                case Kind.STARTUP:
                    health = replace(health, startup=verdict)
                case Kind.LIVENESS:
                    health = replace(health, liveness=verdict)
                case Kind.READINESS:
                    health = replace(health, readiness=verdict)
            found[container_id] = health
        return found

    # --- time ---------------------------------------------------------------------------------------------------------

    def _schedule(self, key: Key, delay: float) -> None:
        watched = self._watched[key]
        watched.due = asyncio.get_running_loop().time() + delay
        self._count += 1
        heapq.heappush(self._heap, (watched.due, self._count, key))
        if self._heap[0][1] == self._count:
            self._wake.set()  # it comes before what is waited for

    def _on_hold(self, watched: _Watched) -> bool:
        """It has done its work, or the startup probe has not: not to be tried until something else happens."""
        kind, verdict = watched.target.kind, watched.streak.verdict
        if kind is Kind.STARTUP:
            return verdict is not Verdict.UNKNOWN
        if kind is Kind.LIVENESS and verdict is Verdict.FAILURE:
            return True
        startup = self._watched.get((watched.target.container_id, Kind.STARTUP))
        return startup is not None and startup.streak.verdict is not Verdict.SUCCESS

    def _resume(self, keys: Iterable[Key]) -> None:
        """Of these, try at once what was on hold and is not any more. What still waits for its time is left to it."""
        for key in keys:
            watched = self._watched[key]
            if watched.due == NEVER and not watched.flying and not self._on_hold(watched):
                self._schedule(key, 0.0)

    async def run(self) -> None:
        """Make the attempts as they fall due, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                now = loop.time()
                while self._heap and self._heap[0][0] <= now:
                    due, _, key = heapq.heappop(self._heap)
                    watched = self._watched.get(key)
                    if watched is None or watched.due != due:
                        continue
                    watched.due = NEVER
                    if self._on_hold(watched):
                        continue
                    watched.flying = True
                    group.create_task(self._once(key, watched))
                await self._wake.wait(timeout=self._heap[0][0] - now if self._heap else None)

    async def _once(self, key: Key, watched: _Watched) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcome = await self._in_line(watched)
        watched.flying = False
        target, taken = watched.target, loop.time() - begun
        if self._watched.get(key) is not watched:
            return
        pod, name = target.pod.metadata, target.container.name
        self.tallies.count(Subject(target.kind, name, pod.name, pod.namespace, pod.uid), outcome.healthy, taken)
        before, watched.streak = watched.streak, judged(watched.streak, outcome, target.probe)
        if (event := words(target, outcome)) is not None:
            self._tell(target, *event)
        self._schedule(key, max(0.0, max(1, target.probe.period_seconds) - taken))
        if before.verdict is watched.streak.verdict:
            return
        log.info("pod %s container %s: %s probe: %s", pod.key, name, target.kind.lower(), watched.streak.verdict)
        if target.kind is Kind.STARTUP and watched.streak.verdict is Verdict.SUCCESS:
            self._resume((key[0], kind) for kind in Kind if (key[0], kind) in self._watched)
        self._changed(pod.uid)

    async def _in_line(self, watched: _Watched) -> Outcome:
        """The attempt, when there is room for it."""
        loop, lane = asyncio.get_running_loop(), self._lanes[watched.slow]
        await lane.acquire()
        held = [lane]

        def leave() -> None:
            if held:
                held.pop().release()

        begun = loop.time()
        patience = loop.call_later(PATIENCE, leave)
        try:
            return await self._attempt(watched.target)
        except Exception as error:
            # As at the door of a pod's pass (kubelet.wiring): what a container answers must not take the node down.
            target, what = watched.target, f"{type(error).__name__}: {error}"
            name, pod = target.container.name, target.pod.metadata.key
            log.exception("pod %s container %s: %s probe: a bug: %s", pod, name, target.kind.lower(), what)
            self._broken()
            return Outcome(None, what)
        finally:
            patience.cancel()
            leave()
            watched.slow = loop.time() - begun >= PATIENCE
