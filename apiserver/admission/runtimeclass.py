"""RuntimeClass: the class that a pod names exists; its overhead and its scheduling become the pod's."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

from apiserver.admission.attributes import PODS, Attributes, Plugin, Rule
from apiserver.admission.sight import Sight
from kube.quantity import parse

Obj = dict[str, Any]
KIND: Final = "runtimeclasses.node.k8s.io"
_DIFFERS: Final = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"


def plugin(sight: Sight) -> Plugin:
    return Plugin("RuntimeClass", mutating=(Rule(_RuntimeClass(sight).ask, PODS),))


@dataclass(frozen=True, slots=True)
class _RuntimeClass:
    sight: Sight

    def ask(self, attributes: Attributes) -> Awaitable[None] | None:
        spec = attributes.new["spec"]
        name = spec.get("runtimeClassName")
        if name is None:
            if spec.get("overhead"):
                raise attributes.refused(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                )
            return None
        found = self.sight.get(KIND, "", name)
        if found is None:
            return self._again(attributes, name)
        use(attributes, found)
        return None

    async def _again(self, attributes: Attributes, name: str) -> None:
        await self.sight.fresh()
        found = self.sight.get(KIND, "", name)
        if found is None:
            raise attributes.refused(f'pod rejected: RuntimeClass "{name}" not found')
        use(attributes, found)


def use(attributes: Attributes, wanted: Obj) -> None:
    spec = attributes.new["spec"]
    overhead = (wanted.get("overhead") or {}).get("podFixed")
    given = spec.get("overhead")
    if overhead:
        if given and _amounts(given) != _amounts(overhead):
            raise attributes.refused(_DIFFERS)
        spec["overhead"] = dict(overhead)
    elif given:
        raise attributes.refused("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
    scheduling = wanted.get("scheduling") or {}
    if scheduling.get("nodeSelector"):
        spec["nodeSelector"] = _selector(attributes, spec.get("nodeSelector") or {}, scheduling["nodeSelector"])
    if scheduling.get("tolerations"):
        present = spec.get("tolerations") or []
        spec["tolerations"] = [*present, *(dict(one) for one in scheduling["tolerations"] if one not in present)]


def _amounts(resources: Obj) -> Obj:
    return {name: parse(str(amount)) for name, amount in resources.items()}


def _selector(attributes: Attributes, mine: Obj, classes: Obj) -> Obj:
    for key, value in classes.items():
        if mine.get(key, value) != value:
            raise attributes.refused(
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value};"
                f" pod.spec.nodeSelector[{key}] = {mine[key]}"
            )
    return mine | classes
