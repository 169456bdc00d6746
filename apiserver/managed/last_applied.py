"""The annotation of client-side apply, and what `kubectl apply --server-side` makes of it.

Only the field manager `kubectl` means: "this was my client-side apply". Fields that the annotation says were applied, and
that still have those values, may be taken over without a conflict; and an annotation that is there is kept up to date, so
that going back to client-side apply works. Upstream: .../managedfields/internal/lastapplied{manager,updater}.go.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from apiserver.managed import fieldset, typed
from apiserver.managed.compare import compared
from apiserver.managed.fieldset import FieldSet
from apiserver.managed.owned import applied
from apiserver.managed.shapes import Struct

ANNOTATION: Final = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER: Final = "kubectl"
ANNOTATIONS_SIZE: Final = 256 << 10


def allowed(shape: Struct, live: dict[str, Any], api_version: str) -> FieldSet:
    """The fields that client-side apply wrote and that still are as it wrote them."""
    text = (live.get("metadata", {}).get("annotations") or {}).get(ANNOTATION)
    try:
        last = orjson.loads(text or "")
    except ValueError:
        return {}
    if not isinstance(last, dict) or last.get("apiVersion") != api_version or typed.findings(shape, last):
        return {}
    change = compared(shape, last, live)
    return fieldset.difference(fieldset.difference(applied(shape, last), change.changed), change.removed)


def refreshed(obj: dict[str, Any], config: dict[str, Any]) -> None:
    """Writes the applied object into the annotation of `obj`, where there is one already."""
    annotations = (obj.get("metadata") or {}).get("annotations") or {}
    if not annotations.get(ANNOTATION):
        return
    value = orjson.dumps(_without_annotation(config), option=orjson.OPT_SORT_KEYS).decode() + "\n"
    updated = annotations | {ANNOTATION: value}
    if sum(len(key.encode()) + len(str(one).encode()) for key, one in updated.items()) > ANNOTATIONS_SIZE:
        del updated[ANNOTATION]
    obj["metadata"] = obj["metadata"] | {"annotations": updated}


def _without_annotation(config: dict[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if ANNOTATION not in annotations:
        return config
    kept = {key: one for key, one in annotations.items() if key != ANNOTATION}
    return config | {"metadata": metadata | {"annotations": kept}}
