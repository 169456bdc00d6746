"""Words what was seen of a pod as its API status: pure.
 Upstream's getPhase, convertToAPIContainerStatuses and GeneratePod*Condition (pkg/kubelet/kubelet_pods.go,
status/generate.go). The rules that matter most:
 - A terminal phase is final, and is told only when nothing of the pod can be running: otherwise a controller starts a
second copy. - One waiting app container that never ran makes the pod Pending; one that ran before does not. -
lastTransitionTime moves only with the condition's status, so that an unchanged pod words to an equal status and no
PATCH is sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from kube.meta import Condition
from kube.pods import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    HostIP,
    Pod,
    PodIP,
    PodStatus,
)
from kubelet.model import Health, Seen, Stage, Verdict, Waiting
from kubelet.plan import reported, usable_sandbox
from kubelet.resources import qos_class
from kubelet.runtime import ContainerState as RuntimeState
from kubelet.runtime import ContainerStatus as RuntimeContainer

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
TERMINAL = (SUCCEEDED, FAILED)
OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
LOST = "The container could not be located when the pod was terminated"
UNKNOWN_EXIT = 137


@dataclass(frozen=True, slots=True)
class Sentence:
    """A decision about the whole pod that its containers' states do not show: deadline, eviction, refusal."""

    phase: str
    reason: str
    message: str
    rejected: bool = False  # never let in: upstream tells of no containers then


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a status is worded from. `messages` are termination messages by container id, `health` is by container
    id."""

    pod: Pod
    seen: Seen
    previous: PodStatus
    health: Mapping[str, Health] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    stage: Stage = Stage.SYNC
    host_ips: tuple[str, ...] = ()
    scheme: str = "docker"
    sentence: Sentence | None = None
    over: bool = False  # nothing will be started any more; until then no phase is terminal
    now: datetime


def second(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(microsecond=0) if moment else None


def pod_status(report: Report) -> PodStatus:
    pod, previous = report.pod, report.previous
    inits = tuple(_container(report, container, init=True) for container in pod.spec.init_containers)
    apps = tuple(_container(report, container, init=False) for container in pod.spec.containers)
    apps = tuple(sorted(apps, key=lambda status: status.name))
    phase = _phase(report, inits, apps)
    sentence = report.sentence
    if sentence is not None and sentence.rejected and not report.seen.containers:
        inits, apps = (), ()
    reason, message = (previous.reason, previous.message) if phase == previous.phase else ("", "")
    if sentence is not None and phase == sentence.phase:
        reason, message = sentence.reason, sentence.message
    ips = _pod_ips(report)
    return PodStatus(
        observed_generation=pod.metadata.generation or None,
        phase=phase,
        conditions=_conditions(report, phase, inits, apps),
        reason=reason,
        message=message,
        host_ip=report.host_ips[0] if report.host_ips else "",
        host_ips=tuple(HostIP(ip=ip) for ip in report.host_ips),
        pod_ip=ips[0] if ips else "",
        pod_ips=tuple(PodIP(ip=ip) for ip in ips),
        start_time=previous.start_time or second(report.now),
        init_container_statuses=inits,
        container_statuses=apps,
        qos_class=pod.status.qos_class or qos_class(pod),
        nominated_node_name=previous.nominated_node_name,
    )


def _pod_ips(report: Report) -> tuple[str, ...]:
    if report.pod.spec.host_network:
        return report.host_ips
    sandbox = next(iter(report.seen.sandboxes), None)
    if sandbox is not None and sandbox.ips:
        return tuple(str(ip) for ip in sandbox.ips)
    # A finished pod keeps the address it had: people look at it afterwards.
    return tuple(ip.ip for ip in report.previous.pod_ips) if report.stage is not Stage.SYNC else ()


# --- containers -------------------------------------------------------------------------------------------------------


def _terminated(report: Report, status: RuntimeContainer) -> ContainerState:
    reason = status.reason or ("Completed" if status.exit_code == 0 else "Error")
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=status.exit_code,
            reason=reason,
            message=report.messages.get(status.id) or status.message or _said_before(report, status),
            started_at=second(status.started_at),
            finished_at=second(status.finished_at),
            container_id=f"{report.scheme}://{status.id}",
        )
    )


def _said_before(report: Report, status: RuntimeContainer) -> str:
    """The termination message as the API has it: its file goes with the pod's directory."""
    before = reported(report.previous, status.name)
    for state in (before.state, before.last_state) if before else ():
        if state.terminated and state.terminated.container_id == f"{report.scheme}://{status.id}":
            return state.terminated.message
    return ""


