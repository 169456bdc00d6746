"""Containers: image, ports, environment, mounts, resources, security.

After pkg/apis/core/validation/validation.go (`validateContainers` and what it calls). What needs more than the container
itself (its volumes, its neighbours) is in `pods`; probes and hooks are in `handlers`.
"""

import re
from functools import lru_cache
from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import Check, Found, Json, Path, Rule, Rules, between, one_of, unique, written

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
ID: Final[Check] = between(0, 2**31 - 1)
_ENV_SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_FIELD_PATHS: Final = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_SUBSCRIPT: Final = re.compile(r"(metadata\.(?:labels|annotations))\['(.*)'\]")
_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
_RESOURCE_FIELDS: Final = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
)  # fmt: skip
_MOUNT_MODES: Final = {
    "mountPropagation": ("Bidirectional", "HostToContainer", "None"),
    "recursiveReadOnly": ("Disabled", "Enabled", "IfPossible"),
}
_NATIVE: Final = re.compile(r"(?:[^/]*\.)?kubernetes\.io/")


def container(one: Json, path: Path, found: Found) -> None:
    image(one, path, found)
    if one.get("imagePullPolicy") not in PULL_POLICIES:
        if not one.get("imagePullPolicy"):
            found.required((path, "imagePullPolicy"))
        else:
            found.unsupported((path, "imagePullPolicy"), one["imagePullPolicy"], PULL_POLICIES)


def image(one: Json, path: Path, found: Found) -> None:
    text = one.get("image", "")
    if not text:
        found.required((path, "image"))
    elif text != text.strip():
        found.invalid((path, "image"), text, "must not have leading or trailing whitespace")


def _ports(ports: Any, path: Path, found: Found) -> None:
    seen: set[str] = set()
    for index, one in enumerate(ports):
        number, host = one.get("containerPort", 0), one.get("hostPort", 0)
        if not number:
            found.required(((path, index), "containerPort"))
        elif not 1 <= number <= 65535:
            found.invalid(((path, index), "containerPort"), number, names.OUTSIDE_PORTS)
        if host and not 1 <= host <= 65535:
            found.invalid(((path, index), "hostPort"), host, names.OUTSIDE_PORTS)
        if one.get("protocol") not in PROTOCOLS:
            if not one.get("protocol"):
                found.required(((path, index), "protocol"))
            else:
                found.unsupported(((path, index), "protocol"), one["protocol"], PROTOCOLS)
        if "hostIP" in one:
            for text in names.ip(one["hostIP"]):
                found.invalid(((path, index), "hostIP"), one["hostIP"], text)
        if name := one.get("name"):
            for text in names.port_name(name):
                found.invalid(((path, index), "name"), name, text)
            if name in seen:
                found.duplicate(((path, index), "name"), name)
            seen.add(name)


def _environment(variables: Any, path: Path, found: Found) -> None:
    for index, one in enumerate(variables):
        name = one.get("name", "")
        if not name:
            found.required(((path, index), "name"))
        for text in names.environment_name(name) if name else ():
            found.invalid(((path, index), "name"), name, text)
        if "valueFrom" in one:
            _source(one, ((path, index), "valueFrom"), found)


