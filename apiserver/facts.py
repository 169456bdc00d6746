"""What is special about a resource, besides its row in the schema table: small tables from upstream's strategies.

Each set names plurals (which are unique but for the two `events`, which share a store and so its facts). Upstream:
pkg/registry/GROUP/RESOURCE/strategy.go and .../storage/storage.go.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import orjson

from apiserver import schema
from apiserver.schema import GVK, ResourceInfo

# PUT of an object that is not there creates it (AllowCreateOnUpdate).
CREATE_ON_UPDATE: Final = frozenset(
    {
        "clusterrolebindings",
        "clusterroles",
        "endpoints",
        "events",
        "leases",
        "limitranges",
        "rolebindings",
        "roles",
        "runtimeclasses",
        "services",
    }
)
# PUT must say which version it replaces (AllowUnconditionalUpdate is false).
CONDITIONAL_UPDATE: Final = frozenset(
    {
        "csidrivers",
        "csinodes",
        "csistoragecapacities",
        "customresourcedefinitions",
        "leases",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "poddisruptionbudgets",
        "runtimeclasses",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
        "volumeattachments",
    }
)
# metadata.generation starts at 1 and counts changes of what is wanted.
WITH_GENERATION: Final = frozenset(
    {
        "cronjobs",
        "csidrivers",
        "customresourcedefinitions",
        "daemonsets",
        "deployments",
        "deviceclasses",
        "endpointslices",
        "flowschemas",
        "horizontalpodautoscalers",
        "ingressclasses",
        "ingresses",
        "jobs",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "networkpolicies",
        "poddisruptionbudgets",
        "pods",
        "podtemplates",
        "priorityclasses",
        "prioritylevelconfigurations",
        "replicasets",
        "replicationcontrollers",
        "resourceslices",
        "servicecidrs",
        "statefulsets",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    }
)
# DELETE answers with the object and not with a Status (ReturnDeletedObject).
RETURN_DELETED: Final = frozenset(
    {
        "csidrivers",
        "csinodes",
        "csistoragecapacities",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "storageclasses",
        "volumeattachments",
        "volumeattributesclasses",
    }
)
# A new object brings its own status; everybody else's starts empty.
OWN_STATUS: Final = frozenset({"nodes"})
# What the status endpoint leaves as it was, beside everything that is neither metadata nor status. `*` is all of the
# metadata that a client could change (metav1.ResetObjectMetaForStatus).
STATUS_KEEPS: Final[dict[str, tuple[str, ...]]] = {
    "customresourcedefinitions": ("*",),
    "deployments": ("labels",),
    "flowschemas": ("*",),
    "pods": ("ownerReferences",),
    "prioritylevelconfigurations": ("*",),
    "resourceclaims": ("*",),
    "validatingadmissionpolicies": ("*",),
    "volumeattachments": ("*",),
}
ALL_METADATA: Final = ("annotations", "finalizers", "labels", "ownerReferences")
_LOAD_BALANCER: Final[dict[str, dict[str, Any]]] = {"ingresses": {"loadBalancer": {}}, "services": {"loadBalancer": {}}}
_ZERO: Final[dict[str, Any]] = {"string": "", "bool": False, "int32": 0, "int64": 0}


def has_status(info: ResourceInfo) -> bool:
    return info.subresource("status") is not None


@cache
def _empty_status(gvk: GVK, plural: str) -> bytes:
    kind = schema.type_of(gvk)
    if kind is None or "status" not in kind.fields:
        return b"{}"
    fields = schema.named(kind.fields["status"].type).fields
    zeros = {key: _ZERO[field.type] for key, field in fields.items() if field.always and field.type in _ZERO}
    return orjson.dumps(zeros | _LOAD_BALANCER.get(plural, {}))


def empty_status(info: ResourceInfo) -> dict[str, Any]:
    """The status of a new object: empty but for the figures that Go always writes (`replicas: 0`). A value of its own."""
    status: dict[str, Any] = orjson.loads(_empty_status(info.gvk, info.plural))
    return status
