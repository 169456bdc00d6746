"""Nodes, Namespaces, ConfigMaps, Secrets, ServiceAccounts, Leases, Events, quotas and the state of components as rows."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import AGE, NAME, Column, Json, Printer, Printers, columns, number, wide

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


def component_status(obj: Json, _: datetime) -> list[Any]:
    """Who asks for componentstatuses is told what the one condition of each says."""
    found: Json = next((one for one in obj.get("conditions", ()) if one.get("type") == "Healthy"), {})
    word = "Unknown" if not found else "Healthy" if found.get("status") == "True" else "Unhealthy"
    return [text.name(obj), word, found.get("message", ""), found.get("error", "")]


def resource_quota(obj: Json, now: datetime) -> list[Any]:
    """`used/hard` of each resource; those that begin with `limits.` have a column of their own."""
    status = obj.get("status", {})
    used, hard = status.get("used", {}), status.get("hard", {})
    rest: list[str] = []
    limits: list[str] = []
    for resource in sorted(hard):
        column = limits if resource.startswith("limits.") else rest
        column.append(f"{resource}: {used.get(resource, '0')}/{hard[resource]}")
    return [text.name(obj), ", ".join(rest), ", ".join(limits), text.age(obj, now)]


def priority_class(obj: Json, now: datetime) -> list[Any]:
    age = text.age(obj, now)
    return [text.name(obj), obj.get("value", 0), obj.get("globalDefault", False), age, obj.get("preemptionPolicy", "")]


def runtime_class(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), obj.get("handler", ""), text.age(obj, now)]


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


_EVENT: Final = Printer(
    (
        Column("Last Seen", "Time since the event was last recorded."),
        Column("Type", "Normal or Warning."),
        Column("Reason", "Why it happened, in one word."),
        Column("Object", "What it is about."),
        wide("Subobject", "Which part of the object it is about."),
        wide("Source", "Who reported it."),
        Column("Message", "What happened."),
        wide("First Seen", "Time since the event was first recorded."),
        wide("Count", "How often it was seen."),
        Column("Name", "Name of the event.", format="name", priority=1),
    ),
    event,
)
PRINTERS: Final[Printers] = {
    ("", "Node"): Printer(
        (
            NAME,
            Column("Status", "Whether it is ready and takes pods."),
            Column("Roles", "Roles given by labels."),
            AGE,
            Column("Version", "Version of its kubelet."),
            wide("Internal-IP", "Address inside the cluster."),
            wide("External-IP", "Address outside the cluster."),
            wide("OS-Image", "Operating system."),
            wide("Kernel-Version", "Kernel."),
            wide("Container-Runtime", "Container runtime and its version."),
        ),
        node,
    ),
    ("", "Namespace"): Printer(columns(Column("Status", "Active or Terminating.")), namespace),
    ("", "ConfigMap"): Printer(columns(Column("Data", "Number of keys.")), config_map),
    ("", "Secret"): Printer(columns(Column("Type", "What its keys mean."), Column("Data", "Number of keys.")), secret),
    ("", "ServiceAccount"): Printer(columns(Column("Secrets", "Number of secrets it lists.")), service_account),
    ("", "ResourceQuota"): Printer(
        columns(Column("Request", "Used of what may be requested."), Column("Limit", "Used of what limits allow.")),
        resource_quota,
    ),
    ("", "ComponentStatus"): Printer(
        (
            NAME,
            Column("Status", "Healthy or not."),
            Column("Message", "What it says."),
            Column("Error", "What is wrong."),
        ),
        component_status,
    ),
    ("", "Event"): _EVENT,
    ("events.k8s.io", "Event"): _EVENT,
    ("coordination.k8s.io", "Lease"): Printer(columns(Column("Holder", "Who holds it.")), lease),
    ("scheduling.k8s.io", "PriorityClass"): Printer(
        (
            NAME,
            number("Value", "Priority of its pods."),
            Column("Global-Default", "Whether pods without a class have it.", "boolean"),
            AGE,
            Column("PreemptionPolicy", "Whether its pods may take others' room."),
        ),
        priority_class,
    ),
    ("node.k8s.io", "RuntimeClass"): Printer(columns(Column("Handler", "Runtime that runs its pods.")), runtime_class),
}
