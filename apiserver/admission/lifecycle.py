"""NamespaceLifecycle: nothing is created in a namespace that is not there or on its way out; three namespaces stay.

Upstream: k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from apiserver import errors
from apiserver.admission.attributes import WRITE, Attributes, Operation, Plugin, Rule
from apiserver.admission.sight import Sight
from apiserver.cache import Entry

IMMORTAL: Final = frozenset({"default", "kube-system", "kube-public"})
_DELETE: Final[frozenset[Operation]] = frozenset({"DELETE"})
_PARTS: Final = frozenset({"", "binding", "eviction", "token"})


def plugin(sight: Sight) -> Plugin:
    lifecycle = _Lifecycle(sight)
    return Plugin(
        "NamespaceLifecycle",
        mutating=(Rule(lifecycle.ask, operations=WRITE, subresources=_PARTS),),
        validating=(Rule(_immortal, frozenset({"namespaces"}), operations=_DELETE),),
    )


def _immortal(attributes: Attributes) -> None:
    if attributes.name in IMMORTAL:
        raise attributes.refused("this namespace may not be deleted")


@dataclass(frozen=True, slots=True)
class _Lifecycle:
    sight: Sight

    def ask(self, attributes: Attributes) -> Awaitable[None] | None:
        if not attributes.namespace:
            return None
        entry = self.sight.entry("namespaces", "", attributes.namespace)
        if entry is None:
            return self._again(attributes)
        _judge(attributes, entry)
        return None

    async def _again(self, attributes: Attributes) -> None:
        """Another server may have made it a moment ago."""
        await self.sight.fresh()
        entry = self.sight.entry("namespaces", "", attributes.namespace)
        if entry is None:
            raise errors.not_found("", "namespaces", attributes.namespace)
        _judge(attributes, entry)


def _judge(attributes: Attributes, namespace: Entry) -> None:
    if attributes.operation != "CREATE" or namespace.fields.get("status.phase", "Active") != "Terminating":
        return
    name = attributes.namespace
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {name} is being terminated",
        "field": "metadata.namespace",
    }
    why = f"unable to create new content in namespace {name} because it is being terminated"
    raise attributes.refused(why, [cause])
