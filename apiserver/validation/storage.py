"""Volumes, claims, storage classes and the objects of CSI drivers (pkg/apis/core and pkg/apis/storage validation)."""

from typing import Any, Final

from apiserver import schema
from apiserver.validation import names
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import (
    TOP,
    Check,
    Found,
    Json,
    Path,
    Rule,
    Rules,
    each,
    no_longer,
    one_of,
    unique,
    written,
)
from apiserver.validation.volumes import driver_name

_SPEC: Final[Path] = (TOP, "spec")
_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_NOT_SOURCES: Final = frozenset(
    {"accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
     "storageClassName", "volumeAttributesClassName", "volumeMode"}
)  # fmt: skip
_PARAMETERS: Final = 256 * 1024
_MAX_PARAMETERS: Final = 512
_CLAIM_FIXED: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def _access_modes(values: Any, path: Path, found: Found) -> None:
    for one in values:
        if one not in _MODES:
            found.unsupported(path, one, _MODES)
    if "ReadWriteOncePod" in values and len(values) > 1:
        found.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def _positive(amount: Any, path: Path, found: Found) -> None:
    if parsed(amount) <= 0:
        found.invalid(path, amount, "must be greater than zero")


def volume(spec: Json, path: Path, found: Found) -> None:
    capacity = spec.get("capacity", {})
    if "storage" not in capacity or len(capacity) > 1:
        found.unsupported((path, "capacity"), capacity, ("storage",))
    for name, amount in capacity.items():
        _positive(amount, ((path, "capacity"), f"[{name}]"), found)
    sources = [key for key in _sources() if key in spec]
    if not sources:
        found.required(path, "must specify a volume type")
    for key in sources[1:]:
        found.forbidden((path, key), "may not specify more than 1 volume type")
    if "local" in spec and "nodeAffinity" not in spec:
        found.required((path, "nodeAffinity"), "Local volume requires node affinity")
    if spec.get("hostPath", {}).get("path") == "/" and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        detail = "may not be 'recycle' for a hostPath mount of '/'"
        found.forbidden((path, "persistentVolumeReclaimPolicy"), detail)


def _sources() -> list[str]:
    return [key for key in schema.named("io.k8s.api.core.v1.PersistentVolumeSpec").fields if key not in _NOT_SOURCES]


def volume_update(new: Json, old: Json, found: Found) -> None:
    after, before = new.get("spec", {}), old.get("spec", {})
    for key in _sources():
        if after.get(key) != before.get(key) and key != "csi":
            detail = "spec.persistentvolumesource is immutable after creation"
            found.forbidden((_SPEC, "persistentvolumesource"), detail)
            break
    if after.get("volumeMode") != before.get("volumeMode"):
        found.invalid((_SPEC, "volumeMode"), after.get("volumeMode"), names.IMMUTABLE)
    if "nodeAffinity" in before and after.get("nodeAffinity") != before["nodeAffinity"]:
        found.invalid((_SPEC, "nodeAffinity"), after.get("nodeAffinity"), names.IMMUTABLE)


def claim(spec: Json, path: Path, found: Found) -> None:
    amount = spec.get("resources", {}).get("requests", {}).get("storage")
    here = ((path, "resources"), "[storage]")
    if amount is None:
        found.required(here)
    else:
        _positive(amount, here, found)
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if source is not None and reference is not None and "namespace" not in reference and source != reference:
        found.invalid((path, "dataSource"), source, "must match dataSourceRef")
    if "volumeAttributesClassName" in spec:
        _class_name(spec["volumeAttributesClassName"], (path, "volumeAttributesClassName"), found)


def _class_name(value: str, path: Path, found: Found) -> None:
    if not value:
        return
    for text in names.dns_subdomain(value):
        found.invalid(path, value, text)


def _data_source(one: Json, path: Path, found: Found) -> None:
    for field in ("name", "kind"):
        if not one.get(field):
            found.required((path, field))
    if not one.get("apiGroup") and one.get("kind") not in (None, "PersistentVolumeClaim"):
        found.invalid(path, one.get("kind"), "must be 'PersistentVolumeClaim' when referencing the default apiGroup")


