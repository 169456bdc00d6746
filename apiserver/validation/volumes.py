"""Volumes of a pod (`validateVolumes` in pkg/apis/core/validation/validation.go), and the sources they share with
PersistentVolumes."""

from typing import Any, Final

from apiserver import schema
from apiserver.validation import containers, names
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import Check, Found, Json, Path, Rule, Rules, between, one_of, written

HOST_PATH_TYPES: Final = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_MODE_DETAIL: Final = "must be a number between 0 and 0777 (octal), both inclusive"
_DOWNWARD: Final = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_TOKEN_SECONDS: Final = (600, 2**32)
_SOURCES: Final = ("clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken")


def volume(one: Json, path: Path, found: Found) -> None:
    if len(one) == 2 and "name" in one:
        return
    given = [key for key in one if key != "name"]
    if not given:
        found.required(path, "must specify a volume type")
    fields = schema.named("io.k8s.api.core.v1.Volume").fields
    for key in [key for key in fields if key in given][1:]:
        found.forbidden((path, key), "may not specify more than 1 volume type")


def _empty_dir(one: Json, path: Path, found: Found) -> None:
    limit = one.get("sizeLimit")
    if limit is not None and parsed(limit) < 0:
        found.forbidden((path, "sizeLimit"), "SizeLimit field must be a valid resource quantity")


def _host_path(source: Json, path: Path, found: Found) -> None:
    target = source.get("path", "")
    if not target:
        found.required((path, "path"))
    elif ".." in target.split("/"):
        found.invalid((path, "path"), target, "must not contain '..'")
    if source.get("type", "") not in HOST_PATH_TYPES:
        found.unsupported((path, "type"), source["type"], HOST_PATH_TYPES)


def _mode(mode: Any, path: Path, found: Found) -> None:
    if not 0 <= mode <= 0o777:
        found.invalid(path, mode, _MODE_DETAIL)


def _file_path(one: Json, path: Path, found: Found) -> None:
    target = one.get("path", "")
    if not target:
        found.required((path, "path"))
        return
    if target.startswith("/") or ".." in target:
        containers.relative_path(target, (path, "path"), found)
        if target.startswith("..") and not target.startswith("../") and target != "..":
            found.invalid((path, "path"), target, "must not start with '..'")


def _item(one: Json, path: Path, found: Found) -> None:
    if not one.get("key"):
        found.required((path, "key"))
    _file_path(one, path, found)


def _downward(one: Json, path: Path, found: Found) -> None:
    _file_path(one, path, found)
    if "fieldRef" in one:
        containers.field_reference(one["fieldRef"], (path, "fieldRef"), _DOWNWARD, found)
        if "resourceFieldRef" in one:
            found.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
    elif "resourceFieldRef" in one:
        if not one["resourceFieldRef"].get("containerName"):
            found.required(((path, "resourceFieldRef"), "containerName"))
        containers.resource_reference(one["resourceFieldRef"], (path, "resourceFieldRef"), found)
    else:
        found.required(path, "one of fieldRef and resourceFieldRef is required")


def _projection(one: Json, path: Path, found: Found) -> None:
    if sum(key in one for key in _SOURCES) > 1:
        found.forbidden(path, "may not specify more than 1 volume type")


