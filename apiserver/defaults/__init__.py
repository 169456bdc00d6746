"""What the server fills in.

Two moments, as upstream: `apply` right after decoding, for every body and every patched object (a function of the object
alone, and idempotent); `prepare_create` and `prepare_update` after admission and before validation (the pure part of
each kind's strategy: a client's status is not taken, values the client left out stay). Objects change in place.
"""

from collections.abc import Callable
from typing import Any, Final

from apiserver.defaults import cluster, pods, services, workloads

Json = dict[str, Any]

_DEFAULTS: Final[dict[tuple[str, str], Callable[[Json], None]]] = {
    ("", "Pod"): pods.pod,
    ("", "Service"): services.service,
    ("", "Endpoints"): services.endpoints,
    ("", "Namespace"): cluster.namespace,
    ("", "Node"): cluster.node,
    ("", "Secret"): cluster.secret,
    ("apps", "Deployment"): workloads.deployment,
    ("apps", "ReplicaSet"): workloads.replica_set,
    ("discovery.k8s.io", "EndpointSlice"): services.endpoint_slice,
}


def apply(obj: Json, gvk: tuple[str, str, str]) -> Json:
    """The object with its kind's defaults; a kind without any comes back as it is."""
    setter = _DEFAULTS.get((gvk[0], gvk[2]))
    if setter is not None:
        setter(obj)
    return obj


def prepare_create(gvk: tuple[str, str, str], obj: Json) -> Json:
    """A new object: status is the server's to write (but a Node brings its own)."""
    match gvk[0], gvk[2]:
        case "", "Pod":
            pods.mirror_service_account(obj["spec"])
            obj["status"] = {"phase": "Pending", "qosClass": pods.quality_of_service(obj["spec"])}
        case "", "Service":
            services.new_service(obj)
        case "", "Namespace":
            cluster.new_namespace(obj)
        case "apps", "Deployment" | "ReplicaSet":
            obj["status"] = {"replicas": 0} if gvk[2] == "ReplicaSet" else {}
        case _:
            pass
    return obj


def prepare_update(gvk: tuple[str, str, str], new: Json, old: Json) -> Json:
    """A changed object on its main endpoint: status stays, and so do allocated values that the client left out."""
    if "status" in old:
        new["status"] = old["status"]
    else:
        new.pop("status", None)
    match gvk[0], gvk[2]:
        case "", "Pod":
            pods.mirror_service_account(new["spec"])
        case "", "Service":
            services.updated_service(new, old)
        case "", "Namespace":
            cluster.updated_namespace(new, old)
        case _:
            pass
    return new