def claim_update(new: Json, old: Json, found: Found) -> None:
    """A bound claim may grow and change its attributes; else only what binding fills in may change."""
    after, before = dict(new.get("spec", {})), dict(old.get("spec", {}))
    bound = old.get("status", {}).get("phase") == "Bound"
    wanted, had = (one.get("resources", {}).get("requests", {}).get("storage", "0") for one in (after, before))
    for one in (after, before):
        one.pop("volumeAttributesClassName", None)
    if not before.get("volumeName"):
        before.pop("volumeName", None)
        after.pop("volumeName", None)
    if "storageClassName" not in before:
        after.pop("storageClassName", None)
    if bound and wanted != had:
        rest = {key: value for key, value in after.get("resources", {}).items() if key != "requests"}
        if rest == {key: value for key, value in before.get("resources", {}).items() if key != "requests"}:
            after["resources"] = before.get("resources")
    if after != before:
        found.forbidden(_SPEC, _CLAIM_FIXED)
    recovering = parsed(old.get("status", {}).get("capacity", {}).get("storage"))
    asked, was = parsed(wanted), parsed(had)
    if asked < was and asked <= recovering:
        here = (((_SPEC, "resources"), "requests"), "storage")
        found.forbidden(here, "field can not be less than status.capacity")


def _parameters(pairs: Any, path: Path, found: Found) -> None:
    if len(pairs) > _MAX_PARAMETERS:
        found.too_long(path, _MAX_PARAMETERS)
    size = 0
    for key, value in pairs.items():
        if not key:
            found.invalid(path, key, "field can not be empty.")
        size += len(key.encode()) + len(value.encode())
    if size > _PARAMETERS:
        found.too_long(path, _PARAMETERS)


def storage_class(obj: Json, path: Path, found: Found) -> None:
    if not obj.get("volumeBindingMode"):
        found.required((path, "volumeBindingMode"))
    for index, term in enumerate(obj.get("allowedTopologies", ())):
        for at, one in enumerate(term.get("matchLabelExpressions", ())):
            if not one.get("values"):
                found.required((((((path, "allowedTopologies"), index), "matchLabelExpressions"), at), "values"))


def storage_class_update(new: Json, old: Json, found: Found) -> None:
    for field in ("parameters", "provisioner", "reclaimPolicy"):
        if new.get(field) != old.get(field):
            found.forbidden((TOP, field), f"updates to {field} are forbidden.")
    if new.get("volumeBindingMode") != old.get("volumeBindingMode"):
        found.invalid((TOP, "volumeBindingMode"), new.get("volumeBindingMode"), names.IMMUTABLE)


def attributes_class_update(new: Json, old: Json, found: Found) -> None:
    for field in ("driverName", "parameters"):
        if new.get(field) != old.get(field):
            found.invalid((TOP, field), new.get(field), names.IMMUTABLE)


