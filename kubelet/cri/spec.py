"""Between our values and CRI's messages, purely.

A pod is known by its labels io.kubernetes.pod.{name,namespace,uid}, as upstream writes them. Which kubelet made a thing stands
beside them under io.wherry.*; what carries none of those labels counts as this kubelet's, so that pods which a stock kubelet
left on the node are taken over, as it takes over ours. Unlike Docker, CRI keeps annotations and hands them back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

from kubelet.cri import runtime_pb2 as pb
from kubelet.runtime import (
    CONTAINER_NAME,
    NODE,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ROOT,
    RUNTIME_DEFAULT,
    UNCONFINED,
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ContainerStatus,
    ContainerUser,
    Image,
    IPAddress,
    LinuxResources,
    Mount,
    PodIdentity,
    RegistryAuth,
    RuntimeRefused,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
    SecurityContext,
)

EPOCH = datetime.fromtimestamp(0, UTC)
STOP_SIGNAL = "io.wherry.container.stopSignal"  # annotation: for runtimes that do not know the field

# Upstream's (pkg/securitycontext/util.go): what a container does not see, or may not write, unless it is privileged.
MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROPAGATION = {
    "": pb.PROPAGATION_PRIVATE,
    "rslave": pb.PROPAGATION_HOST_TO_CONTAINER,
    "rshared": pb.PROPAGATION_BIDIRECTIONAL,
}
_PROPAGATED = {number: name for name, number in _PROPAGATION.items()}
_STATES = {
    pb.CONTAINER_CREATED: ContainerState.CREATED,
    pb.CONTAINER_RUNNING: ContainerState.RUNNING,
    pb.CONTAINER_EXITED: ContainerState.EXITED,
}


@dataclass(frozen=True, slots=True)
class Owner:
    """Which kubelet a thing belongs to: its node's name, and its root directory on this machine."""

    node: str
    root: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {NODE: self.node} | ({ROOT: self.root} if self.root else {})

    def owns(self, labels: Mapping[str, str]) -> bool:
        return bool(labels.get(POD_UID)) and all(labels.get(key, value) == value for key, value in self.labels.items())


def pod_of(labels: Mapping[str, str]) -> PodIdentity:
    return PodIdentity(labels.get(POD_NAME, ""), labels.get(POD_NAMESPACE, ""), labels.get(POD_UID, ""))


def _identity(pod: PodIdentity, owner: Owner) -> dict[str, str]:
    return {POD_NAME: pod.name, POD_NAMESPACE: pod.namespace, POD_UID: pod.uid, **owner.labels}


def moment(nanoseconds: int) -> datetime | None:
    """None for a time that never came; runtimes write it as 0 or as year 1."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds > 0 else None


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """What CRI has no room for, such as a number of more bits than its field, is refused as the runtime would refuse it."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise RuntimeRefused(f"CRI cannot say it: {error}") from error


# --- what we ask for --------------------------------------------------------------------------------------------------


def sandbox(config: SandboxConfig, owner: Owner) -> pb.PodSandboxConfig:
    given = config.security
    security = pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(config),
        readonly_rootfs=given.read_only_root,
        supplemental_groups=given.supplemental_groups,
        privileged=given.privileged,
        seccomp=_seccomp(RUNTIME_DEFAULT),
    )
    if given.run_as_user is not None:
        security.run_as_user.value = given.run_as_user
        if given.run_as_group is not None:  # CRI refuses a group without a user
            security.run_as_group.value = given.run_as_group
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=config.pod.name, uid=config.pod.uid, namespace=config.pod.namespace, attempt=config.attempt
        ),
        hostname="" if config.host_network else config.hostname,
        log_directory=config.log_directory,
        dns_config=pb.DNSConfig(servers=config.dns.servers, searches=config.dns.searches, options=config.dns.options),
        port_mappings=[
            pb.PortMapping(
                protocol=each.protocol,
                container_port=each.container_port,
                host_port=each.host_port,
                host_ip=each.host_ip,
            )
            for each in config.port_mappings
        ],
        labels={**config.labels, **_identity(config.pod, owner)},
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=security,
            sysctls=config.sysctls,
            resources=resources(config.resources) if config.resources is not None else None,
            overhead=resources(config.overhead) if config.overhead is not None else None,
        ),
    )