def _source(variable: Json, path: Path, found: Found) -> None:
    source = variable["valueFrom"]
    given = [key for key in _ENV_SOURCES if key in source]
    if not given:
        detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        found.invalid(path, "", detail)
    elif variable.get("value"):
        found.invalid(path, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        found.invalid(path, "", "may not have more than one field specified at a time")
    for key in given:
        match key:
            case "fieldRef":
                field_reference(source[key], (path, key), _FIELD_PATHS, found)
            case "resourceFieldRef":
                resource_reference(source[key], (path, key), found)
            case "configMapKeyRef" | "secretKeyRef":
                _key_reference(source[key], (path, key), found)
            case _:
                pass


def _key_reference(reference: Json, path: Path, found: Found) -> None:
    name, key = reference.get("name"), reference.get("key")
    if not name:
        found.required((path, "name"))
    if not key:
        found.required((path, "key"))
        return
    for text in names.config_key(key):
        found.invalid((path, "key"), key, text)


def field_reference(reference: Json, path: Path, allowed: tuple[str, ...], found: Found) -> None:
    field = reference.get("fieldPath", "")
    if not reference.get("apiVersion"):
        found.required((path, "apiVersion"))
    if not field:
        found.required((path, "fieldPath"))
        return
    if field in allowed:
        return
    if match := _SUBSCRIPT.fullmatch(field):
        key = match[2]
        for text in names.qualified_name(key.lower() if match[1].endswith("annotations") else key):
            found.invalid(path, key, text)
        return
    found.unsupported((path, "fieldPath"), field, allowed)


def resource_reference(reference: Json, path: Path, found: Found) -> None:
    resource = reference.get("resource", "")
    if not resource:
        found.required((path, "resource"))
        return
    if resource not in _RESOURCE_FIELDS and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        found.unsupported((path, "resource"), resource, _RESOURCE_FIELDS)
    divisor = str(reference.get("divisor", "0"))
    if divisor != "0" and resource.endswith(".cpu") and divisor not in ("1m", "1"):
        detail = "only divisor's values 1m and 1 are supported with the cpu resource"
        found.invalid((path, "divisor"), divisor, detail)


def _env_from(one: Json, path: Path, found: Found) -> None:
    if prefix := one.get("prefix"):
        for text in names.environment_name(prefix):
            found.invalid((path, "prefix"), prefix, text)
    given = [key for key in ("configMapRef", "secretRef") if key in one]
    if not given:
        found.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        found.invalid(path, "", "may not have more than one field specified at a time")
    for key in given:
        if not one[key].get("name"):
            found.required(((path, key), "name"))


def _mounts(mounts: Any, path: Path, found: Found) -> None:
    seen: set[str] = set()
    for index, one in enumerate(mounts):
        here = (path, index)
        target = one.get("mountPath", "")
        if not one.get("name"):
            found.required((here, "name"))
        if not target:
            found.required((here, "mountPath"))
        elif target in seen:
            found.invalid((here, "mountPath"), target, "must be unique")
        seen.add(target)
        for field in ("subPath", "subPathExpr"):
            if field in one:
                relative_path(one[field], (here, field), found)
        if one.get("subPath") and one.get("subPathExpr"):
            detail = "subPathExpr and subPath are mutually exclusive"
            found.invalid((here, "subPathExpr"), one["subPathExpr"], detail)
        if "mountPropagation" in one or "recursiveReadOnly" in one:
            _mount_modes(one, here, found)


def _mount_modes(one: Json, path: Path, found: Found) -> None:
    for field, allowed in _MOUNT_MODES.items():
        if field in one and one[field] not in allowed:
            found.unsupported((path, field), one[field], allowed)
    if one.get("recursiveReadOnly", "Disabled") != "Disabled" and not one.get("readOnly"):
        found.forbidden((path, "recursiveReadOnly"), "may only be specified when readOnly is true")


def relative_path(text: str, path: Path, found: Found) -> None:
    if text.startswith("/"):
        found.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        found.invalid(path, text, "must not contain '..'")


def resources(one: Json, path: Path, found: Found) -> None:
    limits, requests = one.get("limits", {}), one.get("requests", {})
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if not _plain(name, amount):
                _amount(name, str(amount or 0), ((path, field), f"[{name}]"), found)
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None:
            if not _overcommitted(name):
                found.required((path, "limits"), "Limit must be set for non overcommitable resources")
        elif amount != limit:
            if _exceeds(str(amount), str(limit)):
                found.invalid((path, "requests"), amount, f"must be less than or equal to {name} limit of {limit}")
            elif not _overcommitted(name):
                found.invalid((path, "requests"), amount, f"must be equal to {name} limit of {limit}")
    if limits and not ("cpu" in limits or "memory" in limits) and _only_huge_pages(limits, requests):
        found.forbidden(path, "HugePages require cpu or memory")
    for index, claim in enumerate(one.get("claims", ())):
        if not claim.get("name"):
            found.required((((path, "claims"), index), "name"))


def _only_huge_pages(limits: Json, requests: Json) -> bool:
    return any(name.startswith("hugepages-") for name in limits) and not {"cpu", "memory"} & requests.keys()


@lru_cache(maxsize=4096)
def _plain(name: str, amount: object) -> bool:
    """Nothing to be said: remembered, for the amounts of a cluster are few."""
    found = Found()
    _amount(name, str(amount or 0), (), found)
    return not found.causes


def _amount(name: str, amount: str, path: Path, found: Found) -> None:
    for text in names.qualified_name(name):
        found.invalid(path, name, text)
    if "/" not in name and name not in _RESOURCES and not name.startswith("hugepages-"):
        found.invalid(path, name, "must be a standard resource for containers")
    value = parsed(amount)
    if value < 0:
        found.invalid(path, amount, names.NEGATIVE)
    elif value.denominator != 1 and name != "cpu" and _whole(name):
        found.invalid(path, amount, "must be an integer")


def _whole(name: str) -> bool:
    """Extended resources come in pieces."""
    return "/" in name and not _NATIVE.match(name)


@lru_cache(maxsize=4096)
def _overcommitted(name: str) -> bool:
    return not _whole(name) and not name.startswith("hugepages-")


@lru_cache(maxsize=4096)
def _exceeds(request: str, limit: str) -> bool:
    return parsed(request) > parsed(limit)


def _security(context: Json, path: Path, found: Found) -> None:
    if context.get("allowPrivilegeEscalation") is not False:
        return
    if context.get("privileged"):
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        found.invalid(path, context, detail)
    if {"CAP_SYS_ADMIN", "SYS_ADMIN"} & set(context.get("capabilities", {}).get("add", ())):
        detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
        found.invalid(path, context, detail)


def _profile(noun: str) -> Check:
    def check(one: Json, path: Path, found: Found) -> None:
        kind, local = one.get("type", ""), one.get("localhostProfile")
        if kind == "Localhost":
            if not local:
                found.required((path, "localhostProfile"), f"must be set when {noun} type is Localhost")
            elif local.startswith("/") or ".." in local.split("/"):
                relative_path(local, (path, "localhostProfile"), found)
        elif local is not None:
            found.invalid((path, "localhostProfile"), local, f"can only be set when {noun} type is Localhost")

    return check


_CONTAINER: Final = {
    "name": written(names.dns_label),
    "terminationMessagePolicy": one_of("FallbackToLogsOnError", "File"),
    "restartPolicy": one_of("Always", "Never", "OnFailure"),
    "ports": _ports,
    "env": _environment,
    "volumeMounts": _mounts,
    "volumeDevices": unique("devicePath"),
    "resizePolicy": unique("resourceName"),
}
_IDS: Final = {"runAsUser": ID, "runAsGroup": ID}
RULES: Final[Rules] = {
    "core.v1.Container": Rule(_CONTAINER, ("name",), (container,)),
    "core.v1.EphemeralContainer": Rule(_CONTAINER, ("name",), (container,)),
    "core.v1.EnvFromSource": Rule(checks=(_env_from,)),
    "core.v1.VolumeDevice": Rule(required=("name", "devicePath")),
    "core.v1.ResourceRequirements": Rule(checks=(resources,)),
    "core.v1.ContainerResizePolicy": Rule(
        {
            "resourceName": one_of("cpu", "memory"),
            "restartPolicy": one_of("NotRequired", "RestartContainer"),
        },
        ("resourceName", "restartPolicy"),
    ),
    "core.v1.SecurityContext": Rule(_IDS | {"procMount": one_of("Default", "Unmasked")}, checks=(_security,)),
    "core.v1.PodSecurityContext": Rule(
        _IDS
        | {
            "fsGroup": ID,
            "fsGroupChangePolicy": one_of("Always", "OnRootMismatch"),
            "supplementalGroupsPolicy": one_of("Merge", "Strict"),
            "seLinuxChangePolicy": one_of("MountOption", "Recursive"),
        }
    ),
    "core.v1.SeccompProfile": Rule(
        {"type": one_of("Localhost", "RuntimeDefault", "Unconfined")}, ("type",), (_profile("seccomp"),)
    ),
    "core.v1.AppArmorProfile": Rule(
        {"type": one_of("Localhost", "RuntimeDefault", "Unconfined")}, ("type",), (_profile("AppArmor"),)
    ),
}
