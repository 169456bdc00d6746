"""Volumes, claims, storage classes and what CSI drivers leave in the API, as rows."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import NAME, Column, Json, Printer, Printers, boolean, columns, number, wide

_MODES: Final = (("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"),
                 ("ReadWriteOncePod", "RWOP"))  # fmt: skip
_CLASS_ANNOTATION: Final = "volume.beta.kubernetes.io/storage-class"
_DEFAULT: Final = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


def _modes(modes: list[str]) -> str:
    return ",".join(short for mode, short in _MODES if mode in modes)


def _class(obj: Json) -> str:
    """The class, which old objects name in an annotation."""
    return text.annotations(obj).get(_CLASS_ANNOTATION) or obj.get("spec", {}).get("storageClassName", "")


def _phase(obj: Json) -> str:
    return "Terminating" if text.deleted(obj) else obj.get("status", {}).get("phase", "")


def volume(obj: Json, now: datetime) -> list[Any]:
    spec, claim = obj.get("spec", {}), obj.get("spec", {}).get("claimRef")
    return [
        text.name(obj),
        spec.get("capacity", {}).get("storage", "0"),
        _modes(spec.get("accessModes", [])),
        spec.get("persistentVolumeReclaimPolicy", ""),
        _phase(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _class(obj),
        spec.get("volumeAttributesClassName", text.UNSET),
        obj.get("status", {}).get("reason", ""),
        text.age(obj, now),
        spec.get("volumeMode", text.UNSET),
    ]


def claim(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    bound = spec.get("volumeName", "")
    return [
        text.name(obj),
        _phase(obj),
        bound,
        status.get("capacity", {}).get("storage", "0") if bound else "",
        _modes(status.get("accessModes", [])) if bound else "",
        _class(obj),
        spec.get("volumeAttributesClassName", text.UNSET),
        text.age(obj, now),
        spec.get("volumeMode", text.UNSET),
    ]


def storage_class(obj: Json, now: datetime) -> list[Any]:
    default = any(text.annotations(obj).get(one) == "true" for one in _DEFAULT)
    return [
        text.name(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        obj.get("allowVolumeExpansion", False),
        text.age(obj, now),
    ]


def attributes_class(obj: Json, now: datetime) -> list[Any]:
    default = text.annotations(obj).get("volumeattributesclass.kubernetes.io/is-default-class") == "true"
    return [text.name(obj) + (" (default)" if default else ""), obj.get("driverName", ""), text.age(obj, now)]


def csi_driver(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    tokens = spec.get("tokenRequests")
    return [
        text.name(obj),
        spec.get("attachRequired", True),
        spec.get("podInfoOnMount", False),
        spec.get("storageCapacity", False),
        text.UNSET if tokens is None else ",".join(one.get("audience", "") for one in tokens),
        spec.get("requiresRepublish", False),
        ",".join(spec.get("volumeLifecycleModes", ())) or text.NONE,
        text.age(obj, now),
    ]


def csi_node(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), len(obj.get("spec", {}).get("drivers") or ()), text.age(obj, now)]


def csi_storage_capacity(obj: Json, _: datetime) -> list[Any]:
    return [text.name(obj), obj.get("storageClassName", ""), obj.get("capacity", text.UNSET)]


def attachment(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    volume_name = spec.get("source", {}).get("persistentVolumeName", "")
    attached = obj.get("status", {}).get("attached", False)
    driver, node = spec.get("attacher", ""), spec.get("nodeName", "")
    return [text.name(obj), driver, volume_name, node, attached, text.age(obj, now)]


_VOLUME_MODE: Final = wide("VolumeMode", "Filesystem or Block.")

PRINTERS: Final[Printers] = {
    ("", "PersistentVolume"): Printer(
        columns(
            Column("Capacity", "How much it holds."),
            Column("Access Modes", "How it may be mounted."),
            Column("Reclaim Policy", "What becomes of it without its claim."),
            Column("Status", "What it is doing."),
            Column("Claim", "Whose it is."),
            Column("StorageClass", "Its storage class."),
            Column("VolumeAttributesClass", "Its class of attributes."),
            Column("Reason", "Why it failed."),
            after=(_VOLUME_MODE,),
        ),
        volume,
    ),
    ("", "PersistentVolumeClaim"): Printer(
        columns(
            Column("Status", "What it is doing."),
            Column("Volume", "The volume it has."),
            Column("Capacity", "How much that holds."),
            Column("Access Modes", "How that may be mounted."),
            Column("StorageClass", "Its storage class."),
            Column("VolumeAttributesClass", "Its class of attributes."),
            after=(_VOLUME_MODE,),
        ),
        claim,
    ),
    ("storage.k8s.io", "StorageClass"): Printer(
        columns(
            Column("Provisioner", "Who makes its volumes."),
            Column("ReclaimPolicy", "What becomes of volumes without their claim."),
            Column("VolumeBindingMode", "When volumes are made."),
            Column("AllowVolumeExpansion", "Whether claims may grow."),
        ),
        storage_class,
    ),
    ("storage.k8s.io", "VolumeAttributesClass"): Printer(
        columns(Column("DriverName", "CSI driver that knows it.")), attributes_class
    ),
    ("storage.k8s.io", "CSIDriver"): Printer(
        columns(
            boolean("AttachRequired", "Whether volumes are attached before they are mounted."),
            boolean("PodInfoOnMount", "Whether the driver is told of the pod."),
            boolean("StorageCapacity", "Whether it publishes capacities."),
            Column("TokenRequests", "Audiences of the tokens it wants."),
            boolean("RequiresRepublish", "Whether it is called again and again."),
            Column("Modes", "Kinds of volumes it serves."),
        ),
        csi_driver,
    ),
    ("storage.k8s.io", "CSINode"): Printer(columns(number("Drivers", "CSI drivers of the node.")), csi_node),
    ("storage.k8s.io", "CSIStorageCapacity"): Printer(
        (NAME, Column("StorageClassName", "Its storage class."), Column("Capacity", "What is left.")),
        csi_storage_capacity,
    ),
    ("storage.k8s.io", "VolumeAttachment"): Printer(
        columns(
            Column("Attacher", "CSI driver that attaches it.", format="name"),
            Column("PV", "The volume."),
            Column("Node", "The node."),
            boolean("Attached", "Whether it is attached."),
        ),
        attachment,
    ),
}
