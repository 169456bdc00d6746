"""LimitRanger: the defaults and the bounds that a namespace's LimitRanges set for containers, pods and claims.

Upstream: plugin/pkg/admission/limitranger, in its words. All that is wrong is said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from apiserver.admission.attributes import PODS, WRITE, Attributes, Plugin, Rule
from apiserver.admission.sight import Sight
from kube import quota
from kube.quantity import canonical, parse

Obj = dict[str, Any]
CLAIMS: Final = frozenset({"persistentvolumeclaims"})
ANNOTATION: Final = "kubernetes.io/limit-ranger"
_PARTS: Final = (("containers", "container"), ("initContainers", "init container"))


def plugin(sight: Sight) -> Plugin:
    limits = _Limits(sight)
    return Plugin(
        "LimitRanger",
        mutating=(Rule(limits.defaults, PODS),),
        validating=(
            Rule(limits.pod, PODS),
            Rule(limits.pod, PODS, frozenset({"UPDATE"}), frozenset({"resize"})),
            Rule(limits.claim, CLAIMS, WRITE),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Limits:
    sight: Sight

    def _items(self, namespace: str) -> Iterator[list[Obj]]:
        for one in self.sight.all("limitranges", namespace):
            yield one.get("spec", {}).get("limits") or []

    def defaults(self, attributes: Attributes) -> None:
        for items in self._items(attributes.namespace):
            fill(attributes.new, items)

    def pod(self, attributes: Attributes) -> None:
        for items in self._items(attributes.namespace):
            _refuse(attributes, pod_faults(attributes.new, items))

    def claim(self, attributes: Attributes) -> None:
        for items in self._items(attributes.namespace):
            _refuse(attributes, claim_faults(attributes.new, items))


def _refuse(attributes: Attributes, faults: Iterable[str]) -> None:
    found = list(dict.fromkeys(faults))
    if found:
        raise attributes.refused(found[0] if len(found) == 1 else f"[{', '.join(found)}]")


def fill(pod: Obj, items: list[Obj]) -> None:
    """What a container leaves open is as the LimitRange says; an annotation tells what was filled in."""
    requests: Obj = {}
    limits: Obj = {}
    for item in items:
        if item.get("type") == "Container":
            requests |= item.get("defaultRequest") or {}
            limits |= item.get("default") or {}
    if not requests and not limits:
        return
    told: list[str] = []
    for part, word in _PARTS:
        for container in pod["spec"].get(part) or ():
            resources = container.get("resources") or {}
            for field, wanted, verb in (("requests", requests, "request"), ("limits", limits, "limit")):
                present = resources.get(field) or {}
                missing = {name: canonical(str(amount)) for name, amount in wanted.items() if name not in present}
                if missing:
                    resources = resources | {field: present | missing}
                    told.append(f"{', '.join(sorted(missing))} {verb} for {word} {container.get('name', '')}")
            container["resources"] = resources
    if told:
        annotations = pod["metadata"].get("annotations") or {}
        pod["metadata"]["annotations"] = annotations | {ANNOTATION: f"LimitRanger plugin set: {'; '.join(told)}"}


def pod_faults(pod: Obj, items: list[Obj]) -> Iterator[str]:
    for item in items:
        match item.get("type"):
            case "Container":
                for part, _ in _PARTS:
                    for container in pod["spec"].get(part) or ():
                        resources = container.get("resources") or {}
                        requests = quota.amounts(resources.get("requests"))
                        yield from _faults(item, requests, quota.amounts(resources.get("limits")))
            case "Pod":
                spec = pod["spec"]
                yield from _faults(
                    item, quota.pod_requests(spec, overhead=False), quota.pod_limits(spec, overhead=False)
                )
            case _:
                continue


def _faults(item: Obj, requests: quota.Amounts, limits: quota.Amounts) -> Iterator[str]:
    checks: tuple[tuple[str, Callable[..., str]], ...] = (
        ("min", _below),
        ("max", _above),
        ("maxLimitRequestRatio", _ratio),
    )
    for field, check in checks:
        for name, amount in sorted((item.get(field) or {}).items()):
            if fault := check(name, item["type"], str(amount), requests.get(name), limits.get(name)):
                yield fault


def _below(name: str, kind: str, bound: str, request: Fraction | None, limit: Fraction | None) -> str:
    text = f"minimum {name} usage per {kind} is {canonical(bound)}"
    if request is None:
        return f"{text}.  No request is specified"
    if request < parse(bound):
        return f"{text}, but request is {quota.render(name, request)}"
    if limit is not None and limit < parse(bound):
        return f"{text}, but limit is {quota.render(name, limit)}"
    return ""


def _above(name: str, kind: str, bound: str, request: Fraction | None, limit: Fraction | None) -> str:
    text = f"maximum {name} usage per {kind} is {canonical(bound)}"
    if limit is None:
        return f"{text}.  No limit is specified"
    if limit > parse(bound):
        return f"{text}, but limit is {quota.render(name, limit)}"
    if request is not None and request > parse(bound):
        return f"{text}, but request is {quota.render(name, request)}"
    return ""


def _ratio(name: str, kind: str, bound: str, request: Fraction | None, limit: Fraction | None) -> str:
    text = f"{name} max limit to request ratio per {kind} is {canonical(bound)}, but"
    if not request:
        return f"{text} no request is specified or request is 0"
    if not limit:
        return f"{text} no limit is specified or limit is 0"
    if limit / request > parse(bound):
        return f"{text} provided ratio is {float(limit / request):f}"
    return ""


def claim_faults(claim: Obj, items: list[Obj]) -> Iterator[str]:
    asked = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
    for item in items:
        if item.get("type") != "PersistentVolumeClaim" or asked is None:
            continue
        size = parse(str(asked))
        low, high = (item.get("min") or {}).get("storage"), (item.get("max") or {}).get("storage")
        tail = f"but request is {canonical(str(asked))}"
        if low is not None and size < parse(str(low)):
            yield f"minimum storage usage per PersistentVolumeClaim is {canonical(str(low))}, {tail}"
        if high is not None and size > parse(str(high)):
            yield f"maximum storage usage per PersistentVolumeClaim is {canonical(str(high))}, {tail}"
