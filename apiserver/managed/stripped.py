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
_WHOLE: Final[dict[str, Any]] = {"metadata": frozenset(SERVERS_METADATA)}
_WITHOUT_STATUS: Final[dict[str, Any]] = _WHOLE | {"status": True}


def ignored(resource: Resource, subresource: str) -> FieldSet:
    """The fields that a write to this endpoint of the resource cannot change."""
    return _ignored(resource.plural, resource.has_status, subresource)


@cache
def _ignored(plural: str, has_status: bool, subresource: str) -> FieldSet:
    found: FieldSet = {}
    if subresource == "" and has_status:
        found["f:status"] = {}
    if subresource == "status":
        found["f:spec"] = {}
        kept = facts.STATUS_KEEPS.get(plural, ())
        if "*" in kept:
            found["f:metadata"] = {}
        elif kept:
            found["f:metadata"] = {f"f:{name}": {} for name in kept}
    return found


def left_out(resource: Resource) -> dict[str, Any]:
    """The same for a create, as `owned.created` takes it."""
    return _WITHOUT_STATUS if resource.has_status else _WHOLE
