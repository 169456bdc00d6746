"""What to do about a pod: pure, from what is wanted and what was seen.

While it lives (upstream's computePodActions):

    sandbox unusable? --yes--> stop what ran in it, then create the next one (or nothing, if the pod's work is done)
          | no
    init containers, in order: the first that has not exited 0 runs; a failed one is restarted, or ends the pod (Never)
          | all done
    app containers: start what never ran; stop what probes condemned or whose image changed; restart what the policy
    restarts,
                    not before its back-off has passed
          |
    remove dead containers but the newest of each name, and sandboxes nobody needs
 A plan holds only steps that do not depend on each other's outcome. The caller does them, looks again, and plans again,
until nothing is left to do: so a kubelet killed between any two steps goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kube.pods import Container, Pod, PodStatus
from kube.pods import ContainerStatus as ReportedStatus
from kubelet import backoff
from kubelet.backoff import Entry
from kubelet.model import (
    Action,
    CreateSandbox,
    Health,
    Held,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Seen,
    StartContainer,
    StopContainer,
    StopSandbox,
    Verdict,
    Waiting,
)
from kubelet.runtime import CONTAINER_HASH, ContainerState, ContainerStatus, SandboxRecord

NOTHING_SAID = PodStatus()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a plan depends on. `health` is by container id, `backoffs` by backoff_key, `held` by container name
    ("" = the sandbox)."""

    pod: Pod
    seen: Seen
    previous: PodStatus = NOTHING_SAID  # what was last told to the API, or read from it after a restart
    health: Mapping[str, Health] = field(default_factory=dict)
    backoffs: Mapping[str, Entry] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    now: datetime
    cap: float = backoff.CAP


ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
NOT_YET = ("", "ContainerCreating", "PodInitializing")  # waiting for nothing in particular


