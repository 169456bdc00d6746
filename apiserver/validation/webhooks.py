"""Admission webhooks and admission policies (pkg/apis/admissionregistration/validation)."""

from typing import Final
from urllib.parse import urlsplit

from apiserver.validation import names
from apiserver.validation.rules import Found, Json, Path, Rule, Rules, at_most, between, each, one_of, unique, written

_REVIEWS: Final = ("v1", "v1beta1")
_OPERATIONS: Final = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SIDE_EFFECTS: Final = ("None", "NoneOnDryRun")
_ACTIONS: Final = ("Audit", "Deny", "Warn")
_REASONS: Final = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")


def webhook(one: Json, path: Path, found: Found) -> None:
    name = one.get("name", "")
    if not name:
        found.required((path, "name"))
    else:
        for text in names.fully_qualified_name(name):
            found.invalid((path, "name"), name, text)
    client_config(one.get("clientConfig", {}), (path, "clientConfig"), found)
    if "sideEffects" not in one:
        found.required((path, "sideEffects"), "must specify one of None, NoneOnDryRun")
    reviews = one.get("admissionReviewVersions", [])
    if not reviews:
        found.required((path, "admissionReviewVersions"), "must specify one of v1, v1beta1")
    elif not set(reviews) & set(_REVIEWS):
        found.invalid((path, "admissionReviewVersions"), reviews, "must include at least one of v1, v1beta1")
    for index, version in enumerate(reviews):
        here = ((path, "admissionReviewVersions"), index)
        for text in names.dns_1035_label(version):
            found.invalid(here, version, text)
        if version in reviews[:index]:
            found.invalid(here, version, "duplicate version")


def client_config(one: Json, path: Path, found: Found) -> None:
    url, service = one.get("url"), one.get("service")
    if (url is None) == (service is None):
        found.required(path, "exactly one of url or service is required")
    if url is not None:
        _url(url, (path, "url"), found)
    if service is not None:
        here = (path, "service")
        for field, noun in (("name", "service name is required"), ("namespace", "service namespace is required")):
            if not service.get(field):
                found.required((here, field), noun)
        if not 1 <= service.get("port", 443) <= 65535:
            detail = f"port is not valid: {names.OUTSIDE_PORTS}"
            found.invalid((here, "port"), service["port"], detail)
        target = service.get("path")
        if target is not None and not target.startswith("/"):
            found.invalid((here, "path"), target, "must start with a '/'")