def attachment(spec: Json, path: Path, found: Found) -> None:
    source = spec.get("source", {})
    given = [key for key in ("inlineVolumeSpec", "persistentVolumeName") if key in source]
    if not given:
        found.required((path, "source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    elif len(given) > 1:
        found.forbidden((path, "source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName")


def spec_is_fixed(new: Json, old: Json, found: Found) -> None:
    if new.get("spec") != old.get("spec"):
        found.invalid(_SPEC, new.get("spec"), names.IMMUTABLE)


def csi_driver_update(new: Json, old: Json, found: Found) -> None:
    """What the kubelets have already acted upon stays."""
    after, before = new.get("spec", {}), old.get("spec", {})
    for field in ("attachRequired", "volumeLifecycleModes"):
        if after.get(field) != before.get(field):
            found.invalid((_SPEC, field), after.get(field), names.IMMUTABLE)


def csi_node_update(new: Json, old: Json, found: Found) -> None:
    """A driver that stays registered stays as it is, but for how much it may take."""
    before = {one.get("name"): one for one in old.get("spec", {}).get("drivers") or ()}
    for index, one in enumerate(new.get("spec", {}).get("drivers") or ()):
        was = before.get(one.get("name"))
        if was is not None and one != was and _without_limits(one) != _without_limits(was):
            found.invalid(((_SPEC, "drivers"), index), one, names.IMMUTABLE)


def _without_limits(one: Json) -> Json:
    return {key: value for key, value in one.items() if key != "allocatable"}


def capacity_update(new: Json, old: Json, found: Found) -> None:
    for field in ("nodeTopology", "storageClassName"):
        if new.get(field) != old.get(field):
            found.invalid((TOP, field), new.get(field), names.IMMUTABLE)


def _capacity(obj: Json, path: Path, found: Found) -> None:
    amount = obj.get("capacity")
    if amount is not None and parsed(amount) < 0:
        found.invalid((path, "capacity"), amount, names.NEGATIVE)


def _token_requests(values: Any, path: Path, found: Found) -> None:
    seen: set[str] = set()
    for index, one in enumerate(values):
        audience = one.get("audience", "")
        if audience in seen:
            found.duplicate(((path, index), "audience"), audience)
        seen.add(audience)
        seconds = one.get("expirationSeconds")
        if seconds is not None and seconds < 600:
            detail = "may not specify a duration less than 10 minutes"
            found.invalid(((path, index), "expirationSeconds"), seconds, detail)


_CLASS: Final = written(names.dns_subdomain)
_VOLUME_MODE: Final = one_of("Block", "Filesystem")
_RECLAIM: Final = ("Delete", "Recycle", "Retain")
_PARAMETER_RULE: Final[dict[str, Check]] = {"parameters": _parameters}
RULES: Final[Rules] = {
    "core.v1.PersistentVolume": Rule(required=("spec",)),
    "core.v1.PersistentVolumeSpec": Rule(
        {
            "accessModes": _access_modes,
            "persistentVolumeReclaimPolicy": one_of(*_RECLAIM),
            "storageClassName": _CLASS,
            "volumeMode": _VOLUME_MODE,
        },
        ("accessModes", "capacity"),
        (volume,),
    ),
    "core.v1.PersistentVolumeClaim": Rule(required=("spec",)),
    "core.v1.PersistentVolumeClaimSpec": Rule(
        {"accessModes": _access_modes, "storageClassName": _CLASS, "volumeMode": _VOLUME_MODE},
        ("accessModes",),
        (claim,),
    ),
    "core.v1.TypedLocalObjectReference": Rule(checks=(_data_source,)),
    "core.v1.TypedObjectReference": Rule(checks=(_data_source,)),
    "storage.v1.StorageClass": Rule(
        {
            "provisioner": written(lambda text: names.qualified_name(text.lower())),
            "reclaimPolicy": one_of("Delete", "Retain"),
            "volumeBindingMode": one_of("Immediate", "WaitForFirstConsumer"),
        }
        | _PARAMETER_RULE,
        ("provisioner",),
        (storage_class,),
    ),
    "storage.v1.VolumeAttributesClass": Rule({"driverName": driver_name} | _PARAMETER_RULE, ("driverName",)),
    "storage.v1.VolumeAttachment": Rule(required=("spec",)),
    "storage.v1.VolumeAttachmentSpec": Rule(
        {"attacher": written(lambda text: names.qualified_name(text.lower()))},
        ("attacher", "nodeName"),
        (attachment,),
    ),
    "storage.v1.CSIDriver": Rule(required=("spec",)),
    "storage.v1.CSIDriverSpec": Rule(
        {
            "fsGroupPolicy": one_of("File", "None", "ReadWriteOnceWithFSType"),
            "volumeLifecycleModes": each(one_of("Ephemeral", "Persistent")),
            "tokenRequests": _token_requests,
        },
        ("attachRequired", "podInfoOnMount"),
    ),
    "storage.v1.CSINodeSpec": Rule({"drivers": unique("name")}),
    "storage.v1.CSINodeDriver": Rule({"name": driver_name, "nodeID": no_longer(256)}, ("name", "nodeID")),
    "storage.v1.CSIStorageCapacity": Rule({"storageClassName": _CLASS}, ("storageClassName",), (_capacity,)),
}
