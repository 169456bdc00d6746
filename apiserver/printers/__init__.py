"""Tables: what `kubectl get` shows, computed here (`Accept: application/json;as=Table;g=meta.k8s.io;v=v1`)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from apiserver.printers import pods
from apiserver.printers.columns import DEFAULT, PRINTERS
from apiserver.schema import GVK, ResourceInfo

IncludeObject = Literal["None", "Metadata", "Object"]


def table(
    resource: ResourceInfo | GVK,
    objects: Iterable[dict[str, Any]],
    now: datetime,
    include_object: str = "Metadata",
    watch_first: bool = True,
) -> dict[str, Any]:
    """A metav1.Table with a row for each object. In a watch only the first table carries the columns (`watch_first`).

    `include_object` is the request's `?includeObject=`: what each row carries beside its cells.
    """
    kind = resource.gvk if isinstance(resource, ResourceInfo) else resource
    printer = PRINTERS.get((kind.group, kind.kind), DEFAULT)
    is_pod = (kind.group, kind.kind) == ("", "Pod")
    rows: list[dict[str, Any]] = []
    for obj in objects:
        row: dict[str, Any] = {"cells": printer.cells(obj, now)}
        if is_pod and (found := pods.conditions(obj)):
            row["conditions"] = found
        if include_object != "None":
            row["object"] = obj if include_object == "Object" else _metadata(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [one.to_dict() for one in printer.columns] if watch_first else None,
        "rows": rows,
    }


def _metadata(obj: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj.get("metadata", {})}
