"""A pod's conditions, as the kubelet sees them (pkg/kubelet/status/generate.go).

PodReadyToStartContainers   the sandbox stands and has its network
Initialized                 regular init containers are done, sidecars have started; or an app container once ran
ContainersReady             sidecars and app containers are ready
Ready                       these, and the pod's readiness gates, which others set
PodScheduled                it is here
PodResizePending, PodResizeInProgress   a resize waits, is under way: see `kubelet.resize`
DisruptionTarget            the node ended the pod for its own sake; told together with the terminal phase, never before
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kube.meta import Condition
from kube.pods import ContainerStatus, Pod
from kubelet.plan import is_sidecar, usable_sandbox
from kubelet.status.phase import FAILED, SUCCEEDED, TERMINAL
from kubelet.status.report import Report, second

PASSING = ("PodResizePending", "PodResizeInProgress")  # there only while they are True
OURS = (
    *("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "DisruptionTarget"),
    *PASSING,
)


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""


def conditions(
    report: Report, phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]
) -> tuple[Condition, ...]:
    """Those of others first, as they are in the API; then the kubelet's own."""
    foreign = [condition for condition in report.pod.status.conditions if condition.type not in OURS]
    before = {condition.type: condition for condition in report.previous.conditions}
    moment = second(report.now)
    result = []
    for kind, verdict in _verdicts(report, phase, inits, apps):
        old = before.get(kind)
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
    said = before.get("DisruptionTarget")
    if said is not None and not any(condition.type == said.type for condition in result):
        result.append(said)  # whoever set it, it is not taken back
    return (*foreign, *result)


def _verdicts(
    report: Report, phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]
) -> Iterator[tuple[str, _Verdict]]:
    pod = report.pod
    containers = _containers_ready(pod, phase, inits, apps)
    yield "PodReadyToStartContainers", _Verdict("False" if usable_sandbox(pod, report.seen) is None else "True")
    yield "Initialized", _initialized(pod, phase, inits, apps)
    yield "Ready", _ready(pod, containers)
    yield "ContainersReady", containers
    yield "PodScheduled", _Verdict("True")
    for kind, why in (("PodResizePending", report.pending), ("PodResizeInProgress", report.resizing)):
        if why is not None and phase not in TERMINAL:
            yield kind, _Verdict("True", why.reason, why.message)
    sentence = report.sentence
    if sentence is not None and sentence.disruption and phase in TERMINAL:
        yield "DisruptionTarget", _Verdict("True", "TerminationByKubelet", sentence.disruption)


def _listed(kind: str, names: Iterable[str]) -> str:
    found = list(names)
    return f"containers with {kind} status: [{' '.join(found)}]" if found else ""


def _containers_ready(
    pod: Pod, phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]
) -> _Verdict:
    known = {status.name: status.ready for status in (*inits, *apps)}
    names = [c.name for c in pod.spec.init_containers if is_sidecar(c)] + [c.name for c in pod.spec.containers]
    unknown = [name for name in names if name not in known]
    if phase == FAILED:
        return _Verdict("False", "PodFailed")
    if phase == SUCCEEDED and not unknown:
        return _Verdict("False", "PodCompleted")
    if not known:
        return _Verdict("False", "UnknownContainerStatuses")
    unready = [name for name in names if known.get(name) is False]
    message = ", ".join(filter(None, (_listed("unknown", unknown), _listed("unready", unready))))
    return _Verdict("False", "ContainersNotReady", message) if message else _Verdict("True")


def _initialized(pod: Pod, phase: str, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]) -> _Verdict:
    known = {status.name: status for status in inits}
    names = [container.name for container in pod.spec.init_containers]
    unknown = [name for name in names if name not in known]
    if phase == SUCCEEDED and not unknown:
        return _Verdict("True", "PodCompleted")
    if any(status.started or status.container_id for status in apps):
        return _Verdict("True")
    if names and not known:
        return _Verdict("False", "UnknownContainerStatuses")
    incomplete = [
        container.name
        for container in pod.spec.init_containers
        if (status := known.get(container.name)) and not (status.started if is_sidecar(container) else status.ready)
    ]
    message = ", ".join(filter(None, (_listed("unknown", unknown), _listed("incomplete", incomplete))))
    return _Verdict("False", "ContainersNotInitialized", message) if message else _Verdict("True")


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
