"""Defaults of pods and pod templates.

After k8s.io/kubernetes/pkg/apis/core/v1/defaults.go. What only a Pod gets and a template does not: requests from limits,
service links, host ports. The quality-of-service class is part of a new pod's status, and never changes.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import ceil
from typing import Any, Final

from apiserver.defaults.rules import Default, Defaults
from kube import quantity

Json = dict[str, Any]


def pod(obj: Json) -> None:
    spec = obj["spec"]
    spec.setdefault("enableServiceLinks", True)
    host_network = spec.get("hostNetwork")
    for one in containers(spec):
        resources = one.get("resources")
        if resources and "limits" in resources:
            requests = resources.get("requests")
            resources["requests"] = resources["limits"] | requests if requests else dict(resources["limits"])
        if host_network:
            for port in one.get("ports", ()):
                port.setdefault("hostPort", port.get("containerPort", 0))


def mirror_service_account(spec: Json) -> None:
    """`serviceAccount` is the old name of `serviceAccountName`; both are served, the new one wins."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name


def containers(spec: Json) -> Iterator[Json]:
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def pull_policy(obj: Json) -> None:
    if "imagePullPolicy" not in obj:
        obj["imagePullPolicy"] = "Always" if floating(obj.get("image", "")) else "IfNotPresent"


@lru_cache(maxsize=4096)
def floating(image: str) -> bool:
    """True when the image's tag is `latest`, by name or for want of any: it may have changed since the last pull."""
    name, _, digest = image.partition("@")
    tag = name.rsplit("/", 1)[-1].partition(":")[2]
    return tag == "latest" or (not tag and not digest)


def volume(obj: Json) -> None:
    if len(obj) <= ("name" in obj):
        obj["emptyDir"] = {}


def _image_volume(obj: Json) -> None:
    if "pullPolicy" not in obj:
        obj["pullPolicy"] = "Always" if floating(obj.get("reference", "")) else "IfNotPresent"


def quality_of_service(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory (pkg/apis/core/helper/qos)."""
    whole = spec.get("resources")
    holders = [whole] if whole else [one.get("resources", {}) for one in containers(spec)]
    requests = _positive(one.get("requests", {}) for one in holders)
    limits = _positive(one.get("limits", {}) for one in holders)
    if not requests and not limits:
        return "BestEffort"
    every_limit = all(len(_positive([one.get("limits", {})])) == 2 for one in holders)
    return "Guaranteed" if every_limit and requests == limits else "Burstable"


def _positive(maps: Iterable[Json]) -> dict[str, int]:
    """Sums of cpu and memory over the maps in billionths, upstream's finest grain, without zeros."""
    total: dict[str, int] = {}
    for amounts in maps:
        for name in ("cpu", "memory"):
            if name in amounts and (value := _billionths(str(amounts[name]))) > 0:
                total[name] = total.get(name, 0) + value
    return total


@lru_cache(maxsize=1024)
def _billionths(text: str) -> int:
    return ceil(quantity.parse(text) * 10**9)


_CONTAINER: Final = Default(
    {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"},
    ("resources",),
    (pull_policy,),
)
_MODE: Final = Default({"defaultMode": 0o644})
_ISCSI: Final = Default({"iscsiInterface": "default"})
_RBD: Final = Default({"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"})
_SCALE_IO: Final = Default({"storageMode": "ThinProvisioned", "fsType": "xfs"})
DEFAULTS: Final[Defaults] = {
    "core.v1.Pod": Default(structs=("spec",), setters=(pod,)),
    "core.v1.PodTemplate": Default(structs=("template",)),
    "core.v1.PodTemplateSpec": Default(structs=("spec",)),
    "core.v1.PodSpec": Default(
        {
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler",
        },
        ("securityContext",),
        (mirror_service_account,),
    ),
    "core.v1.Container": _CONTAINER,
    "core.v1.EphemeralContainer": _CONTAINER,
    "core.v1.ContainerPort": Default({"protocol": "TCP"}),
    "core.v1.ObjectFieldSelector": Default({"apiVersion": "v1"}),
    "core.v1.ResourceFieldSelector": Default({"divisor": "0"}),
    "core.v1.Probe": Default({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
    "core.v1.HTTPGetAction": Default({"path": "/", "scheme": "HTTP"}),
    "core.v1.GRPCAction": Default({"service": ""}),
    "core.v1.Volume": Default(setters=(volume,)),
    "core.v1.SecretVolumeSource": _MODE,
    "core.v1.ConfigMapVolumeSource": _MODE,
    "core.v1.DownwardAPIVolumeSource": _MODE,
    "core.v1.ProjectedVolumeSource": _MODE,
    "core.v1.ServiceAccountTokenProjection": Default({"expirationSeconds": 3600}),
    "core.v1.HostPathVolumeSource": Default({"type": ""}),
    "core.v1.ImageVolumeSource": Default(setters=(_image_volume,)),
    "core.v1.ISCSIVolumeSource": _ISCSI,
    "core.v1.ISCSIPersistentVolumeSource": _ISCSI,
    "core.v1.RBDVolumeSource": _RBD,
    "core.v1.RBDPersistentVolumeSource": _RBD,
    "core.v1.ScaleIOVolumeSource": _SCALE_IO,
    "core.v1.ScaleIOPersistentVolumeSource": _SCALE_IO,
    "core.v1.AzureDiskVolumeSource": Default(
        {"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": False}
    ),
}
