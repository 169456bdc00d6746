"""How a pod is stopped: what to do next, from who still lives and how much of the grace is left.

    at once       the preStop hooks of all containers, each within the grace
    its hook run  an app or init or ephemeral container is sent SIGTERM
    its turn come a sidecar, when no app container and no later sidecar lives any more (KEP-753)
    deadline past everything that still lives, turn or not
    all ended     the sandboxes are stopped

There is one deadline for all of it; it only ever comes nearer. Whoever is stopped gets what is left, and never less than two
seconds between SIGTERM and SIGKILL. As long as app containers live, a sidecar that ends is started again.
(pkg/kubelet/kuberuntime: killContainer, termination order in kuberuntime_termination_order.go)
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from kube.pods import Pod
from kubelet.model import Action, Farewell, Plan, Seen, StopContainer, StopSandbox
from kubelet.plan.draft import Draft
from kubelet.plan.situation import Situation, current, hooked, is_sidecar, usable_sandbox
from kubelet.runtime import ContainerState, ContainerStatus

MOST_GRACE = 2**31 - 1  # seconds
LEAST_GRACE = 2.0  # seconds between SIGTERM and SIGKILL, whatever was used up before


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """`situation` is None for an orphan, of which only the runtime knows. `farewells` are the ids of containers whose hook
    has been run. `deadline`, `now` and the plan's `again_at` are on a clock of their own, which nobody sets."""

    seen: Seen
    deadline: datetime
    now: datetime
    situation: Situation | None = None
    farewells: Collection[str] = ()


def termination(at: Ending) -> Plan:
    """What may be under way now; the caller leaves out what already is. Finished when nothing of the pod can be running."""
    live = at.seen.live
    if not live:
        stops = tuple(StopSandbox(sandbox.id) for sandbox in at.seen.ready_sandboxes)
        return Plan(stops, finished=not stops)
    left = (at.deadline - at.now).total_seconds()
    pod = at.situation.pod if at.situation else None
    turn = {container.id for container in whose_turn(pod, at.seen)} if left > 0 else {c.id for c in live}
    actions: list[Action] = []
    for container in live:
        hook = hooked(pod, container.name) if pod and container.state is ContainerState.RUNNING else None
        if hook is not None and container.id not in at.farewells and left > 0:
            actions.append(Farewell(container.id, container.name))
        elif container.id in turn:
            message = f"Stopping container {container.name}"
            actions.append(StopContainer(container.id, container.name, message, max(LEAST_GRACE, left)))
    again_at = at.deadline if left > 0 else None
    draft = _sidecars(at, left)
    if at.situation is None or draft is None or again_at is None:
        return Plan(tuple(actions), again_at=again_at)
    if draft.again_at is not None:
        again_at = min(again_at, at.now + (draft.again_at - at.situation.now))
    return Plan((*actions, *draft.actions), draft.waiting, again_at)


def whose_turn(pod: Pod | None, seen: Seen) -> tuple[ContainerStatus, ...]:
    """The living containers that wait for no other: all but sidecars, and the last sidecar when no app container lives."""
    if pod is None:
        return seen.live
    apps = {container.name for container in pod.spec.containers}
    sidecars = [container.name for container in pod.spec.init_containers if is_sidecar(container)]
    names = {container.name for container in seen.live}
    first = next((name for name in reversed(sidecars) if name in names), "") if not names & apps else ""
    return tuple(c for c in seen.live if c.name == first or c.name not in sidecars)


def _sidecars(at: Ending, left: float) -> Draft | None:
    """Start again what has ended too early."""
    if at.situation is None or left <= LEAST_GRACE:
        return None
    pod = at.situation.pod
    sandbox = usable_sandbox(pod, at.seen)
    apps = {container.name for container in pod.spec.containers}
    if sandbox is None or not any(container.name in apps for container in at.seen.live):
        return None
    draft = Draft(at.situation)
    for container in pod.spec.init_containers:
        latest = current(pod, at.seen, container.name)
        if is_sidecar(container) and latest is not None and latest.state is ContainerState.EXITED:
            draft.start(container, latest, sandbox)
    return draft


def shrunk(grace: int | None, wish: int | None) -> int | None:
    """A grace period only shrinks, and never below one second. The API takes graces that no calendar does."""
    if wish is None:
        return grace
    wish = max(1, min(wish, MOST_GRACE))
    return wish if grace is None else min(grace, wish)
