"""Hints from Docker: what died (pidfds, at once) and what else happened (the events stream).

Both may fail without harm, because the relist is the truth: the stream is opened again with back-off, and when it is, one
hint about everything covers what was missed. Running containers that a list shows for the first time, as all do after a
restart of the kubelet, are adopted: looked at once for their process, which is then watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from kube.reconcile import Backoff, Keys, Wake, by_key, forever
from kubelet.docker import spec
from kubelet.docker.containers import Containers
from kubelet.docker.sandboxes import Sandboxes
from kubelet.docker.spec import Owner
from kubelet.docker.wire import Wire
from kubelet.runtime import EVERYTHING, Hint, NotFound, RuntimeUnavailable

SWEEP = 60.0
_TELLING = frozenset({"create", "start", "die", "oom", "destroy"})


class Hints:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._notify: Callable[[Hint], None] | None = None
        self._pods: dict[str, str] = {}  # container id -> pod uid
        self._ended: Keys[str] = Keys()
        self._strangers: Keys[str] = Keys()
        self._seen: set[str] = set()
        self._sweep = Wake()
        self._flowing = False

    def flowing(self) -> bool:
        return self._flowing

    def made(self, container_id: str, pod_uid: str) -> None:
        """One of ours, whose process is watched when it starts."""
        self._pods[container_id] = pod_uid
        self._seen.add(container_id)

    def exited(self, container_id: str) -> None:
        self._ended.add(container_id)

    def known(self) -> set[str]:
        return set(self._pods)

    def listed(self, container_id: str, pod_uid: str, *, running: bool) -> None:
        self._pods[container_id] = pod_uid
        if running and container_id not in self._seen:
            self._seen.add(container_id)
            self._strangers.add(container_id)

    def forget(self, container_ids: Iterable[str], containers: Containers) -> None:
        for container_id in container_ids:
            self._pods.pop(container_id, None)
            self._seen.discard(container_id)
            containers.exits.forget(container_id)

    async def run(self, notify: Callable[[Hint], None], containers: Containers, sandboxes: Sandboxes) -> None:
        """Until cancelled."""
        self._notify = notify

        async def settle(container_id: str) -> None:
            try:
                await containers.settled("container_status", container_id)
            finally:
                self._tell(container_id)

        async def adopt(container_id: str) -> None:
            try:
                document = await containers.inspect("container_status", container_id)
            except NotFound:
                return
            if not containers.exits.watch(container_id, document["State"]["Pid"]):
                self._tell(container_id)

        patient = Backoff(first=0.5, most=5.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(lambda: self._follow(containers.owner), Wake(), resync=1.0, backoff=patient))
            group.create_task(by_key(settle, self._ended, workers=8, name="exit of container"))
            group.create_task(by_key(adopt, self._strangers, workers=2, name="container"))
            group.create_task(forever(sandboxes.sweep, self._sweep, resync=SWEEP, min_interval=1.0))

    async def _follow(self, owner: Owner) -> float:
        try:
            async for event in self._wire.events(owner.filters):
                if event is None:
                    self._flowing = True
                    self._say(EVERYTHING)
                else:
                    self._read(event)
        finally:
            self._flowing = False
        raise RuntimeUnavailable("docker: the stream of events has ended")

    def _read(self, event: dict[str, Any]) -> None:
        if event.get("Action") not in _TELLING:
            return
        actor = event.get("Actor") or {}
        labels = actor.get("Attributes") or {}
        self._say(Hint(spec.pod_of(labels).uid, str(actor.get("ID", ""))))
        if event["Action"] == "destroy" and labels.get(spec.TYPE) == spec.SANDBOX:
            self._sweep.set()

    def _tell(self, container_id: str) -> None:
        if container_id in self._pods:
            self._say(Hint(self._pods[container_id], container_id))

    def _say(self, hint: Hint) -> None:
        if self._notify is not None:
            self._notify(hint)
