"""Defaults of Namespaces, Nodes and Secrets."""

import base64
from typing import Any, Final

Json = dict[str, Any]

NAME_LABEL: Final = "kubernetes.io/metadata.name"


def namespace(obj: Json) -> None:
    """Every namespace carries its own name as a label, so that selectors can name it (KEP-2161)."""
    metadata = obj.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata["name"]


def new_namespace(obj: Json) -> None:
    obj["status"] = {"phase": "Active"}
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def updated_namespace(new: Json, old: Json) -> None:
    """Finalizers of the spec change through `finalize` only."""
    new["spec"] = old.get("spec", {})


def node(obj: Json) -> None:
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    if status.get("capacity"):
        status.setdefault("allocatable", dict(status["capacity"]))


def secret(obj: Json) -> None:
    """`stringData` is write-only: it becomes `data`, over what was there."""
    obj.setdefault("type", "Opaque")
    for key, text in obj.pop("stringData", {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
