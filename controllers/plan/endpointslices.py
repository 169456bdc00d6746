"""EndpointSlices: a Service's backends in objects of at most a hundred.

Every node reads every slice, so slices are stable: an endpoint stays in the slice it is in, newcomers fill the fullest slice
with room, and a slice is written only when its content differs. Names are derived from the Service, the ports and a number,
so a slice that was created just before a crash is found again instead of being made twice. Each (family, ports) has its own
slices; a Service without backends keeps one empty slice, which tells "none" from "not yet known".

Upstream: k8s.io/endpointslice/reconciler.go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controllers.model import Action, Amend, Create, Delete
from controllers.plan.backends import Backend, Ports, by_ports, families, is_headless
from controllers.plan.pods import condition, owner_reference
from controllers.plan.templates import fnv1a, safe
from kube.core import Service
from kube.discovery import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kube.labels import ENDPOINTSLICE_MANAGED_BY, HEADLESS, LAST_CHANGE_TRIGGER_TIME, SERVICE_NAME
from kube.meta import timestamp, to_wire
from kube.pods import Pod
from kube.resources import ENDPOINTSLICES, SERVICES

MANAGER = "endpointslice-controller.k8s.io"
FULL = 100
"""Endpoints in a slice, upstream's --max-endpoints-per-slice."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    endpoint: Endpoint
    since: datetime | None


def is_ours(endpoint_slice: EndpointSlice, service: str) -> bool:
    labels = endpoint_slice.metadata.labels
    return labels.get(SERVICE_NAME) == service and labels.get(ENDPOINTSLICE_MANAGED_BY) == MANAGER


def actions(
    service: Service, pods: Sequence[Pod], zones: Mapping[str, str], slices: Iterable[EndpointSlice]
) -> tuple[Action, ...]:
    """`pods` are those that the selector matches, `zones` the nodes' zones, `slices` this Service's of ours."""
    present = sorted((s for s in slices if s.metadata.deletion_timestamp is None), key=lambda s: s.metadata.name)
    taken = {s.metadata.name for s in present}
    written: list[Action] = []
    deleted: list[Action] = []
    for family in families(service):
        groups = dict(by_ports(service, pods, family)) or {(): []}
        for ports, backends in groups.items():
            mine = [s for s in present if s.address_type == family and _same_ports(s.ports, ports)]
            present = [s for s in present if s not in mine]
            wanted = {b.pod.metadata.uid: _wanted(b, zones) for b in backends}
            keep = not any(groups.values())
            write, delete = _group(service, family, ports, wanted, mine, taken, keep=keep)
            written += write
            deleted += delete
    deleted += [_delete(s) for s in present]
    return (*written, *deleted)  # what replaces comes before what is replaced goes


def _wanted(backend: Backend, zones: Mapping[str, str]) -> _Wanted:
    node = backend.pod.spec.node_name
    ready = condition(backend.pod, "Ready")
    endpoint = Endpoint(
        addresses=(backend.address,),
        conditions=EndpointConditions(ready=backend.ready, serving=backend.serving, terminating=backend.terminating),
        hostname=backend.hostname,
        node_name=node or None,
        zone=zones.get(node),
        target_ref=backend.reference,
    )
    return _Wanted(endpoint, ready.last_transition_time if ready else None)


def _group(
    service: Service,
    family: str,
    ports: Ports,
    wanted: dict[str, _Wanted],
    mine: Sequence[EndpointSlice],
    taken: set[str],
    *,
    keep: bool,
) -> tuple[list[Action], list[Action]]:
    """The slices of one family and set of ports; `keep` one of them even when it is empty."""
    contents = _distribute({uid: w.endpoint for uid, w in wanted.items()}, mine)
    write: list[Action] = []
    delete: list[Action] = []
    survivors = [s for s in mine if contents[s.metadata.name]]
    if keep and not survivors and mine:
        survivors = [mine[0]]
    for endpoint_slice in mine:
        content = contents[endpoint_slice.metadata.name]
        if endpoint_slice not in survivors:
            delete.append(_delete(endpoint_slice))
        elif change := _changed(service, endpoint_slice, content, wanted):
            write.append(change)
    surplus = contents[""]
    fresh = [surplus[i : i + FULL] for i in range(0, len(surplus), FULL)] or ([[]] if keep and not survivors else [])
    for content in fresh:
        name = next(n for n in _names(service, family, ports) if n not in taken)
        taken.add(name)
        write.append(_new(service, family, ports, name, content, wanted))
    return write, delete


