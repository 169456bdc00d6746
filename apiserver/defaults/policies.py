"""Defaults of what rules over others: RBAC, network policies, ingress classes, admission webhooks, flow control, definitions
of custom resources."""

from typing import Any, Final

from apiserver.defaults.rules import Default, Defaults, Scalar

Json = dict[str, Any]

_RBAC: Final = "rbac.authorization.k8s.io"
_ADMISSION: Final = "admissionregistration.v1."
_EXTENSIONS: Final = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."


def network_policy(spec: Json) -> None:
    """A policy is about what comes in, and about what goes out when it says something of that."""
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def role_reference(reference: Json) -> None:
    if not reference.get("apiGroup"):
        reference["apiGroup"] = _RBAC


def subject(one: Json) -> None:
    if not one.get("apiGroup") and one.get("kind") in ("User", "Group"):
        one["apiGroup"] = _RBAC


def definition(obj: Json) -> None:
    """Names that follow from the kind, and the service port of a conversion webhook."""
    spec = obj.get("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind", "")
    if kind:
        if not names.get("singular"):
            names["singular"] = kind.lower()
        if not names.get("listKind"):
            names["listKind"] = f"{kind}List"
    spec.setdefault("conversion", {"strategy": "None"})


def new_definition(obj: Json) -> None:
    """The version that is stored is one that ever was."""
    stored = [one.get("name", "") for one in obj.get("spec", {}).get("versions", ()) if one.get("storage")]
    obj["status"] = {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}


def updated_definition(new: Json, _: Json) -> None:
    """A version that is stored from now on is remembered beside those that were."""
    status = new.setdefault("status", {})
    known = status.setdefault("storedVersions", [])
    status["storedVersions"] = known + [
        one["name"]
        for one in new.get("spec", {}).get("versions", ())
        if one.get("storage") and one.get("name") not in known
    ]


def priority_level(spec: Json) -> None:
    match spec.get("type"):
        case "Exempt":
            exempt = spec.setdefault("exempt", {})
            exempt.setdefault("nominalConcurrencyShares", 0)
            exempt.setdefault("lendablePercent", 0)
        case "Limited" if "limited" in spec:
            spec["limited"].setdefault("nominalConcurrencyShares", 30)
            spec["limited"].setdefault("lendablePercent", 0)
        case _:
            pass


_WEBHOOK: Final[dict[str, Scalar]] = {"failurePolicy": "Fail", "matchPolicy": "Equivalent", "timeoutSeconds": 10}
_SELECTORS: Final = ("namespaceSelector", "objectSelector")
_SERVICE: Final = Default({"port": 443})
_RULE: Final = Default({"scope": "*"})
DEFAULTS: Final[Defaults] = {
    "networking.v1.NetworkPolicySpec": Default(setters=(network_policy,)),
    "networking.v1.NetworkPolicy": Default(structs=("spec",)),
    "networking.v1.NetworkPolicyPort": Default({"protocol": "TCP"}),
    "networking.v1.IngressClassParametersReference": Default({"scope": "Cluster"}),
    "rbac.v1.RoleRef": Default(setters=(role_reference,)),
    "rbac.v1.Subject": Default(setters=(subject,)),
    f"{_ADMISSION}MutatingWebhook": Default(_WEBHOOK | {"reinvocationPolicy": "Never"}, _SELECTORS),
    f"{_ADMISSION}ValidatingWebhook": Default(_WEBHOOK, _SELECTORS),
    f"{_ADMISSION}RuleWithOperations": _RULE,
    f"{_ADMISSION}NamedRuleWithOperations": _RULE,
    f"{_ADMISSION}ServiceReference": _SERVICE,
    f"{_ADMISSION}ValidatingAdmissionPolicySpec": Default({"failurePolicy": "Fail"}),
    f"{_ADMISSION}MutatingAdmissionPolicySpec": Default({"failurePolicy": "Fail"}),
    f"{_ADMISSION}MatchResources": Default({"matchPolicy": "Equivalent"}, _SELECTORS),
    f"{_EXTENSIONS}CustomResourceDefinition": Default(setters=(definition,)),
    f"{_EXTENSIONS}ServiceReference": _SERVICE,
    "flowcontrol.v1.FlowSchemaSpec": Default({"matchingPrecedence": 1000}),
    "flowcontrol.v1.PriorityLevelConfigurationSpec": Default(setters=(priority_level,)),
    "flowcontrol.v1.QueuingConfiguration": Default({"queues": 64, "handSize": 8, "queueLengthLimit": 50}),
}
