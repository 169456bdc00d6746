"""The next steps of a pod that is to run (upstream's computePodActions, pkg/kubelet/kuberuntime/kuberuntime_manager.go)."""

from kube.pods import Container, PodStatus, Probe
from kubelet.model import CreateSandbox, Health, Plan, StopContainer, StopSandbox, Verdict
from kubelet.plan.draft import Draft
from kubelet.plan.ending import whose_turn
from kubelet.plan.garbage import leavings
from kubelet.plan.initial import init_steps, stand
from kubelet.plan.restarts import NEVER, changed, may_ever_run_again, policy, should_start
from kubelet.plan.situation import Situation, reported, usable_sandbox
from kubelet.runtime import ContainerState, ContainerStatus, SandboxRecord


def pod_actions(at: Situation) -> Plan:
    draft = Draft(at)
    sandbox = usable_sandbox(at.pod, at.seen)
    if sandbox is None:
        return _without_sandbox(draft)
    _ephemeral_steps(draft, sandbox)
    initial = init_steps(draft, sandbox)
    finished = initial.failed
    if initial.done:
        finished = _app_steps(draft, sandbox)
    if finished:
        return Plan(finished=True, waiting=draft.waiting)
    draft.actions += leavings(at.pod, at.seen)
    return draft.plan()


def _without_sandbox(draft: Draft) -> Plan:
    at = draft.at
    for container in whose_turn(at.pod, at.seen):
        draft.actions.append(StopContainer(container.id, container.name, f"Stopping container {container.name}"))
    if not draft.actions:
        draft.actions += [StopSandbox(sandbox.id) for sandbox in at.seen.ready_sandboxes]
    if draft.actions:
        return draft.plan()
    # A pod that has run and may not run again gets no second sandbox.
    apps = at.pod.spec.containers
    ran = bool(at.seen.containers) or _ever_ran(at.previous)
    once = ran and not any(may_ever_run_again(at.pod, container) for container in apps)
    wanted = any(should_start(at, container) for container in apps)
    initial = stand(at)
    if once or initial.failed or (initial.done and not wanted):
        return draft.plan(finished=True)
    if draft.held("") is None:
        draft.actions += leavings(at.pod, at.seen)  # each try that fails may leave a dead one
        draft.actions.append(CreateSandbox(at.seen.sandboxes[0].attempt + 1 if at.seen.sandboxes else 0))
    return draft.plan()


def _ever_ran(previous: PodStatus) -> bool:
    return any(status.container_id for status in (*previous.init_container_statuses, *previous.container_statuses))


def _ephemeral_steps(draft: Draft, sandbox: SandboxRecord) -> None:
    """Guests are started as soon as there is a sandbox, and never again."""
    at = draft.at
    for container in at.pod.spec.ephemeral_containers:
        latest, before = at.seen.latest(container.name), reported(at.previous, container.name)
        if latest is None and (before is None or not before.container_id):
            draft.start(container, None, sandbox)
        elif latest is not None and latest.state is ContainerState.CREATED:
            draft.start(container, latest, sandbox)


def _app_steps(draft: Draft, sandbox: SandboxRecord) -> bool:
    """Whether the pod's work is done: nothing runs that is to be kept, nothing is to be started."""
    at = draft.at
    finished = True
    for container in at.pod.spec.containers:
        latest = at.seen.latest(container.name)
        if latest is not None and latest.state is ContainerState.RUNNING:
            finished = False
            stop = condemned(container, latest, at.health.get(latest.id, Health()), again=policy(at.pod, container))
            if stop is not None:
                draft.actions.append(stop)
        elif should_start(at, container):
            finished = False
            draft.start(container, latest, sandbox)
    return finished


def condemned(
    container: Container, status: ContainerStatus, health: Health, *, again: str = NEVER
) -> StopContainer | None:
    """How to stop a running app container that must not go on, in upstream's words; None when it may live. `again` is the
    policy it is under: what changed is started again under any."""
    why, probe, restart = "", None, again != NEVER
    if changed(container, status):
        why, restart = f"Container {container.name} definition changed", True
    elif health.liveness is Verdict.FAILURE:
        why, probe = f"Container {container.name} failed liveness probe", container.liveness_probe
    elif health.startup is Verdict.FAILURE:
        why, probe = f"Container {container.name} failed startup probe", container.startup_probe
    if not why:
        return None
    message = f"{why}, will be restarted" if restart else why
    return StopContainer(status.id, container.name, message, _grace_of(probe), restart)


def _grace_of(probe: Probe | None) -> int | None:
    return probe.termination_grace_period_seconds if probe else None
