"""Pods and pod templates: the spec as a whole, and what of it may change later.

After pkg/apis/core/validation/validation.go (`ValidatePodSpec`, `ValidatePodUpdate`).
"""

import copy
from collections.abc import Iterator
from typing import Any, Final

from apiserver.errors import FORBIDDEN, INVALID, Cause, cause, not_supported, required
from apiserver.validation import containers, meta, names, scheduling
from apiserver.validation.volumes import volumes

Json = dict[str, Any]

_RESTART: Final = ("Always", "Never", "OnFailure")
_DNS: Final = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_MAX_DEADLINE: Final = 2**31 - 1
_FIXED: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod_spec(spec: Json, path: str = "spec") -> Iterator[Cause]:
    yield from volumes(spec.get("volumes", ()), f"{path}.volumes")
    known = frozenset(one.get("name", "") for one in spec.get("volumes", ()))
    yield from _containers(spec, path, known)
    restart = spec.get("restartPolicy", "")
    if restart not in _RESTART:
        yield (
            not_supported(f"{path}.restartPolicy", restart, _RESTART) if restart else required(f"{path}.restartPolicy")
        )
    if spec.get("dnsPolicy") not in _DNS:
        yield not_supported(f"{path}.dnsPolicy", spec.get("dnsPolicy", ""), _DNS)
    elif spec["dnsPolicy"] == "None" and not spec.get("dnsConfig", {}).get("nameservers"):
        yield required(
            f"{path}.dnsConfig.nameservers", 'must provide at least one DNS nameserver when `dnsPolicy` is "None"'
        )
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        yield cause(
            f"{path}.terminationGracePeriodSeconds", INVALID, spec["terminationGracePeriodSeconds"], names.NEGATIVE
        )
    yield from _deadline(spec, path)
    yield from _names(spec, path)
    yield from meta.labels(spec.get("nodeSelector", {}), f"{path}.nodeSelector")
    yield from scheduling.tolerations(spec.get("tolerations", ()), f"{path}.tolerations")
    yield from scheduling.affinity(spec.get("affinity", {}), f"{path}.affinity")
    yield from scheduling.topology_spread(
        spec.get("topologySpreadConstraints", ()), f"{path}.topologySpreadConstraints"
    )


def _containers(spec: Json, path: str, volume_names: frozenset[str]) -> Iterator[Cause]:
    host_network = bool(spec.get("hostNetwork"))
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    taken: set[str] = set()
    for field in ("containers", "initContainers"):
        values = spec.get(field, ())
        yield from containers.containers(values, f"{path}.{field}", volume_names, host_network)
        yield from containers.unique_names(values, f"{path}.{field}", taken)
    for index, one in enumerate(spec.get("initContainers", ())):
        here = f"{path}.initContainers[{index}]"
        policy = one.get("restartPolicy")
        if policy is not None and policy not in _RESTART:
            yield not_supported(f"{here}.restartPolicy", policy, _RESTART)
        for probe in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if probe in one and policy != "Always":
                detail = "may not be set for init containers without restartPolicy=Always"
                yield cause(f"{here}.{probe}", FORBIDDEN, detail=detail)


def _deadline(spec: Json, path: str) -> Iterator[Cause]:
    value = spec.get("activeDeadlineSeconds")
    if value is not None and not 1 <= value <= _MAX_DEADLINE:
        detail = f"must be between 1 and {_MAX_DEADLINE}, inclusive"
        yield cause(f"{path}.activeDeadlineSeconds", INVALID, value, detail)


def _names(spec: Json, path: str) -> Iterator[Cause]:
    for field, rule in (
        ("nodeName", names.dns_subdomain),
        ("serviceAccountName", names.dns_subdomain),
        ("hostname", names.dns_label),
        ("subdomain", names.dns_label),
        ("priorityClassName", names.dns_subdomain),
    ):
        value = spec.get(field)
        for text in rule(value) if value else ():
            yield cause(f"{path}.{field}", INVALID, value, text)
    for index, alias in enumerate(spec.get("hostAliases", ())):
        for text in names.ip(alias.get("ip", "")):
            yield cause(f"{path}.hostAliases[{index}].ip", INVALID, alias.get("ip", ""), text)
        for at, name in enumerate(alias.get("hostnames", ())):
            for text in names.dns_subdomain(name):
                yield cause(f"{path}.hostAliases[{index}].hostnames[{at}]", INVALID, name, text)
    for index, one in enumerate(spec.get("imagePullSecrets", ())):
        if not one.get("name"):
            yield required(f"{path}.imagePullSecrets[{index}].name")


def pod(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    yield from pod_spec(spec)
    if spec.get("ephemeralContainers"):
        yield cause("spec.ephemeralContainers", FORBIDDEN, detail="cannot be set on create")


def template(obj: Json, path: str) -> Iterator[Cause]:
    yield from meta.labels_and_annotations(obj.get("metadata", {}), f"{path}.metadata")
    yield from pod_spec(obj.get("spec", {}), f"{path}.spec")
    if obj.get("spec", {}).get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        yield cause(f"{path}.spec.ephemeralContainers", FORBIDDEN, detail=detail)


def pod_update(new: Json, old: Json) -> Iterator[Cause]:
    """Images, an earlier deadline, more tolerations; everything else of a pod's spec is as it was made."""
    after, before = new["spec"], old["spec"]
    resized = False
    for field in ("containers", "initContainers"):
        if len(after.get(field, ())) != len(before.get(field, ())):
            resized = True
            yield cause(f"spec.{field}", FORBIDDEN, detail="pod updates may not add or remove containers")
        for index, one in enumerate(after.get(field, ())):
            yield from containers.image(one, f"spec.{field}[{index}]")
    if resized:
        return
    yield from _later_deadline(after, before)
    yield from scheduling.only_added_tolerations(after.get("tolerations", []), before.get("tolerations", []))
    changed = _fixed_changes(after, before)
    if changed:
        yield cause("spec", FORBIDDEN, detail=f"{_FIXED}\n  changed: {', '.join(f'spec.{name}' for name in changed)}\n")


def _later_deadline(after: Json, before: Json) -> Iterator[Cause]:
    new, old = after.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds")
    if new is not None and not 1 <= new <= _MAX_DEADLINE:
        detail = f"must be between 1 and {_MAX_DEADLINE}, inclusive"
        yield cause("spec.activeDeadlineSeconds", INVALID, new, detail)
    if old is not None and new is None:
        yield cause("spec.activeDeadlineSeconds", INVALID, None, "must not update from a positive integer to nil value")
    elif old is not None and new > old:
        yield cause("spec.activeDeadlineSeconds", INVALID, new, "must be less than or equal to previous value")


def _fixed_changes(after: Json, before: Json) -> list[str]:
    """Names of the spec's fields that differ once everything that may change is made equal."""
    masked = copy.deepcopy(after)
    for field in ("activeDeadlineSeconds", "tolerations"):
        masked.pop(field, None)
        if field in before:
            masked[field] = before[field]
    for field in ("containers", "initContainers"):
        for one, other in zip(masked.get(field, ()), before.get(field, ()), strict=True):
            one["image"] = other.get("image", "")
    if before.get("terminationGracePeriodSeconds", 0) < 0 and after.get("terminationGracePeriodSeconds") == 1:
        masked["terminationGracePeriodSeconds"] = before["terminationGracePeriodSeconds"]
    return sorted(name for name in masked.keys() | before.keys() if masked.get(name) != before.get(name))
