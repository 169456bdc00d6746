"""Nodes, Namespaces, ConfigMaps, Secrets, ServiceAccounts, Leases and Events as rows."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text

Json = dict[str, Any]

_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_ROLE_LABEL: Final = "kubernetes.io/role"


def node(obj: Json, now: datetime) -> list[Any]:
    info = obj.get("status", {}).get("nodeInfo", {})
    return [
        text.name(obj),
        _node_status(obj),
        ",".join(_roles(obj)) or text.NONE,
        text.age(obj, now),
        info.get("kubeletVersion", ""),
        _node_address(obj, "InternalIP"),
        _node_address(obj, "ExternalIP"),
        info.get("osImage") or text.UNKNOWN,
        info.get("kernelVersion") or text.UNKNOWN,
        info.get("containerRuntimeVersion") or text.UNKNOWN,
    ]


def _node_status(obj: Json) -> str:
    ready = text.condition(obj, "Ready")
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if obj.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(obj: Json) -> list[str]:
    found: set[str] = set()
    for key, value in obj.get("metadata", {}).get("labels", {}).items():
        if key.startswith(_ROLE_PREFIX) and key != _ROLE_PREFIX:
            found.add(key.removeprefix(_ROLE_PREFIX))
        elif key == _ROLE_LABEL and value:
            found.add(value)
    return sorted(found)


def _node_address(obj: Json, kind: str) -> str:
    addresses = obj.get("status", {}).get("addresses", ())
    return next((one.get("address", "") for one in addresses if one.get("type") == kind), text.NONE)


def namespace(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), obj.get("status", {}).get("phase", ""), text.age(obj, now)]


def config_map(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), len(obj.get("data", {})) + len(obj.get("binaryData", {})), text.age(obj, now)]


def secret(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), obj.get("type", ""), len(obj.get("data", {})), text.age(obj, now)]


def service_account(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), len(obj.get("secrets", ())), text.age(obj, now)]


def lease(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), obj.get("spec", {}).get("holderIdentity", ""), text.age(obj, now)]


def anything(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), text.age(obj, now)]


def event(obj: Json, now: datetime) -> list[Any]:
    """An Event of either group: events.k8s.io names the same things differently."""
    about = obj.get("involvedObject") or obj.get("regarding", {})
    first_at = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last_at = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp")
    first = text.since(first_at, now)
    last = text.since(last_at, now) if last_at else first
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    if "series" in obj:
        last = text.since(obj["series"].get("lastObservedTime"), now)
        count = obj["series"].get("count", 0)
    kind = str(about.get("kind", "")).lower()
    return [
        last,
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{about['name']}" if about.get("name") else kind,
        about.get("fieldPath", ""),
        _source(obj),
        str(obj.get("message") or obj.get("note", "")).strip(),
        first,
        count,
        text.name(obj),
    ]


def _source(obj: Json) -> str:
    source = obj.get("source") or obj.get("deprecatedSource", {})
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController", "")
    instance = source.get("host") or obj.get("reportingInstance", "")
    return f"{component}, {instance}" if instance else str(component)
