"""A pod's phase from its containers' states.

    a regular init container has not ended well, or a sidecar has not started before any app container did,
    or a container waits that never ran                                        Pending
    something runs                                                             Running
    everything has stopped: may anything be started again?     yes             Running
                                                               no, all exit 0  Succeeded, else Failed

Sidecars count while they run, and never in Succeeded or Failed: their end is not the pod's work. Ephemeral containers do
not count at all. (getPhase, mergePodStatus)
"""

from collections.abc import Sequence

from kube.pods import ContainerStatus, Pod
from kubelet.model import Stage
from kubelet.plan import is_sidecar, runs_again
from kubelet.status.report import Report

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
TERMINAL = (SUCCEEDED, FAILED)


def phase(report: Report, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus]) -> str:
    if report.previous.phase in TERMINAL:
        return report.previous.phase
    could_run = bool(report.seen.live)
    if report.sentence is not None:
        return report.previous.phase or PENDING if could_run else report.sentence.phase
    stopped = report.stage >= Stage.TERMINATED
    found = phase_of(report.pod, inits, apps, over=stopped)
    if found in TERMINAL and (could_run or not (report.over or stopped)):
        return report.previous.phase or RUNNING
    return found


def exit_code(status: ContainerStatus) -> int | None:
    """Of a container that is not running and has run; None otherwise."""
    if status.state.terminated:
        return status.state.terminated.exit_code
    if status.state.running is None and status.last_state.terminated:
        return status.last_state.terminated.exit_code
    return None


def has_started(apps: Sequence[ContainerStatus]) -> bool:
    """Whether an app container has ever run: from then on the pod counts as initialised, whatever its sidecars do."""
    return any(status.state.running or exit_code(status) is not None for status in apps)


def phase_of(pod: Pod, inits: Sequence[ContainerStatus], apps: Sequence[ContainerStatus], *, over: bool = False) -> str:
    """The phase that container states amount to; `over`: nothing will be started any more."""
    sidecars = {container.name for container in pod.spec.init_containers if is_sidecar(container)}
    regular = [status for status in inits if status.name not in sidecars]
    codes = [exit_code(status) for status in apps]
    done = bool(codes) and all(code == 0 for code in codes)
    if over:
        return SUCCEEDED if done and all(exit_code(status) == 0 for status in regular) else FAILED
    if pod.spec.restart_policy == "Never" and any(exit_code(status) not in (None, 0) for status in regular):
        return FAILED if not any(status.state.running for status in regular) else PENDING
    if any(exit_code(status) != 0 for status in regular):
        return PENDING
    beside = [status for status in inits if status.name in sidecars]
    if not has_started(apps) and not all(status.state.running and status.started for status in beside):
        return PENDING
    if any(code is None and not status.state.running for code, status in zip(codes, apps, strict=True)):
        return PENDING
    if any(status.state.running for status in (*apps, *beside)):
        return RUNNING
    if not codes:
        return PENDING
    return _stopped(pod, apps, done=done)


def _stopped(pod: Pod, apps: Sequence[ContainerStatus], *, done: bool) -> str:
    """Of a pod whose containers have all stopped, while some may be started again."""
    own = {container.name: container for container in pod.spec.containers}
    for status in apps:
        if runs_again(pod, own[status.name], exit_code(status) or 0):
            return RUNNING
    return SUCCEEDED if done else FAILED
