"""The three patch formats that kubectl and the client libraries send. (Server-side apply is a format of its own: 415.)"""

from apiserver.patch.request import (
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    SUPPORTED,
    apply,
    patched,
)

__all__ = ["JSON_PATCH", "MERGE_PATCH", "STRATEGIC_MERGE_PATCH", "SUPPORTED", "apply", "patched"]
