"""What nodes and pods use, as rows (upstream: sigs.k8s.io/metrics-server, pkg/api/table.go)."""

from collections.abc import Iterable
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import NAME, Column, Json, Printer, Printers
from kube import quantity

_COLUMNS: Final = (
    NAME,
    Column("cpu", "Cores in use.", format="quantity"),
    Column("memory", "Working set.", format="quantity"),
    Column("Window", "The time over which CPU was measured.", format="duration"),
)


def _cells(obj: Json, usages: Iterable[Json]) -> list[Any]:
    """The sum of what containers use; a list may be empty."""
    cpu, memory = Fraction(0), 0
    for each in usages:
        cpu += quantity.parse(each["cpu"])
        memory += quantity.integer(each["memory"])
    return [text.name(obj), f"{nano}n" if (nano := round(cpu * 10**9)) else "0", quantity.binary(memory), obj["window"]]


def node(obj: Json, _: datetime) -> list[Any]:
    return _cells(obj, [obj["usage"]])


def pod(obj: Json, _: datetime) -> list[Any]:
    return _cells(obj, [each["usage"] for each in obj["containers"]])


PRINTERS: Final[Printers] = {
    ("metrics.k8s.io", "NodeMetrics"): Printer(_COLUMNS, node),
    ("metrics.k8s.io", "PodMetrics"): Printer(_COLUMNS, pod),
}
