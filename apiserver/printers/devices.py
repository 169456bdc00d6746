"""The objects of dynamic resource allocation as rows."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import Column, Json, Printer, Printers, columns


def named(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), text.age(obj, now)]


def claim(obj: Json, now: datetime) -> list[Any]:
    status, deleted = obj.get("status", {}), text.deleted(obj)
    words = ["deleted"] if deleted else []
    if status.get("allocation") is not None:
        words += ["allocated", "reserved"] if status.get("reservedFor") else ["allocated"]
    elif not deleted:
        words.append("pending")
    return [text.name(obj), ",".join(words), text.age(obj, now)]


def resource_slice(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    pool = spec.get("pool", {}).get("name", "")
    return [text.name(obj), spec.get("nodeName", ""), spec.get("driver", ""), pool, text.age(obj, now)]


_GROUP: Final = "resource.k8s.io"
PRINTERS: Final[Printers] = {
    (_GROUP, "DeviceClass"): Printer(columns(), named),
    (_GROUP, "ResourceClaimTemplate"): Printer(columns(), named),
    (_GROUP, "ResourceClaim"): Printer(columns(Column("State", "Allocated, pending, reserved.")), claim),
    (_GROUP, "ResourceSlice"): Printer(
        columns(
            Column("Node", "Where the devices are."),
            Column("Driver", "Who drives them."),
            Column("Pool", "The pool they belong to."),
        ),
        resource_slice,
    ),
}
