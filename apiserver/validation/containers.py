"""Containers: image, ports, environment, mounts, probes, hooks, resources.

After pkg/apis/core/validation/validation.go (`validateContainers` and what it calls).
"""

from collections.abc import Iterator
from typing import Any, Final

from apiserver.errors import DUPLICATE, FORBIDDEN, INVALID, NOT_FOUND, Cause, cause, not_supported, required
from apiserver.validation import names
from kube import quantity

Json = dict[str, Any]

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_ENV_SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_FIELD_PATHS: Final = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
_PROBE_NUMBERS: Final = (
    "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold",
)  # fmt: skip


def containers(values: Any, path: str, volumes: frozenset[str], host_network: bool) -> Iterator[Cause]:
    for index, one in enumerate(values):
        yield from container(one, f"{path}[{index}]", volumes, host_network)
    yield from _host_ports(values, path)


def container(one: Json, path: str, volumes: frozenset[str], host_network: bool) -> Iterator[Cause]:
    name = one.get("name", "")
    if not name:
        yield required(f"{path}.name")
    else:
        for text in names.dns_label(name):
            yield cause(f"{path}.name", INVALID, name, text)
    yield from image(one, path)
    if one.get("imagePullPolicy") not in _PULL_POLICIES:
        yield not_supported(f"{path}.imagePullPolicy", one.get("imagePullPolicy", ""), _PULL_POLICIES)
    yield from _ports(one.get("ports", ()), f"{path}.ports", host_network)
    yield from _environment(one, path)
    yield from _mounts(one.get("volumeMounts", ()), f"{path}.volumeMounts", volumes)
    yield from _probes(one, path)
    if "lifecycle" in one:
        yield from _hooks(one["lifecycle"], f"{path}.lifecycle")
    yield from resources(one.get("resources", {}), f"{path}.resources")
    if "securityContext" in one:
        yield from _security(one["securityContext"], f"{path}.securityContext")


def image(one: Json, path: str) -> Iterator[Cause]:
    text = one.get("image", "")
    if not text:
        yield required(f"{path}.image")
    elif text != text.strip():
        yield cause(f"{path}.image", INVALID, text, "must not have leading or trailing whitespace")


def _ports(ports: Any, path: str, host_network: bool) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, one in enumerate(ports):
        here = f"{path}[{index}]"
        name = one.get("name", "")
        if name:
            for text in names.port_name(name):
                yield cause(f"{here}.name", INVALID, name, text)
            if name in seen:
                yield cause(f"{here}.name", DUPLICATE, name)
            seen.add(name)
        number = one.get("containerPort", 0)
        if number == 0:
            yield required(f"{here}.containerPort")
        else:
            for text in names.port_number(number):
                yield cause(f"{here}.containerPort", INVALID, number, text)
        host = one.get("hostPort", 0)
        if host:
            for text in names.port_number(host):
                yield cause(f"{here}.hostPort", INVALID, host, text)
        if host_network and host != number:
            yield cause(f"{here}.containerPort", INVALID, number, "must match `hostPort` when `hostNetwork` is true")
        if one.get("protocol") not in PROTOCOLS:
            yield not_supported(f"{here}.protocol", one.get("protocol", ""), PROTOCOLS)


def _host_ports(values: Any, path: str) -> Iterator[Cause]:
    seen: set[tuple[Any, ...]] = set()
    for index, one in enumerate(values):
        for at, port in enumerate(one.get("ports", ())):
            if not port.get("hostPort"):
                continue
            key = (port.get("protocol"), port.get("hostIP", ""), port["hostPort"])
            if key in seen:
                text = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{port['hostPort']}"
                yield cause(f"{path}[{index}].ports[{at}].hostPort", DUPLICATE, text)
            seen.add(key)