def _lost(container_id: str) -> ContainerState:
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=UNKNOWN_EXIT, reason="ContainerStatusUnknown", message=LOST, container_id=container_id
        )
    )


def _unseen(report: Report, container: Container, *, init: bool) -> ContainerStatus:
    """A container the runtime does not have: never made, or made once and gone."""
    reason = "PodInitializing" if report.pod.spec.init_containers else "ContainerCreating"
    waiting = ContainerState(waiting=ContainerStateWaiting(reason=reason))
    before = reported(report.previous, container.name)
    if before is None or not (before.container_id or before.last_state.terminated):
        return ContainerStatus(name=container.name, image=container.image, state=waiting, started=False)
    last = before.last_state
    state = waiting
    if before.state.terminated:
        state = before.state
    elif before.state.running:
        if report.stage is Stage.SYNC:
            last = _lost(before.container_id)
        else:
            state = _lost(before.container_id)
    return ContainerStatus(
        name=container.name,
        image=before.image or container.image,
        image_id=before.image_id,
        container_id=before.container_id,
        state=state,
        last_state=last,
        ready=init and state.terminated is not None and state.terminated.exit_code == 0,
        restart_count=before.restart_count,
        started=False,
    )


def _container(report: Report, container: Container, *, init: bool) -> ContainerStatus:
    history = report.seen.of(container.name)
    status = _unseen(report, container, init=init) if not history else _known(report, container, history, init=init)
    waiting = report.waiting.get(container.name)
    if waiting is None or status.state.running:
        return status
    last = status.state if status.state.terminated else status.last_state
    return ContainerStatus(
        name=status.name,
        image=status.image,
        image_id=status.image_id,
        container_id=status.container_id,
        restart_count=status.restart_count,
        state=ContainerState(waiting=ContainerStateWaiting(reason=waiting.reason, message=waiting.message)),
        last_state=last,
        started=False,
    )


def _known(
    report: Report, container: Container, history: tuple[RuntimeContainer, ...], *, init: bool
) -> ContainerStatus:
    latest = history[0]
    health = report.health.get(latest.id, Health())
    dead = next((one for one in history[1:] if one.state is RuntimeState.EXITED), None)
    before = reported(report.previous, container.name)
    last = _terminated(report, dead) if dead is not None else (before.last_state if before else ContainerState())
    ready, started, state = False, False, ContainerState()
    match latest.state:
        case RuntimeState.RUNNING:
            state = ContainerState(running=ContainerStateRunning(started_at=second(latest.started_at)))
            started = not init and health.startup is Verdict.SUCCESS
            ready = started and health.readiness is Verdict.SUCCESS
        case RuntimeState.EXITED:
            state = _terminated(report, latest)
            ready = init and latest.exit_code == 0
        case RuntimeState.CREATED | RuntimeState.UNKNOWN:
            reason = "PodInitializing" if report.pod.spec.init_containers and not init else "ContainerCreating"
            state = ContainerState(waiting=ContainerStateWaiting(reason=reason))
            if latest.state is RuntimeState.UNKNOWN and report.stage is Stage.TERMINATED:
                state = _lost(f"{report.scheme}://{latest.id}")
    return ContainerStatus(
        name=container.name,
        image=latest.image or container.image,
        image_id=latest.image_id,
        container_id=f"{report.scheme}://{latest.id}",
        state=state,
        last_state=last if last != state else ContainerState(),
        ready=ready,
        restart_count=max(latest.attempt, before.restart_count if before else 0),
        started=started,
    )


# --- phase ------------------------------------------------------------------------------------------------------------


