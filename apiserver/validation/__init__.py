"""Semantic validation: what the structure of a type cannot say.

`validate_create` and `validate_update` return every cause at once, so that people fix a manifest in one go; an empty list
means the object may be stored. Rules, paths and sentences are upstream's (pkg/apis/*/validation), for what people meet.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from apiserver import schema
from apiserver.errors import Cause
from apiserver.validation import cluster, meta, names, pods, services, workloads

Json = dict[str, Any]
Create = Callable[[Json], Iterator[Cause]]
Update = Callable[[Json, Json], Iterator[Cause]]

_CREATE: Final[dict[tuple[str, str], Create]] = {
    ("", "Binding"): cluster.binding,
    ("", "ConfigMap"): cluster.config_map,
    ("", "Endpoints"): services.endpoints,
    ("", "Event"): cluster.event,
    ("", "Node"): cluster.node,
    ("", "Pod"): pods.pod,
    ("", "Secret"): cluster.secret,
    ("", "Service"): services.service,
    ("apps", "Deployment"): workloads.deployment,
    ("apps", "ReplicaSet"): workloads.replica_set,
    ("autoscaling", "Scale"): workloads.scale,
    ("coordination.k8s.io", "Lease"): cluster.lease,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice,
}
_UPDATE: Final[dict[tuple[str, str], Update]] = {
    ("", "ConfigMap"): cluster.immutable_update,
    ("", "Node"): cluster.node_update,
    ("", "Pod"): pods.pod_update,
    ("", "Secret"): cluster.secret_update,
    ("", "Service"): services.service_update,
    ("apps", "Deployment"): workloads.selector_update,
    ("apps", "ReplicaSet"): workloads.selector_update,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice_update,
}
_NAMES: Final[dict[tuple[str, str], names.Rule]] = {
    ("", "Event"): names.path_segment,
    ("", "Namespace"): names.dns_label,
    ("", "Service"): names.dns_1035_label,
}
_BOUND_KINDS: Final = frozenset({("", "Binding"), ("autoscaling", "Scale")})  # named after another object


def validate_create(gvk: tuple[str, str, str], obj: Json) -> list[Cause]:
    """Causes why a new object (decoded, defaulted, with its namespace set) may not be stored."""
    kind = (gvk[0], gvk[2])
    return [*_metadata(gvk, obj), *_CREATE.get(kind, _nothing)(obj)]


def validate_update(gvk: tuple[str, str, str], new: Json, old: Json) -> list[Cause]:
    """Causes why `new` may not replace `old`: the rules of a new object, and what must not change."""
    kind = (gvk[0], gvk[2])
    found = [*meta.object_meta_update(new["metadata"], old["metadata"]), *_UPDATE.get(kind, _unchanging)(new, old)]
    if kind == ("", "Pod"):  # the rest of a pod's spec is unchanged, and was valid when it was made
        return [*found, *meta.labels_and_annotations(new["metadata"], "metadata")]
    return [*found, *validate_create(gvk, new)]


def _metadata(gvk: tuple[str, str, str], obj: Json) -> Iterator[Cause]:
    kind = (gvk[0], gvk[2])
    if kind in _BOUND_KINDS:
        return
    info = schema.resource_of(gvk)
    rule = _NAMES.get(kind, names.dns_subdomain)
    yield from meta.object_meta(obj.get("metadata", {}), info is None or info.namespaced, rule)


def _nothing(_: Json) -> Iterator[Cause]:
    yield from ()


def _unchanging(_: Json, __: Json) -> Iterator[Cause]:
    yield from ()
