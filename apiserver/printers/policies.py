"""Admission webhooks and policies, and the objects of flow control, as rows."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import AGE, NAME, Column, Json, Printer, Printers, columns, number


def webhooks(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), len(obj.get("webhooks", ())), text.age(obj, now)]


def _policy(field: str, obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    kind = spec.get("paramKind")
    shown = f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else text.UNSET
    return [text.name(obj), len(spec.get(field, ())), shown, text.age(obj, now)]


def validating_policy(obj: Json, now: datetime) -> list[Any]:
    return _policy("validations", obj, now)


def mutating_policy(obj: Json, now: datetime) -> list[Any]:
    return _policy("mutations", obj, now)


def policy_binding(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    return [text.name(obj), spec.get("policyName", ""), _parameter(spec.get("paramRef") or {}), text.age(obj, now)]


def _parameter(reference: Json) -> str:
    """Whether parameters have namespaces cannot be told from here: those without one may be in any."""
    if reference.get("name"):
        return f"{reference.get('namespace') or '*'}/{reference['name']}"
    if "selector" in reference:
        return _go_selector(reference["selector"])
    return text.UNSET


def _go_selector(selector: Json) -> str:
    """A LabelSelector as Go's String() writes it, which is what upstream prints here."""
    pairs = "".join(f"{key}: {value}," for key, value in sorted(selector.get("matchLabels", {}).items()))
    terms = "".join(
        f"LabelSelectorRequirement{{Key:{one.get('key', '')},Operator:{one.get('operator', '')},"
        f"Values:[{' '.join(one.get('values', ()))}],}},"
        for one in selector.get("matchExpressions", ())
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{pairs}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )


def flow_schema(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    return [
        text.name(obj),
        spec.get("priorityLevelConfiguration", {}).get("name", ""),
        spec.get("matchingPrecedence", 0),
        spec["distinguisherMethod"].get("type", "") if spec.get("distinguisherMethod") else text.NONE,
        text.age(obj, now),
        text.condition(obj, "Dangling") or "?",
    ]


def _precedence(obj: Json) -> tuple[int, str]:
    return obj.get("spec", {}).get("matchingPrecedence", 0), text.name(obj)


def priority_level(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    limited = spec.get("limited")
    shares: Any = limited.get("nominalConcurrencyShares", 0) if limited else text.NONE
    queuing = (limited or {}).get("limitResponse", {}).get("queuing")
    fields = ("queues", "handSize", "queueLengthLimit")
    queues = [queuing.get(field, 0) for field in fields] if queuing else [text.NONE] * len(fields)
    return [text.name(obj), spec.get("type", ""), shares, *queues, text.age(obj, now)]


_WEBHOOKS: Final = Printer(columns(number("Webhooks", "Webhooks it names.")), webhooks)
_PARAM_KIND: Final = Column("ParamKind", "Kind of its parameters.")
_BINDING: Final = Printer(
    columns(Column("PolicyName", "The policy that is bound."), Column("ParamRef", "Its parameters.")), policy_binding
)
_GROUP: Final = "admissionregistration.k8s.io"
PRINTERS: Final[Printers] = {
    (_GROUP, "MutatingWebhookConfiguration"): _WEBHOOKS,
    (_GROUP, "ValidatingWebhookConfiguration"): _WEBHOOKS,
    (_GROUP, "ValidatingAdmissionPolicy"): Printer(
        columns(number("Validations", "Expressions that must hold."), _PARAM_KIND), validating_policy
    ),
    (_GROUP, "MutatingAdmissionPolicy"): Printer(
        columns(number("Mutations", "Changes it makes."), _PARAM_KIND), mutating_policy
    ),
    (_GROUP, "ValidatingAdmissionPolicyBinding"): _BINDING,
    (_GROUP, "MutatingAdmissionPolicyBinding"): _BINDING,
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): Printer(
        (
            NAME,
            Column("PriorityLevel", "Where its requests go."),
            Column("MatchingPrecedence", "Lower is asked earlier."),
            Column("DistinguisherMethod", "How its flows are told apart."),
            AGE,
            Column("MissingPL", "Whether its priority level is missing."),
        ),
        flow_schema,
        _precedence,
    ),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): Printer(
        columns(
            Column("Type", "Exempt or Limited."),
            Column("NominalConcurrencyShares", "Its part of the seats."),
            Column("Queues", "Number of queues."),
            Column("HandSize", "Queues a flow may use."),
            Column("QueueLengthLimit", "Requests a queue holds."),
        ),
        priority_level,
    ),
}
