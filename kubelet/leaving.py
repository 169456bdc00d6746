"""A pod that is to go: stop all of it, settle what it held, forget it.

    TERMINATING  what `plan.termination` says may be under way is begun, the rest waits its turn; whatever ends, fails, or comes
                 to be known is followed by another look. A nearer deadline shortens what is under way.
    TERMINATED   nothing can run: volumes and cgroup are given back, the final status is said; the publisher then deletes the
                 object
    FINISHED     once the API has forgotten the pod, what is left of it in the runtime is removed, its logs and directories

A deed that fails is tried again, later each time, and holds up nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kube.errors import Retry
from kube.pods import Pod
from kube.reconcile import Backoff
from kubelet import plan
from kubelet.apply import Deeds
from kubelet.departure import Departure
from kubelet.life import ORPHAN_GRACE, Life
from kubelet.living import Living
from kubelet.model import (
    Action,
    CreateSandbox,
    Farewell,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Seen,
    Stage,
    StartContainer,
    StopContainer,
    StopSandbox,
)
from kubelet.observe.view import RuntimeView
from kubelet.plan.ending import LEAST_GRACE
from kubelet.publish import Publisher
from kubelet.runtime import RuntimeRefused
from kubelet.volumes import MountFailed
from kubelet.wording import Wording

log = logging.getLogger(__name__)

AGAIN = Backoff(first=0.5, most=10.0)
ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)  # deadlines are on the loop's clock, which nobody sets; a plan wants moments
Key = tuple[str, str]  # what, of which container or sandbox


def _moment(seconds: float) -> datetime:
    return ORIGIN + timedelta(seconds=seconds)


def _seconds(moment: datetime | None) -> float | None:
    return (moment - ORIGIN).total_seconds() if moment else None


@dataclass(slots=True)
class _Busy:
    """What is under way for one pod that is being stopped."""

    life: Life
    group: asyncio.TaskGroup
    tasks: dict[Key, asyncio.Task[None]] = field(default_factory=dict)
    hooks: dict[str, asyncio.Timeout] = field(default_factory=dict)
    departure: Departure = field(default_factory=Departure)  # for sidecars that are started again: time is up
    failures: dict[Key, int] = field(default_factory=dict)
    not_before: dict[Key, float] = field(default_factory=dict)

    def begin(self, key: Key, work: Callable[[], Awaitable[None]]) -> None:
        """Unless it is under way, or has just been tried."""
        if key not in self.tasks and self.not_before.get(key, 0.0) <= asyncio.get_running_loop().time():
            self.tasks[key] = self.group.create_task(self._one(key, work))
            # Not in a `finally` of the task: one that is cancelled before its first step never gets to it.
            self.tasks[key].add_done_callback(lambda _: self._ended(key))

    async def _one(self, key: Key, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Retry, OSError, RuntimeRefused) as error:
            log.warning("pod %s: %s %s: %s", self.life.uid, *key, error)

    def _ended(self, key: Key) -> None:
        """Also what succeeded is not begun again at once, should the runtime show it undone."""
        self.tasks.pop(key, None)
        self.failures[key] = self.failures.get(key, 0) + 1
        self.not_before[key] = asyncio.get_running_loop().time() + AGAIN.delay(self.failures[key])
        self.life.stirred.set()

    def next_try(self, now: float) -> float | None:
        return min((moment for moment in self.not_before.values() if moment > now), default=None)

    async def cancel(self, kind: str) -> None:
        """Stop waiting for these; they may be begun again at once."""
        gone = {key: task for key, task in self.tasks.items() if key[0] == kind}
        for task in gone.values():
            task.cancel()
        if gone:
            await asyncio.wait(gone.values())
        for key in gone:
            self.not_before.pop(key, None)

    def lapse(self, live: set[str]) -> None:
        """A hook of a container that has ended is of no use."""
        for (kind, identity), task in list(self.tasks.items()):
            if kind == "preStop of" and identity not in live:
                task.cancel()

    def hasten(self, deadline: float) -> None:
        for limit in self.hooks.values():
            when = limit.when()
            if not limit.expired() and (when is None or when > deadline):
                limit.reschedule(deadline)


class Leaving:
    def __init__(
        self,
        view: RuntimeView,
        deeds: Deeds,
        living: Living,
        publisher: Publisher,
        wording: Wording,
        everyone: Callable[[], list[Pod]],
    ) -> None:
        self._view = view
        self._deeds = deeds
        self._living = living
        self._publisher = publisher
        self._wording = wording
        self._everyone = everyone

    # --- TERMINATING --------------------------------------------------------------------------------------------------

    async def terminate(self, life: Life) -> None:
        """Until nothing of the pod can be running."""
        loop = asyncio.get_running_loop()
        if life.deadline is None:
            life.shrink(ORPHAN_GRACE, loop.time())
        assert life.deadline is not None
        async with asyncio.TaskGroup() as group:
            busy, deadline = _Busy(life, group), life.deadline
            while True:
                life.stirred.clear()
                if life.deadline < deadline:
                    deadline = life.deadline
                    await busy.cancel("stop of")
                    busy.hasten(deadline)
                seen = await self._look(life)
                if seen is None:
                    await _stirred(life, 1.0)
                    continue
                todo = plan.termination(self._ending(life, seen, deadline))
                busy.lapse({container.id for container in seen.live})
                if not todo.finished:  # then there is a last word to say, in a moment
                    self._wording.word(life, seen, todo)
                if todo.finished or loop.time() >= deadline:
                    busy.departure.set()
                starting = any(kind == "start of" for kind, _ in busy.tasks)
                if todo.finished and not starting:
                    await busy.cancel("preStop of")
                    break
                for action in todo.actions:
                    self._begin(busy, seen, action)
                await _stirred(life, _patience(busy, todo, loop.time()))
        life.stage = Stage.TERMINATED
        self._wording.word(life, seen, Plan())

    async def _look(self, life: Life) -> Seen | None:
        if life.takes_hint():
            self._view.doubt(life.uid)
        try:
            seen = await self._view.recall(life.uid)
        except (Retry, OSError) as error:
            log.warning("pod %s: %s", life.uid, error)
            return None
        if life.pod is not None:
            self._wording.track(life, life.pod, seen)
        return seen

    def _ending(self, life: Life, seen: Seen, deadline: float) -> plan.Ending:
        return plan.Ending(
            seen=seen,
            deadline=_moment(deadline),
            now=_moment(asyncio.get_running_loop().time()),
            situation=self._living.situation(life, life.pod, seen) if life.pod else None,
            farewells=life.farewells,
        )

    def _begin(self, busy: _Busy, seen: Seen, action: Action) -> None:
        life = busy.life
        match action:
            case Farewell():
                self._tell(life, action.id, action.name, f"Stopping container {action.name}")
                busy.begin(("preStop of", action.id), lambda: self._farewell(busy, action))
            case StopContainer():
                self._tell(life, action.id, action.name, action.message)
                grace = action.grace or LEAST_GRACE
                busy.begin(("stop of", action.id), lambda: self._stop(life, action.id, grace))
            case StartContainer():
                busy.begin(("start of", action.container.name), lambda: self._start(busy, seen, action))
            case StopSandbox() | RemoveContainer() | RemoveSandbox():
                busy.begin(("tidying of", action.id), lambda: self._tidy(life, action))
            case CreateSandbox():
                raise AssertionError("a pod that is to go gets no sandbox")

    async def _stop(self, life: Life, container_id: str, grace: float) -> None:
        try:
            await self._deeds.stops.stop(container_id, grace)
        except BaseException:
            self._view.doubt(life.uid)
            raise
        await self._view.learn(life.uid, container=container_id)

    async def _tidy(self, life: Life, action: StopSandbox | RemoveContainer | RemoveSandbox) -> None:
        try:
            await self._deeds.tidy(action)
        except BaseException:
            self._view.doubt(life.uid)
            raise
        if isinstance(action, StopSandbox):
            self._view.stopped(life.uid, action.id)
        else:
            self._view.lose(life.uid, action.id)

    def _tell(self, life: Life, container_id: str, name: str, message: str) -> None:
        if container_id not in life.killed:
            life.killed.add(container_id)
            self._deeds.stops.tell(life.pod, name, message)

    async def _farewell(self, busy: _Busy, action: Farewell) -> None:
        life = busy.life
        assert life.pod is not None
        try:
            async with asyncio.timeout_at(life.deadline) as limit:  # it may be nearer than when this was begun
                busy.hooks[action.id] = limit
                await self._deeds.stops.farewell(life.pod, action.id, action.name, life.status.pod_ip, limit)
        except TimeoutError:
            pass  # it was told, and SIGTERM is next
        finally:
            busy.hooks.pop(action.id, None)
            life.farewells.add(action.id)

    async def _start(self, busy: _Busy, seen: Seen, action: StartContainer) -> None:
        """A sidecar that ended while the app containers still end. Nobody waits longer than they do for its image or hook."""
        life = busy.life
        assert life.pod is not None
        if not self._deeds.prepared(life.uid):
            try:
                await self._deeds.prepare(life.pod, self._everyone())
            except MountFailed as error:
                raise Retry(str(error)) from error
        await self._living.start(life, life.pod, seen, action, busy.departure)

    # --- TERMINATED, FINISHED -----------------------------------------------------------------------------------------

    async def settle(self, life: Life) -> None:
        """Give back what the pod held, then say its last word."""
        seen = await self._view.look(life.uid)
        if seen.live:
            # Someone started something behind our back; a terminated pod runs nothing.
            for container in seen.live:
                await self._deeds.stops.stop(container.id, ORPHAN_GRACE)
            seen = await self._view.look(life.uid)
        self._wording.word(life, seen, Plan())  # before the pod's directory goes, and the termination messages with it
        await self._deeds.settle(life.uid, life.pod)
        self._deeds.objects.forget(life.uid)
        if life.evicted:
            for action in plan.removal_actions(seen):
                await self._deeds.tidy(action)
        if life.pod is not None:
            self._publisher.say(life.uid, life.status, finished=True)
        life.stage = Stage.FINISHED

    async def remove(self, life: Life) -> None:
        """All that is left of it on this node."""
        seen = await self._view.recall(life.uid)
        for action in plan.removal_actions(seen):
            await self._deeds.tidy(action)
        await self._deeds.erase(life.uid)
        self._view.forget(life.uid)
        self._publisher.forget(life.uid)
        log.info("pod %s is gone", life.pod.metadata.key if life.pod else life.uid)


async def _stirred(life: Life, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await life.stirred.wait()
    except TimeoutError:
        pass


def _patience(busy: _Busy, todo: Plan, now: float) -> float | None:
    """Seconds until something may be begun that could not be now."""
    moments = [
        moment for moment in (busy.next_try(now), _seconds(todo.again_at)) if moment is not None and moment > now
    ]
    return min(moments) - now if moments else None
