"""What a pod may ask for and does not get from this version: pure, and said in words.

Three answers, by what it would mean to run the pod all the same:

    refusals     it would be another pod than the one asked for (less confined, other containers, hooks that never ran):
                 nothing of it is started, its containers wait as CreateContainerConfigError
    shortcomings it runs and lacks something: one Warning Event
    forbidden    upstream rejects the pod itself: phase Failed

Each names the field, and what to do until a later version brings it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kube.pods import Container, Pod, PodSecurityContext, Probe, SecurityContext
from kubelet import wanted

NEXT = "not in this version of wherry-kubelet, planned for 0.2"

# Namespaced, and harmless to the node and to other pods (pkg/kubelet/sysctl/safe_sysctls.go).
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """`container` is empty when it is the whole pod's."""

    container: str
    message: str


def refusals(pod: Pod) -> tuple[Refusal, ...]:
    found = [Refusal("", message) for message in _of_pod(pod)]
    for index, container in enumerate(pod.spec.init_containers):
        found += [Refusal(container.name, m) for m in _of_container(f"spec.initContainers[{index}]", container)]
    for index, container in enumerate(pod.spec.containers):
        found += [Refusal(container.name, m) for m in _of_container(f"spec.containers[{index}]", container)]
    return tuple(found)


def words(found: tuple[Refusal, ...], container: str) -> str:
    """What is refused of one container, together with what is refused of its pod."""
    return "; ".join(refusal.message for refusal in found if refusal.container in ("", container))


def _of_pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    if not isinstance(spec, wanted.PodSpec):
        return
    if spec.runtime_class_name:
        yield (
            f'spec.runtimeClassName: "{spec.runtime_class_name}": RuntimeClasses are {NEXT}; '
            "remove it to run under the node's runtime"
        )
    if spec.host_users is False:
        yield f"spec.hostUsers: false: user namespaces are {NEXT}; remove it, or run as another user by runAsUser"
    if spec.resource_claims:
        yield f"spec.resourceClaims: dynamic resources are {NEXT}; remove them"
    context = spec.security_context
    if context is not None:
        if context.supplemental_groups_policy == "Strict":
            yield f"spec.securityContext.supplementalGroupsPolicy: Strict is {NEXT}; leave it at Merge"
        yield from _of_profiles("spec.securityContext", context)


def _of_profiles(where: str, context: SecurityContext | PodSecurityContext) -> Iterator[str]:
    if context.seccomp_profile is not None and context.seccomp_profile.type == "Localhost":
        yield f"{where}.seccompProfile: Localhost profiles are {NEXT}; use type RuntimeDefault"
    if context.app_armor_profile is not None and context.app_armor_profile.type == "Localhost":
        yield f"{where}.appArmorProfile: Localhost profiles are {NEXT}; use type RuntimeDefault"


def _of_container(where: str, container: Container) -> Iterator[str]:
    if container.restart_policy is not None:
        what = "sidecar containers" if container.restart_policy == "Always" else "restart policies of one container"
        yield (
            f"{where}.restartPolicy: {container.restart_policy}: {what} are {NEXT}; "
            "make it one of spec.containers without a restartPolicy"
        )
    for name, probe in _probes(container):
        if probe.grpc is not None:
            yield f"{where}.{name}.grpc: gRPC probes are {NEXT}; use httpGet, tcpSocket, or exec with a health client"
    if container.lifecycle is not None and container.lifecycle.stop_signal:
        yield f"{where}.lifecycle.stopSignal is {NEXT}; set STOPSIGNAL in the image"
    for index, mount in enumerate(container.volume_mounts):
        place = f"{where}.volumeMounts[{index}]"
        if mount.sub_path or mount.sub_path_expr:
            field = "subPath" if mount.sub_path else "subPathExpr"
            yield f"{place}.{field}: {mount.mount_path}: {NEXT}; mount the whole volume"
        if mount.recursive_read_only == "Enabled":
            yield f"{place}.recursiveReadOnly: Enabled is {NEXT}; use readOnly"
    if container.security_context is not None and container.security_context.proc_mount == "Unmasked":
        yield f"{where}.securityContext.procMount: Unmasked is {NEXT}; leave it at Default"
    if not isinstance(container, wanted.Container):
        return
    if container.restart_policy_rules and container.restart_policy is None:
        yield f"{where}.restartPolicyRules are {NEXT}; use the pod's restartPolicy"
    if container.volume_devices:
        yield f"{where}.volumeDevices: block volumes are {NEXT}; use volumeMounts"
    if container.security_context is not None:
        yield from _of_profiles(f"{where}.securityContext", container.security_context)


def _probes(container: Container) -> Iterator[tuple[str, Probe]]:
    for name, probe in (
        ("startupProbe", container.startup_probe),
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
    ):
        if probe is not None:
            yield name, probe


def shortcomings(pod: Pod) -> tuple[str, ...]:
    """What the pod lacks although it runs."""
    found: list[str] = []
    everyone = (*pod.spec.init_containers, *pod.spec.containers)
    if not pod.spec.host_network:
        ports = [p.host_port for c in everyone for p in c.ports if p.host_port]
        if ports:
            found.append(
                f"hostPort {', '.join(map(str, ports))}: publishing ports of the node is {NEXT}; the pod runs and is not "
                "reached there: use a Service of type NodePort"
            )
    limited = sorted({name for c in everyone for name in c.resources.limits if _unlimited(name)})
    if limited:
        found.append(f"resources.limits: {', '.join(limited)}: holding containers to this is {NEXT}")
    disks = [v.name for v in pod.spec.volumes if v.empty_dir and v.empty_dir.size_limit and v.empty_dir.medium == ""]
    if disks:
        found.append(
            f"emptyDir.sizeLimit of volume {', '.join(disks)}: eviction is {NEXT}; medium: Memory is held to its limit"
        )
    return (*found, *added(pod))


def added(pod: Pod) -> tuple[str, ...]:
    """What may be asked of a pod that runs already, and is not done: of those `shortcomings` too."""
    if pod.spec.ephemeral_containers:
        return (f"spec.ephemeralContainers are {NEXT}; use kubectl exec",)
    return ()


def _unlimited(resource: str) -> bool:
    return resource == "ephemeral-storage" or resource.startswith("hugepages-")


def forbidden(pod: Pod) -> tuple[str, str]:
    """Reason and message of upstream's rejection; empty strings when there is none."""
    context = pod.spec.security_context
    for sysctl in context.sysctls if context else ():
        name = sysctl.name.replace("/", ".")
        if name not in SAFE_SYSCTLS:
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowlisted'
        if pod.spec.host_network and name.startswith("net."):
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowed with host net enabled'
        if pod.spec.host_ipc and name.startswith("kernel."):
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowed with host ipc enabled'
    return "", ""
