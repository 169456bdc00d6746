"""Defaults of Namespaces, Nodes, Secrets, limits, volumes and classes: what a cluster has besides its workloads."""

import base64
from typing import Any, Final

from apiserver.defaults.rules import Default, Defaults

Json = dict[str, Any]

NAME_LABEL: Final = "kubernetes.io/metadata.name"


def namespace(obj: Json) -> None:
    """Every namespace carries its own name as a label, so that selectors can name it (KEP-2161)."""
    metadata = obj.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata["name"]


def new_namespace(obj: Json) -> None:
    obj["status"] = {"phase": "Active"}
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def updated_namespace(new: Json, old: Json) -> None:
    """Finalizers of the spec change through `finalize` only."""
    new["spec"] = old.get("spec", {})


def node(obj: Json) -> None:
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    if status.get("capacity"):
        status.setdefault("allocatable", dict(status["capacity"]))


def secret(obj: Json) -> None:
    """`stringData` is write-only: it becomes `data`, over what was there."""
    obj.setdefault("type", "Opaque")
    for key, text in obj.pop("stringData", {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()


def limit(one: Json) -> None:
    """A container's default limit is the most it may have, its default request that limit, or the least."""
    if one.get("type") != "Container":
        return
    limits = one.get("max", {}) | one.get("default", {})
    requests = one.get("min", {}) | limits | one.get("defaultRequest", {})
    if limits:
        one["default"] = limits
    if requests:
        one["defaultRequest"] = requests


def new_volume(obj: Json) -> None:
    obj["status"] = {"phase": "Pending"}


def new_claim(obj: Json) -> None:
    """`dataSource` is the old name of `dataSourceRef`, for claims and snapshots; both are served."""
    new_volume(obj)
    spec = obj["spec"]
    if "dataSource" in spec and "dataSourceRef" not in spec:
        spec["dataSourceRef"] = dict(spec["dataSource"])
    elif "dataSourceRef" in spec and "dataSource" not in spec and "namespace" not in spec["dataSourceRef"]:
        spec["dataSource"] = dict(spec["dataSourceRef"])


def driver(spec: Json) -> None:
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def _count(request: Json) -> None:
    if request["allocationMode"] == "ExactCount":
        request.setdefault("count", 1)


DEFAULTS: Final[Defaults] = {
    "core.v1.Namespace": Default(setters=(namespace,)),
    "core.v1.Node": Default(setters=(node,)),
    "core.v1.Secret": Default({"type": "Opaque"}, setters=(secret,)),
    "core.v1.LimitRangeItem": Default(setters=(limit,)),
    "core.v1.PersistentVolumeSpec": Default({"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}),
    "core.v1.PersistentVolumeClaim": Default(structs=("spec",)),
    "core.v1.PersistentVolumeClaimSpec": Default({"volumeMode": "Filesystem"}),
    "storage.v1.StorageClass": Default({"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
    "storage.v1.CSIDriver": Default(structs=("spec",)),
    "storage.v1.CSIDriverSpec": Default(
        {
            "attachRequired": True,
            "podInfoOnMount": False,
            "storageCapacity": False,
            "fsGroupPolicy": "ReadWriteOnceWithFSType",
            "requiresRepublish": False,
            "seLinuxMount": False,
        },
        setters=(driver,),
    ),
    "scheduling.v1.PriorityClass": Default({"preemptionPolicy": "PreemptLowerPriority"}),
    "resource.v1.ExactDeviceRequest": Default({"allocationMode": "ExactCount"}, setters=(_count,)),
    "resource.v1.DeviceSubRequest": Default({"allocationMode": "ExactCount"}, setters=(_count,)),
    "resource.v1.DeviceToleration": Default({"operator": "Equal"}),
}
