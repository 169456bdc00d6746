"""Priority: a pod's number comes from its PriorityClass, from the default class, or is zero; and what a class may say.

Upstream: plugin/pkg/admission/priority.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

from apiserver.admission.attributes import PODS, WRITE, Attributes, Plugin, Rule
from apiserver.admission.sight import Sight

Obj = dict[str, Any]
KIND: Final = "priorityclasses.scheduling.k8s.io"
SYSTEM: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
HIGHEST_OF_USERS: Final = 1_000_000_000
_NO_CLASS: Final[Obj] = {}


def plugin(sight: Sight) -> Plugin:
    chosen = _Priority(sight)
    return Plugin(
        "Priority",
        mutating=(Rule(chosen.pod, PODS), Rule(kept, PODS, frozenset({"UPDATE"}))),
        validating=(Rule(chosen.class_, frozenset({KIND}), WRITE),),
    )


def kept(attributes: Attributes) -> None:
    """An update that leaves them out means them as they were."""
    spec, before = attributes.new["spec"], (attributes.old or {}).get("spec", {})
    for key in ("priority", "preemptionPolicy"):
        if key not in spec and key in before:
            spec[key] = before[key]


@dataclass(frozen=True, slots=True)
class _Priority:
    sight: Sight

    def default(self) -> Obj | None:
        """Of several (a race made them) the one of the lowest value."""
        found = [one for one in self.sight.all(KIND) if one.get("globalDefault")]
        return min(found, key=lambda one: int(one.get("value", 0)), default=None)

    def pod(self, attributes: Attributes) -> Awaitable[None] | None:
        spec = attributes.new["spec"]
        name = spec.get("priorityClassName")
        if not name:
            found = self.default() or _NO_CLASS
            if found:
                spec["priorityClassName"] = found["metadata"]["name"]
            use(attributes, found)
            return None
        wanted = self.sight.get(KIND, "", name)
        if wanted is None and name in SYSTEM:
            wanted = {"value": SYSTEM[name]}
        if wanted is None:
            return self._again(attributes, name)
        use(attributes, wanted)
        return None

    async def _again(self, attributes: Attributes, name: str) -> None:
        await self.sight.fresh()
        wanted = self.sight.get(KIND, "", name)
        if wanted is None:
            raise attributes.refused(f"no PriorityClass with name {name} was found")
        use(attributes, wanted)

    def class_(self, attributes: Attributes) -> None:
        name, wanted = attributes.name, attributes.new
        if not wanted.get("globalDefault"):
            return
        other = self.default()
        if other is None or (attributes.operation == "UPDATE" and other["metadata"]["name"] == name):
            return
        default = other["metadata"]["name"]
        raise attributes.refused(f"PriorityClass {default} is already marked as default. Only one default can exist")


def use(attributes: Attributes, wanted: Obj) -> None:
    spec = attributes.new["spec"]
    value, policy = int(wanted.get("value", 0)), wanted.get("preemptionPolicy") or "PreemptLowerPriority"
    computed = "from the given PriorityClass name"
    if spec.get("priority", value) != value:
        raise attributes.refused(
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec;"
            f" priority admission controller computed {value} {computed}"
        )
    if spec.get("preemptionPolicy", policy) != policy:
        raise attributes.refused(
            f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec;"
            f" priority admission controller computed {policy} {computed}"
        )
    spec["priority"], spec["preemptionPolicy"] = value, policy
