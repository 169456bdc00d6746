"""Where each kind lives: group, version, plural, and the type that its objects decode to."""

from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

from kube import apps, coordination, core, discovery, pods, policy, runtimeclass, signing
from kube.meta import Identified

T = TypeVar("T", bound=Identified)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path; without a namespace, a namespaced kind's path spans all namespaces."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=":"))
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)


PODS = Resource("", "v1", "pods", "Pod", True, pods.Pod)
NODES = Resource("", "v1", "nodes", "Node", False, core.Node)
SERVICES = Resource("", "v1", "services", "Service", True, core.Service)
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", True, core.Endpoints)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False, core.Namespace)
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap", True, core.ConfigMap)
SECRETS = Resource("", "v1", "secrets", "Secret", True, core.Secret)
EVENTS = Resource("", "v1", "events", "Event", True, core.Event)
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, core.ServiceAccount)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", True, apps.Deployment)
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet", True, apps.ReplicaSet)
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, discovery.EndpointSlice)
RESOURCEQUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota", True, policy.ResourceQuota)
PODDISRUPTIONBUDGETS = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, policy.PodDisruptionBudget
)
RUNTIMECLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False, runtimeclass.RuntimeClass)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True, coordination.Lease)
SIGNINGREQUESTS = Resource(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    False,
    signing.SigningRequest,
)
