"""Dynamic resource allocation: claims, classes and slices of devices (pkg/apis/resource/validation)."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import (
    TOP,
    Found,
    Json,
    Path,
    Rule,
    Rules,
    at_most,
    both,
    each,
    exactly_one,
    one_of,
    unique,
    written,
)
from apiserver.validation.volumes import driver_name

_SPEC: Final[Path] = (TOP, "spec")
_REQUESTS: Final = 32
_DEVICES: Final = 128


def _request(one: Json, path: Path, found: Found) -> None:
    given = [key for key in ("exactly", "firstAvailable") if one.get(key)]
    if len(given) != 1:
        detail = "exactly one of `exactly` or `firstAvailable` is required"
        if given:
            found.invalid(path, one, detail)
        else:
            found.required(path, detail)


def _exact(one: Json, path: Path, found: Found) -> None:
    mode, count = one.get("allocationMode", "ExactCount"), one.get("count", 0)
    if mode == "ExactCount" and count <= 0:
        found.invalid((path, "count"), count, "must be greater than zero")
    elif mode == "All" and count:
        found.invalid((path, "count"), count, "must not be specified when allocationMode is 'All'")
    elif mode not in ("All", "ExactCount"):
        found.unsupported((path, "allocationMode"), mode, ("All", "ExactCount"))


def spec_is_fixed(new: Json, old: Json, found: Found) -> None:
    if new.get("spec") != old.get("spec"):
        found.invalid(_SPEC, new.get("spec"), names.IMMUTABLE)


def claim_update(new: Json, old: Json, found: Found) -> None:
    """A claim asks once; what it got is changed by nobody while it is there."""
    spec_is_fixed(new, old, found)
    before, after = old.get("status", {}).get("allocation"), new.get("status", {}).get("allocation")
    if before is not None and after is not None and after != before:
        found.invalid(((TOP, "status"), "allocation"), after, names.IMMUTABLE)
    if new.get("status", {}).get("reservedFor") and after is None:
        found.forbidden(((TOP, "status"), "reservedFor"), "may not be specified when `allocated` is not set")


def resource_slice(spec: Json, path: Path, found: Found) -> None:
    given = [key for key in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection") if spec.get(key)]
    if len(given) != 1:
        detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
        if given:
            found.invalid(path, f"{{{', '.join(f'`{one}`' for one in given)}}}", detail)
        else:
            found.required(path, detail)


def slice_update(new: Json, old: Json, found: Found) -> None:
    after, before = new.get("spec", {}), old.get("spec", {})
    if after.get("pool", {}).get("name") != before.get("pool", {}).get("name"):
        found.invalid(((_SPEC, "pool"), "name"), after.get("pool", {}).get("name"), names.IMMUTABLE)
    for field in ("driver", "nodeName"):
        if after.get(field) != before.get(field):
            found.invalid((_SPEC, field), after.get(field), names.IMMUTABLE)


def _pool(one: Json, path: Path, found: Found) -> None:
    name = one.get("name", "")
    if not name:
        found.required((path, "name"))
    for part in name.split("/") if name else ():
        for text in names.dns_subdomain(part):
            found.invalid((path, "name"), part, text)
    if one.get("resourceSliceCount", 0) <= 0:
        found.invalid((path, "resourceSliceCount"), one.get("resourceSliceCount", 0), "must be greater than zero")
    if one.get("generation", 0) < 0:
        found.invalid((path, "generation"), one["generation"], names.NEGATIVE)


def _constraint(one: Json, path: Path, found: Found) -> None:
    if not one.get("matchAttribute") and not one.get("distinctAttribute"):
        found.required((path, "matchAttribute"))


_LABEL: Final = written(names.dns_label)
_GROUP: Final = "resource.v1."
_OPERATORS: Any = one_of("Equal", "Exists")
RULES: Final[Rules] = {
    f"{_GROUP}ResourceClaim": Rule(required=("spec",)),
    f"{_GROUP}DeviceClaim": Rule(
        {"requests": each(_request), "constraints": at_most(_REQUESTS), "config": at_most(_REQUESTS)}
    ),
    f"{_GROUP}DeviceRequest": Rule({"name": _LABEL, "firstAvailable": at_most(8)}, ("name",)),
    f"{_GROUP}DeviceSubRequest": Rule(
        {"name": _LABEL, "deviceClassName": written(names.dns_subdomain)}, ("name", "deviceClassName"), (_exact,)
    ),
    f"{_GROUP}ExactDeviceRequest": Rule(
        {"deviceClassName": written(names.dns_subdomain), "selectors": at_most(32)}, ("deviceClassName",), (_exact,)
    ),
    f"{_GROUP}DeviceSelector": Rule(checks=(exactly_one("selector", "cel"),)),
    f"{_GROUP}CELDeviceSelector": Rule(required=("expression",)),
    f"{_GROUP}DeviceConstraint": Rule(checks=(_constraint,)),
    f"{_GROUP}OpaqueDeviceConfiguration": Rule({"driver": driver_name}, ("driver", "parameters")),
    f"{_GROUP}DeviceToleration": Rule(
        {"operator": _OPERATORS, "effect": one_of("NoExecute", "NoSchedule"), "key": written(names.qualified_name)}
    ),
    f"{_GROUP}DeviceTaint": Rule(
        {"effect": one_of("NoExecute", "NoSchedule", "None"), "key": written(names.qualified_name)}, ("key", "effect")
    ),
    f"{_GROUP}DeviceClassSpec": Rule({"selectors": at_most(32), "config": at_most(32)}),
    f"{_GROUP}ResourceSlice": Rule(required=("spec",)),
    f"{_GROUP}ResourceSliceSpec": Rule(
        {
            "driver": driver_name,
            "pool": _pool,
            "devices": both(unique("name"), at_most(_DEVICES)),
            "nodeName": written(names.dns_subdomain),
        },
        ("driver", "pool"),
        (resource_slice,),
    ),
    f"{_GROUP}Device": Rule({"name": _LABEL}, ("name",)),
    f"{_GROUP}ResourceClaimConsumerReference": Rule(required=("resource", "name", "uid")),
}