def _namespaces(config: SandboxConfig, target_id: str = "") -> pb.NamespaceOption:
    """Of the sandbox, and of its containers unless one joins another."""
    pid = pb.NODE if config.host_pid else pb.POD if config.share_pid else pb.CONTAINER
    return pb.NamespaceOption(
        network=pb.NODE if config.host_network else pb.POD,
        pid=pb.TARGET if target_id and not config.host_pid else pid,
        ipc=pb.NODE if config.host_ipc else pb.POD,
        target_id="" if config.host_pid else target_id,
    )


def _seccomp(profile: str) -> pb.SecurityProfile:
    match profile:
        case "Unconfined":
            return pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
        case "RuntimeDefault":
            return pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
        case path:
            return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=path)


assert (UNCONFINED, RUNTIME_DEFAULT) == ("Unconfined", "RuntimeDefault")  # `_seccomp` spells them out


def container(config: ContainerConfig, sandbox_config: SandboxConfig, owner: Owner) -> pb.ContainerConfig:
    notes = {**config.annotations, **({STOP_SIGNAL: config.stop_signal} if config.stop_signal else {})}
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=pb.ImageSpec(
            image=config.image, user_specified_image=config.user_image, runtime_handler=sandbox_config.handler
        ),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=name, value=value) for name, value in config.env],
        mounts=[_mount(each) for each in config.mounts],
        labels={**config.labels, **_identity(sandbox_config.pod, owner), CONTAINER_NAME: config.name},
        annotations=notes,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=resources(config.resources), security_context=_security(config, sandbox_config)
        ),
        stop_signal=_signal(config.stop_signal),
    )


def _signal(name: str) -> str:
    """CRI's name of a signal; those it does not know by name (SIGRTMIN+3) are left to `STOP_SIGNAL`."""
    return name if name in pb.Signal.keys() else "RUNTIME_DEFAULT"  # noqa: SIM118 - not a mapping


def _mount(mount: Mount) -> pb.Mount:
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.read_only,
        propagation=_PROPAGATION[mount.propagation],
        recursive_read_only=mount.recursive_read_only,
    )


def resources(given: LinuxResources) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(
        cpu_period=given.cpu_period or (100_000 if given.cpu_quota else 0),
        cpu_quota=given.cpu_quota,
        cpu_shares=given.cpu_shares,
        memory_limit_in_bytes=given.memory_limit,
        memory_swap_limit_in_bytes=given.memory_swap_limit or given.memory_limit,
        oom_score_adj=given.oom_score_adj,
        cpuset_cpus=given.cpuset_cpus,
        cpuset_mems=given.cpuset_mems,
        hugepage_limits=[pb.HugepageLimit(page_size=size, limit=limit) for size, limit in given.hugepage_limits],
        unified=given.unified,
    )


def _security(config: ContainerConfig, sandbox_config: SandboxConfig) -> pb.LinuxContainerSecurityContext:
    given: SecurityContext = config.security
    context = pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(add_capabilities=given.add_capabilities, drop_capabilities=given.drop_capabilities),
        privileged=given.privileged,
        namespace_options=_namespaces(sandbox_config, config.target_id),
        readonly_rootfs=given.read_only_root,
        supplemental_groups=given.supplemental_groups,
        no_new_privs=given.no_new_privileges,
        masked_paths=() if given.privileged else MASKED,
        readonly_paths=() if given.privileged else READ_ONLY,
        seccomp=_seccomp(UNCONFINED if given.privileged else given.seccomp),
    )
    if given.run_as_user.isdecimal():
        context.run_as_user.value = int(given.run_as_user)
    elif given.run_as_user:
        context.run_as_username = given.run_as_user
    if given.run_as_group is not None:
        context.run_as_group.value = given.run_as_group
    return context


def auth(given: RegistryAuth | None) -> pb.AuthConfig | None:
    return pb.AuthConfig(username=given.username, password=given.password) if given is not None else None


# --- what we are told -------------------------------------------------------------------------------------------------


def sandbox_state(state: int) -> SandboxState:
    return SandboxState.READY if state == pb.SANDBOX_READY else SandboxState.NOT_READY


