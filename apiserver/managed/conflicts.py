"""A refused apply, in upstream's words (k8s.io/apimachinery/pkg/util/managedfields/internal/conflict.go)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from apiserver.errors import StatusError
from apiserver.managed import elements, fieldset
from apiserver.managed.entries import UPDATE, Manager
from apiserver.managed.fieldset import FieldSet

Conflicts = Mapping[Manager, FieldSet]


def refused(conflicts: Conflicts) -> StatusError:
    """409, with a cause a field."""
    found = [
        (shown(manager), [spelt(path) for path in fieldset.paths(fields)])
        for manager, fields in sorted(conflicts.items(), key=lambda item: _order(item[0]))
    ]
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path}
        for who, paths in found
        for path in paths
    ]
    return StatusError(409, "Conflict", _message(found, len(causes)), {"causes": causes})


def _message(found: list[tuple[str, list[str]]], count: int) -> str:
    if count == 1:
        who, paths = found[0]
        return f"Apply failed with 1 conflict: conflict with {who}: {paths[0]}"
    lines: list[str] = []
    for who, paths in found:
        lines.append(f"conflicts with {who}:")
        lines.extend(f"- {path}" for path in paths)
    return f"Apply failed with {count} conflicts: " + "\n".join(lines)


def spelt(path: Sequence[str]) -> str:
    """`.spec.template.spec.containers[name="x"].image`."""
    return "".join(map(elements.shown, path))


def shown(manager: Manager) -> str:
    text = orjson.dumps(manager.name).decode()
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.api_version}" if manager.operation == UPDATE else text


def _order(manager: Manager) -> tuple[str, ...]:
    return manager.name, manager.operation, manager.api_version, manager.subresource