def _url(text: str, path: Path, found: Found) -> None:
    form = "; desired format: https://host[/path]"
    try:
        parts = urlsplit(text)
    except ValueError as wrong:
        found.required(path, f"url must be a valid URL: {wrong}{form}")
        return
    if parts.scheme != "https":
        found.invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{form}")
    if not parts.netloc:
        found.invalid(path, parts.netloc, f"host must be specified{form}")
    if parts.username:
        found.invalid(path, parts.username, "user information is not permitted in the URL")
    if parts.fragment:
        found.invalid(path, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        found.invalid(path, parts.query, "query parameters are not permitted in the URL")


def operations(one: Json, path: Path, found: Found) -> None:
    for field in ("apiGroups", "apiVersions", "resources", "operations"):
        values = one.get(field, [])
        if not values:
            found.required((path, field))
        if "*" in values and len(values) > 1:
            detail = "if '*' is present, must not specify other " + {
                "apiGroups": "API groups", "apiVersions": "API versions", "resources": "resources",
                "operations": "operations",
            }[field]  # fmt: skip
            if field != "resources":
                found.invalid((path, field), values, detail)
    for index, operation in enumerate(one.get("operations", ())):
        if operation not in _OPERATIONS:
            found.unsupported(((path, "operations"), index), operation, _OPERATIONS)
    for index, version in enumerate(one.get("apiVersions", ())):
        if version == "":
            found.required(((path, "apiVersions"), index))
    for index, resource in enumerate(one.get("resources", ())):
        if resource == "":
            found.required(((path, "resources"), index))


def _match_condition(one: Json, path: Path, found: Found) -> None:
    name = one.get("name", "")
    if not name:
        found.required((path, "name"))
    for text in names.qualified_name(name) if name else ():
        found.invalid((path, "name"), name, text)
    if not one.get("expression", "").strip():
        found.required((path, "expression"))


def policy(spec: Json, path: Path, found: Found) -> None:
    if "matchConstraints" not in spec:
        found.required((path, "matchConstraints"))
    elif not spec["matchConstraints"].get("resourceRules"):
        found.required(((path, "matchConstraints"), "resourceRules"))
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        detail = "validations or auditAnnotations must contain at least one item"
        found.required((path, "validations"), detail)
        found.required((path, "auditAnnotations"), detail)


def mutating_policy(spec: Json, path: Path, found: Found) -> None:
    if "matchConstraints" not in spec:
        found.required((path, "matchConstraints"))
    if not spec.get("mutations"):
        found.required((path, "mutations"), "mutations must contain at least one item")
    if not spec.get("reinvocationPolicy"):
        found.required((path, "reinvocationPolicy"))


def _mutation(one: Json, path: Path, found: Found) -> None:
    kind = one.get("patchType", "")
    if not kind:
        found.required((path, "patchType"))
    for name, field in (("JSONPatch", "jsonPatch"), ("ApplyConfiguration", "applyConfiguration")):
        if kind == name and field not in one:
            found.required((path, field), f"must be specified when patchType is {name}")
        elif kind and kind != name and field in one:
            found.invalid((path, field), one[field], f"must not be specified when patchType is {kind}")


def _validation(one: Json, path: Path, found: Found) -> None:
    if not one.get("expression", "").strip():
        found.required((path, "expression"), "expression is not specified")
    message = one.get("message")
    if message is not None and "\n" in message:
        found.invalid((path, "message"), message, "message must not contain line breaks")
    if message is not None and not message.strip():
        found.invalid((path, "message"), message, "message must be non-empty if specified")


def policy_binding(spec: Json, path: Path, found: Found) -> None:
    if not spec.get("policyName"):
        found.required((path, "policyName"))
    actions = spec.get("validationActions", [])
    for index, one in enumerate(actions):
        if one in actions[:index]:
            found.duplicate(((path, "validationActions"), index), one)
    if "Deny" in actions and "Warn" in actions:
        found.invalid((path, "validationActions"), actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)")  # noqa: E501  # fmt: skip


def _binding_needs_actions(spec: Json, path: Path, found: Found) -> None:
    if not spec.get("validationActions"):
        found.required((path, "validationActions"), "at least one validation action is required")


def _parameter(one: Json, path: Path, found: Found) -> None:
    if ("name" in one) == ("selector" in one):
        detail = (
            "name and selector are mutually exclusive" if "name" in one else "one of name or selector must be specified"
        )
        found.required((path, "name"), detail)
    if not one.get("parameterNotFoundAction"):
        found.required((path, "parameterNotFoundAction"))


_WEBHOOK: Final = {
    "failurePolicy": one_of("Fail", "Ignore"),
    "matchPolicy": one_of("Equivalent", "Exact"),
    "sideEffects": one_of(*_SIDE_EFFECTS),
    "timeoutSeconds": between(1, 30),
    "reinvocationPolicy": one_of("IfNeeded", "Never"),
    "matchConditions": at_most(64),
}
_COMMON: Final = {
    "failurePolicy": one_of("Fail", "Ignore"),
    "matchConditions": at_most(64),
    "variables": unique("name"),
}
_VALIDATING: Final = {key: value for key, value in _WEBHOOK.items() if key != "reinvocationPolicy"}
_GROUP: Final = "admissionregistration.v1."
RULES: Final[Rules] = {
    f"{_GROUP}MutatingWebhookConfiguration": Rule({"webhooks": unique("name")}),
    f"{_GROUP}ValidatingWebhookConfiguration": Rule({"webhooks": unique("name")}),
    f"{_GROUP}MutatingWebhook": Rule(_WEBHOOK, checks=(webhook,)),
    f"{_GROUP}ValidatingWebhook": Rule(_VALIDATING, checks=(webhook,)),
    f"{_GROUP}RuleWithOperations": Rule({"scope": one_of("*", "Cluster", "Namespaced")}, checks=(operations,)),
    f"{_GROUP}NamedRuleWithOperations": Rule({"scope": one_of("*", "Cluster", "Namespaced")}, checks=(operations,)),
    f"{_GROUP}MatchCondition": Rule(checks=(_match_condition,)),
    f"{_GROUP}ValidatingAdmissionPolicy": Rule(required=("spec",)),
    f"{_GROUP}ValidatingAdmissionPolicySpec": Rule(
        _COMMON | {"validations": at_most(64), "auditAnnotations": at_most(20)}, checks=(policy,)
    ),
    f"{_GROUP}Validation": Rule({"reason": one_of(*_REASONS)}, checks=(_validation,)),
    f"{_GROUP}Variable": Rule({"name": written(names.c_identifier)}, ("name", "expression")),
    f"{_GROUP}AuditAnnotation": Rule({"key": written(names.qualified_name)}, ("key", "valueExpression")),
    f"{_GROUP}ParamKind": Rule(required=("apiVersion", "kind")),
    f"{_GROUP}MatchResources": Rule({"matchPolicy": one_of("Equivalent", "Exact")}),
    f"{_GROUP}ParamRef": Rule({"parameterNotFoundAction": one_of("Allow", "Deny")}, checks=(_parameter,)),
    f"{_GROUP}ValidatingAdmissionPolicyBinding": Rule(required=("spec",)),
    f"{_GROUP}ValidatingAdmissionPolicyBindingSpec": Rule(
        {"validationActions": each(one_of(*_ACTIONS))}, checks=(policy_binding, _binding_needs_actions)
    ),
    f"{_GROUP}MutatingAdmissionPolicy": Rule(required=("spec",)),
    f"{_GROUP}MutatingAdmissionPolicySpec": Rule(
        _COMMON | {"reinvocationPolicy": one_of("IfNeeded", "Never")}, checks=(mutating_policy,)
    ),
    f"{_GROUP}Mutation": Rule({"patchType": one_of("ApplyConfiguration", "JSONPatch")}, checks=(_mutation,)),
    f"{_GROUP}MutatingAdmissionPolicyBinding": Rule(required=("spec",)),
    f"{_GROUP}MutatingAdmissionPolicyBindingSpec": Rule(checks=(policy_binding,)),
}
