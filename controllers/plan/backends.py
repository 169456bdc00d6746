"""Which pods stand behind a Service, at which addresses and ports: what EndpointSlices and Endpoints have in common.

A pod is a backend when the selector matches and it has an address of the family, until it is over. A named target port is
looked up in each pod, so the pods of one Service may differ in ports: they are grouped by the ports that they resolve to.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controllers.plan.pods import is_over, is_ready
from kube.core import Service, ServicePort
from kube.discovery import EndpointPort
from kube.pods import ObjectReference, Pod

Ports = tuple[EndpointPort, ...]


@dataclass(frozen=True, slots=True)
class Backend:
    """`serving` is the pod's own readiness; `ready` is what Services go by."""

    pod: Pod
    address: str
    ready: bool
    serving: bool
    terminating: bool
    hostname: str | None

    @property
    def reference(self) -> ObjectReference:
        meta = self.pod.metadata
        return ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid)


def families(service: Service) -> tuple[str, ...]:
    return service.spec.ip_families or ("IPv4",)


def is_headless(service: Service) -> bool:
    return service.spec.cluster_ip == "None"


def _address(pod: Pod, family: str) -> str | None:
    candidates = [p.ip for p in pod.status.pod_ips] or [pod.status.pod_ip]
    version = 6 if family == "IPv6" else 4
    return next((ip for ip in candidates if ip and ipaddress.ip_address(ip).version == version), None)


def _target(pod: Pod, port: ServicePort) -> int | None:
    """The pod's port behind a Service port; None when it has none of that name."""
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    sidecars = (c for c in pod.spec.init_containers if c.restart_policy == "Always")
    for container in (*pod.spec.containers, *sidecars):
        for candidate in container.ports:
            if candidate.name == port.target_port and candidate.protocol == port.protocol:
                return candidate.container_port
    return None


def ports_of(service: Service, pod: Pod) -> Ports:
    found = [(port, _target(pod, port)) for port in service.spec.ports]
    return tuple(
        EndpointPort(name=port.name, protocol=port.protocol, port=number, app_protocol=port.app_protocol)
        for port, number in found
        if number is not None
    )


def backend(service: Service, pod: Pod, family: str) -> Backend | None:
    address = _address(pod, family)
    if address is None or is_over(pod):
        return None
    terminating = pod.metadata.deletion_timestamp is not None
    serving = is_ready(pod)
    named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    return Backend(
        pod=pod,
        address=address,
        ready=service.spec.publish_not_ready_addresses or (serving and not terminating),
        serving=serving,
        terminating=terminating,
        hostname=pod.spec.hostname if named else None,
    )


def by_ports(service: Service, pods: Iterable[Pod], family: str) -> Mapping[Ports, list[Backend]]:
    """Pods without any of a Service's ports are left out; a headless Service needs none."""
    groups: defaultdict[Ports, list[Backend]] = defaultdict(list)
    for pod in pods:
        found = backend(service, pod, family)
        if found is None:
            continue
        ports = ports_of(service, pod)
        if ports or (is_headless(service) and not service.spec.ports):
            groups[ports].append(found)
    return groups
