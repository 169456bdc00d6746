"""enforceNodeAllocatable: all pods together are held to what is not reserved, so that daemons and the system keep theirs.

The group above all pods (`kubepods`) gets the node's CPU weight and memory less kubeReserved and systemReserved; the eviction
thresholds are not taken off, they are room to act in. It is written at the start and each minute: what an earlier kubelet or
somebody else has left there is put right. (pkg/kubelet/cm/node_container_manager_linux.go)
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kube import quantity
from kube.errors import UsageError
from kubelet import resources
from kubelet.config import Config
from kubelet.nodestatus.machine import Machine
from linux.cgroup import tree

log = logging.getLogger(__name__)

PERIOD = 60.0
UNLIMITED = -1

Tell = Callable[[str, str, str], None]
"""Of an Event about the Node: type, reason, message."""


def check(config: Config, machine: Machine) -> None:
    """Raises UsageError when more is reserved than there is."""
    for name, read, whole in (
        ("cpu", quantity.milli, machine.cpus * 1000),
        ("memory", quantity.integer, machine.memory),
        ("ephemeral-storage", quantity.integer, machine.storage),
    ):
        if _reserved(config, name, read) >= whole:
            asked = [part[name] for part in (config.kube_reserved, config.system_reserved) if name in part]
            have = machine.cpus if name == "cpu" else quantity.binary(whole)
            raise UsageError(
                f"kubeReserved, systemReserved: {name}: {' + '.join(asked)} is reserved, and this machine has {have}; "
                "leave some for pods"
            )


def limits(config: Config, machine: Machine) -> tree.Limits:
    """What all pods together may use. Pure."""
    if "pods" not in config.enforce_node_allocatable:
        return tree.Limits(memory_bytes=UNLIMITED, pids=UNLIMITED)
    cpu = machine.cpus * 1000 - _reserved(config, "cpu", quantity.milli)
    memory = machine.memory - _reserved(config, "memory", quantity.integer)
    pids = _reserved(config, "pid", quantity.integer)
    return tree.Limits(
        cpu_shares=max(resources.MIN_SHARES, cpu * 1024 // 1000),
        memory_bytes=max(0, memory),
        pids=max(1, machine.pids - pids) if pids and machine.pids else UNLIMITED,
    )


def _reserved(config: Config, name: str, read: Callable[[str], int]) -> int:
    return sum(read(part[name]) for part in (config.kube_reserved, config.system_reserved) if name in part)


@dataclass(slots=True)
class Enforcer:
    """`sync` is one pass for the loop; it blocks for as long as a few writes to cgroup files."""

    trees: tree.Hierarchies
    group: str
    limits: tree.Limits
    tell: Tell
    _said: str | None = None

    async def sync(self) -> float:
        failure = ""
        try:
            tree.create(self.trees, self.group, self.limits)
        except OSError as error:
            failure = error.strerror or str(error)  # more is in use than is allowed by now: tried again
        if failure != self._said:
            self._said = failure
            if failure:
                log.warning("%s is not held to the node's allocatable: %s", self.group, failure)
                words = f"Failed to update Node Allocatable Limits {self.group!r}: {failure}"
                self.tell("Warning", "FailedNodeAllocatableEnforcement", words)
            else:
                self.tell("Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
        return PERIOD