def sandbox_record(told: pb.PodSandbox, ips: tuple[IPAddress, ...]) -> SandboxRecord:
    return SandboxRecord(
        id=told.id,
        attempt=told.metadata.attempt,
        state=sandbox_state(told.state),
        created_at=moment(told.created_at) or EPOCH,
        ips=ips,
        annotations=dict(told.annotations),
    )


def ips_of(told: pb.PodSandboxStatus) -> tuple[IPAddress, ...]:
    """The first is the pod's address; none with the host's network, or before there is one."""
    named = [told.network.ip, *(each.ip for each in told.network.additional_ips)]
    found = []
    for text in named:
        try:
            found.append(ip_address(text))
        except ValueError:
            continue
    return tuple(found)


def container_record(told: pb.Container) -> ContainerRecord:
    return ContainerRecord(
        id=told.id,
        sandbox_id=told.pod_sandbox_id,
        name=told.metadata.name,
        attempt=told.metadata.attempt,
        image=told.image.user_specified_image or told.image.image,
        image_id=told.image_ref,
        state=_STATES.get(told.state, ContainerState.UNKNOWN),
        created_at=moment(told.created_at) or EPOCH,
        annotations=dict(told.annotations),
    )


# A start whose caller went away (a kubelet killed in the middle of it) is given up by containerd, which kills the shim that it
# was launching and notes an exit of 128. Nothing of the container ran: for us it was never started, or a pod that runs once
# would have failed for it.
_ABANDONED = re.compile(r"context canceled|failed to start shim: .*signal: killed")


def container_status(told: pb.ContainerStatus, sandbox_id: str, tty: bool) -> ContainerStatus:
    """What only the verbose answer knows (process, cgroup, limits) is added by the caller."""
    state = _STATES.get(told.state, ContainerState.UNKNOWN)
    if state is ContainerState.EXITED and told.reason == "StartError" and _ABANDONED.search(told.message):
        state = ContainerState.CREATED
    exited = state is ContainerState.EXITED
    created, started = moment(told.created_at), moment(told.started_at)
    finished = moment(told.finished_at)
    if started is not None and finished is not None:
        finished = max(started, finished)
    user = told.user.linux if told.HasField("user") else None
    return ContainerStatus(
        id=told.id,
        sandbox_id=sandbox_id,
        pod=pod_of(told.labels),
        name=told.metadata.name,
        attempt=told.metadata.attempt,
        state=state,
        created_at=created or EPOCH,
        started_at=started or (created if exited else None),
        finished_at=(finished or started or created) if exited else None,
        exit_code=told.exit_code if exited else 0,
        reason=(told.reason or ("Error" if told.exit_code else "Completed")) if exited else "",
        message=told.message,
        image=told.image.user_specified_image or told.image.image,
        image_id=told.image_ref,
        mounts=tuple(_mount_of(each) for each in told.mounts),
        log_path=told.log_path,
        tty=tty,
        annotations=dict(told.annotations),
        user=ContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=tuple(user.supplemental_groups))
        if user is not None
        else None,
        resources=resources_of(told.resources.linux) if told.HasField("resources") else None,
    )


def _mount_of(told: pb.Mount) -> Mount:
    return Mount(
        host_path=told.host_path,
        container_path=told.container_path,
        read_only=told.readonly,
        propagation=_PROPAGATED.get(told.propagation, ""),
        recursive_read_only=told.recursive_read_only,
    )


def resources_of(told: pb.LinuxContainerResources) -> LinuxResources:
    memory, swap = told.memory_limit_in_bytes, told.memory_swap_limit_in_bytes
    return LinuxResources(
        cpu_shares=told.cpu_shares,
        cpu_period=told.cpu_period,
        cpu_quota=told.cpu_quota,
        memory_limit=memory,
        memory_swap_limit=0 if swap == memory else swap,
        oom_score_adj=told.oom_score_adj,
        cpuset_cpus=told.cpuset_cpus,
        cpuset_mems=told.cpuset_mems,
        hugepage_limits=tuple((each.page_size, each.limit) for each in told.hugepage_limits),
        unified=dict(told.unified),
    )


def image(told: pb.Image) -> Image:
    return Image(
        id=told.id,
        tags=tuple(told.repo_tags),
        digests=tuple(told.repo_digests),
        size=told.size,
        user=str(told.uid.value) if told.HasField("uid") else told.username,
        pinned=told.pinned,
    )
