"""The Node object: what this machine is, what it can carry, and whether it is ready to. Pure; `speaker` says it.

    capacity       the machine's
    allocatable    less kubeReserved, systemReserved, the hard eviction thresholds, and huge pages (of memory)
    conditions     MemoryPressure, DiskPressure, PIDPressure, and Ready as the last, as upstream orders them

Ready is False while the runtime or the pod network is not, or while nobody has seen the runtime for too long.
(pkg/kubelet/kubelet_node_status.go, nodestatus/setters.go, cm/node_container_manager_linux.go)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from kube import labels, quantity
from kube.meta import Condition, timestamp
from kube.version import GIT_VERSION
from kubelet.config import Config, Taint
from kubelet.nodestatus.machine import Machine, Pressure, amount
from kubelet.runtime import Image, RuntimeStatus, RuntimeVersion

NAMES_PER_IMAGE = 5
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
DECLARED = ("ExtendWebSocketsToKubelet",)
"""Features an API server may ask a node about before it relies on them."""
UNINITIALIZED = {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"}
PROVIDED_IP = "alpha.kubernetes.io/provided-node-ip"
STORAGE = "ephemeral-storage"


def architecture(machine: str) -> str:
    return ARCHITECTURES.get(machine, machine)


# --- what it carries --------------------------------------------------------------------------------------------------


def capacity(config: Config, machine: Machine) -> dict[str, str]:
    pods = min(config.max_pods, config.pods_per_core * machine.cpus) if config.pods_per_core else config.max_pods
    whole = {"cpu": str(machine.cpus), "memory": f"{machine.memory // 1024}Ki", "pods": str(pods)}
    if config.local_storage_capacity_isolation:
        whole[STORAGE] = f"{machine.storage // 1024}Ki"
    for size, count in machine.hugepages.items():
        whole[f"hugepages-{quantity.binary(size)}"] = quantity.binary(size * count) if count else "0"
    return whole


def allocatable(config: Config, machine: Machine) -> dict[str, str]:
    """What pods may ask for in all, never below nothing."""
    thresholds = {"memory": "memory.available", STORAGE: "nodefs.available"}
    left: dict[str, str] = {}
    for name, text in capacity(config, machine).items():
        whole = quantity.parse(text)
        rest = whole - sum(
            quantity.parse(part.get(name, "0")) for part in (config.kube_reserved, config.system_reserved)
        )
        if threshold := config.thresholds.get(thresholds.get(name, "")):
            rest -= int(amount(threshold, float(whole)))
        if name == "memory":
            rest -= sum(size * count for size, count in machine.hugepages.items())
        left[name] = _written(name, max(rest, Fraction(0)))
    return left


def _written(name: str, value: Fraction) -> str:
    if name == "cpu":
        return quantity.decimal(value)
    if name == "memory":
        return f"{int(value) // 1024}Ki"
    return quantity.binary(int(value)) if name.startswith("hugepages-") else str(int(value))


# --- who it is --------------------------------------------------------------------------------------------------------


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
    metadata: dict[str, Any] = {"name": name, "labels": node_labels(name, machine, config.node_labels)}
    spec: dict[str, Any] = {}
    taints = [taint_of(taint) for taint in config.register_with_taints]
    if config.cloud_provider == "external":
        taints.append(UNINITIALIZED)
        if config.node_ips:
            metadata["annotations"] = {PROVIDED_IP: ",".join(config.node_ips)}
    if taints:
        spec["taints"] = taints
    if config.provider_id:
        spec["providerID"] = config.provider_id
    return {"metadata": metadata, "spec": spec}


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
        runtime = f"{self.version.name}://{self.version.version}" if self.version else ""
        status: dict[str, Any] = {
            "capacity": capacity(config, machine),
            "allocatable": allocatable(config, machine),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
            "declaredFeatures": list(DECLARED),
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
            }
            | ({"swap": {"capacity": machine.swap}} if machine.swap else {}),
        }
        if config.cloud_provider != "external" or config.node_ips:  # else a controller of the cloud says them
            status["addresses"] = [
                *({"type": "InternalIP", "address": address} for address in self.addresses),
                {"type": "Hostname", "address": self.name},
            ]
        return status


def image_list(images: Sequence[Image], most: int) -> list[dict[str, Any]]:
    """The largest images, as the scheduler's image locality reads them; -1 is all."""
    largest = sorted((i for i in images if i.tags or i.digests), key=lambda i: (-i.size, i.id))
    chosen = largest if most < 0 else largest[:most]
    return [{"names": [*i.digests, *i.tags][:NAMES_PER_IMAGE], "sizeBytes": i.size} for i in chosen]


def runtime_facts(runtime: RuntimeStatus) -> dict[str, Any]:
    """The runtime's handlers, which RuntimeClasses name. A feature is what runtime and kubelet do together, and this kubelet
    refuses pods that ask for one of these (`kubelet.admission.refusals`, admission): no runtime can make them true."""
    none = {"recursiveReadOnlyMounts": False, "userNamespaces": False}
    handlers = [{"name": name, "features": none} for name in sorted(runtime.handlers)]
    facts: dict[str, Any] = {"runtimeHandlers": handlers} if handlers else {}
    return facts | {"features": {"supplementalGroupsPolicy": False}}


# --- how it fares -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition; `event` is the reason of the Event that tells of its coming."""

    status: bool
    reason: str
    message: str
    event: str


def verdicts(pressure: Pressure, runtime: RuntimeStatus, problems: Sequence[str] = ()) -> dict[str, Verdict]:
    """The four conditions, Ready last. `problems` are the kubelet's own."""
    return {
        "MemoryPressure": Verdict(
            True,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "NodeHasInsufficientMemory",
        )
        if pressure.memory
        else Verdict(
            False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory"
        ),
        "DiskPressure": Verdict(True, "KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure")
        if pressure.disk
        else Verdict(False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"),
        "PIDPressure": Verdict(
            True, "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"
        )
        if pressure.pids
        else Verdict(False, "KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"),
        "Ready": _ready(runtime, problems),
    }


def conditions(before: Sequence[Condition], found: Mapping[str, Verdict], now: datetime) -> list[dict[str, Any]]:
    """As the API takes them; lastTransitionTime moves only with the status."""
    known = {condition.type: condition for condition in before}
    result = []
    for kind, verdict in found.items():
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


def _ready(runtime: RuntimeStatus, more: Sequence[str]) -> Verdict:
    problems = []
    if not runtime.runtime_ready:
        problems.append(f"container runtime is down: {runtime.runtime_message}")
    problems += more
    if not runtime.network_ready:
        problems.append(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            f"message:{runtime.network_message or 'unknown while the runtime is down'}"
        )
    if problems:
        message = f"[{', '.join(problems)}]" if len(problems) > 1 else problems[0]
        return Verdict(False, "KubeletNotReady", message, "NodeNotReady")
    return Verdict(True, "KubeletReady", "kubelet is posting ready status", "NodeReady")
