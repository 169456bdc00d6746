"""Which container a request means, and what is said where there is none: upstream's words (kubelet_pods.go)."""

from __future__ import annotations

from kube.pods import ContainerStatus, Pod
from kubelet.streams.door import Refusal


def names_of(pod: Pod) -> set[str]:
    spec = pod.spec
    return {each.name for each in (*spec.containers, *spec.init_containers, *spec.ephemeral_containers)}


def stdin_once(pod: Pod, container: str) -> bool:
    """Whether the container's input ends with the first client's."""
    spec = pod.spec
    everyone = (*spec.containers, *spec.init_containers, *spec.ephemeral_containers)
    return any(each.stdin_once for each in everyone if each.name == container)


def status_of(pod: Pod, container: str) -> ContainerStatus | None:
    status = pod.status
    rows = (*status.container_statuses, *status.init_container_statuses, *status.ephemeral_container_statuses)
    return next((row for row in rows if row.name == container), None)


def bare(container_id: str) -> str:
    """`docker://abc` as `abc`."""
    return container_id.partition("://")[2]


def running(pod: Pod, name: str) -> str:
    """The id of the running container that a command is meant for. Raises Refusal."""
    status = status_of(pod, name)
    if status is None or status.state.running is None or not status.container_id:
        raise Refusal(500, f'container not found ("{name}")')
    return bare(status.container_id)


def locate(pod: Pod, container: str, *, previous: bool) -> str:
    """The runtime's id of the container whose log is asked for. Raises Refusal."""
    status = status_of(pod, container)
    names = f'"{container}" in pod "{pod.metadata.name}"'
    if status is None:
        raise Refusal(400, f"container {names} is not available")
    state, last = status.state, status.last_state.terminated
    before = bare(last.container_id) if last is not None else ""
    if previous:
        if not before:
            raise Refusal(400, f"previous terminated container {names} not found")
        return before
    if state.running is not None:
        return bare(status.container_id)
    if state.terminated is not None or last is not None:
        found = (bare(state.terminated.container_id) if state.terminated is not None else "") or before
        if not found:
            raise Refusal(400, f"container {names} is terminated")
        return found
    reason = state.waiting.reason if state.waiting is not None else ""
    match reason:
        case "":
            why = "is waiting to start - no logs yet"
        case "ErrImagePull":
            why = "is waiting to start: image can't be pulled"
        case "ImagePullBackOff":
            why = "is waiting to start: trying and failing to pull image"
        case _:
            why = f"is waiting to start: {reason}"
    raise Refusal(400, f"container {names} {why}")
