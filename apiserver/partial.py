"""Subresources that are the whole object with one part of it that may change: GET, PUT and PATCH like the object itself.

    pods/ephemeralcontainers                     containers may be added, and nothing else
    pods/resize                                  the cpu and memory of containers
    certificatesigningrequests/approval          the conditions Approved and Denied, and those that follow them

What else a client sends is not taken. Upstream: pkg/registry/core/pod/strategy.go, pkg/registry/certificates/certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from apiserver import errors, validation
from apiserver.errors import Cause
from apiserver.schema import GVK
from kube import quota
from kube.quantity import canonical

Obj = dict[str, Any]
POD: Final = GVK("", "v1", "Pod")
STATIC: Final = "kubernetes.io/config.source"
_MUTABLE: Final = ("cpu", "memory")
_DECIDED: Final = ("Approved", "Denied")


def keep(plural: str, subresource: str, new: Obj, old: Obj) -> None:
    """Brings `new` back to what this part may change; raises 422. Other subresources are not ours to judge."""
    part = PARTS.get((plural, subresource))
    if part is None:
        return
    wanted, rv = part(new, old), new["metadata"].get("resourceVersion")
    metadata = dict(wanted["metadata"])
    metadata.pop("resourceVersion", None)
    new.clear()
    new.update(wanted | {"metadata": metadata | ({"resourceVersion": rv} if rv else {})})


def _invalid(obj: Obj, causes: list[Cause]) -> None:
    if causes:
        group = obj["apiVersion"].rpartition("/")[0]
        raise errors.invalid(group, obj["kind"], obj["metadata"]["name"], causes)


def ephemeral_containers(new: Obj, old: Obj) -> Obj:
    path = "spec.ephemeralContainers"
    before = {one["name"]: one for one in old["spec"].get("ephemeralContainers") or ()}
    wanted = new["spec"].get("ephemeralContainers") or []
    named = {one.get("name", ""): one for one in wanted}
    causes: list[Cause] = []
    if STATIC in (old["metadata"].get("annotations") or {}) and _is_static(old):
        causes.append(errors.cause("", errors.FORBIDDEN, detail="static pods do not support ephemeral containers"))
    for name, one in before.items():
        if name not in named:
            why = f'existing ephemeral containers "{name}" may not be removed\n'
            causes.append(errors.cause(path, errors.FORBIDDEN, detail=why))
        elif named[name] != one:
            why = f'existing ephemeral containers "{name}" may not be changed\n'
            causes.append(errors.cause(path, errors.FORBIDDEN, detail=why))
    changed = old | {"spec": old["spec"] | ({"ephemeralContainers": wanted} if wanted else {})}
    causes += [one for one in validation.validate_create(POD, changed) if one.field.startswith(f"{path}[")]
    _invalid(old, causes)
    return changed


def _is_static(pod: Obj) -> bool:
    source = (pod["metadata"].get("annotations") or {}).get(STATIC, "api")
    return bool(source != "api")


def resized(new: Obj, old: Obj) -> Obj:
    causes: list[Cause] = []
    if _is_static(old):
        causes.append(errors.cause("spec", errors.FORBIDDEN, detail="static pods cannot be resized"))
    if (old.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        causes.append(errors.cause("", errors.FORBIDDEN, detail="completed pods cannot be resized"))
    spec = dict(old["spec"])
    for part in ("containers", "initContainers"):
        if part in old["spec"]:
            asked = {one.get("name"): one for one in new["spec"].get(part) or ()}
            spec[part] = [_taken(one, asked.get(one["name"])) for one in old["spec"][part]]
            causes += _resource_faults(part, spec[part], old["spec"][part])
    changed = old | {"spec": spec}
    if not causes:
        causes += [one for one in validation.validate_create(POD, changed) if ".resources" in one.field]
    before, after = _quality(old["spec"]), _quality(spec)
    if before != after:
        why = "Pod QOS Class may not change as a result of resizing"
        causes.append(errors.cause("spec", errors.INVALID, after, why))
    _invalid(old, causes)
    return changed


def _taken(container: Obj, asked: Obj | None) -> Obj:
    if asked is None:
        return container
    fields = {key: asked[key] for key in ("resources", "resizePolicy") if key in asked}
    return container | fields


def _resource_faults(part: str, new: list[Obj], old: list[Obj]) -> Iterator[Cause]:
    for index, (after, before) in enumerate(zip(new, old, strict=True)):
        path = f"spec.{part}[{index}].resources"
        if part == "initContainers" and after != before and before.get("restartPolicy") != "Always":
            why = "resources for non-sidecar init containers are immutable"
            yield errors.cause(path, errors.FORBIDDEN, detail=why)
        for field in ("limits", "requests"):
            given, had = _amounts(after, field), _amounts(before, field)
            for name in sorted(had.keys() - given.keys()):
                if name in _MUTABLE:
                    why = f"resource {field} cannot be removed"
                    yield errors.cause(f"{path}.{field}", errors.FORBIDDEN, detail=why)
            changed = {name for name in given.keys() | had.keys() if given.get(name) != had.get(name)}
            if changed - set(_MUTABLE):
                yield errors.cause(
                    f"{path}.{field}", errors.FORBIDDEN, detail="only cpu and memory resources are mutable"
                )


def _amounts(container: Obj, field: str) -> dict[str, str]:
    given = (container.get("resources") or {}).get(field) or {}
    return {name: canonical(str(amount)) for name, amount in given.items()}


def _quality(spec: Obj) -> str:
    """The quality of service class that containers' cpu and memory make."""
    if quota.best_effort(spec):
        return "BestEffort"
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        requests, limits = (_amounts(container, field) for field in ("requests", "limits"))
        if any(name not in limits or requests.get(name, limits[name]) != limits[name] for name in _MUTABLE):
            return "Burstable"
    return "Guaranteed"


def approval(new: Obj, old: Obj) -> Obj:
    before = [one for one in (old.get("status") or {}).get("conditions") or () if one.get("type") in _DECIDED]
    wanted = (new.get("status") or {}).get("conditions") or []
    causes: list[Cause] = []
    types = [one.get("type") for one in wanted]
    for one in before:
        if one["type"] not in types:
            why = f'updates may not remove a condition of type "{one["type"]}"'
            causes.append(errors.cause("status.conditions", errors.FORBIDDEN, detail=why))
    if all(kind in types for kind in _DECIDED):
        why = "Approved and Denied conditions are mutually exclusive"
        causes.append(errors.cause("status.conditions", errors.INVALID, "Denied", why))
    _invalid(old, causes)
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [{"lastUpdateTime": moment, "lastTransitionTime": moment} | _set(one) for one in wanted]
    return old | {"status": (old.get("status") or {}) | {"conditions": conditions}}


def _set(condition: Obj) -> Obj:
    return {key: value for key, value in condition.items() if value is not None}


Part = Callable[[Obj, Obj], Obj]
PARTS: Final[dict[tuple[str, str], Part]] = {
    ("pods", "ephemeralcontainers"): ephemeral_containers,
    ("pods", "resize"): resized,
    ("certificatesigningrequests", "approval"): approval,
}


def asked_by(request: Obj, user: Obj) -> None:
    """A new CertificateSigningRequest says who asks (a UserInfo); clients do not."""
    spec = request.setdefault("spec", {})
    for key in ("username", "uid", "groups", "extra"):
        spec.pop(key, None)
    spec |= user
