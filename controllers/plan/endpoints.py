"""Endpoints, the older form: all of a Service's backends in one object, kept for whoever still reads it.

Subsets are groups of pods with equal ports; terminating pods are left out. Only the Service's first family is in here, and
at most a thousand addresses (kubernetes/pkg/controller/endpoint).
"""

from collections.abc import Sequence
from typing import Any

from controllers.model import Action, Amend, Create, Delete
from controllers.plan.backends import Backend, Ports, by_ports, families, is_headless
from controllers.plan.pods import condition
from kube.core import CoreEndpointPort as Port
from kube.core import EndpointAddress, Endpoints, EndpointSubset, Service
from kube.labels import HEADLESS, LAST_CHANGE_TRIGGER_TIME
from kube.meta import timestamp, to_wire
from kube.pods import Pod
from kube.resources import ENDPOINTS

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MOST = 1000


def actions(service: Service, pods: Sequence[Pod], have: Endpoints | None) -> tuple[Action, ...]:
    groups = by_ports(service, pods, families(service)[0])
    backends = sorted((b for found in groups.values() for b in found if _counts(service, b)), key=lambda b: not b.ready)
    kept = {b.pod.metadata.uid for b in backends[:MOST]}
    subsets = tuple(
        s
        for s in (_subset(ports, [b for b in found if b.pod.metadata.uid in kept]) for ports, found in _sorted(groups))
        if s
    )
    labels = {**service.metadata.labels, MANAGED_BY: MANAGER}
    labels.pop(HEADLESS, None)
    if is_headless(service):
        labels[HEADLESS] = ""
    capacity = "truncated" if len(backends) > MOST else None
    if have is not None:
        shown = (have.subsets, have.metadata.labels, have.metadata.annotations.get(OVER_CAPACITY))
        if shown == (subsets, labels, capacity):
            return ()
    annotations = {OVER_CAPACITY: capacity, LAST_CHANGE_TRIGGER_TIME: _trigger(service, backends, have)}
    metadata: dict[str, Any] = {"name": service.metadata.name}
    wire = [_wire(s) for s in subsets]
    if have is None:
        metadata |= {"labels": labels, "annotations": {k: v for k, v in annotations.items() if v}}
        return (Create(ENDPOINTS, service.metadata.namespace, {"metadata": metadata, "subsets": wire}),)
    metadata = {
        "resourceVersion": have.metadata.resource_version,
        "labels": {**dict.fromkeys(have.metadata.labels), **labels},
        "annotations": annotations,
    }
    body = {"metadata": metadata, "subsets": wire or None}
    return (Amend(ENDPOINTS, have.metadata.namespace, have.metadata.name, body),)


def orphaned(have: Endpoints) -> tuple[Action, ...]:
    """The Service is gone, and what we made for it goes after it."""
    if have.metadata.labels.get(MANAGED_BY) != MANAGER:
        return ()
    return (Delete(ENDPOINTS, have.metadata.namespace, have.metadata.name, have.metadata.uid),)


def _counts(service: Service, backend: Backend) -> bool:
    return service.spec.publish_not_ready_addresses or not backend.terminating


def _sorted(groups: Any) -> list[tuple[Ports, list[Backend]]]:
    return sorted(groups.items(), key=lambda item: [(p.name or "", p.port or 0) for p in item[0]])


def _subset(ports: Ports, backends: Sequence[Backend]) -> EndpointSubset | None:
    if not backends:
        return None
    ordered = sorted(backends, key=lambda b: (b.address, b.pod.metadata.uid))
    return EndpointSubset(
        addresses=tuple(_address(b) for b in ordered if b.ready),
        not_ready_addresses=tuple(_address(b) for b in ordered if not b.ready),
        ports=tuple(
            Port(name=p.name or "", port=p.port or 0, protocol=p.protocol, app_protocol=p.app_protocol)
            for p in sorted(ports, key=lambda p: (p.name or "", p.port or 0))
        ),
    )


def _address(backend: Backend) -> EndpointAddress:
    return EndpointAddress(
        ip=backend.address,
        hostname=backend.hostname or "",
        node_name=backend.pod.spec.node_name or None,
        target_ref=backend.reference,
    )


def _wire(subset: EndpointSubset) -> dict[str, Any]:
    body: dict[str, Any] = to_wire(subset)
    for port, written in zip(subset.ports, body.get("ports", ()), strict=True):
        written["protocol"] = port.protocol
    return body


def _trigger(service: Service, backends: Sequence[Backend], have: Endpoints | None) -> str | None:
    """When the change happened that this write carries: the youngest pod's turn, for a new object the Service's."""
    turns = [c.last_transition_time for b in backends if (c := condition(b.pod, "Ready"))]
    moments = [t for t in turns if t is not None]
    if have is None and service.metadata.creation_timestamp:
        moments.append(service.metadata.creation_timestamp)
    return timestamp(max(moments)) if moments else None
