"""What a plan depends on, and the words for the parts of a pod."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kube.pods import Container, LifecycleHandler, Pod, PodStatus
from kube.pods import ContainerStatus as ReportedStatus
from kubelet import backoff
from kubelet.backoff import Entry
from kubelet.model import Health, Held, Seen
from kubelet.runtime import ContainerStatus, SandboxRecord

NOTHING_SAID = PodStatus()
CONFIG_SOURCE = "kubernetes.io/config.source"  # api, or where else this kubelet has the pod from
CONFIG_MIRROR = "kubernetes.io/config.mirror"  # the uid of the static pod that a pod of the API shows


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
    doomed: Collection[str] = ()  # ids of containers that were stopped in order to be started again
    logged: Mapping[str, int] = field(default_factory=dict)  # attempts that logs tell of, by container name
    now: datetime
    cap: float = backoff.CAP


def pod_label(pod: Pod) -> str:
    """`name_namespace(uid)`, as upstream's messages spell a pod."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def is_static(pod: Pod) -> bool:
    """From a manifest of this node and not from the API."""
    return pod.metadata.annotations.get(CONFIG_SOURCE, "api") != "api"


def is_sidecar(container: Container) -> bool:
    """Of an init container: whether it is kept running beside the others (KEP-753)."""
    return container.restart_policy == "Always"


def named(pod: Pod, name: str) -> Container | None:
    """The container of that name, of whichever kind."""
    everyone = (*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers)
    return next((container for container in everyone if container.name == name), None)


def hooked(pod: Pod, name: str) -> LifecycleHandler | None:
    """The preStop hook of a container."""
    container = named(pod, name)
    return container.lifecycle.pre_stop if container and container.lifecycle else None


def reported(status: PodStatus, name: str) -> ReportedStatus | None:
    everyone = (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)
    return next((one for one in everyone if one.name == name), None)


def usable_sandbox(pod: Pod, seen: Seen) -> SandboxRecord | None:
    ready = seen.ready_sandboxes
    if len(ready) != 1 or ready[0] is not seen.sandboxes[0]:
        return None
    if not pod.spec.host_network and not ready[0].ips:
        return None
    return ready[0]


def current(pod: Pod, seen: Seen, name: str) -> ContainerStatus | None:
    """The newest container of that name, if it belongs to the sandbox in use: init containers of an earlier one do not
    count."""
    latest, sandbox = seen.latest(name), usable_sandbox(pod, seen)
    if latest is None or (sandbox is not None and latest.sandbox_id != sandbox.id):
        return None
    return latest
