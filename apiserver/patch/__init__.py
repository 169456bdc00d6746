"""The three patch formats that change an object without saying whose it is. (Server-side apply is in `managed`.)"""

from apiserver.patch.request import (
    APPLY,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    SUPPORTED,
    apply,
    patched,
)

__all__ = ["APPLY", "JSON_PATCH", "MERGE_PATCH", "STRATEGIC_MERGE_PATCH", "SUPPORTED", "apply", "patched"]
