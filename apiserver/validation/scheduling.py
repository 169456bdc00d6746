"""What a pod says about nodes: tolerations, affinity, spreading; and the taints nodes carry."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, at_least, one_of

EFFECTS: Final = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_INTEGER_DETAIL: Final = "must be specified single value when `operator` is 'Lt' or 'Gt'"
_NODE_FIELDS: Final = ("metadata.name",)


def toleration(one: Json, path: Path, found: Found) -> None:
    key, value, operator = one.get("key", ""), one.get("value", ""), one.get("operator", "")
    if key:
        for text in names.qualified_name(key):
            found.invalid((path, "key"), key, text)
    elif operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        found.invalid((path, "operator"), operator, detail)
    match operator:
        case "Exists":
            if value:
                found.invalid((path, "operator"), one, "value must be empty when `operator` is 'Exists'")
        case "" | "Equal":
            for text in names.label_value(value):
                found.invalid((path, "operator"), value, text)
        case other:
            found.unsupported((path, "operator"), other, ("Equal", "Exists"))
    effect = one.get("effect", "")
    if effect and effect not in EFFECTS:
        found.unsupported((path, "effect"), effect, EFFECTS)
    if effect != "NoExecute" and one.get("tolerationSeconds") is not None:
        found.invalid((path, "effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")


def only_added_tolerations(after: list[Json], before: list[Json], found: Found) -> None:
    """Existing tolerations stay, apart from their seconds."""
    for one in before:
        kept = _timeless(one)
        if one not in after and not any(_timeless(new) == kept for new in after):
            found.forbidden(((TOP, "spec"), "tolerations"), _TOLERATIONS)
            return


_TOLERATIONS: Final = "existing toleration can not be modified except its tolerationSeconds"


def _timeless(one: Json) -> Json:
    return {key: value for key, value in one.items() if key != "tolerationSeconds"}


def taints(values: Any, path: Path, found: Found) -> None:
    seen: set[tuple[str, str]] = set()
    for index, one in enumerate(values):
        here = (path, index)
        key, effect = one.get("key", ""), one.get("effect", "")
        for text in names.qualified_name(key):
            found.invalid((here, "key"), key, text)
        for text in names.label_value(one.get("value", "")):
            found.invalid((here, "value"), one["value"], text)
        if not effect:
            found.required((here, "effect"))
        elif effect not in EFFECTS:
            found.unsupported((here, "effect"), effect, EFFECTS)
        if (key, effect) in seen:
            found.duplicate(here, one)
        seen.add((key, effect))


def _requirement(one: Json, path: Path, found: Found) -> None:
    values = one.get("values", [])
    match one.get("operator", ""):
        case "In" | "NotIn":
            if not values:
                found.required((path, "values"), "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                found.forbidden((path, "values"), detail)
        case "Gt" | "Lt":
            if len(values) != 1:
                found.required((path, "values"), _INTEGER_DETAIL)
        case other:
            found.invalid((path, "operator"), other, "not a valid selector operator")


def node_term(term: Json, path: Path, found: Found) -> None:
    for index, one in enumerate(term.get("matchExpressions", ())):
        here = ((path, "matchExpressions"), index)
        for text in names.qualified_name(one.get("key", "")):
            found.invalid((here, "key"), one.get("key", ""), text)
        if one.get("operator") in ("In", "NotIn"):
            for at, value in enumerate(one.get("values", ())):
                for text in names.label_value(value):
                    found.invalid(((here, "values"), at), value, text)
    for index, one in enumerate(term.get("matchFields", ())):
        here = ((path, "matchFields"), index)
        if one.get("operator") not in ("In", "NotIn"):
            found.invalid((here, "operator"), one.get("operator", ""), "not a valid selector operator")
        elif len(one.get("values", ())) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            found.required((here, "values"), detail)
        if one.get("key") not in _NODE_FIELDS:
            found.invalid((here, "key"), one.get("key", ""), "not a valid field selector key")


def _node_selector(one: Json, path: Path, found: Found) -> None:
    if not one.get("nodeSelectorTerms"):
        found.required((path, "nodeSelectorTerms"), "must have at least one node selector term")


def _topology_key(one: Json, path: Path, found: Found) -> None:
    key = one.get("topologyKey", "")
    if not key:
        found.required((path, "topologyKey"), "can not be empty")
    for text in names.qualified_name(key) if key else ():
        found.invalid((path, "topologyKey"), key, text)
    taken = one.get("labelSelector", {}).get("matchLabels", {}).keys() | {
        term.get("key") for term in one.get("labelSelector", {}).get("matchExpressions", ())
    }
    for field in ("matchLabelKeys", "mismatchLabelKeys"):
        for index, label in enumerate(one.get(field, ())):
            here = ((path, field), index)
            if "labelSelector" not in one:
                found.forbidden((path, field), "must not be specified when labelSelector is not set")
                break
            for text in names.qualified_name(label):
                found.invalid(here, label, text)
            if field == "matchLabelKeys" and label in one.get("mismatchLabelKeys", ()):
                found.invalid(here, label, "exists in both matchLabelKeys and mismatchLabelKeys")
            if label in taken and "maxSkew" in one:
                found.invalid(here, label, "exists in both matchLabelKeys and labelSelector")


def _namespaces(values: Any, path: Path, found: Found) -> None:
    for index, name in enumerate(values):
        for text in names.dns_label(name):
            found.invalid((path, index), name, text)


def _spread(one: Json, path: Path, found: Found) -> None:
    domains = one.get("minDomains")
    if domains is not None and domains <= 0:
        found.invalid((path, "minDomains"), domains, "must be greater than zero")
    if domains is not None and one.get("whenUnsatisfiable") != "DoNotSchedule":
        detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {one.get('whenUnsatisfiable', '')}"
        found.invalid((path, "minDomains"), domains, detail)
    if "maxSkew" not in one:
        found.invalid((path, "maxSkew"), 0, "must be greater than zero")


def spreads(values: Any, path: Path, found: Found) -> None:
    """One constraint for each pair of topology and action."""
    seen: set[tuple[Any, Any]] = set()
    for index, one in enumerate(values):
        pair = (one.get("topologyKey"), one.get("whenUnsatisfiable"))
        if pair in seen:
            found.duplicate(((path, index), "{topologyKey, whenUnsatisfiable}"), f"{{{pair[0]}, {pair[1]}}}")
        seen.add(pair)


def _weight(value: Any, path: Path, found: Found) -> None:
    if not 1 <= value <= 100:
        found.invalid(path, value, "must be in the range 1-100")


def _weighted(one: Json, path: Path, found: Found) -> None:
    if "weight" not in one:
        found.invalid((path, "weight"), 0, "must be in the range 1-100")


RULES: Final[Rules] = {
    "core.v1.Toleration": Rule(checks=(toleration,)),
    "core.v1.NodeSelector": Rule(checks=(_node_selector,)),
    "core.v1.NodeSelectorTerm": Rule(checks=(node_term,)),
    "core.v1.NodeSelectorRequirement": Rule(checks=(_requirement,)),
    "core.v1.PreferredSchedulingTerm": Rule({"weight": _weight}, checks=(_weighted,)),
    "core.v1.WeightedPodAffinityTerm": Rule({"weight": _weight}, checks=(_weighted,)),
    "core.v1.PodAffinityTerm": Rule({"namespaces": _namespaces}, checks=(_topology_key,)),
    "core.v1.TopologySpreadConstraint": Rule(
        {
            "maxSkew": at_least(1, "must be greater than zero"),
            "whenUnsatisfiable": one_of("DoNotSchedule", "ScheduleAnyway"),
            "nodeAffinityPolicy": one_of("Honor", "Ignore"),
            "nodeTaintsPolicy": one_of("Honor", "Ignore"),
        },
        ("whenUnsatisfiable",),
        (_topology_key, _spread),
    ),
}
