"""Tables: what `kubectl get` shows, computed here (`Accept: application/json;as=Table;g=meta.k8s.io;v=v1`).

A module a family of kinds, each with a `PRINTERS` of its own; a kind without one shows its name and when it was made, as
upstream's default does (`NewDefaultTableConvertor`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from apiserver.printers import access, cluster, devices, network, pods, policies, storage, text, usage, workloads
from apiserver.printers.columns import CREATED_AT, NAME, Json, Printer, Printers
from apiserver.schema import GVK, ResourceInfo

IncludeObject = Literal["None", "Metadata", "Object"]


def _created(obj: Json, _: datetime) -> list[Any]:
    at = obj.get("metadata", {}).get("creationTimestamp")
    return [text.name(obj), text.moment(at).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else text.UNKNOWN]


DEFAULT: Final = Printer((NAME, CREATED_AT), _created)
PRINTERS: Final[Printers] = {
    **access.PRINTERS,
    **cluster.PRINTERS,
    **devices.PRINTERS,
    **network.PRINTERS,
    **pods.PRINTERS,
    **policies.PRINTERS,
    **storage.PRINTERS,
    **usage.PRINTERS,
    **workloads.PRINTERS,
}


def ordered(resource: ResourceInfo) -> bool:
    """Whether the rows come in an order of their own, not in that of their names."""
    return PRINTERS.get((resource.group, resource.kind), DEFAULT).order is not None


def table(
    resource: ResourceInfo | GVK,
    objects: Iterable[Json],
    now: datetime,
    include_object: str = "Metadata",
    watch_first: bool = True,
) -> Json:
    """A metav1.Table with a row for each object. In a watch only the first table carries the columns (`watch_first`).

    `include_object` is the request's `?includeObject=`: what each row carries beside its cells.
    """
    kind = resource.gvk if isinstance(resource, ResourceInfo) else resource
    printer = PRINTERS.get((kind.group, kind.kind), DEFAULT)
    is_pod = (kind.group, kind.kind) == ("", "Pod")
    rows: list[Json] = []
    for obj in sorted(objects, key=printer.order) if printer.order else objects:
        row: Json = {"cells": printer.cells(obj, now)}
        if is_pod and (found := pods.conditions(obj)):
            row["conditions"] = found
        if include_object != "None":
            row["object"] = obj if include_object == "Object" else _metadata(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": printer.definitions() if watch_first else None,
        "rows": rows,
    }


def _metadata(obj: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj.get("metadata", {})}
