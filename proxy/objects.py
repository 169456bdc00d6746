"""Services and EndpointSlices with nothing but what rules are made of.

A proxy holds every Service and every slice of the cluster, on every node. As `kube` types, which many rooms read, ten
thousand Services with five endpoints each are 87 MB; these are 35. What is not named here is skipped while decoding: the
pods behind endpoints, selectors, owners, other people's labels and annotations. Garbage collection is told nothing of these
values: they are trees, and looking for cycles in a hundred thousand of them takes as long as a pass.
"""

from __future__ import annotations

import msgspec

from kube import labels
from kube.correlation import Reference
from kube.resources import Resource


class _Part(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Rules shared by all of these; it has no behaviour."""


class Metadata(_Part, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ServicePort(_Part, frozen=True, gc=False, rename="camel"):
    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    node_port: int = 0


class ClientIPConfig(_Part, frozen=True, gc=False, rename="camel"):
    timeout_seconds: int | None = None


class SessionAffinityConfig(_Part, frozen=True, gc=False, rename="camel"):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_Part, frozen=True, gc=False, rename="camel"):
    ports: tuple[ServicePort, ...] | None = ()
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=(), name="clusterIPs")
    type: str = "ClusterIP"
    external_ips: tuple[str, ...] | None = msgspec.field(default=(), name="externalIPs")
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_source_ranges: tuple[str, ...] | None = ()
    external_traffic_policy: str | None = "Cluster"
    internal_traffic_policy: str | None = "Cluster"
    health_check_node_port: int = 0


class LoadBalancerIngress(_Part, frozen=True, gc=False, rename="camel"):
    ip: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(_Part, frozen=True, gc=False, rename="camel"):
    ingress: tuple[LoadBalancerIngress, ...] | None = ()


class ServiceStatus(_Part, frozen=True, gc=False, rename="camel"):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(_Part, frozen=True, gc=False, rename="camel"):
    metadata: Metadata = Metadata()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def reference(self) -> Reference:
        """As an Event names it."""
        meta = self.metadata
        return Reference("v1", "Service", meta.namespace, meta.name, meta.uid, meta.resource_version)


class SliceLabels(_Part, frozen=True, gc=False, rename="camel"):
    service: str = msgspec.field(default="", name=labels.SERVICE_NAME)


class SliceAnnotations(_Part, frozen=True, gc=False, rename="camel"):
    cause: str = msgspec.field(default="", name=labels.LAST_CHANGE_TRIGGER_TIME)


class SliceMetadata(_Part, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: SliceLabels | None = None
    annotations: SliceAnnotations | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Conditions(_Part, frozen=True, gc=False, rename="camel"):
    """Absent means what upstream says it means: ready, serving, not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(_Part, frozen=True, gc=False, rename="camel"):
    name: str = ""


class Hints(_Part, frozen=True, gc=False, rename="camel"):
    for_zones: tuple[Named, ...] | None = ()
    for_nodes: tuple[Named, ...] | None = ()


class Endpoint(_Part, frozen=True, gc=False, rename="camel"):
    addresses: tuple[str, ...] | None = ()
    conditions: Conditions = Conditions()
    node_name: str | None = None
    hints: Hints | None = None


class EndpointPort(_Part, frozen=True, gc=False, rename="camel"):
    name: str | None = None
    protocol: str | None = "TCP"
    port: int | None = None


class EndpointSlice(_Part, frozen=True, gc=False, rename="camel"):
    metadata: SliceMetadata = SliceMetadata()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = ()
    ports: tuple[EndpointPort, ...] | None = ()


class ServiceCIDRSpec(_Part, frozen=True, gc=False, rename="camel"):
    cidrs: tuple[str, ...] | None = ()


class ServiceCIDR(_Part, frozen=True, gc=False, rename="camel"):
    """A range that cluster IPs are allocated from."""

    metadata: Metadata = Metadata()
    spec: ServiceCIDRSpec = ServiceCIDRSpec()


SERVICES = Resource("", "v1", "services", "Service", True, Service)
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, EndpointSlice)
SERVICE_CIDRS = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", False, ServiceCIDR)
