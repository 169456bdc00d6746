"""Conditions on their way to the wire."""

from collections.abc import Iterable
from typing import Any

from kube.meta import Condition, to_wire


def wire(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """With the status always written out: a patch that leaves it out keeps the old one."""
    return [{**to_wire(c), "type": c.type, "status": c.status} for c in conditions]
