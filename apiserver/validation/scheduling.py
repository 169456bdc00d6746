"""What a pod says about nodes: tolerations, affinity, spreading; and the taints nodes carry."""

from collections.abc import Iterator
from typing import Any, Final

from apiserver.errors import DUPLICATE, FORBIDDEN, INVALID, Cause, cause, not_supported, required
from apiserver.validation import meta, names

Json = dict[str, Any]

EFFECTS: Final = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def tolerations(values: Any, path: str) -> Iterator[Cause]:
    for index, one in enumerate(values):
        here = f"{path}[{index}]"
        key, value, operator = one.get("key", ""), one.get("value", ""), one.get("operator", "")
        for text in names.qualified_name(key) if key else ():
            yield cause(f"{here}.key", INVALID, key, text)
        if not key and operator != "Exists":
            detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            yield cause(f"{here}.operator", INVALID, operator, detail)
        match operator:
            case "" | "Equal":
                for text in names.label_value(value):
                    yield cause(f"{here}.operator", INVALID, value, text)
            case "Exists":
                if value:
                    detail = "value must be empty when `operator` is 'Exists'"
                    yield cause(f"{here}.operator", INVALID, one, detail)
            case other:
                yield not_supported(f"{here}.operator", other, ("Equal", "Exists"))
        effect = one.get("effect", "")
        if effect and effect not in EFFECTS:
            yield not_supported(f"{here}.effect", effect, EFFECTS)
        if one.get("tolerationSeconds") is not None and effect != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            yield cause(f"{here}.effect", INVALID, effect, detail)


def only_added_tolerations(after: list[Json], before: list[Json]) -> Iterator[Cause]:
    """Existing tolerations stay, apart from their seconds."""
    for one in before:
        kept = {key: value for key, value in one.items() if key != "tolerationSeconds"}
        if not any({key: value for key, value in new.items() if key != "tolerationSeconds"} == kept for new in after):
            detail = "existing toleration can not be modified except its tolerationSeconds"
            yield cause("spec.tolerations", FORBIDDEN, detail=detail)
            return


def taints(values: Any, path: str) -> Iterator[Cause]:
    seen: set[tuple[str, str]] = set()
    for index, one in enumerate(values):
        here = f"{path}[{index}]"
        key, effect = one.get("key", ""), one.get("effect", "")
        for text in names.qualified_name(key):
            yield cause(f"{here}.key", INVALID, key, text)
        for text in names.label_value(one.get("value", "")):
            yield cause(f"{here}.value", INVALID, one["value"], text)
        if not effect:
            yield required(f"{here}.effect")
        elif effect not in EFFECTS:
            yield not_supported(f"{here}.effect", effect, EFFECTS)
        if (key, effect) in seen:
            yield cause(here, DUPLICATE, one, "taints must be unique by key and effect pair")
        seen.add((key, effect))


def affinity(one: Json, path: str) -> Iterator[Cause]:
    node = one.get("nodeAffinity", {})
    here = f"{path}.nodeAffinity"
    if _REQUIRED in node:
        terms = node[_REQUIRED].get("nodeSelectorTerms", ())
        if not terms:
            yield required(f"{here}.{_REQUIRED}.nodeSelectorTerms", "must have at least one node selector term")
        for index, term in enumerate(terms):
            yield from _node_term(term, f"{here}.{_REQUIRED}.nodeSelectorTerms[{index}]")
    for index, term in enumerate(node.get(_PREFERRED, ())):
        yield from _weight(term, f"{here}.{_PREFERRED}[{index}]")
        yield from _node_term(term.get("preference", {}), f"{here}.{_PREFERRED}[{index}].preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        pods, below = one.get(kind, {}), f"{path}.{kind}"
        for index, term in enumerate(pods.get(_REQUIRED, ())):
            yield from _pod_term(term, f"{below}.{_REQUIRED}[{index}]")
        for index, term in enumerate(pods.get(_PREFERRED, ())):
            yield from _weight(term, f"{below}.{_PREFERRED}[{index}]")
            yield from _pod_term(term.get("podAffinityTerm", {}), f"{below}.{_PREFERRED}[{index}].podAffinityTerm")


def _weight(term: Json, path: str) -> Iterator[Cause]:
    if not 1 <= term.get("weight", 0) <= 100:
        yield cause(f"{path}.weight", INVALID, term.get("weight", 0), "must be in the range 1-100")


def _node_term(term: Json, path: str) -> Iterator[Cause]:
    for index, one in enumerate(term.get("matchExpressions", ())):
        here = f"{path}.matchExpressions[{index}]"
        values = one.get("values", [])
        match one.get("operator", ""):
            case "In" | "NotIn":
                if not values:
                    yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    yield cause(f"{here}.values", FORBIDDEN, detail=detail)
            case "Gt" | "Lt":
                if len(values) != 1:
                    detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                    yield required(f"{here}.values", detail)
            case other:
                yield cause(f"{here}.operator", INVALID, other, "not a valid selector operator")
        for text in names.qualified_name(one.get("key", "")):
            yield cause(f"{here}.key", INVALID, one.get("key", ""), text)


def _pod_term(term: Json, path: str) -> Iterator[Cause]:
    if "labelSelector" in term:
        yield from meta.label_selector(term["labelSelector"], f"{path}.labelSelector")
    key = term.get("topologyKey", "")
    if not key:
        yield required(f"{path}.topologyKey", "can not be empty")
    for text in names.qualified_name(key) if key else ():
        yield cause(f"{path}.topologyKey", INVALID, key, text)


def topology_spread(values: Any, path: str) -> Iterator[Cause]:
    for index, one in enumerate(values):
        here = f"{path}[{index}]"
        if one.get("maxSkew", 0) <= 0:
            yield cause(f"{here}.maxSkew", INVALID, one.get("maxSkew", 0), "must be greater than zero")
        if not one.get("topologyKey"):
            yield required(f"{here}.topologyKey", "can not be empty")
        supported = ("DoNotSchedule", "ScheduleAnyway")
        if one.get("whenUnsatisfiable") not in supported:
            yield not_supported(f"{here}.whenUnsatisfiable", one.get("whenUnsatisfiable", ""), supported)
        if "labelSelector" in one:
            yield from meta.label_selector(one["labelSelector"], f"{here}.labelSelector")
