"""Nodes, ConfigMaps, Secrets, ServiceAccounts, Leases, Bindings, priority and runtime classes: the small kinds."""

import base64
import json
from typing import Any, Final

from apiserver.validation import meta, names, scheduling
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, at_least, each, one_of, unique, written

_LIMIT: Final = 1024 * 1024
_SPEC: Final[Path] = (TOP, "spec")
_SECRET_KEYS: Final = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_JSON_KEYS: Final = (".dockercfg", ".dockerconfigjson")
_ACCOUNT: Final = "kubernetes.io/service-account.name"
_HIGHEST: Final = 1_000_000_000
_SYSTEM_CLASSES: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def node(obj: Json, path: Path, found: Found) -> None:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    here = (path, "spec")
    blocks = spec.get("podCIDRs", [])
    if len(blocks) > 2:
        found.invalid((here, "podCIDRs"), blocks, "may specify no more than one CIDR for each IP family")
    if blocks and spec.get("podCIDR") and blocks[0] != spec["podCIDR"]:
        found.invalid((here, "podCIDRs"), blocks, "podCIDRs[0] must be equal to podCIDR")
    for at, address in enumerate(status.get("addresses", ())):
        if address.get("type") in {"InternalIP", "ExternalIP"}:
            for text in names.ip(address.get("address", "")):
                found.invalid((((path, "status"), "addresses"), at), address.get("address", ""), text)
        if address in status["addresses"][:at]:
            found.duplicate((((path, "status"), "addresses"), at), address)
    for field in ("capacity", "allocatable"):
        for name, amount in status.get(field, {}).items():
            if parsed(amount) < 0:
                found.invalid((((path, "status"), field), f"[{name}]"), amount, names.NEGATIVE)


def node_update(new: Json, old: Json, found: Found) -> None:
    """Of a node's spec, people change taints and `unschedulable`; the pod range and provider are set once."""
    after, before = new.get("spec", {}), old.get("spec", {})
    if before.get("podCIDRs") and after.get("podCIDRs") != before["podCIDRs"]:
        found.forbidden((_SPEC, "podCIDRs"), 'node updates may not change podCIDR except from "" to valid')
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        found.forbidden((_SPEC, "providerID"), 'node updates may not change providerID except from "" to valid')


def _taints(values: Any, path: Path, found: Found) -> None:
    scheduling.taints(values, path, found)


def config_map(obj: Json, path: Path, found: Found) -> None:
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    for field, pairs in (("data", data), ("binaryData", binary)):
        for key in pairs:
            for text in names.config_key(key):
                found.invalid(((path, field), f"[{key}]"), key, text)
    for key in data:
        if key in binary:
            found.invalid(((path, "data"), f"[{key}]"), key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(_decoded(value) for value in binary.values())
    if size > _LIMIT:
        found.too_long(TOP, _LIMIT)


def secret(obj: Json, path: Path, found: Found) -> None:
    data, here = obj.get("data", {}), (path, "data")
    for key in data:
        for text in names.config_key(key):
            found.invalid((here, f"[{key}]"), key, text)
    if sum(_decoded(value) for value in data.values()) > _LIMIT:
        found.too_long(here, _LIMIT)
    kind = obj.get("type", "")
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            found.required((here, f"[{key}]"))
        elif key in _JSON_KEYS and not _is_json(data[key]):
            found.invalid((here, f"[{key}]"), "<secret contents redacted>", "must be a JSON document")
    annotations = obj.get("metadata", {}).get("annotations", {})
    if kind == "kubernetes.io/service-account-token" and not annotations.get(_ACCOUNT):
        found.required((((path, "metadata"), "annotations"), f"[{_ACCOUNT}]"))
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        found.required((here, "[username]"))
        found.required((here, "[password]"))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(base64.b64decode(text)), dict)
    except ValueError:
        return False


def _decoded(text: str) -> int:
    """Bytes that base64 text stands for."""
    return len(base64.b64decode(text)) if text else 0


