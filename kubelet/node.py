"""The Node object: what this machine is, what it can carry, and whether it is ready to. Mostly pure; `Speaker` says it
to the API.
 Registration creates the object with labels and taints; if it exists, only what the kubelet owns is put right (labels;
taints are the author's from then on). The status goes by PATCH, every `nodeStatusUpdateFrequency` when something
differs, at least every `nodeStatusReportFrequency`. Ready is the last condition, as upstream orders them, and is False
while the runtime or the pod network is not. (pkg/kubelet/kubelet_node_status.go, nodestatus/setters.go)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kube import labels, quantity
from kube.client import Client, Patch
from kube.core import Node
from kube.errors import AlreadyExists, NotFound
from kube.events import Recorder, Reference
from kube.meta import Condition, timestamp
from kube.resources import NODES
from kube.version import GIT_VERSION
from kubelet.config import Config, Taint
from kubelet.machine import Machine, Pressure
from kubelet.runtime import Image, RuntimeStatus, RuntimeVersion

log = logging.getLogger(__name__)

MAX_IMAGES = 50
NAMES_PER_IMAGE = 5
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


def architecture(machine: str) -> str:
    return ARCHITECTURES.get(machine, machine)


def capacity(machine: Machine, max_pods: int) -> dict[str, str]:
    return {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "pods": str(max_pods),
        "ephemeral-storage": f"{machine.storage // 1024}Ki",
    }


def allocatable(whole: Mapping[str, str], *reserved: Mapping[str, str]) -> dict[str, str]:
    """Capacity less what is reserved, never below nothing."""
    left: dict[str, str] = {}
    for name, amount in whole.items():
        rest = quantity.parse(amount) - sum(quantity.parse(part.get(name, "0")) for part in reserved)
        rest = max(rest, quantity.parse("0"))
        if name == "cpu":
            left[name] = quantity.decimal(rest)
        elif name == "memory":
            left[name] = f"{int(rest) // 1024}Ki"
        else:
            left[name] = str(int(rest))
    return left


def node_labels(name: str, machine: Machine, own: Mapping[str, str]) -> dict[str, str]:
    arch = architecture(machine.machine)
    return {
        labels.HOSTNAME: name,
        labels.OS: "linux",
        labels.ARCH: arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
        **own,
    }


def taint_of(text: str | Taint) -> dict[str, str]:
    """`key=value:Effect` or `key:Effect`."""
    if isinstance(text, Taint):
        return {"key": text.key, "effect": text.effect} | ({"value": text.value} if text.value else {})
    rest, _, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def registration(name: str, config: Config, machine: Machine) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if config.register_with_taints:
        spec["taints"] = [taint_of(taint) for taint in config.register_with_taints]
    return {"metadata": {"name": name, "labels": node_labels(name, machine, config.node_labels)}, "spec": spec}


def image_list(images: Sequence[Image]) -> list[dict[str, Any]]:
    """The largest images, as the scheduler's image locality reads them."""
    largest = sorted((i for i in images if i.tags or i.digests), key=lambda i: (-i.size, i.id))[:MAX_IMAGES]
    return [{"names": [*i.digests, *i.tags][:NAMES_PER_IMAGE], "sizeBytes": i.size} for i in largest]


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: bool
    reason: str
    message: str


