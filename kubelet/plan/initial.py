"""Init containers and sidecars, in the order of the spec.

A regular init container does its part by exiting with 0, a sidecar by having *started* (its startup probe succeeded, or it
has none): then the next may start. The walk goes backwards, since a later one that exists proves the earlier ones done: completed
init containers may have been collected. Sidecars that are met on the way are kept running, whatever the pod's policy.
"""

from dataclasses import dataclass

from kube.pods import Container, Pod
from kubelet.model import Health, Seen, StopContainer, Verdict
from kubelet.plan.draft import Draft
from kubelet.plan.restarts import changed, runs_again
from kubelet.plan.situation import Situation, current, is_sidecar
from kubelet.runtime import ContainerState, ContainerStatus, SandboxRecord


@dataclass(frozen=True, slots=True)
class Initial:
    """`done`: app containers may run. `failed`: an init container ended badly and may not run again."""

    done: bool
    failed: bool = False


def stand(at: Situation) -> Initial:
    """How far the init containers have come."""
    return _walk(at, [], [])


def initialised(at: Situation) -> bool:
    """Whether all of them have done their part."""
    return stand(at).done


def app_exists(pod: Pod, seen: Seen) -> bool:
    """An app container in the sandbox in use proves the pod initialised."""
    return any(current(pod, seen, container.name) is not None for container in pod.spec.containers)


def init_steps(draft: Draft, sandbox: SandboxRecord) -> Initial:
    """Start what is next, keep the sidecars running."""
    at = draft.at
    starts: list[Container] = []
    stops: list[StopContainer] = []
    found = _walk(at, starts, stops)
    if found.failed:
        return found
    draft.actions += reversed(stops)
    for container in reversed(starts):
        draft.start(container, at.seen.latest(container.name), sandbox)
    return found


def _walk(at: Situation, starts: list[Container], stops: list[StopContainer]) -> Initial:
    inits = at.pod.spec.init_containers
    later = done = not inits or app_exists(at.pod, at.seen)  # `later`: one after this container exists
    for index in range(len(inits) - 1, -1, -1):
        container = inits[index]
        latest = current(at.pod, at.seen, container.name)
        sidecar = is_sidecar(container)
        if latest is None:
            if later and sidecar:
                starts.append(container)
            continue
        if later and not sidecar:
            continue
        accomplished = False
        match latest.state:
            case ContainerState.RUNNING if sidecar:
                accomplished = _keep(at, container, latest, stops)
            case ContainerState.RUNNING:
                pass
            case ContainerState.EXITED if not sidecar and latest.exit_code == 0:
                accomplished = True
            case ContainerState.EXITED if not sidecar and not runs_again(at.pod, container, latest.exit_code):
                return Initial(done=False, failed=True)
            case _:
                starts.append(container)
        if accomplished and index + 1 == len(inits):
            done = True
        elif accomplished and not later:
            starts.append(inits[index + 1])
        later = True
    if not later:
        starts.append(inits[0])
    return Initial(done)


def _keep(at: Situation, container: Container, latest: ContainerStatus, stops: list[StopContainer]) -> bool:
    """Whether a sidecar that runs has started; one that may not go on is stopped, and restarted when it has ended."""
    health = at.health.get(latest.id, Health())
    why, probe = "", None
    if changed(container, latest):
        why = f"Container {container.name} definition changed"
    elif health.startup is Verdict.FAILURE:
        why, probe = f"Init container {container.name} failed startup probe", container.startup_probe
    elif health.liveness is Verdict.FAILURE:
        why, probe = f"Init container {container.name} failed liveness probe", container.liveness_probe
    if why:
        grace = probe.termination_grace_period_seconds if probe else None
        stops.append(StopContainer(latest.id, container.name, why, grace))
    return health.startup is Verdict.SUCCESS