def immutable_update(new: Json, old: Json, found: Found) -> None:
    """`immutable: true` on a ConfigMap or Secret is for life."""
    if not old.get("immutable"):
        return
    detail = "field is immutable when `immutable` is set"
    if not new.get("immutable"):
        found.forbidden((TOP, "immutable"), detail)
    for field in ("data", "binaryData"):
        if new.get(field, {}) != old.get(field, {}):
            found.forbidden((TOP, field), detail)


def secret_update(new: Json, old: Json, found: Found) -> None:
    if new.get("type") != old.get("type"):
        found.invalid((TOP, "type"), new.get("type", ""), names.IMMUTABLE)
    immutable_update(new, old, found)


def lease(spec: Json, path: Path, found: Found) -> None:
    """An empty holder is one who has let go."""
    if spec.get("preferredHolder") and not spec.get("strategy"):
        found.forbidden((path, "preferredHolder"), "may only be specified when `strategy` is defined")


def binding(obj: Json, path: Path, found: Found) -> None:
    target = obj.get("target", {})
    if target.get("kind", "") not in {"", "Node"}:
        found.unsupported(((path, "target"), "kind"), target["kind"], ("Node", "<empty>"))
    if not target.get("name"):
        found.required(((path, "target"), "name"))


def priority_class(obj: Json, path: Path, found: Found) -> None:
    name, value = obj.get("metadata", {}).get("name", ""), obj.get("value", 0)
    if name.startswith("system-"):
        known = _SYSTEM_CLASSES.get(name)
        if known is None:
            detail = (
                f"priority class names with 'system-' prefix are reserved for system use only. error: {name} is not "
                "a known system priority class"
            )
            found.forbidden(((path, "metadata"), "name"), detail)
        elif value != known:
            detail = (
                "priority class names with 'system-' prefix are reserved for system use only. error: value of "
                f"{name} PriorityClass must be {known}"
            )
            found.forbidden(((path, "metadata"), "name"), detail)
    elif value > _HIGHEST:
        found.forbidden((path, "value"), f"maximum allowed value of a user defined priority is {_HIGHEST}")


def priority_class_update(new: Json, old: Json, found: Found) -> None:
    if new.get("value", 0) != old.get("value", 0):
        found.forbidden((TOP, "value"), "may not be changed in an update.")
    if new.get("preemptionPolicy") != old.get("preemptionPolicy"):
        found.invalid((TOP, "preemptionPolicy"), new.get("preemptionPolicy"), names.IMMUTABLE)


def runtime_class_update(new: Json, old: Json, found: Found) -> None:
    if new.get("handler") != old.get("handler"):
        found.invalid((TOP, "handler"), new.get("handler", ""), names.IMMUTABLE)


def _node_labels(pairs: Any, path: Path, found: Found) -> None:
    meta.labels(pairs, path, found)


def _overhead(one: Json, path: Path, found: Found) -> None:
    for name, amount in one.get("podFixed", {}).items():
        if parsed(amount) < 0:
            found.invalid(((path, "podFixed"), f"[{name}]"), amount, names.NEGATIVE)


RULES: Final[Rules] = {
    "core.v1.Node": Rule(checks=(node,)),
    "core.v1.NodeSpec": Rule({"taints": _taints, "podCIDRs": each(written(names.cidr))}),
    "core.v1.ConfigMap": Rule(checks=(config_map,)),
    "core.v1.Secret": Rule(checks=(secret,)),
    "core.v1.Binding": Rule(checks=(binding,)),
    "coordination.v1.LeaseSpec": Rule(
        {
            "leaseDurationSeconds": at_least(1),
            "leaseTransitions": at_least(0),
        },
        checks=(lease,),
    ),
    "scheduling.v1.PriorityClass": Rule(
        {"preemptionPolicy": one_of("Never", "PreemptLowerPriority")}, checks=(priority_class,)
    ),
    "node.v1.RuntimeClass": Rule({"handler": written(names.dns_label)}, ("handler",)),
    "node.v1.Scheduling": Rule({"nodeSelector": _node_labels, "tolerations": unique("key", "operator", "effect")}),
    "node.v1.Overhead": Rule(checks=(_overhead,)),
}