def _environment(one: Json, path: str) -> Iterator[Cause]:
    for index, variable in enumerate(one.get("env", ())):
        name = variable.get("name", "")
        if not name:
            yield required(f"{path}.env[{index}].name")
        for text in names.environment_name(name) if name else ():
            yield cause(f"{path}.env[{index}].name", INVALID, name, text)
        if "valueFrom" in variable:
            yield from _env_source(variable, f"{path}.env[{index}].valueFrom")
    for index, source in enumerate(one.get("envFrom", ())):
        here = f"{path}.envFrom[{index}]"
        given = [key for key in ("configMapRef", "secretRef") if key in source]
        if not given:
            yield cause(here, INVALID, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            yield cause(here, INVALID, "", "may not have more than one field specified at a time")
        for key in given:
            if not source[key].get("name"):
                yield required(f"{here}.{key}.name")


def _env_source(variable: Json, path: str) -> Iterator[Cause]:
    source = variable["valueFrom"]
    given = [key for key in _ENV_SOURCES if key in source]
    if not given:
        yield cause(
            path,
            INVALID,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )
    elif variable.get("value"):
        yield cause(path, INVALID, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        yield cause(path, INVALID, "", "may not have more than one field specified at a time")
    if "fieldRef" in source:
        yield from field_reference(source["fieldRef"], f"{path}.fieldRef", _FIELD_PATHS)
    if "resourceFieldRef" in source and not source["resourceFieldRef"].get("resource"):
        yield required(f"{path}.resourceFieldRef.resource")
    for key in ("configMapKeyRef", "secretKeyRef"):
        if key in source:
            if not source[key].get("name"):
                yield required(f"{path}.{key}.name")
            if not source[key].get("key"):
                yield required(f"{path}.{key}.key")
            else:
                for text in names.config_key(source[key]["key"]):
                    yield cause(f"{path}.{key}.key", INVALID, source[key]["key"], text)


def field_reference(reference: Json, path: str, allowed: tuple[str, ...]) -> Iterator[Cause]:
    field = reference.get("fieldPath", "")
    if not field:
        yield required(f"{path}.fieldPath")
    elif field not in allowed and not field.startswith(("metadata.labels['", "metadata.annotations['")):
        yield not_supported(f"{path}.fieldPath", field, allowed)


def _mounts(mounts: Any, path: str, volumes: frozenset[str]) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, one in enumerate(mounts):
        here = f"{path}[{index}]"
        name, target = one.get("name", ""), one.get("mountPath", "")
        if not name:
            yield required(f"{here}.name")
        elif name not in volumes:
            yield cause(f"{here}.name", NOT_FOUND, name)
        if not target:
            yield required(f"{here}.mountPath")
        elif target in seen:
            yield cause(f"{here}.mountPath", INVALID, target, "must be unique")
        seen.add(target)
        for field in ("subPath", "subPathExpr"):
            if field in one:
                yield from relative_path(one[field], f"{here}.{field}")
        if one.get("subPath") and one.get("subPathExpr"):
            yield cause(
                f"{here}.subPathExpr", INVALID, one["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )


def relative_path(text: str, path: str) -> Iterator[Cause]:
    if text.startswith("/"):
        yield cause(path, INVALID, text, "must be a relative path")
    if ".." in text.split("/"):
        yield cause(path, INVALID, text, "must not contain '..'")


def _probes(one: Json, path: str) -> Iterator[Cause]:
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name not in one:
            continue
        probe, here = one[name], f"{path}.{name}"
        yield from _handler(probe, here)
        for field in _PROBE_NUMBERS:
            if probe.get(field, 0) < 0:
                yield cause(f"{here}.{field}", INVALID, probe[field], names.NEGATIVE)
        if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            yield cause(f"{here}.successThreshold", INVALID, probe["successThreshold"], "must be 1")


def _hooks(lifecycle: Json, path: str) -> Iterator[Cause]:
    for name in ("postStart", "preStop"):
        if name in lifecycle:
            yield from _handler(lifecycle[name], f"{path}.{name}")


def _handler(handler: Json, path: str) -> Iterator[Cause]:
    given = [name for name in _HANDLERS if name in handler]
    if not given:
        yield required(path, "must specify a handler type")
    for name in given[1:]:
        yield cause(f"{path}.{name}", FORBIDDEN, detail="may not specify more than 1 handler type")
    for name in given[:1]:
        one, here = handler[name], f"{path}.{name}"
        match name:
            case "exec":
                if not one.get("command"):
                    yield required(f"{here}.command")
            case "httpGet":
                if not one.get("path"):
                    yield required(f"{here}.path")
                if one.get("scheme") not in {"HTTP", "HTTPS"}:
                    yield not_supported(f"{here}.scheme", one.get("scheme", ""), ("HTTP", "HTTPS"))
                yield from _handler_port(one, here)
            case "tcpSocket" | "grpc":
                yield from _handler_port(one, here)
            case _:
                pass


def _handler_port(one: Json, path: str) -> Iterator[Cause]:
    for text in names.port(one.get("port", 0)):
        yield cause(f"{path}.port", INVALID, one.get("port", 0), text)


def resources(one: Json, path: str) -> Iterator[Cause]:
    limits, requests = one.get("limits", {}), one.get("requests", {})
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            yield from _resource_name(name, f"{path}.{field}[{name}]")
            if quantity.parse(str(amount)).numerator < 0:
                yield cause(f"{path}.{field}[{name}]", INVALID, amount, names.NEGATIVE)
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None:
            continue
        if quantity.parse(str(amount)) > quantity.parse(str(limit)):
            detail = f"must be less than or equal to {name} limit of {limit}"
            yield cause(f"{path}.requests", INVALID, amount, detail)


def _resource_name(name: str, path: str) -> Iterator[Cause]:
    for text in names.qualified_name(name):
        yield cause(path, INVALID, name, text)
    if "/" not in name and name not in _RESOURCES and not name.startswith("hugepages-"):
        yield cause(path, INVALID, name, "must be a standard resource for containers")


def _security(context: Json, path: str) -> Iterator[Cause]:
    for field in ("runAsUser", "runAsGroup"):
        if context.get(field, 0) < 0:
            detail = "must be between 0 and 2147483647, inclusive"
            yield cause(f"{path}.{field}", INVALID, context[field], detail)
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        yield cause(path, INVALID, context, detail)


def unique_names(values: Any, path: str, taken: set[str]) -> Iterator[Cause]:
    """Container names are unique in the pod, across the three lists; `taken` grows."""
    for index, one in enumerate(values):
        name = one.get("name", "")
        if name and name in taken:
            yield cause(f"{path}[{index}].name", DUPLICATE, name)
        taken.add(name)
