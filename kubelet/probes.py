"""When to probe which container, and what the outcomes add up to.
 One heap of due times for all probes of the node, one task per probe in flight. The rules
(pkg/kubelet/prober/worker.go):
 - A verdict changes after `successThreshold` or `failureThreshold` equal outcomes in a row; an attempt that could not
be made at all
  (the runtime is away) counts as none.
- Before the first outcome liveness holds, readiness does not, startup is unknown. The startup probe gates the other two
and stops once
  it has succeeded. A condemned container is not probed again; its successor is another container.
- A container that ran, ready, before this kubelet did stays so until a probe says otherwise: restarting a kubelet moves
no endpoint.
"""

import asyncio
import enum
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from kube.pods import Container, Pod, PodStatus, Probe
from kube.reconcile import Wake
from kubelet.model import Health, Verdict
from kubelet.plan import reported
from kubelet.runtime import ContainerState, ContainerStatus

log = logging.getLogger(__name__)


class Kind(enum.StrEnum):
    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt. `healthy` None: it could not be made, which says nothing about the container."""

    healthy: bool | None
    message: str = ""


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


@dataclass(slots=True)
class _Watched:
    target: Target
    streak: Streak
    due: float
    flying: bool = False


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
    """All probes of the node. `changed(uid)` is called when a verdict changed, `failed(target, outcome)` for every
    failure, and for every attempt that could not be made."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        changed: Callable[[str], None],
        failed: Callable[[Target, Outcome], None],
        at_once: int = 64,
        spread: float = 0.0,
    ) -> None:
        self._attempt = attempt
        self._changed = changed
        self._failed = failed
        self._slots = asyncio.Semaphore(at_once)
        # A kubelet that has just started meets all its containers at once: their first probes are spread over a period.
        self._spread_until = time.monotonic() + spread
        self._watched: dict[Key, _Watched] = {}
        self._by_pod: dict[str, set[Key]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0
        self._wake = Wake()

    def track(
        self, pod: Pod, running: Iterable[ContainerStatus], pod_ip: str, previous: PodStatus, now: datetime
    ) -> None:
        """Probe exactly these containers of the pod from now on."""
        specs = {container.name: container for container in pod.spec.containers}
        wanted: set[Key] = set()
        for status in running:
            spec = specs.get(status.name)
            if spec is None or status.state is not ContainerState.RUNNING:
                continue
            started = status.started_at or status.created_at
            for kind, probe in probes_of(spec):
                key = (status.id, kind)
                wanted.add(key)
                target = Target(pod, spec, status.id, started, pod_ip, kind, probe)
                known = self._watched.get(key)
                if known is not None:
                    known.target = target
                    continue
                streak = first_streak(kind, status.id, previous, status.name)
                delay = max(0.0, probe.initial_delay_seconds - (now - started).total_seconds())
                if time.monotonic() < self._spread_until:
                    delay += random.uniform(0, probe.period_seconds)
                self._watched[key] = _Watched(target, streak, 0.0)
                self._schedule(key, delay)
        for key in self._by_pod.get(pod.metadata.uid, set()) - wanted:
            self._watched.pop(key, None)
        self._by_pod[pod.metadata.uid] = wanted
        if not wanted:
            del self._by_pod[pod.metadata.uid]

    def forget(self, uid: str) -> None:
        for key in self._by_pod.pop(uid, set()):
            self._watched.pop(key, None)

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

    def _schedule(self, key: Key, delay: float) -> None:
        watched = self._watched[key]
        watched.due = time.monotonic() + delay
        self._count += 1
        heapq.heappush(self._heap, (watched.due, self._count, key))
        self._wake.set()

    def _gated(self, watched: _Watched) -> bool:
        """Not now: the startup probe has not succeeded, or this probe has done its work."""
        kind, verdict = watched.target.kind, watched.streak.verdict
        if kind is Kind.STARTUP:
            return verdict is not Verdict.UNKNOWN
        if kind is Kind.LIVENESS and verdict is Verdict.FAILURE:
            return True
        startup = self._watched.get((watched.target.container_id, Kind.STARTUP))
        return startup is not None and startup.streak.verdict is not Verdict.SUCCESS

    async def run(self) -> None:
        """Make the attempts as they fall due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = time.monotonic()
                while self._heap and self._heap[0][0] <= now:
                    due, _, key = heapq.heappop(self._heap)
                    watched = self._watched.get(key)
                    if watched is None or watched.due != due or watched.flying:
                        continue
                    if self._gated(watched):
                        if watched.target.kind is not Kind.STARTUP:
                            self._schedule(key, watched.target.probe.period_seconds)
                        continue
                    watched.flying = True
                    group.create_task(self._once(key, watched))
                await self._wake.wait(timeout=self._heap[0][0] - now if self._heap else None)

    async def _once(self, key: Key, watched: _Watched) -> None:
        begun = time.monotonic()
        try:
            async with self._slots:
                outcome = await self._attempt(watched.target)
        finally:
            watched.flying = False
        if self._watched.get(key) is not watched:
            return
        before = watched.streak
        watched.streak = judged(before, outcome, watched.target.probe)
        if not outcome.healthy:
            self._failed(watched.target, outcome)
        self._schedule(key, max(0.0, watched.target.probe.period_seconds - (time.monotonic() - begun)))
        if before.verdict is watched.streak.verdict:
            return
        log.info(
            "pod %s container %s: %s probe: %s",
            watched.target.pod.metadata.key,
            watched.target.container.name,
            watched.target.kind.lower(),
            watched.streak.verdict,
        )
        if watched.target.kind is Kind.STARTUP and watched.streak.verdict is Verdict.SUCCESS:
            for kind in (Kind.LIVENESS, Kind.READINESS):
                if (key[0], kind) in self._watched:
                    self._schedule((key[0], kind), 0.0)
        self._changed(watched.target.pod.metadata.uid)
