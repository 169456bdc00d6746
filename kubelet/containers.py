"""From a container of a pod's spec to what the runtime is asked to create: pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from kube.errors import Invalid
from kube.pods import Container, Pod, PodSecurityContext, SeccompProfile, VolumeMount
from kube.pods import SecurityContext as WantedSecurity
from kubelet import resources
from kubelet.environment import command_line
from kubelet.model import StartContainer
from kubelet.plan import container_hash, pod_label
from kubelet.runtime import (
    CONTAINER_HASH,
    POD_TERMINATION_GRACE_PERIOD,
    RESTART_COUNT,
    RUNTIME_DEFAULT,
    TERMINATION_MESSAGE_PATH,
    TERMINATION_MESSAGE_POLICY,
    UNCONFINED,
    ContainerConfig,
    Image,
    Mount,
    SecurityContext,
)

_PROPAGATION = {"": "", "None": "", "HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Furniture:
    """Paths on the node of what the kubelet mounts into a container; an empty one is not mounted. `volumes` is by
    volume name."""

    volumes: Mapping[str, str]
    hosts: str
    resolver: str
    hostname: str
    termination: str
    memory: int
    policy: resources.Policy = resources.UPSTREAMS


def container_config(
    pod: Pod, action: StartContainer, image: Image, variables: Mapping[str, str], furniture: Furniture, target: str = ""
) -> ContainerConfig:
    """`target` is the id of the container whose processes it shall see. Raises Invalid when the container cannot be made as
    it is written."""
    container = action.container
    command, args = command_line(container, variables)
    return ContainerConfig(
        name=container.name,
        attempt=action.restart_count,
        image=image.id,
        user_image=container.image,
        command=command,
        args=args,
        working_dir=container.working_dir,
        env=tuple(variables.items()),
        mounts=_mounts(pod, container, furniture),
        annotations=_annotations(pod, action),
        log_path=f"{container.name}/{action.restart_count}.log",
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
        stop_signal=(container.lifecycle.stop_signal or "") if container.lifecycle else "",
        target_id=target,
        resources=resources.container_resources(pod, container, furniture.memory, furniture.policy),
        security=security(pod, container, image, furniture.policy),
    )


def _annotations(pod: Pod, action: StartContainer) -> dict[str, str]:
    container, grace = action.container, pod.spec.termination_grace_period_seconds
    return {
        CONTAINER_HASH: container_hash(container),
        RESTART_COUNT: str(action.restart_count),
        TERMINATION_MESSAGE_PATH: container.termination_message_path,
        TERMINATION_MESSAGE_POLICY: container.termination_message_policy,
        POD_TERMINATION_GRACE_PERIOD: str(30 if grace is None else grace),
    }


def _mounts(pod: Pod, container: Container, furniture: Furniture) -> tuple[Mount, ...]:
    mounts = [_mount(pod, container, wanted, furniture) for wanted in container.volume_mounts]
    taken = {mount.container_path.rstrip("/") for mount in mounts}
    for path, source in (
        ("/etc/hosts", furniture.hosts),
        ("/etc/resolv.conf", furniture.resolver),
        ("/etc/hostname", furniture.hostname),
        (container.termination_message_path, furniture.termination),
    ):
        if source and path and path.rstrip("/") not in taken:
            mounts.append(Mount(host_path=source, container_path=path))
    return tuple(mounts)


def _mount(pod: Pod, container: Container, wanted: VolumeMount, furniture: Furniture) -> Mount:
    where = f"volumeMounts of container {container.name!r}: {wanted.mount_path}"
    if wanted.name not in furniture.volumes:
        raise Invalid(f"{where}: volume {wanted.name!r} is not among the pod's volumes")
    propagation = wanted.mount_propagation or ""
    if propagation == "Bidirectional" and not (container.security_context and container.security_context.privileged):
        raise Invalid(f"{where}: mountPropagation Bidirectional is for privileged containers")
    volume = next(v for v in pod.spec.volumes if v.name == wanted.name)
    written_by_kubelet = volume.config_map or volume.secret or volume.downward_api or volume.projected
    return Mount(
        host_path=furniture.volumes[wanted.name],
        container_path=wanted.mount_path,
        read_only=wanted.read_only or written_by_kubelet is not None,
        propagation=_PROPAGATION.get(propagation, ""),
    )


def security(pod: Pod, container: Container, image: Image, policy: resources.Policy) -> SecurityContext:
    """The container's wishes over the pod's. Raises Invalid when runAsNonRoot would be broken."""
    whole = pod.spec.security_context or PodSecurityContext()
    own = container.security_context or WantedSecurity()
    user = own.run_as_user if own.run_as_user is not None else whole.run_as_user
    group = own.run_as_group if own.run_as_group is not None else whole.run_as_group
    non_root = own.run_as_non_root if own.run_as_non_root is not None else whole.run_as_non_root
    if non_root:
        _check_non_root(pod, container, user, image)
    groups = whole.supplemental_groups + ((whole.fs_group,) if whole.fs_group is not None else ())
    profile = own.seccomp_profile or whole.seccomp_profile
    capabilities = own.capabilities
    return SecurityContext(
        run_as_user="" if user is None else str(user),
        run_as_group=group,
        supplemental_groups=groups,
        privileged=bool(own.privileged),
        no_new_privileges=own.allow_privilege_escalation is False,
        read_only_root=bool(own.read_only_root_filesystem),
        add_capabilities=tuple(c.removeprefix("CAP_") for c in capabilities.add) if capabilities else (),
        drop_capabilities=tuple(c.removeprefix("CAP_") for c in capabilities.drop) if capabilities else (),
        seccomp=_seccomp(profile, policy),
    )


def _seccomp(profile: SeccompProfile | None, policy: resources.Policy) -> str:
    if profile is None:
        return RUNTIME_DEFAULT if policy.seccomp else UNCONFINED
    if profile.type != "Localhost":
        return UNCONFINED if profile.type == UNCONFINED else RUNTIME_DEFAULT
    name = profile.localhost_profile or ""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise Invalid(f"seccompProfile.localhostProfile: {name!r}: name a file below {policy.profiles}")
    return f"{policy.profiles}/{name}"


def _check_non_root(pod: Pod, container: Container, user: int | None, image: Image) -> None:
    where = f'(pod: "{pod_label(pod)}", container: {container.name})'
    if user == 0:
        raise Invalid(f"container's runAsUser breaks non-root policy {where}")
    if user is not None:
        return
    name = image.user.split(":")[0]
    if name and not (name.isascii() and name.isdigit()):
        raise Invalid(f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify {where}")
    if not name.strip("0"):
        raise Invalid(f"container has runAsNonRoot and image will run as root {where}")
