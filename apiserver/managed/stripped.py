"""Fields that nobody owns: those the server alone writes, and those that an endpoint does not let through.

The first are upstream's stripMetaManager; the second its strategies' GetResetFields (pkg/registry/*/strategy.go): the main
endpoint ignores `status`, `/status` ignores `spec`, and a few kinds ignore more.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from apiserver import facts
from apiserver.managed.fieldset import FieldSet
from apiserver.registry import Resource

SERVERS_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generation",
    "managedFields",
    "resourceVersion",
)
SERVERS: Final[FieldSet] = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {".": {}, **{f"f:{name}": {} for name in SERVERS_METADATA}},
}
_CREATED: Final = dict.fromkeys(SERVERS_METADATA, True)


@cache
def ignored(resource: Resource, subresource: str) -> FieldSet:
    """The fields that a write to this endpoint of the resource cannot change."""
    found: FieldSet = {}
    if subresource == "" and resource.has_status:
        found["f:status"] = {}
    if subresource == "status":
        found["f:spec"] = {}
        kept = facts.STATUS_KEEPS.get(resource.plural, ())
        if "*" in kept:
            found["f:metadata"] = {}
        elif kept:
            found["f:metadata"] = {f"f:{name}": {} for name in kept}
    return found


@cache
def left_out(resource: Resource) -> dict[str, Any]:
    """The same for a create, as `owned.created` takes it."""
    found: dict[str, Any] = {"metadata": _CREATED}
    if "f:status" in ignored(resource, ""):
        found["status"] = True
    return found
