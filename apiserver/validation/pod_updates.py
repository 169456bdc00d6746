"""What of a pod may change once it is made, on its main endpoint.

`ValidatePodUpdate` of pkg/apis/core/validation/validation.go: what may change is put back, and the rest compared.
"""

from typing import Any, Final

import orjson

from apiserver.validation import containers, scheduling
from apiserver.validation.pods import MAX_DEADLINE
from apiserver.validation.rules import TOP, Found, Json, Path

_SPEC: Final[Path] = (TOP, "spec")
_FIXED: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_DEADLINE: Final[Path] = (_SPEC, "activeDeadlineSeconds")


def _copied(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def pod_update(new: Json, old: Json, found: Found) -> None:
    """Images, an earlier deadline, more tolerations, fewer scheduling gates; the rest of a pod's spec is as it was made."""
    after, before = new["spec"], old["spec"]
    if after == before:
        return
    resized = False
    for field in ("containers", "initContainers"):
        if len(after.get(field, ())) != len(before.get(field, ())):
            resized = True
            found.forbidden((_SPEC, field), "pod updates may not add or remove containers")
        for index, one in enumerate(after.get(field, ())):
            containers.image(one, ((_SPEC, field), index), found)
    if resized:
        return
    _later_deadline(after, before, found)
    scheduling.only_added_tolerations(after.get("tolerations", []), before.get("tolerations", []), found)
    for index, one in enumerate(after.get("tolerations", ())):
        if one not in before.get("tolerations", ()):
            scheduling.toleration(one, ((_SPEC, "tolerations"), index), found)
    _fewer_gates(after, before, found)
    if changed := _fixed_changes(after, before):
        found.forbidden(_SPEC, f"{_FIXED}\n  changed: {', '.join(f'spec.{name}' for name in changed)}\n")


def _later_deadline(after: Json, before: Json, found: Found) -> None:
    new, old = after.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds")
    if new is not None and not 1 <= new <= MAX_DEADLINE:
        found.invalid(_DEADLINE, new, f"must be between 1 and {MAX_DEADLINE}, inclusive")
    if old is not None and new is None:
        found.invalid(_DEADLINE, None, "must not update from a positive integer to nil value")
    elif old is not None and new > old:
        found.invalid(_DEADLINE, new, "must be less than or equal to previous value")


def _fewer_gates(after: Json, before: Json, found: Found) -> None:
    known = {one.get("name") for one in before.get("schedulingGates", ())}
    for index, one in enumerate(after.get("schedulingGates", ())):
        if one.get("name") not in known:
            detail = f"only deletion is allowed, but found new scheduling gate '{one.get('name', '')}'"
            found.forbidden(((_SPEC, "schedulingGates"), index), detail)


def _fixed_changes(after: Json, before: Json) -> list[str]:
    """Names of the spec's fields that differ once everything that may change is made equal."""
    masked = _copied(after)
    for field in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        _take(masked, before, field)
    for field in ("containers", "initContainers"):
        for one, other in zip(masked.get(field, ()), before.get(field, ()), strict=True):
            one["image"] = other.get("image", "")
    if before.get("terminationGracePeriodSeconds", 0) < 0 and after.get("terminationGracePeriodSeconds") == 1:
        masked["terminationGracePeriodSeconds"] = before["terminationGracePeriodSeconds"]
    if before.get("schedulingGates"):
        _take_narrower(masked, before)
    return _differences(masked, before)


def _take(masked: Json, before: Json, field: str) -> None:
    masked.pop(field, None)
    if field in before:
        masked[field] = before[field]


def _take_narrower(masked: Json, before: Json) -> None:
    """A gated pod may ask for fewer nodes, never for others: its node selector may only grow."""
    old = before.get("nodeSelector", {})
    if all(masked.get("nodeSelector", {}).get(key) == value for key, value in old.items()):
        _take(masked, before, "nodeSelector")
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if not before.get("affinity", {}).get("nodeAffinity", {}).get(required, {}).get("nodeSelectorTerms"):
        wanted = masked.get("affinity", {})
        kept = {key: value for key, value in wanted.items() if key != "nodeAffinity"}
        if kept == {key: value for key, value in before.get("affinity", {}).items() if key != "nodeAffinity"}:
            _take(masked, before, "affinity")


def _differences(masked: Json, before: Json) -> list[str]:
    return sorted(name for name in masked.keys() | before.keys() if masked.get(name) != before.get(name))