def _token(one: Json, path: Path, found: Found) -> None:
    low, high = _TOKEN_SECONDS
    seconds = one.get("expirationSeconds", low)
    if seconds < low:
        found.invalid((path, "expirationSeconds"), seconds, "may not specify a duration less than 10 minutes")
    if seconds > high:
        found.invalid((path, "expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds")
    _file_path(one, path, found)


def _absolute(value: Any, path: Path, found: Found) -> None:
    if value and not value.startswith("/"):
        found.invalid(path, value, "must be an absolute path")


def _fibre(one: Json, path: Path, found: Found) -> None:
    wide, ids = one.get("targetWWNs"), one.get("wwids")
    if not wide and not ids:
        found.required((path, "targetWWNs"), "must specify either targetWWNs or wwids, but not both")
    elif wide and ids:
        found.invalid((path, "targetWWNs"), wide, "targetWWNs and wwids can not be specified simultaneously")
    elif wide and "lun" not in one:
        found.required((path, "lun"), "lun is required if targetWWNs is specified")


def driver_name(value: Any, path: Path, found: Found) -> None:
    if len(value) > 63:
        found.too_long(path, 63)
    for text in names.dns_subdomain(value.lower()):
        found.invalid(path, value, text)


_MODES: Final[dict[str, Check]] = {"defaultMode": _mode}
_LUN: Final = between(0, 255)
RULES: Final[Rules] = {
    "core.v1.Volume": Rule({"name": written(names.dns_label)}, ("name",), (volume,)),
    "core.v1.EmptyDirVolumeSource": Rule(checks=(_empty_dir,)),
    "core.v1.HostPathVolumeSource": Rule(checks=(_host_path,)),
    "core.v1.SecretVolumeSource": Rule(_MODES, ("secretName",)),
    "core.v1.ConfigMapVolumeSource": Rule(_MODES, ("name",)),
    "core.v1.DownwardAPIVolumeSource": Rule(_MODES),
    "core.v1.ProjectedVolumeSource": Rule(_MODES),
    "core.v1.KeyToPath": Rule({"mode": _mode}, checks=(_item,)),
    "core.v1.DownwardAPIVolumeFile": Rule({"mode": _mode}, checks=(_downward,)),
    "core.v1.VolumeProjection": Rule(checks=(_projection,)),
    "core.v1.SecretProjection": Rule(required=("name",)),
    "core.v1.ConfigMapProjection": Rule(required=("name",)),
    "core.v1.ServiceAccountTokenProjection": Rule(checks=(_token,)),
    "core.v1.PersistentVolumeClaimVolumeSource": Rule(required=("claimName",)),
    "core.v1.EphemeralVolumeSource": Rule(required=("volumeClaimTemplate",)),
    "core.v1.ImageVolumeSource": Rule({"pullPolicy": one_of(*containers.PULL_POLICIES)}),
    "core.v1.GitRepoVolumeSource": Rule(required=("repository",)),
    "core.v1.NFSVolumeSource": Rule({"path": _absolute}, ("server", "path")),
    "core.v1.ISCSIVolumeSource": Rule({"lun": _LUN}, ("targetPortal", "iqn")),
    "core.v1.ISCSIPersistentVolumeSource": Rule({"lun": _LUN}, ("targetPortal", "iqn")),
    "core.v1.FCVolumeSource": Rule({"lun": _LUN}, checks=(_fibre,)),
    "core.v1.GlusterfsVolumeSource": Rule(required=("endpoints", "path")),
    "core.v1.GlusterfsPersistentVolumeSource": Rule(required=("endpoints", "path")),
    "core.v1.RBDVolumeSource": Rule(required=("monitors", "image")),
    "core.v1.RBDPersistentVolumeSource": Rule(required=("monitors", "image")),
    "core.v1.CephFSVolumeSource": Rule(required=("monitors",)),
    "core.v1.CephFSPersistentVolumeSource": Rule(required=("monitors",)),
    "core.v1.CinderVolumeSource": Rule(required=("volumeID",)),
    "core.v1.CinderPersistentVolumeSource": Rule(required=("volumeID",)),
    "core.v1.FlexVolumeSource": Rule(required=("driver",)),
    "core.v1.FlexPersistentVolumeSource": Rule(required=("driver",)),
    "core.v1.AWSElasticBlockStoreVolumeSource": Rule({"partition": _LUN}, ("volumeID",)),
    "core.v1.GCEPersistentDiskVolumeSource": Rule({"partition": _LUN}, ("pdName",)),
    "core.v1.AzureFileVolumeSource": Rule(required=("secretName", "shareName")),
    "core.v1.AzureFilePersistentVolumeSource": Rule(required=("secretName", "shareName")),
    "core.v1.AzureDiskVolumeSource": Rule(
        {
            "cachingMode": one_of("None", "ReadOnly", "ReadWrite"),
            "kind": one_of("Dedicated", "Managed", "Shared"),
        },
        ("diskName", "diskURI"),
    ),
    "core.v1.VsphereVirtualDiskVolumeSource": Rule(required=("volumePath",)),
    "core.v1.PhotonPersistentDiskVolumeSource": Rule(required=("pdID",)),
    "core.v1.PortworxVolumeSource": Rule(required=("volumeID",)),
    "core.v1.QuobyteVolumeSource": Rule(required=("registry", "volume")),
    "core.v1.ScaleIOVolumeSource": Rule(required=("gateway", "system", "volumeName")),
    "core.v1.ScaleIOPersistentVolumeSource": Rule(required=("gateway", "system", "volumeName")),
    "core.v1.StorageOSVolumeSource": Rule(required=("volumeName",)),
    "core.v1.CSIVolumeSource": Rule({"driver": driver_name}, ("driver",)),
    "core.v1.CSIPersistentVolumeSource": Rule({"driver": driver_name}, ("driver", "volumeHandle")),
    "core.v1.LocalVolumeSource": Rule(required=("path",)),
}
