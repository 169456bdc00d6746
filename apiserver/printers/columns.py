"""Columns of each kind's Table, with upstream's names, types and order; priority 1 shows with `-o wide`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from apiserver.printers import cluster, network, pods, workloads

Cells = Callable[[dict[str, Any], datetime], list[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    description: str
    type: str = "string"
    format: str = ""
    priority: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Printer:
    columns: tuple[Column, ...]
    cells: Cells


def _number(name: str, description: str) -> Column:
    return Column(name, description, "integer")


def _wide(name: str, description: str) -> Column:
    return Column(name, description, priority=1)


NAME: Final = Column("Name", "Name of the object, unique among its kind and namespace.", format="name")
AGE: Final = Column("Age", "Time since the object was created.")
_TEMPLATE: Final = (
    _wide("Containers", "Names of the containers in the template."),
    _wide("Images", "Images of the containers in the template."),
    _wide("Selector", "Which pods belong to it."),
)
_EVENT: Final = (
    Column("Last Seen", "Time since the event was last recorded."),
    Column("Type", "Normal or Warning."),
    Column("Reason", "Why it happened, in one word."),
    Column("Object", "What it is about."),
    _wide("Subobject", "Which part of the object it is about."),
    _wide("Source", "Who reported it."),
    Column("Message", "What happened."),
    _wide("First Seen", "Time since the event was first recorded."),
    Column("Count", "How often it was seen.", "integer", priority=1),
    Column("Name", "Name of the event.", format="name", priority=1),
)

DEFAULT: Final = Printer((NAME, AGE), cluster.anything)
PRINTERS: Final[dict[tuple[str, str], Printer]] = {
    ("", "Pod"): Printer(
        (
            NAME,
            Column("Ready", "Containers that are ready, of how many."),
            Column("Status", "What the pod as a whole is doing."),
            Column("Restarts", "Restarts of its containers, and when the last was."),
            AGE,
            _wide("IP", "Address of the pod."),
            _wide("Node", "Node it runs on."),
            _wide("Nominated Node", "Node where room is being made for it."),
            _wide("Readiness Gates", "Readiness gates passed, of how many."),
        ),
        pods.cells,
    ),
    ("", "Node"): Printer(
        (
            NAME,
            Column("Status", "Whether it is ready and takes pods."),
            Column("Roles", "Roles given by labels."),
            AGE,
            Column("Version", "Version of its kubelet."),
            _wide("Internal-IP", "Address inside the cluster."),
            _wide("External-IP", "Address outside the cluster."),
            _wide("OS-Image", "Operating system."),
            _wide("Kernel-Version", "Kernel."),
            _wide("Container-Runtime", "Container runtime and its version."),
        ),
        cluster.node,
    ),
    ("", "Service"): Printer(
        (
            NAME,
            Column("Type", "How it is reached."),
            Column("Cluster-IP", "Address inside the cluster."),
            Column("External-IP", "Addresses outside the cluster."),
            Column("Port(s)", "Ports, with their node ports."),
            AGE,
            _wide("Selector", "Which pods serve it."),
        ),
        network.service,
    ),
    ("", "Endpoints"): Printer((NAME, Column("Endpoints", "Addresses that serve it."), AGE), network.endpoints),
    ("discovery.k8s.io", "EndpointSlice"): Printer(
        (
            NAME,
            Column("AddressType", "Kind of its addresses."),
            Column("Ports", "Ports of the endpoints."),
            Column("Endpoints", "Addresses of the endpoints."),
            AGE,
        ),
        network.endpoint_slice,
    ),
    ("", "Namespace"): Printer((NAME, Column("Status", "Active or Terminating."), AGE), cluster.namespace),
    ("", "ConfigMap"): Printer((NAME, Column("Data", "Number of keys."), AGE), cluster.config_map),
    ("", "Secret"): Printer(
        (NAME, Column("Type", "What its keys mean."), Column("Data", "Number of keys."), AGE), cluster.secret
    ),
    ("", "ServiceAccount"): Printer(
        (NAME, Column("Secrets", "Number of secrets it lists."), AGE), cluster.service_account
    ),
    ("", "Event"): Printer(_EVENT, cluster.event),
    ("events.k8s.io", "Event"): Printer(_EVENT, cluster.event),
    ("apps", "Deployment"): Printer(
        (
            NAME,
            Column("Ready", "Replicas that are ready, of how many."),
            _number("Up-to-date", "Replicas of the newest template."),
            _number("Available", "Replicas that have been ready long enough."),
            AGE,
            *_TEMPLATE,
        ),
        workloads.deployment,
    ),
    ("apps", "ReplicaSet"): Printer(
        (
            NAME,
            _number("Desired", "Replicas wanted."),
            _number("Current", "Replicas there are."),
            _number("Ready", "Replicas that are ready."),
            AGE,
            *_TEMPLATE,
        ),
        workloads.replica_set,
    ),
    ("autoscaling", "Scale"): Printer(
        (NAME, _number("Desired", "Replicas wanted."), _number("Available", "Replicas there are."), AGE),
        workloads.scale,
    ),
    ("coordination.k8s.io", "Lease"): Printer((NAME, Column("Holder", "Who holds it."), AGE), cluster.lease),
}
