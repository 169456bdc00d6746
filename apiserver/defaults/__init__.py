"""What the server fills in.

Two moments, as upstream: `apply` right after decoding, for every body and every patched object (a function of the object
alone, and idempotent); `prepare_create` and `prepare_update` after admission and before validation (the pure part of
each kind's strategy: a client's status is not taken, values the client left out stay). Objects change in place.
"""

from typing import Any

from apiserver import schema
from apiserver.defaults import cluster, pods, policies, rules, services, workloads

Json = dict[str, Any]

for _module in (cluster, pods, policies, services, workloads):
    rules.register(_module.DEFAULTS)


def apply(obj: Json, gvk: tuple[str, str, str]) -> Json:
    """The object with its kind's defaults; a kind without any comes back as it is."""
    name = schema.type_name(gvk)
    fill = None if name is None else rules.filler(name)
    if fill is not None:
        fill(obj)
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
        case "", "PersistentVolume":
            cluster.new_volume(obj)
        case "", "PersistentVolumeClaim":
            cluster.new_claim(obj)
        case "batch", "Job":
            workloads.new_job(obj)
        case "apiextensions.k8s.io", "CustomResourceDefinition":
            policies.new_definition(obj)
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
        case "apiextensions.k8s.io", "CustomResourceDefinition":
            policies.updated_definition(new, old)
        case _:
            pass
    return new
