"""Carrying a resize out, and telling of it. What is decided, and in which order, is `kubelet.resize`."""

import json
import logging
from collections.abc import Callable, Iterable

from kube.errors import Retry
from kube.pods import Pod
from kubelet import resize
from kubelet.admission.gate import Gate
from kubelet.apply import Deeds
from kubelet.life import Life
from kubelet.model import Seen, StopContainer, Waiting
from kubelet.observe.view import RuntimeView
from kubelet.resize import Update
from kubelet.runtime import RuntimeRefused
from kubelet.told import Told

log = logging.getLogger(__name__)


class Resizing:
    def __init__(
        self, gate: Gate, deeds: Deeds, view: RuntimeView, told: Told, others: Callable[[Life, Pod], Iterable[Pod]]
    ) -> None:
        """`others(life, pod)` are those beside whom the pod has to fit."""
        self._gate = gate
        self._deeds = deeds
        self._view = view
        self._told = told
        self._others = others

    def decide(self, life: Life) -> Pod | None:
        """Give the pod what it asks for, or say why not. The pod as it is allocated."""
        wanted, pod = life.wanted, life.pod
        if wanted is None or pod is None or wanted is pod or not resize.changed(wanted, life.allocation):
            life.pending = None
            return pod
        ground = self._gate.ground()
        why = resize.objection(wanted, self._others(life, wanted), ground)
        if why is not None:
            if life.pending is None or life.pending.reason != why.reason:
                self._tell(wanted, "Warning", f"Resize{why.reason}", f"{why.reason.lower()}: {why.message}")
            life.pending = why
            return pod
        life.pending = None
        life.before = life.before or pod
        life.resizing = Waiting("")
        life.allocation = resize.asked(wanted)
        life.take(wanted)
        self._tell(wanted, "Normal", "ResizeStarted", "started")
        return life.pod

    async def carry_out(self, life: Life, pod: Pod, seen: Seen) -> tuple[StopContainer, ...]:
        """One step of a resize that is under way: what has to be stopped for it, or nothing, because it was done or failed.
        Raises Retry when it is to be tried again later."""
        place = self._deeds.place
        todo = resize.updates(pod, seen, place.memory, place.policy)
        names = [(one.id, one.container.name) for one in todo if one.restart]
        if names:
            return tuple(StopContainer(i, n, f"Container {n} resize requires restart", again=True) for i, n in names)
        for update in todo:
            problem = await self._update(life, update)
            if problem:
                self._failed(life, pod, problem)
                raise Retry(f"resizing pod {pod.metadata.key}: {problem}")
        await self._deeds.regroup(pod)
        life.before = life.resizing = None
        self._tell(pod, "Normal", "ResizeCompleted", "completed")
        return ()

    async def _update(self, life: Life, update: Update) -> str:
        """What went wrong; empty when nothing did."""
        if update.less_memory and (used := await self._deeds.memory_in_use(update.cgroup)) > update.wanted.memory_limit:
            limit = update.wanted.memory_limit
            return f"attempting to set container memory limit ({limit}) below current usage ({used})"
        try:
            await self._deeds.update(update.id, update.wanted)
        except (RuntimeRefused, Retry) as error:
            return str(error)
        await self._view.learn(life.uid, container=update.id)
        return ""

    def _failed(self, life: Life, pod: Pod, problem: str) -> None:
        if life.resizing is None or life.resizing.message != problem:
            self._tell(pod, "Warning", "ResizeError", f"error: {problem}")
        life.resizing = Waiting("Error", problem)

    def _tell(self, pod: Pod, kind: str, reason: str, words: str) -> None:
        given = [
            {
                "name": name,
                "resources": {
                    key: amounts for key, amounts in (("limits", own.limits), ("requests", own.requests)) if amounts
                },
            }
            for name, own in resize.asked(pod).items()
        ]
        detail = json.dumps({"containers": given, "generation": pod.metadata.generation}, separators=(",", ":"))
        self._told.pod(pod, kind, reason, f"Pod resize {words} {detail}")
