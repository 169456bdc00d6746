"""From a pod's spec to the sandbox that the runtime is asked for: pure."""

import os
from collections.abc import Iterator

from kube.pods import Container, Pod, PodSecurityContext
from kubelet import hosts, resources
from kubelet.means import Place
from kubelet.runtime import (
    DNS,
    PodIdentity,
    PortMapping,
    SandboxConfig,
    SandboxSecurity,
)


def log_directory(root: str, namespace: str, name: str, uid: str) -> str:
    return os.path.join(root, f"{namespace}_{name}_{uid}")


def uid_of(log_directory_name: str) -> str:
    """`namespace_name_uid`, none of which has an underscore; empty for a name that is not of ours."""
    parts = log_directory_name.split("_")
    return parts[2] if len(parts) == 3 and all(parts) else ""


def sandbox_config(pod: Pod, attempt: int, place: Place, resolver: hosts.Resolver, handler: str = "") -> SandboxConfig:
    """`handler` is the one of the pod's RuntimeClass."""
    meta, spec, context = pod.metadata, pod.spec, pod.spec.security_context
    whole, overhead = resources.sandbox_resources(pod, place.policy)
    return SandboxConfig(
        pod=PodIdentity(meta.name, meta.namespace, meta.uid),
        attempt=attempt,
        hostname=hosts.kernel_hostname(pod, place.cluster_domain),
        log_directory=log_directory(place.logs, meta.namespace, meta.name, meta.uid),
        cgroup_parent=resources.pod_cgroup(place.cgroup_root, pod),
        host_network=spec.host_network,
        host_pid=spec.host_pid,
        share_pid=bool(spec.share_process_namespace),
        host_ipc=spec.host_ipc,
        sysctls={s.name: s.value for s in context.sysctls} if context else {},
        labels=meta.labels,
        annotations=meta.annotations,
        dns=DNS(servers=resolver.nameservers, searches=resolver.searches, options=resolver.options),
        port_mappings=() if spec.host_network else tuple(_port_mappings(pod)),
        security=_security(pod),
        handler=handler,
        resources=whole,
        overhead=overhead,
    )


def _everyone(pod: Pod) -> tuple[Container, ...]:
    return (*pod.spec.init_containers, *pod.spec.containers)


def _port_mappings(pod: Pod) -> Iterator[PortMapping]:
    """Of containers that stay: upstream publishes ports of app containers and sidecars."""
    for container in _everyone(pod):
        if container in pod.spec.init_containers and container.restart_policy != "Always":
            continue
        for port in container.ports:
            if port.host_port:
                yield PortMapping(
                    protocol=port.protocol,
                    container_port=port.container_port,
                    host_port=port.host_port,
                    host_ip=port.host_ip,
                )


def _security(pod: Pod) -> SandboxSecurity:
    whole = pod.spec.security_context or PodSecurityContext()
    privileged = any(bool(c.security_context and c.security_context.privileged) for c in _everyone(pod))
    groups = whole.supplemental_groups + ((whole.fs_group,) if whole.fs_group is not None else ())
    return SandboxSecurity(
        run_as_user=whole.run_as_user,
        run_as_group=whole.run_as_group,
        supplemental_groups=groups,
        privileged=privileged,
    )
