"""Hints about containers, on every runtime: what died (pidfds, at once) and what else the runtime tells.

    pidfd readable ──> `settled`: ask the runtime until it admits the exit ──> hint
    the runtime's own events ──────────────────────────────────────────────> hint
    its stream is (again) there ───────────────────────────────────────────> one hint about everything

All of it may fail without harm, because the relist is the truth. Running containers that a list shows for the first time, as
all do after a restart of the kubelet, are adopted: looked at once for their process, which is then watched. A process that is
not to be found although the runtime believes it running has just died, most likely: the runtime is asked until it says so too.
Else it is out of sight (in another PID namespace), and while there is such a container hints do not count as flowing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kube.reconcile import Backoff, Keys, Wake, by_key, forever
from kubelet.exits import Exits
from kubelet.runtime import EVERYTHING, Hint, NotFound, RuntimeUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What a runtime has to say. `follow` calls `Hints.flows` once connected and ends, or raises Retry, with the stream of
    events; `settled` is back when the runtime admits that a container has exited; `process` is the id of its first process, 0
    when it does not run or cannot be seen, NotFound when it is gone."""

    follow: Callable[[], Awaitable[None]]
    settled: Callable[[str], Awaitable[None]]
    process: Callable[[str], Awaitable[int]]


class Hints:
    def __init__(self) -> None:
        self.exits = Exits(self.ended)
        self._notify: Callable[[Hint], None] | None = None
        self._pods: dict[str, str] = {}  # container id -> pod uid
        self._ended: Keys[str] = Keys()
        self._strangers: Keys[str] = Keys()
        self._seen: set[str] = set()
        self._lost: set[str] = set()  # without a process that could be watched; those that run on are out of sight
        self._flowing = False

    def flowing(self) -> bool:
        return self._flowing and not self._lost

    def flows(self) -> None:
        self._flowing = True
        self.say(EVERYTHING)

    def say(self, hint: Hint) -> None:
        if self._notify is not None:
            self._notify(hint)

    def made(self, container_id: str, pod_uid: str) -> None:
        """One of ours, whose process is watched when it starts."""
        self._pods[container_id] = pod_uid
        self._seen.add(container_id)

    def adopted(self, container_id: str, pid: int) -> None:
        """Somebody has looked at it, and it runs, as process `pid` (0: not known)."""
        self._seen.add(container_id)
        if not self.exits.watch(container_id, pid):
            self._lost.add(container_id)
            self.ended(container_id)

    def known(self) -> set[str]:
        return set(self._pods)

    def listed(self, container_id: str, pod_uid: str, *, running: bool) -> None:
        self._pods[container_id] = pod_uid
        if not running:
            self._lost.discard(container_id)
        elif container_id not in self._seen:
            self._seen.add(container_id)
            self._strangers.add(container_id)

    def ended(self, container_id: str) -> None:
        """Somebody has seen that it does not run any more."""
        self._ended.add(container_id)

    def forget(self, container_ids: Iterable[str]) -> None:
        for container_id in container_ids:
            self._pods.pop(container_id, None)
            self._seen.discard(container_id)
            self._lost.discard(container_id)
            self.exits.forget(container_id)

    def close(self) -> None:
        self.exits.close()

    async def run(self, notify: Callable[[Hint], None], source: Source) -> None:
        """Until cancelled."""
        self._notify = notify

        async def follow() -> None:
            try:
                await source.follow()
            finally:
                self._flowing = False

        async def settle(container_id: str) -> None:
            try:
                await source.settled(container_id)
                self._lost.discard(container_id)
            except RuntimeUnavailable:
                if container_id not in self._lost:
                    raise
                log.info(
                    "container %s runs where its process cannot be seen: relists notice its end", container_id[:12]
                )
            finally:
                self._tell(container_id)

        async def adopt(container_id: str) -> None:
            try:
                pid = await source.process(container_id)
            except NotFound:
                return
            self.adopted(container_id, pid)

        patient = Backoff(first=0.5, most=5.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(follow, Wake(), resync=1.0, backoff=patient, name="the runtime's events"))
            group.create_task(by_key(settle, self._ended, workers=8, name="exit of container"))
            group.create_task(by_key(adopt, self._strangers, workers=4, name="container"))

    def _tell(self, container_id: str) -> None:
        if container_id in self._pods:
            self.say(Hint(self._pods[container_id], container_id))
