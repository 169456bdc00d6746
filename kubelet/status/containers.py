"""What is told of each container (convertToAPIContainerStatuses, normalizeStatus).

seen by the runtime          its newest state; lastState is the newest dead one before it
not seen, never told of      waiting: ContainerCreating, or PodInitializing where the pod has init containers
not seen, told as ended      as it was told
not seen, told as running    lost: terminated as ContainerStatusUnknown with exit code 137, in lastState while the pod lives
held back, refused, in back-off   waiting with the reason; the end it waits after moves to lastState
"""

from fractions import Fraction

import msgspec

from kube import quantity
from kube.pods import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    ContainerUser,
    LinuxContainerUser,
    Pod,
    ResourceRequirements,
    VolumeMountStatus,
)
from kubelet.model import Health, Stage, Verdict
from kubelet.plan import is_sidecar, reported
from kubelet.resources import amounts_of, canonical, container_resources
from kubelet.runtime import ContainerState as RuntimeState
from kubelet.runtime import ContainerStatus as RuntimeContainer
from kubelet.status.report import Report, second

LOST = "The container could not be located when the pod was terminated"
UNKNOWN_EXIT = 137
MESSAGES_OF_A_POD = 12 * 1024  # bytes of termination messages, shared by its containers

Statuses = tuple[ContainerStatus, ...]


def container_statuses(report: Report) -> tuple[Statuses, Statuses, Statuses]:
    """Of init containers in their order, of app and of ephemeral containers by name."""
    spec = report.pod.spec
    inits = tuple(_container(report, container, init=True) for container in spec.init_containers)
    apps = sorted((_container(report, container) for container in spec.containers), key=lambda s: s.name)
    guests = sorted(
        (_container(report, guest, guest=True) for guest in spec.ephemeral_containers), key=lambda s: s.name
    )
    return inits, tuple(apps), tuple(guests)


def _container(report: Report, container: Container, *, init: bool = False, guest: bool = False) -> ContainerStatus:
    history = report.seen.of(container.name)
    status = _known(report, container, history, init=init) if history else _unseen(report, container, init=init)
    waiting = report.waiting.get(container.name)
    if waiting is not None and not status.state.running:
        status = msgspec.structs.replace(
            status,
            state=ContainerState(waiting=ContainerStateWaiting(reason=waiting.reason, message=waiting.message)),
            last_state=status.state if status.state.terminated else status.last_state,
            ready=False,
        )
    if guest:
        return msgspec.structs.replace(status, ready=False, started=None)
    return status


# --- seen -------------------------------------------------------------------------------------------------------------


def _known(
    report: Report, container: Container, history: tuple[RuntimeContainer, ...], *, init: bool
) -> ContainerStatus:
    latest, before = history[0], reported(report.previous, container.name)
    once = init and not is_sidecar(container)  # ready means done
    dead = next((one for one in history[1:] if one.state is RuntimeState.EXITED), None)
    last = _terminated(report, dead) if dead is not None else (before.last_state if before else ContainerState())
    health = report.health.get(latest.id, Health())
    ready, started, state = False, False, ContainerState()
    match latest.state:
        case RuntimeState.RUNNING:
            state = ContainerState(running=ContainerStateRunning(started_at=second(latest.started_at)))
            started = health.startup is Verdict.SUCCESS
            ready = started and not once and health.readiness is Verdict.SUCCESS
        case RuntimeState.EXITED:
            state = _terminated(report, latest)
            ready = once and latest.exit_code == 0
        case RuntimeState.CREATED | RuntimeState.UNKNOWN:
            state = _not_yet(report)
            if latest.state is RuntimeState.UNKNOWN and report.stage is Stage.TERMINATED:
                state = _lost(_id(report, latest))
    return ContainerStatus(
        name=container.name,
        image=latest.image or container.image,
        image_id=latest.image_id,
        container_id=_id(report, latest),
        state=state,
        last_state=last if last != state else ContainerState(),
        ready=ready,
        restart_count=max(latest.attempt, before.restart_count if before else 0),
        started=started,
        volume_mounts=_volume_mounts(container),
        resources=None if once else _in_force(report, container, latest),
        allocated_resources={} if once else canonical(container.resources.requests),
        user=_user(latest),
    )


def _user(status: RuntimeContainer) -> ContainerUser | None:
    if status.user is None:
        return None
    groups = tuple(sorted(status.user.supplemental_groups))
    return ContainerUser(linux=LinuxContainerUser(uid=status.user.uid, gid=status.user.gid, supplemental_groups=groups))


