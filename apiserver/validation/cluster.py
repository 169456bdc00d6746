"""Nodes, ConfigMaps, Secrets, Leases, Events, Bindings: the small kinds."""

import base64
from collections.abc import Iterator
from typing import Any, Final

from apiserver.errors import FORBIDDEN, INVALID, Cause, cause, not_supported, required, too_long
from apiserver.validation import names, scheduling

Json = dict[str, Any]

_LIMIT: Final = 1024 * 1024
_SECRET_KEYS: Final = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def node(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    yield from scheduling.taints(spec.get("taints", ()), "spec.taints")
    blocks = spec.get("podCIDRs", [])
    for index, block in enumerate(blocks):
        for text in names.cidr(block):
            yield cause(f"spec.podCIDRs[{index}]", INVALID, block, text)
    for address in obj.get("status", {}).get("addresses", ()):
        if address.get("type") in {"InternalIP", "ExternalIP"}:
            for text in names.ip(address.get("address", "")):
                yield cause("status.addresses", INVALID, address.get("address", ""), text)


def node_update(new: Json, old: Json) -> Iterator[Cause]:
    """Of a node's spec, people change taints and `unschedulable`; the pod range and provider are set once."""
    after, before = new.get("spec", {}), old.get("spec", {})
    if before.get("podCIDRs") and after.get("podCIDRs") != before["podCIDRs"]:
        yield cause("spec.podCIDRs", FORBIDDEN, detail='node updates may not change podCIDR except from "" to valid')
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        detail = 'node updates may not change providerID except from "" to valid'
        yield cause("spec.providerID", FORBIDDEN, detail=detail)


def config_map(obj: Json) -> Iterator[Cause]:
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    for field, pairs in (("data", data), ("binaryData", binary)):
        for key in pairs:
            for text in names.config_key(key):
                yield cause(f"{field}[{key}]", INVALID, key, text)
    for key in data:
        if key in binary:
            yield cause(f"data[{key}]", INVALID, key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(_decoded(value) for value in binary.values())
    if size > _LIMIT:
        yield too_long("", _LIMIT)


def secret(obj: Json) -> Iterator[Cause]:
    data = obj.get("data", {})
    for key in data:
        for text in names.config_key(key):
            yield cause(f"data[{key}]", INVALID, key, text)
    if sum(_decoded(value) for value in data.values()) > _LIMIT:
        yield too_long("data", _LIMIT)
    kind = obj.get("type", "")
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            yield required(f"data[{key}]")
    if kind == "kubernetes.io/service-account-token":
        name = "kubernetes.io/service-account.name"
        if not obj.get("metadata", {}).get("annotations", {}).get(name):
            yield required(f"metadata.annotations[{name}]")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        yield required("data[username]")
        yield required("data[password]")


def _decoded(text: str) -> int:
    """Bytes that base64 text stands for."""
    return len(base64.b64decode(text)) if text else 0


def immutable_update(new: Json, old: Json) -> Iterator[Cause]:
    """`immutable: true` on a ConfigMap or Secret is for life."""
    if not old.get("immutable"):
        return
    detail = "field is immutable when `immutable` is set"
    if not new.get("immutable"):
        yield cause("immutable", FORBIDDEN, detail=detail)
    for field in ("data", "binaryData"):
        if new.get(field, {}) != old.get(field, {}):
            yield cause(field, FORBIDDEN, detail=detail)


def secret_update(new: Json, old: Json) -> Iterator[Cause]:
    if new.get("type") != old.get("type"):
        yield cause("type", INVALID, new.get("type", ""), names.IMMUTABLE)
    yield from immutable_update(new, old)


def lease(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        yield cause("spec.leaseDurationSeconds", INVALID, duration, "must be greater than 0")
    transitions = spec.get("leaseTransitions")
    if transitions is not None and transitions < 0:
        yield cause("spec.leaseTransitions", INVALID, transitions, names.NEGATIVE)


def event(obj: Json) -> Iterator[Cause]:
    """An event lives in the namespace of what it is about, those of cluster-wide objects in `default`."""
    about = obj.get("involvedObject", {}).get("namespace", "")
    own = obj.get("metadata", {}).get("namespace", "")
    if about != own and not (about == "" and own in {"default", "kube-system"}):
        yield cause("involvedObject.namespace", INVALID, about, "does not match event.namespace")


def binding(obj: Json) -> Iterator[Cause]:
    target = obj.get("target", {})
    if target.get("kind", "") not in {"", "Node"}:
        yield not_supported("target.kind", target["kind"], ("Node", "<empty>"))
    if not target.get("name"):
        yield required("target.name")
