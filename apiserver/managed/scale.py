"""The owners that a Scale shows: those who own the replicas of what is scaled, as autoscaling/v1 calls that field.

Upstream: k8s.io/apimachinery/pkg/util/managedfields/scalehandler.go.
"""

from __future__ import annotations

from typing import Any, Final

API_VERSION: Final = "autoscaling/v1"


def shown(listed: Any) -> list[dict[str, Any]]:
    """From the list in the metadata of what is scaled."""
    return [
        one | {"apiVersion": API_VERSION, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for one in listed or ()
        if "f:replicas" in one.get("fieldsV1", {}).get("f:spec", {})
    ]