def _phase(report: Report, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]) -> str:
    if report.previous.phase in TERMINAL:
        return report.previous.phase
    could_run = bool(report.seen.live)
    if report.sentence is not None:
        return report.previous.phase or PENDING if could_run else report.sentence.phase
    stopped = report.stage >= Stage.TERMINATED
    phase = phase_of(report.pod.spec.restart_policy, inits, apps, over=stopped)
    if phase in TERMINAL and (could_run or not (report.over or stopped)):
        return report.previous.phase or RUNNING
    return phase


def _exit_code(status: ContainerStatus) -> int | None:
    """Of a container that is not running and has run; None otherwise."""
    if status.state.terminated:
        return status.state.terminated.exit_code
    if status.state.running is None and status.last_state.terminated:
        return status.last_state.terminated.exit_code
    return None


def phase_of(
    policy: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus], *, over: bool = False
) -> str:
    """The phase that container states amount to; `over`: nothing will be started any more."""
    codes = [_exit_code(status) for status in apps]
    running = sum(1 for status in apps if status.state.running)
    if over:
        done = bool(codes) and all(code == 0 for code in codes)
        return SUCCEEDED if done and all(_exit_code(status) == 0 for status in inits) else FAILED
    if any(_exit_code(status) not in (None, 0) and status.state.terminated for status in inits) and policy == "Never":
        return FAILED
    if any(_exit_code(status) != 0 for status in inits):
        return PENDING
    if any(code is None and not status.state.running for code, status in zip(codes, apps, strict=True)):
        return PENDING
    if running:
        return RUNNING
    if not codes:
        return PENDING
    if policy == "Always":
        return RUNNING
    if all(code == 0 for code in codes):
        return SUCCEEDED
    return FAILED if policy == "Never" else RUNNING


# --- conditions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""


def _listed(kind: str, names: Iterable[str]) -> str:
    found = list(names)
    return f"containers with {kind} status: [{' '.join(found)}]" if found else ""


def _containers_ready(phase: str, apps: Sequence[ContainerStatus]) -> _Verdict:
    if phase == SUCCEEDED:
        return _Verdict("False", "PodCompleted")
    if phase == FAILED:
        return _Verdict("False", "PodFailed")
    unready = [status.name for status in apps if not status.ready]
    return _Verdict("False", "ContainersNotReady", _listed("unready", unready)) if unready else _Verdict("True")


def _initialized(phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]) -> _Verdict:
    if phase == SUCCEEDED:
        return _Verdict("True", "PodCompleted")
    if any(status.started or status.container_id for status in apps):
        return _Verdict("True")
    incomplete = [status.name for status in inits if not status.ready]
    if incomplete:
        return _Verdict("False", "ContainersNotInitialized", _listed("incomplete", incomplete))
    return _Verdict("True")


def _ready(pod: Pod, containers: _Verdict) -> _Verdict:
    if containers.status != "True":
        return containers
    by_type = {condition.type: condition for condition in pod.status.conditions}
    complaints = []
    for gate in pod.spec.readiness_gates:
        condition = by_type.get(gate.condition_type)
        if condition is None:
            complaints.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
        elif condition.status != "True":
            complaints.append(
                f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {condition.status}'
            )
    return _Verdict("False", "ReadinessGatesNotReady", ", ".join(complaints)) if complaints else _Verdict("True")


def _conditions(
    report: Report, phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]
) -> tuple[Condition, ...]:
    containers = _containers_ready(phase, apps)
    usable = usable_sandbox(report.pod, report.seen) is not None
    verdicts = {
        "PodReadyToStartContainers": _Verdict("True" if usable else "False"),
        "Initialized": _initialized(phase, inits, apps),
        "Ready": _ready(report.pod, containers),
        "ContainersReady": containers,
        "PodScheduled": _Verdict("True"),
    }
    before = {condition.type: condition for condition in report.previous.conditions}
    moment = second(report.now)
    result = []
    for kind in OURS:
        verdict, old = verdicts[kind], before.get(kind)
        since = old.last_transition_time if old is not None and old.status == verdict.status else moment
        result.append(
            Condition(
                type=kind,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message,
                last_transition_time=since or moment,
                observed_generation=report.pod.metadata.generation or None,
            )
        )
    return tuple(result)
