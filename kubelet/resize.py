"""Changing the resources of containers that run: pure (KEP-1287; pkg/kubelet/allocation, kuberuntime's doPodResizeAction).

    asked      spec.containers[].resources, by the `resize` subresource
    allocated  what the node has promised: the pod as every other part of the kubelet sees it
    in force   what the runtime and the kernel hold containers to

    asked differs from allocated:   more than the node has at all    PodResizePending, Infeasible
                                    no room beside the others now    PodResizePending, Deferred, tried again when somebody goes
                                    otherwise                        allocated = asked
    allocated differs from in force: PodResizeInProgress: the pod's group grows first, containers are changed (those that get
                                    less before those that get more), the pod's group shrinks last. A container whose
                                    resizePolicy says RestartContainer is stopped and comes back with what is allocated.

Nothing of this is on disk: the API's status tells a kubelet that starts anew what was allocated.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from kube.pods import Container, ContainerStatus, Pod, ResourceRequirements
from kubelet import resources
from kubelet.admission.fit import Ground, counted, room_of, shortages
from kubelet.model import Seen, Waiting
from kubelet.plan import is_sidecar, is_static, reported
from kubelet.resources import Policy
from kubelet.runtime import ContainerState, LinuxResources
from linux.cgroup.tree import Limits

Allocation = Mapping[str, ResourceRequirements]


@dataclass(frozen=True, slots=True)
class Update:
    """One container that runs with other values than it was allocated."""

    id: str
    container: Container
    wanted: LinuxResources
    real: LinuxResources
    cgroup: str
    restart: bool

    @property
    def less_memory(self) -> bool:
        return self.wanted.memory_limit > 0 and not 0 < self.real.memory_limit <= self.wanted.memory_limit


def resizable(pod: Pod) -> tuple[Container, ...]:
    if is_static(pod):
        return ()
    return (*pod.spec.containers, *(c for c in pod.spec.init_containers if is_sidecar(c)))


def asked(pod: Pod) -> dict[str, ResourceRequirements]:
    return {container.name: container.resources for container in resizable(pod)}


def remembered(pod: Pod) -> dict[str, ResourceRequirements]:
    """What was allocated to a pod, as its status tells; to one that has not started, what it asks for."""
    return {
        container.name: _told(reported(pod.status, container.name)) or container.resources
        for container in resizable(pod)
    }


def _told(status: ContainerStatus | None) -> ResourceRequirements | None:
    if status is None or status.resources is None or status.state.running is None:
        return None
    return msgspec.structs.replace(status.resources, requests=status.allocated_resources)


def as_allocated(pod: Pod, allocation: Allocation) -> Pod:
    """The pod with what it was given in place of what it asks for."""

    def given(container: Container) -> Container:
        own = allocation.get(container.name)
        if own is None or same(own, container.resources):
            return container
        return msgspec.structs.replace(container, resources=own)

    containers = tuple(given(c) for c in pod.spec.containers)
    inits = tuple(given(c) if is_sidecar(c) else c for c in pod.spec.init_containers)
    if containers == pod.spec.containers and inits == pod.spec.init_containers:
        return pod
    spec = msgspec.structs.replace(pod.spec, containers=containers, init_containers=inits)
    return msgspec.structs.replace(pod, spec=spec)


def same(one: ResourceRequirements, other: ResourceRequirements) -> bool:
    """By value, not by spelling."""
    return one == other or _amounts(one) == _amounts(other)


def _amounts(given: ResourceRequirements) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    return resources.amounts_of(given.limits), resources.amounts_of(given.requests)


def changed(pod: Pod, allocation: Allocation) -> bool:
    return any(name in allocation and not same(own, allocation[name]) for name, own in asked(pod).items())


def objection(pod: Pod, others: Iterable[Pod], ground: Ground) -> Waiting | None:
    """Why the pod does not get what it asks for now; None when it does."""
    room, wanted = room_of(ground), counted(pod)
    for name in ("cpu", "memory"):
        if wanted.get(name, 0) > room.get(name, 0):
            message = (
                f"Node didn't have enough capacity: {name}, requested: {wanted[name]}, capacity: {room.get(name, 0)}"
            )
            return Waiting("Infeasible", message)
    lacking = next((one for one in shortages(pod, tuple(others), ground) if one.resource != "pods"), None)
    return Waiting("Deferred", lacking.words) if lacking is not None else None


def updates(pod: Pod, seen: Seen, node_memory: int, policy: Policy) -> tuple[Update, ...]:
    """Of the containers that run, those to be changed; who gets less goes first."""
    found = list(_updates(pod, seen, node_memory, policy))
    return tuple(sorted(found, key=lambda one: not one.less_memory))


def _updates(pod: Pod, seen: Seen, node_memory: int, policy: Policy) -> Iterator[Update]:
    for container in resizable(pod):
        latest = seen.latest(container.name)
        if latest is None or latest.state is not ContainerState.RUNNING or latest.resources is None:
            continue
        wanted, real = resources.container_resources(pod, container, node_memory, policy), latest.resources
        cpu = (wanted.cpu_shares, max(0, wanted.cpu_quota)) != (real.cpu_shares, max(0, real.cpu_quota))
        memory = wanted.memory_limit != max(0, real.memory_limit)
        if cpu or memory:
            restarts = {
                one.resource_name for one in container.resize_policy if one.restart_policy == "RestartContainer"
            }
            restart = (cpu and "cpu" in restarts) or (memory and "memory" in restarts)
            yield Update(latest.id, container, wanted, real, latest.cgroup, restart)


def widest(one: Limits, other: Limits) -> Limits:
    """Limits under which both sets of containers can live."""

    def most(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else max(a, b)

    return Limits(
        cpu_shares=max(one.cpu_shares or 0, other.cpu_shares or 0) or None,
        cpu_quota_us=most(one.cpu_quota_us, other.cpu_quota_us),
        cpu_period_us=other.cpu_period_us,
        memory_bytes=most(one.memory_bytes, other.memory_bytes),
        pids=other.pids,
    )
