"""Core v1 but for the Pod (`kube.pods`): the kinds that daemons read. See `kube.meta` for what is and is not in these types."""

from datetime import datetime

import msgspec

from kube.meta import Condition, Object, Typed
from kube.pods import LocalObjectReference, ObjectReference


class Taint(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str = ""
    value: str = ""
    effect: str = ""
    time_added: datetime | None = None


class NodeSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeAddress(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str = ""
    address: str = ""


class DaemonEndpoint(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    port: int = msgspec.field(default=0, name="Port")


class NodeDaemonEndpoints(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeSystemInfo(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    machine_id: str = msgspec.field(default="", name="machineID")
    system_uuid: str = msgspec.field(default="", name="systemUUID")
    boot_id: str = msgspec.field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class ContainerImage(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    names: tuple[str, ...] = ()
    size_bytes: int = 0


class NodeStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    conditions: tuple[Condition, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    images: tuple[ContainerImage, ...] = ()


class Node(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ServicePort(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str | None = None
    port: int = 0
    target_port: int | str = 0
    node_port: int = 0


class ClientIPConfig(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    type: str = "ClusterIP"
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    external_name: str = ""
    external_traffic_policy: str = "Cluster"
    internal_traffic_policy: str = "Cluster"
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    traffic_distribution: str | None = None


class LoadBalancerIngress(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ip: str = ""
    ip_mode: str | None = None
    hostname: str = ""


class LoadBalancerStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointAddress(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ip: str = ""
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class CoreEndpointPort(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"
    app_protocol: str | None = None


class EndpointSubset(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[CoreEndpointPort, ...] = ()


class Endpoints(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    subsets: tuple[EndpointSubset, ...] = ()


class NamespaceSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class Namespace(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class ConfigMap(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`binary_data` values are base64 text, as on the wire."""

    immutable: bool | None = None
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}


class Secret(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`data` values are base64 text, as on the wire."""

    immutable: bool | None = None
    data: dict[str, str] = {}
    type: str = ""


class ServiceAccount(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    automount_service_account_token: bool | None = None


class EventSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    component: str = ""
    host: str = ""


class Event(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    count: int = 0
    type: str = ""
    event_time: datetime | None = None
    reporting_controller: str = msgspec.field(default="", name="reportingComponent")
    reporting_instance: str = ""
