"""Docker's stream of events, as hints."""

from __future__ import annotations

from typing import Any

from kube.reconcile import Wake
from kubelet.docker import spec
from kubelet.docker.spec import Owner
from kubelet.docker.wire import Wire
from kubelet.hints import Hints
from kubelet.runtime import Hint, RuntimeUnavailable

_TELLING = frozenset({"create", "start", "die", "oom", "destroy"})


class Events:
    def __init__(self, wire: Wire, owner: Owner, hints: Hints) -> None:
        self._wire = wire
        self._owner = owner
        self._hints = hints
        self.sandbox_removed = Wake()

    async def follow(self) -> None:
        async for event in self._wire.events(self._owner.filters):
            if event is None:
                self._hints.flows()
            else:
                self._read(event)
        raise RuntimeUnavailable("docker: the stream of events has ended")

    def _read(self, event: dict[str, Any]) -> None:
        if event.get("Action") not in _TELLING:
            return
        actor = event.get("Actor") or {}
        labels = actor.get("Attributes") or {}
        self._hints.say(Hint(spec.pod_of(labels).uid, str(actor.get("ID", ""))))
        if event["Action"] == "destroy" and labels.get(spec.TYPE) == spec.SANDBOX:
            self.sandbox_removed.set()
