"""What is left of what ran: kept as long as somebody may ask for it."""

from kube.pods import Pod
from kubelet.model import Action, RemoveContainer, RemoveSandbox, Seen
from kubelet.plan.situation import usable_sandbox
from kubelet.runtime import ContainerState


def leavings(pod: Pod, seen: Seen) -> list[Action]:
    """Dead containers but the newest dead one of each name (minDeadContainerInPod 1), and dead sandboxes that hold none of
    what is kept."""
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


def removal_actions(seen: Seen) -> tuple[Action, ...]:
    """Everything that is left of a pod whose object is gone; containers go with their sandbox."""
    homes = {sandbox.id for sandbox in seen.sandboxes}
    return (
        *(RemoveContainer(container.id) for container in seen.containers if container.sandbox_id not in homes),
        *(RemoveSandbox(sandbox.id) for sandbox in seen.sandboxes),
    )
