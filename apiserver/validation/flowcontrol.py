"""FlowSchemas and PriorityLevelConfigurations (pkg/apis/flowcontrol/validation)."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, at_least, one_of, written

_VERBS: Final = ("*", "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch")
_PRECEDENCE: Final = 10_000
_QUEUES: Final = 10_000_000
_SPEC: Final[Path] = (TOP, "spec")


def flow_schema(spec: Json, path: Path, found: Found) -> None:
    precedence = spec.get("matchingPrecedence", 0)
    if precedence <= 0:
        found.invalid((path, "matchingPrecedence"), precedence, "must be a positive value")
    elif precedence > _PRECEDENCE:
        detail = f"must not be greater than {_PRECEDENCE}"
        found.invalid((path, "matchingPrecedence"), precedence, detail)
    if not spec.get("priorityLevelConfiguration", {}).get("name"):
        found.required(((path, "priorityLevelConfiguration"), "name"), "must reference a priority level")


def _rule(one: Json, path: Path, found: Found) -> None:
    if not one.get("subjects"):
        found.required((path, "subjects"), "subjects must contain at least one value")
    if not one.get("resourceRules") and not one.get("nonResourceRules"):
        found.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")


def _subject(one: Json, path: Path, found: Found) -> None:
    fields = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}
    kind = one.get("kind", "")
    wanted = fields.get(kind)
    if wanted is None:
        found.unsupported((path, "kind"), kind, fields)
        return
    if wanted not in one:
        found.required((path, wanted), f"{wanted} is required when subject kind is '{kind}'")
    for field in fields.values():
        if field != wanted and field in one:
            found.forbidden((path, field), f"{field} is forbidden when subject kind is not '{_kind_of(field)}'")


def _kind_of(field: str) -> str:
    return field[0].upper() + field[1:]


def _verbs(values: Any, path: Path, found: Found) -> None:
    if "*" in values and len(values) > 1:
        found.invalid(path, values, "if '*' is present, must not specify other verbs")
    for index, one in enumerate(values):
        if one not in _VERBS:
            found.unsupported((path, index), one, _VERBS)


def _resource_rule(one: Json, path: Path, found: Found) -> None:
    for field in ("verbs", "apiGroups", "resources"):
        values = one.get(field, ())
        if not values:
            found.required((path, field))
        if "*" in values and len(values) > 1:
            found.invalid((path, field), values, "if '*' is present, must not specify other values")
    if not one.get("namespaces") and not one.get("clusterScope"):
        detail = "resource rules that are not cluster scoped must supply at least one namespace"
        found.required((path, "namespaces"), detail)


def priority_level(obj: Json, path: Path, found: Found) -> None:
    spec, here = obj.get("spec", {}), (path, "spec")
    name, kind = obj.get("metadata", {}).get("name", ""), spec.get("type", "")
    if name == "exempt" and kind != "Exempt":
        found.invalid((here, "type"), kind, "type must be 'Exempt' if and only if name is 'exempt'")
    match kind:
        case "Exempt":
            if "limited" in spec:
                found.forbidden((here, "limited"), "must be nil if the type is Exempt")
            if name != "exempt":
                found.invalid((here, "type"), kind, "type must be 'Exempt' if and only if name is 'exempt'")
        case "Limited":
            if "exempt" in spec:
                found.forbidden((here, "exempt"), "must be nil if the type is Limited")
            if "limited" not in spec:
                found.required((here, "limited"), "must not be empty when type is Limited")
        case other:
            found.unsupported((here, "type"), other, ("Exempt", "Limited"))


def _response(one: Json, path: Path, found: Found) -> None:
    kind, queuing = one.get("type", ""), one.get("queuing")
    if kind == "Reject" and queuing is not None:
        found.forbidden((path, "queuing"), "must be nil if limited.limitResponse.type is not Limited")
    elif kind == "Queue" and queuing is None:
        found.required((path, "queuing"), "must not be empty if limited.limitResponse.type is Limited")
    elif kind not in ("Queue", "Reject"):
        found.unsupported((path, "type"), kind, ("Queue", "Reject"))


def _queuing(one: Json, path: Path, found: Found) -> None:
    queues, hand = one.get("queues", 0), one.get("handSize", 0)
    if one.get("queueLengthLimit", 0) <= 0:
        found.invalid((path, "queueLengthLimit"), one.get("queueLengthLimit", 0), "must be positive")
    if queues <= 0:
        found.invalid((path, "queues"), queues, "must be positive")
    elif queues > _QUEUES:
        found.invalid((path, "queues"), queues, f"must not be greater than {_QUEUES}")
    if hand <= 0:
        found.invalid((path, "handSize"), hand, "must be positive")
    elif hand > queues:
        detail = f"should not be greater than queues ({queues})"
        found.invalid((path, "handSize"), hand, detail)


def mandatory_update(new: Json, old: Json, found: Found) -> None:
    """The two levels that the server itself stands on stay as they are."""
    name = new.get("metadata", {}).get("name")
    after, before = new.get("spec", {}), old.get("spec", {})
    if name == "catch-all" and after != before:
        found.invalid(_SPEC, after, "spec of 'catch-all' must equal the fixed value")


RULES: Final[Rules] = {
    "flowcontrol.v1.FlowSchema": Rule(required=("spec",)),
    "flowcontrol.v1.FlowSchemaSpec": Rule(checks=(flow_schema,)),
    "flowcontrol.v1.FlowDistinguisherMethod": Rule({"type": one_of("ByNamespace", "ByUser")}, ("type",)),
    "flowcontrol.v1.PriorityLevelConfigurationReference": Rule({"name": written(names.dns_subdomain)}),
    "flowcontrol.v1.PolicyRulesWithSubjects": Rule(checks=(_rule,)),
    "flowcontrol.v1.Subject": Rule(checks=(_subject,)),
    "flowcontrol.v1.ResourcePolicyRule": Rule({"verbs": _verbs}, checks=(_resource_rule,)),
    "flowcontrol.v1.NonResourcePolicyRule": Rule({"verbs": _verbs}, ("verbs", "nonResourceURLs")),
    "flowcontrol.v1.PriorityLevelConfiguration": Rule(checks=(priority_level,)),
    "flowcontrol.v1.LimitedPriorityLevelConfiguration": Rule(
        {"nominalConcurrencyShares": at_least(0, "must be a non-negative integer")}
    ),
    "flowcontrol.v1.LimitResponse": Rule(checks=(_response,)),
    "flowcontrol.v1.QueuingConfiguration": Rule(checks=(_queuing,)),
}
