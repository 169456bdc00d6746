"""JSON merge patch (RFC 7386): objects merge, null deletes, everything else replaces."""

from typing import Any


def apply(document: Any, patch: Any) -> Any:
    """The document with the patch merged in; the patch is not kept by reference where nulls had to go."""
    if not isinstance(patch, dict):
        return patch
    merged = document if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply(merged.get(key), value)
    return merged