def _uid(endpoint: Endpoint) -> str:
    return endpoint.target_ref.uid if endpoint.target_ref else ""


def _distribute(wanted: Mapping[str, Endpoint], mine: Sequence[EndpointSlice]) -> dict[str, list[Endpoint]]:
    """What each slice should hold, by name; under "" what has no place in any."""
    left = dict(wanted)
    contents: dict[str, list[Endpoint]] = {}
    for endpoint_slice in mine:
        stay = [_uid(e) for e in endpoint_slice.endpoints or () if _uid(e) in left]
        contents[endpoint_slice.metadata.name] = [left.pop(uid) for uid in dict.fromkeys(stay)][:FULL]
    new = list(left.values())
    for name in sorted(contents, key=lambda n: -len(contents[n])):
        room = FULL - len(contents[name])
        contents[name] += new[:room]
        new = new[room:]
    contents[""] = new
    return contents


def _same_ports(have: Iterable[EndpointPort] | None, want: Ports) -> bool:
    def key(port: EndpointPort) -> tuple[str, str, int, str]:
        return port.name or "", port.protocol, port.port or 0, port.app_protocol or ""

    return sorted(map(key, have or ())) == sorted(map(key, want))


def _names(service: Service, family: str, ports: Ports) -> Iterator[str]:
    seed = f"{service.metadata.uid}/{family}/{sorted(str(p) for p in ports)}"
    for number in range(2**16):
        yield f"{service.metadata.name[:57]}-{safe(fnv1a(f'{seed}/{number}'.encode()))[-5:]}"


def _labels(service: Service) -> dict[str, str]:
    labels = {**service.metadata.labels, SERVICE_NAME: service.metadata.name, ENDPOINTSLICE_MANAGED_BY: MANAGER}
    labels.pop(HEADLESS, None)
    return {**labels, HEADLESS: ""} if is_headless(service) else labels


def _trigger(moments: Iterable[datetime | None]) -> str | None:
    """The first of the changes that a write carries, for measuring how long the network took to follow."""
    known = [m for m in moments if m is not None]
    return timestamp(min(known)) if known else None


def _new(
    service: Service,
    family: str,
    ports: Ports,
    name: str,
    content: Sequence[Endpoint],
    wanted: Mapping[str, _Wanted],
) -> Create:
    trigger = _trigger(
        [*(wanted[_uid(e)].since for e in content), service.metadata.creation_timestamp][: len(content) or 1]
    )
    metadata: dict[str, Any] = {
        "name": name,
        "labels": _labels(service),
        "ownerReferences": [owner_reference(service.metadata, SERVICES.api_version, SERVICES.kind)],
    }
    if trigger:
        metadata["annotations"] = {LAST_CHANGE_TRIGGER_TIME: trigger}
    body = {
        "metadata": metadata,
        "addressType": family,
        "endpoints": to_wire(content),
        "ports": [_port(p) for p in ports],
    }
    return Create(ENDPOINTSLICES, service.metadata.namespace, body)


def _port(port: EndpointPort) -> dict[str, Any]:
    """Protocol TCP and the empty name are written out: readers tell absent from default here."""
    body = {"name": port.name or "", "protocol": port.protocol, "port": port.port}
    return {**body, "appProtocol": port.app_protocol} if port.app_protocol else body


def _changed(
    service: Service, have: EndpointSlice, content: Sequence[Endpoint], wanted: Mapping[str, _Wanted]
) -> Amend | None:
    known = {_uid(e): e for e in have.endpoints or ()}
    labels = _labels(service)
    differing = [e for e in content if known.get(_uid(e)) != e]
    if not differing and len(known) == len(content) == len(have.endpoints or ()) and labels == have.metadata.labels:
        return None
    trigger = _trigger(wanted[_uid(e)].since for e in differing)
    body = {
        "metadata": {
            "resourceVersion": have.metadata.resource_version,
            "labels": {**dict.fromkeys(have.metadata.labels), **labels},
            "annotations": {LAST_CHANGE_TRIGGER_TIME: trigger},
        },
        "endpoints": to_wire(content),
    }
    return Amend(ENDPOINTSLICES, have.metadata.namespace, have.metadata.name, body)


def _delete(endpoint_slice: EndpointSlice) -> Delete:
    meta = endpoint_slice.metadata
    return Delete(ENDPOINTSLICES, meta.namespace, meta.name, meta.uid)
