"""Static pods: Pods that a file or a web server of the node names, decoded, defaulted and checked. Pure.

    document -> upstream's identity (name-NODE, uid from the content, annotations, toleration) -> a Pod to run
             \\-> the body of its mirror: the author's document under that identity, which the API defaults itself

What the API server does for other pods is done here as far as a kubelet reads it: defaults that depend on other fields, and
the checks without which a pod would fail later in words that name no file. A static pod may refer to nothing in the API.
(pkg/kubelet/config/common.go; k8s.io/api defaults; the gate PreventStaticPodAPIReferences)
"""

import copy
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from kube import quantity
from kube.errors import Invalid
from kube.meta import timestamp
from kube.pods import Container, Pod, PodSpec
from kubelet.observe import wanted
from kubelet.plan.situation import CONFIG_MIRROR, CONFIG_SOURCE

Document = dict[str, Any]

CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_SEEN = "kubernetes.io/config.seen"
LARGEST = 2**31 - 1
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_NONE_IS_DEFAULT = ("timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
EVERYTHING = {"operator": "Exists", "effect": "NoExecute"}

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class StaticPod:
    """`body` is what its mirror is created from, without the owner."""

    pod: Pod
    body: Document
    origin: str


def fnv128a(data: bytes) -> str:
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        value = ((value ^ byte) * 0x0000000001000000000000000000013B) & ((1 << 128) - 1)
    return f"{value:032x}"


def uid_of(document: Document, node: str, origin: str) -> str:
    """The same as long as the content, the node and the place are; any change makes another pod."""
    said = document.get("metadata", {}).get("uid")
    if said:
        return str(said)
    text = msgspec.json.encode(document, order="deterministic")
    where = f"host:{node}file:{origin}" if origin.startswith("/") else f"url:{origin}"
    return fnv128a(text + where.encode())


def static_pod(found: Any, node: str, origin: str, source: str, seen: datetime) -> StaticPod:
    """`source` is `file` or `http`; `origin` the path or URL. Raises Invalid naming every field that is wrong."""
    document = _without_nulls(found)
    _expect_pod(document)
    try:
        mine = defaulted(document)
        checked = msgspec.convert(mine, wanted.Pod)
    except msgspec.ValidationError as error:
        raise Invalid(_plain(str(error))) from error
    if problems := [*_of_metadata(checked, node), *_of_spec(checked.spec)]:
        raise Invalid("; ".join(problems))
    uid = uid_of(document, node, origin)
    body = copy.deepcopy(document)
    for part in (body, mine):
        _identify(part, uid, node, source, seen)
    mine["metadata"]["uid"] = uid
    mine["metadata"]["creationTimestamp"] = timestamp(seen)
    mine["status"] = {"phase": "Pending"}
    body["metadata"]["annotations"][CONFIG_MIRROR] = uid
    return StaticPod(msgspec.convert(mine, wanted.Pod), body, origin)


def _identify(body: Document, uid: str, node: str, source: str, seen: datetime) -> None:
    """Upstream's name, place, annotations and toleration; what only the API may say is taken away."""
    meta, spec = body["metadata"], body["spec"]
    for given in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"):
        meta.pop(given, None)
    body.pop("status", None)
    meta["name"] = f"{meta['name']}-{node.lower()}"
    meta.setdefault("namespace", "default")
    about = {CONFIG_SOURCE: source, CONFIG_HASH: uid, CONFIG_SEEN: timestamp(seen)}
    meta["annotations"] = {**meta.get("annotations", {}), **about}
    spec["nodeName"] = node
    if source == "file" and EVERYTHING not in spec.get("tolerations", []):
        spec["tolerations"] = [*spec.get("tolerations", []), EVERYTHING]


# --- defaults ---------------------------------------------------------------------------------------------------------


def defaulted(document: Document) -> Document:
    """A copy with the defaults that one field takes from another; the others are those of the types. Numbers that stand for
    quantities become text: YAML reads `cpu: 1` as a number, and the API takes it."""
    body = copy.deepcopy(document)
    spec = body["spec"]
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("enableServiceLinks", True)
    for container in (*_dicts(spec, "initContainers"), *_dicts(spec, "containers")):
        image = container.get("image")
        if isinstance(image, str):
            container.setdefault("imagePullPolicy", pull_policy(image))
        for field in PROBES:
            probe = container.get(field)
            if isinstance(probe, dict):
                container[field] = {
                    key: value for key, value in probe.items() if value != 0 or key not in _NONE_IS_DEFAULT
                }
        resources = container.get("resources")
        if isinstance(resources, dict):
            limits, requests = _amounts(resources, "limits"), _amounts(resources, "requests")
            if isinstance(limits, dict) and isinstance(requests, dict):
                resources |= {"limits": limits, "requests": {**limits, **requests}}
        if spec.get("hostNetwork"):
            for port in _dicts(container, "ports"):
                port.setdefault("hostPort", port.get("containerPort", 0))
    for volume in _dicts(spec, "volumes"):
        disk = volume.get("emptyDir")
        if isinstance(disk, dict) and "sizeLimit" in disk:
            disk["sizeLimit"] = _amount(disk["sizeLimit"])
    return body


def pull_policy(image: str) -> str:
    """Always for `latest`, named or not; a digest is what it is."""
    name = image.rpartition("/")[2]
    latest = "@" not in name and name.partition(":")[2] in ("", "latest")
    return "Always" if latest else "IfNotPresent"


def _dicts(parent: Mapping[str, Any], field: str) -> list[Document]:
    found = parent.get(field)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _amounts(resources: Document, field: str) -> Any:
    found = resources.get(field, {})
    return {name: _amount(amount) for name, amount in found.items()} if isinstance(found, dict) else found


def _amount(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _without_nulls(value: Any) -> Any:
    """A key that is null is a key that is not there, as the API server reads it."""
    if isinstance(value, dict):
        return {str(key): _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value


# --- checks -----------------------------------------------------------------------------------------------------------


def _expect_pod(document: Any) -> None:
    if not isinstance(document, dict) or document.get("kind") != "Pod" or document.get("apiVersion") != "v1":
        what = f"kind {document.get('kind')!r}" if isinstance(document, dict) else f"a {type(document).__name__}"
        raise Invalid(f"found {what}: write one Pod, with apiVersion: v1 and kind: Pod")
    for field in ("metadata", "spec"):
        if not isinstance(document.get(field), dict):
            raise Invalid(f"{field}: required, as a mapping")


def _plain(message: str) -> str:
    """msgspec's `Expected int, got str - at $.spec.x` with the field in front."""
    words, _, where = message.replace("`", "").partition(" - at $.")
    return f"{where}: {words[0].lower()}{words[1:]}" if where else words


def _of_metadata(pod: Pod, node: str) -> Iterator[str]:
    meta = pod.metadata
    if not _SUBDOMAIN.fullmatch(meta.name) or len(f"{meta.name}-{node}") > 253:
        yield f"metadata.name: {meta.name!r}: lower case letters, digits, '-' and '.', 253 characters with -{node} added"
    if meta.namespace and not _LABEL.fullmatch(meta.namespace):
        yield f"metadata.namespace: {meta.namespace!r}: lower case letters, digits and '-'"
    if meta.uid and not _UID.fullmatch(meta.uid):
        yield f"metadata.uid: {meta.uid!r}: letters, digits, '-' and '.', or leave it out"


def _of_spec(spec: wanted.PodSpec) -> Iterator[str]:
    if not spec.containers:
        yield "spec.containers: at least one is required"
    if spec.ephemeral_containers:
        yield "spec.ephemeralContainers: only of pods that run; remove them"
    for field, value, known in (
        ("restartPolicy", spec.restart_policy, ("Always", "OnFailure", "Never")),
        ("dnsPolicy", spec.dns_policy, ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")),
    ):
        if value not in known:
            yield f"spec.{field}: {value!r}: write {', '.join(known[:-1])} or {known[-1]}"
    yield from _of_numbers(
        "spec",
        (
            ("activeDeadlineSeconds", spec.active_deadline_seconds, 1),
            ("terminationGracePeriodSeconds", spec.termination_grace_period_seconds, 0),
        ),
    )
    for index, volume in enumerate(spec.volumes):
        if volume.empty_dir and volume.empty_dir.size_limit:
            yield from _of_quantity(f"spec.volumes[{index}].emptyDir.sizeLimit", volume.empty_dir.size_limit)
    for group, amounts in (("limits", own.limits), ("requests", own.requests)) if (own := spec.resources) else ():
        for name, amount in amounts.items():
            yield from _of_quantity(f"spec.resources.{group}.{name}", amount)
    volumes = {volume.name for volume in spec.volumes}
    if len(volumes) < len(spec.volumes):
        yield "spec.volumes: two of them have the same name"
    names: set[str] = set()
    for where, container in _containers(spec):
        if not _LABEL.fullmatch(container.name):
            yield f"{where}.name: {container.name!r}: lower case letters, digits and '-', at most 63"
        elif container.name in names:
            yield f"{where}.name: {container.name!r} is there twice"
        names.add(container.name)
        yield from _of_container(where, container, volumes)
    yield from _references(spec)


def _containers(spec: PodSpec) -> Iterator[tuple[str, Container]]:
    for field, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for index, container in enumerate(containers):
            yield f"spec.{field}[{index}]", container


def _of_container(where: str, container: Container, volumes: Collection[str]) -> Iterator[str]:
    if not container.image or container.image != container.image.strip():
        yield f"{where}.image: {container.image!r}: name an image, without spaces around it"
    for index, mount in enumerate(container.volume_mounts):
        if mount.name not in volumes:
            yield f"{where}.volumeMounts[{index}].name: {mount.name!r}: there is no such volume in spec.volumes"
        if not mount.mount_path:
            yield f"{where}.volumeMounts[{index}].mountPath: required"
    for index, port in enumerate(container.ports):
        if not 0 < port.container_port < 65536:
            yield f"{where}.ports[{index}].containerPort: {port.container_port}: from 1 to 65535"
    for group, amounts in (("limits", container.resources.limits), ("requests", container.resources.requests)):
        for name, amount in amounts.items():
            yield from _of_quantity(f"{where}.resources.{group}.{name}", amount)
    for index, variable in enumerate(container.env):
        asked = variable.value_from.resource_field_ref if variable.value_from else None
        if asked and asked.divisor:
            yield from _of_quantity(f"{where}.env[{index}].valueFrom.resourceFieldRef.divisor", asked.divisor)
    probes = (container.startup_probe, container.liveness_probe, container.readiness_probe)
    for field, probe in zip(PROBES, probes, strict=True):
        if probe is not None:
            yield from _of_numbers(
                f"{where}.{field}",
                (
                    ("initialDelaySeconds", probe.initial_delay_seconds, 0),
                    ("timeoutSeconds", probe.timeout_seconds, 1),
                    ("periodSeconds", probe.period_seconds, 1),
                    ("successThreshold", probe.success_threshold, 1),
                    ("failureThreshold", probe.failure_threshold, 1),
                    ("terminationGracePeriodSeconds", probe.termination_grace_period_seconds, 1),
                ),
            )


def _of_numbers(where: str, fields: Iterable[tuple[str, int | None, int]]) -> Iterator[str]:
    """Of (name, value, least)."""
    for name, value, least in fields:
        if value is not None and not least <= value <= LARGEST:
            yield f"{where}.{name}: {value}: from {least} to {LARGEST}"


def _of_quantity(where: str, text: str) -> Iterator[str]:
    try:
        quantity.parse(text)
    except ValueError:
        yield f"{where}: {text!r} is no quantity; write it like 100m or 256Mi"


def _references(spec: wanted.PodSpec) -> Iterator[str]:
    """A static pod lives without the API: it cannot refer to what is there."""
    why = "static pods may not refer to objects of the API; use hostPath or values"
    named = {"serviceAccountName": spec.service_account_name, "imagePullSecrets": spec.image_pull_secrets}
    for field, value in {**named, "resourceClaims": spec.resource_claims}.items():
        if value:
            yield f"spec.{field}: {why}"
    for where, container in _containers(spec):
        for index, variable in enumerate(container.env):
            origin = variable.value_from
            if origin is not None and (origin.config_map_key_ref or origin.secret_key_ref):
                yield f"{where}.env[{index}].valueFrom: {why}"
        for index, _ in enumerate(container.env_from):
            yield f"{where}.envFrom[{index}]: {why}"
    for index, volume in enumerate(spec.volumes):
        projected = volume.projected.sources if volume.projected else ()
        if (
            volume.config_map
            or volume.secret
            or volume.persistent_volume_claim
            or volume.ephemeral
            or any(part.config_map or part.secret or part.service_account_token for part in projected)
        ):
            yield f"spec.volumes[{index}] ({volume.name}): {why}"
