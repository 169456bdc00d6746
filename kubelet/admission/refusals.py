"""What a pod may ask for and does not get from this version: pure, and said in words.

Two answers, by what it would mean to run the pod all the same:

    refusals     it would be another pod than the one asked for (less confined, other files): nothing of it is started, its
                 containers wait as CreateContainerConfigError
    shortcomings it runs and lacks something: one Warning Event

Each names the field, and what to do until a later version brings it. What upstream rejects too is `kubelet.admission.fit`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kube import quantity
from kube.pods import Container, Pod, PodSecurityContext, SecurityContext
from kubelet.observe import wanted

NEXT = "not in this version of wherry-kubelet, planned for 0.2"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`container` is empty when it is the whole pod's."""

    container: str
    message: str


def refusals(pod: Pod) -> tuple[Refusal, ...]:
    found = [Refusal("", message) for message in _of_pod(pod)]
    for kind, group in (
        ("initContainers", pod.spec.init_containers),
        ("containers", pod.spec.containers),
        ("ephemeralContainers", pod.spec.ephemeral_containers),
    ):
        for index, container in enumerate(group):
            found += [Refusal(container.name, m) for m in _of_container(f"spec.{kind}[{index}]", container)]
    return tuple(found)


def words(found: tuple[Refusal, ...], container: str) -> str:
    """What is refused of one container, together with what is refused of its pod."""
    return "; ".join(refusal.message for refusal in found if refusal.container in ("", container))


def _of_pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    if not isinstance(spec, wanted.PodSpec):
        return
    if spec.host_users is False:
        yield f"spec.hostUsers: false: user namespaces are {NEXT}; remove it, or run as another user by runAsUser"
    if spec.resource_claims:
        yield f"spec.resourceClaims: dynamic resources are {NEXT}; remove them"
    if spec.security_context is not None:
        yield from _of_profiles("spec.securityContext", spec.security_context)
    yield from _of_amounts("spec.overhead", spec.overhead)
    if spec.resources is not None:
        yield from _of_amounts("spec.resources.limits", spec.resources.limits)
        yield from _of_amounts("spec.resources.requests", spec.resources.requests)


def _of_amounts(where: str, amounts: Mapping[str, str]) -> Iterator[str]:
    """An API refuses these; what an API let pass must not pass for nothing."""
    for name, amount in amounts.items():
        try:
            quantity.parse(amount)
        except ValueError:
            yield f"{where}.{name}: {amount!r} is no quantity; write it like 100m or 256Mi"


def _of_profiles(where: str, context: SecurityContext | PodSecurityContext) -> Iterator[str]:
    if context.app_armor_profile is not None and context.app_armor_profile.type == "Localhost":
        yield f"{where}.appArmorProfile: Localhost profiles are {NEXT}; use type RuntimeDefault"


def _of_container(where: str, container: Container) -> Iterator[str]:
    yield from _of_amounts(f"{where}.resources.limits", container.resources.limits)
    yield from _of_amounts(f"{where}.resources.requests", container.resources.requests)
    for index, mount in enumerate(container.volume_mounts):
        place = f"{where}.volumeMounts[{index}]"
        if mount.sub_path or mount.sub_path_expr:
            field = "subPath" if mount.sub_path else "subPathExpr"
            yield f"{place}.{field}: {mount.mount_path}: {NEXT}; mount the whole volume"
        if mount.recursive_read_only == "Enabled":
            yield f"{place}.recursiveReadOnly: Enabled is {NEXT}; use readOnly"
    for index, rule in enumerate(container.restart_policy_rules):
        if rule.action != "Restart":
            yield f"{where}.restartPolicyRules[{index}].action: {rule.action} is {NEXT}; use Restart"
    if container.security_context is not None:
        if container.security_context.proc_mount == "Unmasked":
            yield f"{where}.securityContext.procMount: Unmasked is {NEXT}; leave it at Default"
        yield from _of_profiles(f"{where}.securityContext", container.security_context)
    if isinstance(container, wanted.Container) and container.volume_devices:
        yield f"{where}.volumeDevices: block volumes are {NEXT}; use volumeMounts"


def shortcomings(pod: Pod) -> tuple[str, ...]:
    """What the pod lacks although it runs."""
    found: list[str] = []
    everyone = (*pod.spec.init_containers, *pod.spec.containers)
    if any("ephemeral-storage" in c.resources.limits for c in everyone):
        found.append(f"resources.limits: ephemeral-storage: holding containers to this is {NEXT}")
    disks = [v.name for v in pod.spec.volumes if v.empty_dir and v.empty_dir.size_limit and v.empty_dir.medium == ""]
    if disks:
        found.append(
            f"emptyDir.sizeLimit of volume {', '.join(disks)}: eviction is {NEXT}; medium: Memory is held to its limit"
        )
    contexts = [pod.spec.security_context, *(c.security_context for c in everyone)]
    if any(isinstance(c, wanted.SecurityContext | wanted.PodSecurityContext) and c.se_linux_options for c in contexts):
        found.append(
            f"securityContext.seLinuxOptions: {NEXT}; on a host with SELinux the runtime's own label is in force"
        )
    profiles = [c.app_armor_profile for c in contexts if c is not None and c.app_armor_profile is not None]
    if any(profile.type == "Unconfined" for profile in profiles):
        found.append(
            f"appArmorProfile: Unconfined is {NEXT}; on a host with AppArmor the runtime's own profile is in force"
        )
    return tuple(found)
