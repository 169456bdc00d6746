"""Saying to the API what `kubelet.nodestatus.node` words: registration, then a status that stays true.

Registration creates the object with labels and taints; if it exists, only what the kubelet owns is put right (labels;
taints are the author's from then on). The status goes by PATCH, every `nodeStatusUpdateFrequency` when something
differs, at least every `nodeStatusReportFrequency`. Each change of a condition is told by an Event, and so is another boot
than the one the API knew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kube.client import Client, Patch
from kube.core import Node
from kube.errors import AlreadyExists, NotFound
from kube.events import Recorder, Reference
from kube.resources import NODES
from kubelet.config import Config
from kubelet.nodestatus import node
from kubelet.nodestatus.machine import Pressure
from kubelet.nodestatus.node import Portrait, Verdict
from kubelet.runtime import Image, RuntimeStatus

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Speaker:
    """Registers the node and keeps its status true. `sync` is one pass for the loop; `problems` are the kubelet's own reasons
    not to be ready."""

    client: Client
    recorder: Recorder
    portrait: Callable[[], Awaitable[Portrait]]
    runtime_status: Callable[[], Awaitable[RuntimeStatus]]
    images: Callable[[], Awaitable[Sequence[Image]]]
    pressure: Callable[[], Awaitable[Pressure]]
    problems: Callable[[], Sequence[str]]
    clock: Callable[[], datetime]
    name: str
    config: Config
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    known: Node | None = None
    """The Node as the API last showed it."""
    felt: Pressure = field(default_factory=Pressure)
    """The pressures that were last told."""
    _said: dict[str, Any] = field(default_factory=dict)
    _said_at: datetime | None = None
    _verdicts: dict[str, Verdict] = field(default_factory=dict)
    _pressed: dict[str, datetime] = field(default_factory=dict)  # when each pressure was last felt

    async def sync(self) -> float | None:
        portrait = await self.portrait()
        if not self.registered.is_set():
            await self._register(portrait)
        now = self.clock().replace(microsecond=0)
        try:
            known = await self.client.get(NODES, self.name)
        except NotFound:
            # Somebody deleted it (kubectl delete node): a living kubelet comes back.
            self.registered.clear()
            return 0.0 if self.config.register_node else None
        if self.known is None:
            self._rebooted(known, portrait.machine.boot_id)
        self.known = known
        runtime = await self.runtime_status()
        self.felt = self._lasting(await self.pressure(), now)
        found = node.verdicts(self.felt, runtime, self.problems())
        images = (
            node.image_list(await self.images(), self.config.node_status_max_images)
            if runtime.runtime_ready
            else self._said.get("images", [])
        )
        said = node.conditions(known.status.conditions, found, now)
        status = {**portrait.fixed(), **node.runtime_facts(runtime), "images": images, "conditions": said}
        if self._differs(status, known) or self._due(now):
            body = _patch(status, known)
            await self.client.patch(NODES, self.name, body, kind=Patch.STRATEGIC, subresource="status")
            self._said, self._said_at = status, now
        self._tell(found)
        # A node that is not ready has somebody waiting for it.
        pause = self.config.node_status_update_frequency
        return pause if found["Ready"].status else min(0.5, pause)

    def _lasting(self, felt: Pressure, now: datetime) -> Pressure:
        """A pressure stays for `evictionPressureTransitionPeriod`, so that the condition does not flap."""
        span = timedelta(seconds=self.config.eviction_pressure_transition_period)
        for kind, there in (("memory", felt.memory), ("disk", felt.disk), ("pids", felt.pids)):
            if there:
                self._pressed[kind] = now
        lasting = {kind for kind, last in self._pressed.items() if now - last < span or last == now}
        return Pressure(*(kind in lasting for kind in ("memory", "disk", "pids")))

    def _due(self, now: datetime) -> bool:
        limit = self.config.node_status_report_frequency
        return self._said_at is None or (now - self._said_at).total_seconds() >= limit

    def _differs(self, status: Mapping[str, Any], known: Node) -> bool:
        if _quiet(status) != _quiet(self._said):
            return True
        theirs = {c.type: (str(c.status), c.reason, c.message) for c in known.status.conditions}
        return any(theirs.get(c["type"]) != (c["status"], c["reason"], c["message"]) for c in status["conditions"])

    def _tell(self, found: dict[str, Verdict]) -> None:
        for kind, verdict in found.items():
            before = self._verdicts.get(kind)
            if before is None or before.status != verdict.status:
                log.info("node %s: %s: %s", self.name, verdict.event, verdict.message)
                self._event("Normal", verdict.event, f"Node {self.name} status is now: {verdict.event}")
        self._verdicts = found

    def _rebooted(self, known: Node, boot: str) -> None:
        before = known.status.node_info.boot_id
        if before and boot and before != boot:
            self._event("Warning", "Rebooted", f"Node {self.name} has been rebooted, boot id: {boot}")

    def _event(self, kind: str, reason: str, message: str) -> None:
        about = Reference("v1", "Node", "", self.name, self.name)
        self.recorder.event(about, "Warning" if kind == "Warning" else "Normal", reason, message)

    async def _register(self, portrait: Portrait) -> None:
        if not self.config.register_node:
            self.registered.set()
            return
        body = node.registration(self.name, self.config, portrait.machine)
        try:
            await self.client.create(NODES, {**body, "status": portrait.fixed()})
            log.info("node %s is registered", self.name)
        except AlreadyExists:
            existing = await self.client.get(NODES, self.name)
            labels = body["metadata"]["labels"]
            wanted = {k: v for k, v in labels.items() if existing.metadata.labels.get(k) != v}
            if wanted:
                await self.client.patch(NODES, self.name, {"metadata": {"labels": wanted}}, kind=Patch.STRATEGIC)
        self.registered.set()


def _quiet(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without the times that move by themselves."""
    quiet = {key: value for key, value in status.items() if key != "conditions"}
    quiet["conditions"] = [
        {key: value for key, value in condition.items() if not key.endswith("Time")}
        for condition in status.get("conditions", ())
    ]
    return quiet


def _patch(status: Mapping[str, Any], known: Node) -> dict[str, Any]:
    """Addresses merge by type: of a type that has several, the whole list has to be replaced."""
    addresses = list(status.get("addresses", ()))
    if not addresses:
        return {"status": dict(status)}
    if len({a["type"] for a in addresses}) != len(addresses) or len(known.status.addresses) > len(addresses):
        addresses.append({"$patch": "replace"})
    return {"status": {**status, "addresses": addresses}}