def conditions(
    before: Sequence[Condition], pressure: Pressure, runtime: RuntimeStatus, now: datetime
) -> list[dict[str, Any]]:
    """The four conditions, Ready last; lastTransitionTime moves only with the status."""
    verdicts = {
        "MemoryPressure": _Verdict(True, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
        if pressure.memory
        else _Verdict(False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": _Verdict(True, "KubeletHasDiskPressure", "kubelet has disk pressure")
        if pressure.disk
        else _Verdict(False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": _Verdict(True, "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
        if pressure.pids
        else _Verdict(False, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": _ready(runtime),
    }
    known = {condition.type: condition for condition in before}
    result = []
    for kind, verdict in verdicts.items():
        word, old = str(verdict.status), known.get(kind)
        since = old.last_transition_time if old is not None and old.status == word else now
        result.append(
            {
                "type": kind,
                "status": word,
                "reason": verdict.reason,
                "message": verdict.message,
                "lastHeartbeatTime": timestamp(now),
                "lastTransitionTime": timestamp(since or now),
            }
        )
    return result


def _ready(runtime: RuntimeStatus) -> _Verdict:
    problems = []
    if not runtime.runtime_ready:
        problems.append(f"container runtime is down: {runtime.runtime_message}")
    if not runtime.network_ready:
        problems.append(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            f"message:{runtime.network_message or 'unknown while the runtime is down'}"
        )
    if problems:
        return _Verdict(False, "KubeletNotReady", f"[{', '.join(problems)}]" if len(problems) > 1 else problems[0])
    return _Verdict(True, "KubeletReady", "kubelet is posting ready status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """What does not change while the kubelet runs."""

    name: str
    config: Config
    machine: Machine
    addresses: tuple[str, ...]
    version: RuntimeVersion | None = None

    def fixed(self) -> dict[str, Any]:
        machine, config = self.machine, self.config
        whole = capacity(machine, config.max_pods)
        runtime = f"{self.version.name}://{self.version.version}" if self.version else ""
        return {
            "capacity": whole,
            "allocatable": allocatable(whole, config.kube_reserved, config.system_reserved),
            "addresses": [
                *({"type": "InternalIP", "address": address} for address in self.addresses),
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
            "nodeInfo": {
                "machineID": machine.machine_id,
                "systemUUID": machine.system_uuid,
                "bootID": machine.boot_id,
                "kernelVersion": machine.kernel,
                "osImage": machine.os_image,
                "containerRuntimeVersion": runtime,
                "kubeletVersion": GIT_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": architecture(machine.machine),
            },
        }


@dataclass(slots=True)
class Speaker:
    """Registers the node and keeps its status true. `sync` is one pass for the loop."""

    client: Client
    recorder: Recorder
    portrait: Callable[[], Awaitable[Portrait]]
    runtime_status: Callable[[], Awaitable[RuntimeStatus]]
    images: Callable[[], Awaitable[Sequence[Image]]]
    pressure: Callable[[], Pressure]
    clock: Callable[[], datetime]
    name: str
    config: Config
    _said: dict[str, Any] = field(default_factory=dict)
    _said_at: datetime | None = None
    _ready: bool | None = None
    registered: asyncio.Event = field(default_factory=asyncio.Event)

    async def sync(self) -> float | None:
        portrait = await self.portrait()
        if not self.registered.is_set():
            await self._register(portrait)
        now = self.clock().replace(microsecond=0)
        try:
            node = await self.client.get(NODES, self.name)
        except NotFound:
            # Somebody deleted it (kubectl delete node): a living kubelet comes back.
            self.registered.clear()
            return 0.0 if self.config.register_node else None
        runtime = await self.runtime_status()
        said = conditions(node.status.conditions, self.pressure(), runtime, now)
        images = image_list(await self.images()) if runtime.runtime_ready else self._said.get("images", [])
        status = {**portrait.fixed(), "images": images, "conditions": said}
        if self._differs(status, node) or self._due(now):
            await self.client.patch(NODES, self.name, _patch(status, node), kind=Patch.STRATEGIC, subresource="status")
            self._said, self._said_at = status, now
        self._tell(runtime, said[-1]["message"])
        # A node that is not ready has somebody waiting for it.
        return (
            self.config.node_status_update_frequency
            if self._ready
            else min(0.5, self.config.node_status_update_frequency)
        )

    def _due(self, now: datetime) -> bool:
        limit = self.config.node_status_report_frequency
        return self._said_at is None or (now - self._said_at).total_seconds() >= limit

    def _differs(self, status: Mapping[str, Any], node: Node) -> bool:
        if _quiet(status) != _quiet(self._said):
            return True
        theirs = {c.type: (str(c.status), c.reason, c.message) for c in node.status.conditions}
        return any(theirs.get(c["type"]) != (c["status"], c["reason"], c["message"]) for c in status["conditions"])

    def _tell(self, runtime: RuntimeStatus, message: str) -> None:
        ready = runtime.runtime_ready and runtime.network_ready
        if ready is not self._ready:
            self._ready = ready
            word = "NodeReady" if ready else "NodeNotReady"
            log.info("node %s: %s: %s", self.name, word, message)
            about = Reference("v1", "Node", "", self.name, self.name)
            self.recorder.event(about, "Normal", word, f"Node {self.name} status is now: {word}")

    async def _register(self, portrait: Portrait) -> None:
        if not self.config.register_node:
            self.registered.set()
            return
        body = registration(self.name, self.config, portrait.machine)
        try:
            await self.client.create(NODES, {**body, "status": portrait.fixed()})
            log.info("node %s is registered", self.name)
        except AlreadyExists:
            existing = await self.client.get(NODES, self.name)
            wanted = {k: v for k, v in body["metadata"]["labels"].items() if existing.metadata.labels.get(k) != v}
            if wanted:
                await self.client.patch(NODES, self.name, {"metadata": {"labels": wanted}})
        self.registered.set()


def _quiet(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without the times that move by themselves."""
    quiet = {key: value for key, value in status.items() if key != "conditions"}
    quiet["conditions"] = [
        {key: value for key, value in condition.items() if not key.endswith("Time")}
        for condition in status.get("conditions", ())
    ]
    return quiet


def _patch(status: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """Addresses merge by type: of a type that has several, the whole list has to be replaced."""
    addresses = list(status["addresses"])
    if len({a["type"] for a in addresses}) != len(addresses) or len(node.status.addresses) > len(addresses):
        addresses.append({"$patch": "replace"})
    return {"status": {**status, "addresses": addresses}}
