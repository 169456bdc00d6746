"""A container's environment and command line, upstream's way (pkg/kubelet/kubelet_pods.go,
third_party/forked/golang/expansion).

Later wins: service variables < envFrom, in order < env, in order. `$(NAME)` in an env value sees envFrom, what env has
defined so far, and then the service variables; in command and args it sees the whole result. `$$(NAME)` is a literal
`$(NAME)`; an unknown name stays as written. Any name that the API takes is a variable's name: there are no invalid ones.

Raises Missing when a ConfigMap, Secret or key that is not optional is not there: the container waits as
CreateContainerConfigError.
"""

import base64
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from kube import quantity
from kube.core import ConfigMap, Secret, Service
from kube.errors import Invalid
from kube.pods import Container, Pod
from kube.sources import EnvVarSource, ResourceFieldSelector
from kubelet.tokens import Refused, Wish


class Missing(Exception):
    """Something the container refers to does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an environment is made from. ConfigMaps and Secrets are those of the pod's namespace, by name."""

    services: Sequence[Service] = ()
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[Wish, str | Refused] = field(default_factory=dict)


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; one pass, results are not expanded again."""
    out: list[str] = []
    position = 0
    while position < len(text):
        dollar = text.find("$", position)
        if dollar < 0 or dollar + 1 >= len(text):
            break
        out.append(text[position:dollar])
        follower = text[dollar + 1]
        position = dollar + 2
        if follower == "$":
            out.append("$")
        elif follower != "(":
            out.append("$" + follower)
        else:
            close = text.find(")", position)
            if close < 0:
                out.append("$(")
            else:
                name = text[position:close]
                out.append(known.get(name, f"$({name})"))
                position = close + 1
    return "".join(out) + text[position:]


def service_variables(services: Sequence[Service], namespace: str, links: bool = True) -> dict[str, str]:
    """Variables for the services of the pod's own namespace and, always, for `kubernetes` in default."""
    chosen: dict[str, Service] = {}
    for service in services:
        if service.spec.cluster_ip in ("", "None"):
            continue
        own = links and service.metadata.namespace == namespace
        master = service.metadata.namespace == "default" and service.metadata.name == "kubernetes"
        # One's own namespace may have a service called kubernetes too: it wins there.
        if own or (master and service.metadata.name not in chosen):
            chosen[service.metadata.name] = service
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables.update(_variables_of(chosen[name]))
    return variables


def _variables_of(service: Service) -> dict[str, str]:
    if not service.spec.ports:
        return {}
    prefix = service.metadata.name.upper().replace("-", "_")
    address = service.spec.cluster_ip
    host = f"[{address}]" if ":" in address else address
    first = service.spec.ports[0]
    found = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(first.port)}
    for port in service.spec.ports:
        if port.name:
            found[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    found[f"{prefix}_PORT"] = f"{first.protocol.lower()}://{host}:{first.port}"
    for port in service.spec.ports:
        one = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}"
        found[one] = f"{port.protocol.lower()}://{host}:{port.port}"
        found[f"{one}_PROTO"] = port.protocol.lower()
        found[f"{one}_PORT"] = str(port.port)
        found[f"{one}_ADDR"] = address
    return found


def environment(pod: Pod, container: Container, around: Surroundings) -> dict[str, str]:
    links = pod.spec.enable_service_links is not False
    services = service_variables(around.services, pod.metadata.namespace, links)
    result: dict[str, str] = {}
    for source in container.env_from:
        if source.config_map_ref is not None:
            name, optional = source.config_map_ref.name, source.config_map_ref.optional
            config = around.config_maps.get(name)
            if config is None and not optional:
                raise Missing(f'configmap "{name}" not found')
            pairs = dict(config.data) if config else {}
        elif source.secret_ref is not None:
            name, optional = source.secret_ref.name, source.secret_ref.optional
            secret = around.secrets.get(name)
            if secret is None and not optional:
                raise Missing(f'secret "{name}" not found')
            pairs = {key: _text(name, key, value) for key, value in secret.data.items()} if secret else {}
        else:
            continue
        result.update({source.prefix + key: value for key, value in pairs.items()})
    for variable in container.env:
        if variable.value_from is not None:
            value = _value_from(pod, container, variable.name, variable.value_from, around)
            if value is None:
                continue
        else:
            value = expand(variable.value, ChainMap(result, services))
        result[variable.name] = value
    return {**{key: value for key, value in services.items() if key not in result}, **result}


