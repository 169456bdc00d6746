"""`events.k8s.io/v1` is the core Event with other field names (pkg/apis/events/v1/conversion.go)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NAMES: Final = {  # core/v1 name -> events.k8s.io/v1 name
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_BACK: Final = {new: old for old, new in NAMES.items()}


def _renamed(obj: Mapping[str, Any], names: Mapping[str, str], api_version: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": api_version}


def to_core(obj: dict[str, Any]) -> dict[str, Any]:
    return _renamed(obj, _BACK, "v1")


def from_core(obj: dict[str, Any]) -> dict[str, Any]:
    return _renamed(obj, NAMES, "events.k8s.io/v1")
