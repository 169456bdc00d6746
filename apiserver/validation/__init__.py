"""Semantic validation: what the structure of a type cannot say.

`validate_create` and `validate_update` return every cause at once, so that people fix a manifest in one go; an empty list
means the object may be stored. Rules, paths and sentences are upstream's (pkg/apis/*/validation), for what people meet.

Rules belong to types (`rules`), names and immutable fields to kinds (here). An update is judged by what changed: a spec
that is as it was is not looked at again, so that objects older than a rule can still get their status.
"""

from collections.abc import Callable
from typing import Any, Final

from apiserver import schema
from apiserver.errors import Cause
from apiserver.validation import (
    access,
    autoscaling,
    cluster,
    containers,
    definitions,
    devices,
    events,
    flowcontrol,
    handlers,
    jobs,
    meta,
    names,
    networking,
    pod_updates,
    pods,
    quotas,
    rules,
    scheduling,
    services,
    storage,
    volumes,
    webhooks,
    workloads,
)
from apiserver.validation.rules import TOP, Found

Json = dict[str, Any]
Update = Callable[[Json, Json, Found], None]

for _module in (
    access, autoscaling, cluster, containers, definitions, devices, flowcontrol, handlers, jobs, meta, networking, pods,
    quotas, scheduling, services, storage, volumes, webhooks, workloads,
):  # fmt: skip
    rules.register(_module.RULES)

_RBAC: Final = "rbac.authorization.k8s.io"
_UPDATE: Final[dict[tuple[str, str], Update]] = {
    ("", "ConfigMap"): cluster.immutable_update,
    ("", "Node"): cluster.node_update,
    ("", "PersistentVolume"): storage.volume_update,
    ("", "PersistentVolumeClaim"): storage.claim_update,
    ("", "Pod"): pod_updates.pod_update,
    ("", "ResourceQuota"): quotas.quota_update,
    ("", "Secret"): cluster.secret_update,
    ("", "Service"): services.service_update,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): definitions.definition_update,
    ("apps", "ControllerRevision"): workloads.revision_update,
    ("apps", "DaemonSet"): workloads.selector_update,
    ("apps", "Deployment"): workloads.selector_update,
    ("apps", "ReplicaSet"): workloads.selector_update,
    ("apps", "StatefulSet"): workloads.stateful_update,
    ("batch", "Job"): jobs.job_update,
    ("certificates.k8s.io", "CertificateSigningRequest"): access.signing_request_update,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice_update,
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): flowcontrol.mandatory_update,
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): flowcontrol.mandatory_update,
    ("networking.k8s.io", "IPAddress"): networking.ip_address_update,
    ("networking.k8s.io", "IngressClass"): networking.ingress_class_update,
    ("networking.k8s.io", "ServiceCIDR"): networking.service_cidr_update,
    ("node.k8s.io", "RuntimeClass"): cluster.runtime_class_update,
    (_RBAC, "ClusterRoleBinding"): access.binding_update,
    (_RBAC, "RoleBinding"): access.binding_update,
    ("resource.k8s.io", "ResourceClaim"): devices.claim_update,
    ("resource.k8s.io", "ResourceClaimTemplate"): devices.spec_is_fixed,
    ("resource.k8s.io", "ResourceSlice"): devices.slice_update,
    ("scheduling.k8s.io", "PriorityClass"): cluster.priority_class_update,
    ("storage.k8s.io", "CSIDriver"): storage.csi_driver_update,
    ("storage.k8s.io", "CSINode"): storage.csi_node_update,
    ("storage.k8s.io", "CSIStorageCapacity"): storage.capacity_update,
    ("storage.k8s.io", "StorageClass"): storage.storage_class_update,
    ("storage.k8s.io", "VolumeAttachment"): storage.spec_is_fixed,
    ("storage.k8s.io", "VolumeAttributesClass"): storage.attributes_class_update,
}
_CREATE: Final[dict[tuple[str, str], rules.Check]] = {  # what holds only of a new object
    ("", "Pod"): pods.pod,
    ("networking.k8s.io", "Ingress"): networking.ingress_created,
}
_NAMES: Final[dict[tuple[str, str], names.Rule]] = {
    ("", "Event"): names.path_segment,
    ("", "Namespace"): names.dns_label,
    ("", "Service"): names.dns_1035_label,
    ("apps", "StatefulSet"): names.dns_label,
    ("batch", "CronJob"): names.cron_job_name,
    ("certificates.k8s.io", "CertificateSigningRequest"): names.path_segment,
    ("networking.k8s.io", "IPAddress"): names.address_name,
    (_RBAC, "ClusterRole"): names.path_segment,
    (_RBAC, "ClusterRoleBinding"): names.path_segment,
    (_RBAC, "Role"): names.path_segment,
    (_RBAC, "RoleBinding"): names.path_segment,
}
_EVENT: Final = ("", "Event")
_POD: Final = ("", "Pod")
_STATEFUL: Final = ("apps", "StatefulSet")
_BOUND_KINDS: Final = frozenset({("", "Binding"), ("autoscaling", "Scale")})  # named after another object


def validate_create(gvk: tuple[str, str, str], obj: Json, asked: tuple[str, str, str] | None = None) -> list[Cause]:
    """Causes why a new object (decoded, defaulted, with its namespace set) may not be stored. `asked` is the kind that the
    client spoke of, where it is another than the one that is stored."""
    found = Found()
    kind = (gvk[0], gvk[2])
    if kind not in _BOUND_KINDS:
        info = schema.resource_of(gvk)
        rule = _NAMES.get(kind, names.dns_subdomain)
        meta.object_meta(obj.get("metadata", {}), info is None or info.namespaced, rule, found)
    walk = _walk(gvk)
    if kind == _STATEFUL:
        found.claims = workloads.claim_names(obj)
    if walk is not None:
        walk.check(obj, TOP, found)
    if kind in _CREATE:
        _CREATE[kind](obj, TOP, found)
    if kind == _EVENT:
        events.created(obj, (asked or gvk)[0], found)
    return found.causes


def validate_update(
    gvk: tuple[str, str, str], new: Json, old: Json, asked: tuple[str, str, str] | None = None
) -> list[Cause]:
    """Causes why `new` may not replace `old`: what must not change, and the rules for what did."""
    found = Found()
    kind = (gvk[0], gvk[2])
    metadata = new["metadata"]
    meta.object_meta_update(metadata, old["metadata"], found)
    meta.changeable(metadata, (TOP, "metadata"), found)
    if kind in _UPDATE:
        _UPDATE[kind](new, old, found)
    if kind == _EVENT:
        events.updated(new, old, (asked or gvk)[0], found)
    walk = _walk(gvk)
    if kind == _STATEFUL:
        found.claims = workloads.claim_names(new)
    if walk is not None and not (kind == _POD and new.get("status") == old.get("status")):
        walk.changed(_without_spec(new, old) if kind == _POD else new, old, found)
    return found.causes


def _without_spec(new: Json, old: Json) -> Json:
    """Of a pod's spec only what `pod_updates` looks at can have changed."""
    return new | {"spec": old.get("spec", {})}


def _walk(gvk: tuple[str, str, str]) -> rules.Walk | None:
    name = schema.type_name(gvk)
    return None if name is None else rules.walker(name)