def command_line(container: Container, known: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """command and args, expanded. The image's own are never expanded."""
    return tuple(expand(c, known) for c in container.command), tuple(expand(a, known) for a in container.args)


def _text(secret: str, key: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode()
    except ValueError:  # also of what is no base64
        raise Invalid(
            f"key {key} of secret {secret} is not UTF-8 and cannot be a variable; mount it as a volume"
        ) from None


def _value_from(pod: Pod, container: Container, name: str, source: EnvVarSource, around: Surroundings) -> str | None:
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, around.host_ips, around.pod_ips)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, around.allocatable)
    if source.config_map_key_ref is not None:
        config_ref = source.config_map_key_ref
        config = around.config_maps.get(config_ref.name)
        if config is None:
            return _absent(config_ref.optional, f'configmap "{config_ref.name}" not found')
        if config_ref.key not in config.data:
            where = f"{pod.metadata.namespace}/{config_ref.name}"
            return _absent(config_ref.optional, f"couldn't find key {config_ref.key} in ConfigMap {where}")
        return config.data[config_ref.key]
    if source.secret_key_ref is not None:
        secret_ref = source.secret_key_ref
        secret = around.secrets.get(secret_ref.name)
        if secret is None:
            return _absent(secret_ref.optional, f'secret "{secret_ref.name}" not found')
        if secret_ref.key not in secret.data:
            where = f"{pod.metadata.namespace}/{secret_ref.name}"
            return _absent(secret_ref.optional, f"couldn't find key {secret_ref.key} in Secret {where}")
        return _text(secret_ref.name, secret_ref.key, secret.data[secret_ref.key])
    known = "fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef"
    raise Invalid(f"env {name}: valueFrom: this version knows {known}: use one of them (fileKeyRef is planned for 0.2)")


def _absent(optional: bool | None, message: str) -> str | None:
    if not optional:
        raise Missing(message)
    return None


def field_value(pod: Pod, path: str, host_ips: Sequence[str], pod_ips: Sequence[str]) -> str:
    """A downward API field. Maps come as sorted `key="value"` lines, one subscript as its value."""
    meta = pod.metadata
    simple = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": host_ips[0] if host_ips else "",
        "status.hostIPs": ",".join(host_ips),
        "status.podIP": pod_ips[0] if pod_ips else "",
        "status.podIPs": ",".join(pod_ips),
    }
    if path in simple:
        return simple[path]
    for prefix, pairs in (("metadata.labels", meta.labels), ("metadata.annotations", meta.annotations)):
        if path == prefix:
            return "\n".join(f"{key}={_quoted(pairs[key])}" for key in sorted(pairs))
        if path.startswith(prefix + "['") and path.endswith("']"):
            return pairs.get(path[len(prefix) + 2 : -2], "")
    raise Invalid(f"fieldPath {path!r} is not one of those a container can ask for; see the downward API's list")


def _quoted(text: str) -> str:
    # Go's %q of printable text: what shells and readers of downward API files expect.
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    )
    return f'"{escaped}"'


def resource_value(
    pod: Pod, container: Container, selector: ResourceFieldSelector, allocatable: Mapping[str, str]
) -> str:
    """A limit or request, divided and rounded up; a limit that is not set is the pod's own, or what the node can give.
    Raises Invalid."""
    owner = container
    if selector.container_name:
        everyone = (*pod.spec.containers, *pod.spec.init_containers)
        found = next((c for c in everyone if c.name == selector.container_name), None)
        if found is None:
            raise Invalid(f"resourceFieldRef names container {selector.container_name!r}, which the pod does not have")
        owner = found
    kind, _, name = selector.resource.partition(".")
    limits, requests = owner.resources.limits, owner.resources.requests
    match kind:
        case "limits":
            amount = _positive(limits, name) or _bound(pod, name, allocatable)
        case "requests":
            amount = requests.get(name) or limits.get(name) or "0"
        case _:
            raise Invalid(f"resourceFieldRef.resource {selector.resource!r} is neither limits.* nor requests.*")
    divisor = _amount("resourceFieldRef.divisor", selector.divisor or "1")
    return str(ceil(_amount(selector.resource, amount) / (divisor or Fraction(1))))


def _amount(field: str, text: str) -> Fraction:
    try:
        return quantity.parse(text)
    except ValueError:
        raise Invalid(f"{field}: {text!r} is no quantity; write it like 100m or 256Mi") from None


def _positive(amounts: Mapping[str, str], name: str) -> str:
    amount = amounts.get(name, "0")
    return amount if _amount(f"limits.{name}", amount) > 0 else ""


def _bound(pod: Pod, name: str, allocatable: Mapping[str, str]) -> str:
    """What bounds a container that has no limit of its own."""
    if name not in ("cpu", "memory", "ephemeral-storage"):
        return "0"
    whole = pod.spec.resources.limits if pod.spec.resources else {}
    return _positive(whole, name) or allocatable.get(name, "0")
