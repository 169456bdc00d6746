"""DefaultTolerationSeconds: a pod leaves a dead node after a while unless it says otherwise. ExtendedResourceToleration
(off by default): a pod that asks for an extended resource tolerates the nodes that are kept for it.
"""

from __future__ import annotations

from typing import Any, Final

from apiserver.admission.attributes import PODS, WRITE, Attributes, Plugin, Rule
from kube.labels import TAINT_NOT_READY, TAINT_UNREACHABLE
from kube.quota import is_extended

Obj = dict[str, Any]
_ANYTHING: Final = ("", "NoExecute")


def default_seconds(not_ready: int, unreachable: int) -> Plugin:
    wanted = ((TAINT_NOT_READY, not_ready), (TAINT_UNREACHABLE, unreachable))

    def ask(attributes: Attributes) -> None:
        spec = attributes.new["spec"]
        present = spec.get("tolerations") or ()
        missing = [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
            for key, seconds in wanted
            if not any(_covers(toleration, key) for toleration in present)
        ]
        if missing:
            spec["tolerations"] = [*present, *missing]

    return Plugin("DefaultTolerationSeconds", mutating=(Rule(ask, PODS, WRITE),))


def _covers(toleration: Obj, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in _ANYTHING


def extended_resources() -> Plugin:
    def ask(attributes: Attributes) -> None:
        spec = attributes.new["spec"]
        containers = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
        names = {name for one in containers for name in (one.get("resources") or {}).get("requests") or {}}
        present = spec.get("tolerations") or []
        for name in sorted(filter(is_extended, names)):
            toleration = {"key": name, "operator": "Exists", "effect": "NoSchedule"}
            if toleration not in present:
                present = [*present, toleration]
        if present:
            spec["tolerations"] = present

    return Plugin("ExtendedResourceToleration", mutating=(Rule(ask, PODS, WRITE),))