def container_hash(container: Container) -> str:
    """Covers name and image only: a kubelet upgrade or a resize must restart nothing."""
    text = json.dumps([container.name, container.image], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pod_label(pod: Pod) -> str:
    """`name_namespace(uid)`, as upstream's messages spell a pod."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def backoff_key(pod: Pod, container: Container) -> str:
    return f"{pod.metadata.uid}/{container.name}/{container_hash(container)}"


def remembered_backoffs(pod: Pod) -> dict[str, Entry]:
    """The back-offs that the API's status tells of: restarting the kubelet must not restart what is being held back."""
    found: dict[str, Entry] = {}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        before = reported(pod.status, container.name)
        if before is None or before.state.waiting is None or before.last_state.terminated is None:
            continue
        delay, ended = backoff.told(before.state.waiting.message), before.last_state.terminated
        if delay and ended.started_at is not None:
            found[backoff_key(pod, container)] = Entry(delay, ended.started_at)
    return found


def reported(status: PodStatus, name: str) -> ReportedStatus | None:
    everyone = (*status.init_container_statuses, *status.container_statuses)
    return next((one for one in everyone if one.name == name), None)


def usable_sandbox(pod: Pod, seen: Seen) -> SandboxRecord | None:
    ready = seen.ready_sandboxes
    if len(ready) != 1 or ready[0] is not seen.sandboxes[0]:
        return None
    if not pod.spec.host_network and not ready[0].ips:
        return None
    return ready[0]


def _may_run_again(pod: Pod, exit_code: int) -> bool:
    if pod.spec.restart_policy == ON_FAILURE:
        return exit_code != 0
    return pod.spec.restart_policy == ALWAYS


def _changed(container: Container, status: ContainerStatus) -> bool:
    known = status.annotations.get(CONTAINER_HASH)
    return known is not None and known != container_hash(container)


def should_start(at: Situation, container: Container) -> bool:
    """Whether an app container that is not running shall be started, now or after a back-off."""
    latest = at.seen.latest(container.name)
    if latest is not None:
        if latest.state is ContainerState.EXITED:
            return _changed(container, latest) or _may_run_again(at.pod, latest.exit_code)
        return latest.state is not ContainerState.RUNNING
    # The runtime knows nothing of it. If it has run before (its remains were collected), it must not run twice.
    before = reported(at.previous, container.name)
    if before is None:
        return True
    if before.state.terminated:
        return _may_run_again(at.pod, before.state.terminated.exit_code)
    return not before.container_id or at.pod.spec.restart_policy != NEVER


def next_init(pod: Pod, seen: Seen) -> Container | None:
    """The init container to care for: walks backwards, since a later one that exists proves the earlier ones done."""
    current = usable_sandbox(pod, seen)
    inits = pod.spec.init_containers
    for index in range(len(inits) - 1, -1, -1):
        latest = seen.latest(inits[index].name)
        if latest is None or (current is not None and latest.sandbox_id != current.id):
            continue
        if latest.state is ContainerState.EXITED and latest.exit_code == 0:
            return inits[index + 1] if index + 1 < len(inits) else None
        return inits[index]
    return inits[0] if inits else None


def initialised(pod: Pod, seen: Seen) -> bool:
    """Whether all init containers are done. An app container that exists proves it: completed init containers may have
    been collected."""
    current = usable_sandbox(pod, seen)
    names = {container.name for container in pod.spec.containers}
    if any(c.name in names and (current is None or c.sandbox_id == current.id) for c in seen.containers):
        return True
    return next_init(pod, seen) is None


def restart_count(container: Container, seen: Seen, previous: PodStatus) -> int:
    """The attempt number of the next start: one more than the newest the runtime or the API remembers."""
    latest = seen.latest(container.name)
    if latest is not None:
        # A container that was created but never started is retried under the same number.
        return latest.attempt if latest.state is ContainerState.CREATED else latest.attempt + 1
    before = reported(previous, container.name)
    if before is None or not (before.container_id or before.last_state.terminated):
        return 0
    return before.restart_count + 1


class _Draft:
    """Collects one pass; lives no longer than the call of pod_actions."""

    def __init__(self, at: Situation) -> None:
        self.at = at
        self.actions: list[Action] = []
        self.waiting: dict[str, Waiting] = {}
        self.again_at: datetime | None = None

    def wake(self, moment: datetime) -> None:
        self.again_at = moment if self.again_at is None else min(self.again_at, moment)

    def held(self, name: str) -> Held | None:
        hold = self.at.held.get(name)
        if hold is None or hold.until <= self.at.now:
            return None
        self.wake(hold.until)
        return hold

    def plan(self, *, finished: bool = False) -> Plan:
        return Plan(tuple(self.actions), self.waiting, self.again_at, finished)


def pod_actions(at: Situation) -> Plan:
    """The next steps of a living pod."""
    draft = _Draft(at)
    sandbox = usable_sandbox(at.pod, at.seen)
    if sandbox is None:
        return _without_sandbox(draft)
    todo = next_init(at.pod, at.seen)
    if todo is not None and not initialised(at.pod, at.seen):
        finished = _init_step(draft, todo, sandbox)
    else:
        finished = _app_steps(draft, sandbox)
    if finished and not at.seen.live:
        return Plan(finished=True, waiting=draft.waiting)
    draft.actions += _garbage(at.pod, at.seen)
    return draft.plan()


def _without_sandbox(draft: _Draft) -> Plan:
    at = draft.at
    for container in at.seen.live:
        draft.actions.append(StopContainer(container.id, container.name, f"Stopping container {container.name}"))
    if not draft.actions:
        draft.actions += [StopSandbox(sandbox.id) for sandbox in at.seen.ready_sandboxes]
    if draft.actions:
        return draft.plan()
    # A pod that has run and may not run again gets no second sandbox.
    once = at.pod.spec.restart_policy == NEVER and (bool(at.seen.containers) or _ever_ran(at.previous))
    wanted = any(should_start(at, container) for container in at.pod.spec.containers)
    if once or (not wanted and initialised(at.pod, at.seen)):
        return draft.plan(finished=True)
    if draft.held("") is None:
        draft.actions.append(CreateSandbox(at.seen.sandboxes[0].attempt + 1 if at.seen.sandboxes else 0))
    return draft.plan()


def _ever_ran(previous: PodStatus) -> bool:
    return any(status.container_id for status in (*previous.init_container_statuses, *previous.container_statuses))


def _init_step(draft: _Draft, container: Container, sandbox: SandboxRecord) -> bool:
    latest = draft.at.seen.latest(container.name)
    if latest is not None and latest.sandbox_id == sandbox.id:
        if latest.state is ContainerState.RUNNING:
            return False
        if latest.state is ContainerState.EXITED and draft.at.pod.spec.restart_policy == NEVER:
            return True  # a failed init container ends a pod that never restarts
    _start(draft, container, latest, sandbox)
    return False


def _app_steps(draft: _Draft, sandbox: SandboxRecord) -> bool:
    at = draft.at
    finished = True
    for container in at.pod.spec.containers:
        latest = at.seen.latest(container.name)
        if latest is not None and latest.state is ContainerState.RUNNING:
            finished = False
            why = condemned(container, latest, at.health.get(latest.id, Health()))
            if why:
                again = ", will be restarted" if _changed(container, latest) or _may_run_again(at.pod, 1) else ""
                draft.actions.append(
                    StopContainer(latest.id, container.name, why + again, _probe_grace(container, why))
                )
        elif should_start(at, container):
            finished = False
            _start(draft, container, latest, sandbox)
    return finished


def condemned(container: Container, status: ContainerStatus, health: Health) -> str:
    """Why a running container must be stopped, in upstream's words; empty when it may live."""
    if _changed(container, status):
        return f"Container {container.name} definition changed"
    if health.liveness is Verdict.FAILURE:
        return f"Container {container.name} failed liveness probe"
    if health.startup is Verdict.FAILURE:
        return f"Container {container.name} failed startup probe"
    return ""


def _probe_grace(container: Container, why: str) -> int | None:
    if "liveness probe" in why and container.liveness_probe:
        return container.liveness_probe.termination_grace_period_seconds
    if "startup probe" in why and container.startup_probe:
        return container.startup_probe.termination_grace_period_seconds
    return None


def _start(draft: _Draft, container: Container, latest: ContainerStatus | None, sandbox: SandboxRecord) -> None:
    """Start it, or say why not yet."""
    at = draft.at
    entry: Entry | None = None
    if latest is not None and latest.state is ContainerState.UNKNOWN:
        message = 'Container is in "unknown" state, try killing it before restart'
        draft.actions.append(StopContainer(latest.id, container.name, message))
        return
    if latest is not None and latest.state is ContainerState.CREATED:
        # Created and never started: by a start that failed, or by a kubelet that died between the two.
        draft.actions.append(RemoveContainer(latest.id))
        return
    if latest is not None and latest.state is ContainerState.EXITED:
        ended = latest.finished_at or latest.created_at
        known = at.backoffs.get(backoff_key(at.pod, container))
        left = backoff.remaining(known, ended, at.now, cap=at.cap)
        if known is not None and left > 0:
            message = (
                f"back-off {backoff.spelt(known.delay)} restarting failed "
                f"container={container.name} pod={pod_label(at.pod)}"
            )
            draft.waiting[container.name] = Waiting("CrashLoopBackOff", message)
            draft.wake(at.now + timedelta(seconds=left))
            return
        entry = backoff.following(known, ended, at.now, cap=at.cap)
    hold = draft.held(container.name)
    if hold is not None:
        draft.waiting[container.name] = hold.waiting
        return
    before = reported(at.previous, container.name)
    if before is not None and before.state.waiting is not None and before.state.waiting.reason not in NOT_YET:
        # Another try begins: until it has an outcome the last one's is what there is to say.
        draft.waiting[container.name] = Waiting(before.state.waiting.reason, before.state.waiting.message)
    count = restart_count(container, at.seen, at.previous)
    draft.actions.append(StartContainer(container, sandbox.id, count, entry))


def _garbage(pod: Pod, seen: Seen) -> list[Action]:
    """Dead containers but the newest dead one of each name, and dead sandboxes that hold none of what is kept."""
    kept: set[str] = set()
    gone: list[Action] = []
    names: set[str] = set()
    for container in seen.containers:
        if container.state is not ContainerState.EXITED:
            kept.add(container.sandbox_id)
        elif container.name in names:
            gone.append(RemoveContainer(container.id))
        else:
            names.add(container.name)
            kept.add(container.sandbox_id)
    usable = usable_sandbox(pod, seen)
    gone += [
        RemoveSandbox(sandbox.id)
        for sandbox in seen.sandboxes
        if sandbox is not usable and sandbox not in seen.ready_sandboxes and sandbox.id not in kept
    ]
    return gone


def termination_actions(seen: Seen, grace: int, message: str = "Stopping container {name}") -> tuple[Action, ...]:
    """Stop the containers; once none is left, the sandboxes. Empty when nothing of the pod can be running."""
    stops = tuple(StopContainer(c.id, c.name, message.format(name=c.name), grace) for c in seen.live)
    return stops or tuple(StopSandbox(sandbox.id) for sandbox in seen.ready_sandboxes)


def removal_actions(seen: Seen) -> tuple[Action, ...]:
    """Everything that is left of a pod whose object is gone."""
    return (
        *(RemoveContainer(container.id) for container in seen.containers),
        *(RemoveSandbox(sandbox.id) for sandbox in seen.sandboxes),
    )


def shrunk(grace: int | None, wish: int | None) -> int | None:
    """A grace period only shrinks, and never below one second."""
    if wish is None:
        return grace
    wish = max(1, wish)
    return wish if grace is None else min(grace, wish)
