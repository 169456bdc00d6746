"""Kinds that are one object in the store and two on the wire.

`PAIRS` maps the address that clients use to the stored resource and the two functions between them. Events have other field
names in `events.k8s.io/v1`; HorizontalPodAutoscalers of `autoscaling/v1` keep in annotations what that version cannot say.
Functions of values: the argument is not changed, parts of it may be shared with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from apiserver.conversion import autoscaling, events

Convert = Callable[[dict[str, Any]], dict[str, Any]]
Address = tuple[str, str, str]  # group, version, plural


@dataclass(frozen=True, slots=True)
class Pair:
    stored: Address
    inward: Convert
    outward: Convert


PAIRS: Final[Mapping[Address, Pair]] = {
    ("autoscaling", "v1", "horizontalpodautoscalers"): Pair(
        ("autoscaling", "v2", "horizontalpodautoscalers"), autoscaling.to_v2, autoscaling.from_v2
    ),
    ("events.k8s.io", "v1", "events"): Pair(("", "v1", "events"), events.to_core, events.from_core),
}