def _in_force(report: Report, container: Container, status: RuntimeContainer) -> ResourceRequirements:
    """What the container was asked for, or, where it runs with other values (a resize is under way), those."""
    asked = container.resources
    limits, requests = canonical(asked.limits), canonical(asked.requests)
    real = status.resources
    if real is not None and status.state is RuntimeState.RUNNING:
        wanted = container_resources(report.pod, container, 1)
        if "cpu" in limits and real.cpu_quota > 0 and real.cpu_period > 0 and real.cpu_quota != wanted.cpu_quota:
            limits["cpu"] = quantity.decimal(Fraction(real.cpu_quota, real.cpu_period))
        if "memory" in limits and real.memory_limit > 0 and real.memory_limit != wanted.memory_limit:
            limits["memory"] = quantity.binary(real.memory_limit)
            if "memory" in requests and amounts_of(requests)["memory"] > real.memory_limit:
                requests["memory"] = limits["memory"]  # what is promised and not yet given cannot be in force
        if "cpu" in requests and real.cpu_shares > 0 and real.cpu_shares != wanted.cpu_shares:
            requests["cpu"] = quantity.decimal(Fraction(-(-real.cpu_shares * 1000 // 1024), 1000))
    return ResourceRequirements(limits=limits, requests=requests)


def _id(report: Report, status: RuntimeContainer) -> str:
    return f"{report.scheme}://{status.id}"


def _terminated(report: Report, status: RuntimeContainer) -> ContainerState:
    reason = status.reason or ("Completed" if status.exit_code == 0 else "Error")
    # The runtime's own words first, then what the container left. What was told once stays: its file goes with the pod's
    # directory, and the log must not speak in its stead then.
    words = _said_before(report, status) or ": ".join(filter(None, (status.message, report.messages.get(status.id))))
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=status.exit_code,
            reason=reason,
            message=_cut(words, report.pod),
            started_at=second(status.started_at),
            finished_at=second(status.finished_at),
            container_id=_id(report, status),
        )
    )


def _cut(message: str, pod: Pod) -> str:
    """A container's share of what a pod may say."""
    spec = pod.spec
    share = MESSAGES_OF_A_POD // max(
        1, len(spec.init_containers) + len(spec.containers) + len(spec.ephemeral_containers)
    )
    if len(message) * 4 <= share:
        return message
    return message.encode()[:share].decode(errors="ignore")


def _said_before(report: Report, status: RuntimeContainer) -> str:
    """The termination message as the API has it."""
    before = reported(report.previous, status.name)
    for state in (before.state, before.last_state) if before else ():
        if state.terminated and state.terminated.container_id == _id(report, status):
            return state.terminated.message
    return ""


def _volume_mounts(container: Container) -> tuple[VolumeMountStatus, ...]:
    return tuple(
        VolumeMountStatus(
            name=mount.name,
            mount_path=mount.mount_path,
            read_only=mount.read_only,
            recursive_read_only="Disabled" if mount.read_only else None,
        )
        for mount in container.volume_mounts
    )


# --- not seen ---------------------------------------------------------------------------------------------------------


def _not_yet(report: Report) -> ContainerState:
    reason = "PodInitializing" if report.pod.spec.init_containers else "ContainerCreating"
    return ContainerState(waiting=ContainerStateWaiting(reason=reason))


def _lost(container_id: str) -> ContainerState:
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=UNKNOWN_EXIT, reason="ContainerStatusUnknown", message=LOST, container_id=container_id
        )
    )


def _unseen(report: Report, container: Container, *, init: bool) -> ContainerStatus:
    """A container the runtime does not have: never made, or made once and gone."""
    mounts = _volume_mounts(container)
    before = reported(report.previous, container.name)
    if before is None or not (before.container_id or before.last_state.terminated):
        return ContainerStatus(
            name=container.name, image=container.image, state=_not_yet(report), started=False, volume_mounts=mounts
        )
    last, state = before.last_state, _not_yet(report)
    if before.state.terminated:
        state = before.state
    elif before.state.running:
        if report.stage is Stage.SYNC:
            last = _lost(before.container_id)
        else:
            state = _lost(before.container_id)
    once = init and not is_sidecar(container)
    return ContainerStatus(
        name=container.name,
        image=before.image or container.image,
        image_id=before.image_id,
        container_id=before.container_id,
        state=state,
        last_state=last,
        ready=once and state.terminated is not None and state.terminated.exit_code == 0,
        restart_count=before.restart_count,
        started=False,
        volume_mounts=mounts,
        resources=before.resources,
        allocated_resources=before.allocated_resources,
        user=before.user,
    )
