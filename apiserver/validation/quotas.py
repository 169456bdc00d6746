"""LimitRanges and ResourceQuotas: what a namespace may use, as a whole and by the piece."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.amounts import parsed
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules

_SPEC: Final[Path] = (TOP, "spec")
_TYPES: Final = ("Container", "PersistentVolumeClaim", "Pod")
_PLAIN: Final = frozenset(
    {"cpu", "memory", "ephemeral-storage", "storage", "pods", "services", "replicationcontrollers", "resourcequotas",
     "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
     "requests.cpu", "requests.memory", "requests.storage", "requests.ephemeral-storage",
     "limits.cpu", "limits.memory", "limits.ephemeral-storage"}
)  # fmt: skip
_COUNTED: Final = frozenset(
    {"pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
     "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"}
)  # fmt: skip
_SCOPES: Final = ("BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass",
                  "Terminating", "VolumeAttributesClass")  # fmt: skip
_EXISTS_ONLY: Final = frozenset(
    {"BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"}
)
_CONTRARY: Final = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))


def limit_range(spec: Json, path: Path, found: Found) -> None:
    seen: set[str] = set()
    for index, one in enumerate(spec.get("limits", ())):
        here = ((path, "limits"), index)
        kind = one.get("type", "")
        for text in names.qualified_name(kind) if kind not in _TYPES else ():
            found.invalid((here, "type"), kind, text)
        if kind and "/" not in kind and kind not in _TYPES:
            found.invalid((here, "type"), kind, "must be a standard limit type or fully qualified")
        if kind in seen:
            found.duplicate((here, "type"), kind)
        seen.add(kind)
        _limit(one, kind, here, found)


def _limit(one: Json, kind: str, path: Path, found: Found) -> None:
    names_given: set[str] = set()
    for field in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
        for name in one.get(field, {}):
            names_given.add(name)
            _resource(name, ((path, field), f"[{name}]"), found)
    if kind == "Pod":
        for field in ("default", "defaultRequest"):
            if one.get(field):
                found.forbidden((path, field), "may not be specified when `type` is 'Pod'")
    if kind == "PersistentVolumeClaim":
        low, high = one.get("min", {}).get("storage"), one.get("max", {}).get("storage")
        if low is None and high is None:
            detail = "either minimum or maximum storage value is required, but neither was provided"
            found.required((path, "limits"), detail)
    for name in sorted(names_given):
        _consistent(one, name, path, found)


def _consistent(one: Json, name: str, path: Path, found: Found) -> None:
    """min <= defaultRequest <= default <= max, for whichever of them are given."""
    low, high, default, request = (
        one.get(field, {}).get(name) for field in ("min", "max", "default", "defaultRequest")
    )

    def over(left: Any, right: Any) -> bool:
        return left is not None and right is not None and parsed(left) > parsed(right)

    key = f"[{name}]"
    if over(low, high):
        found.invalid(((path, "min"), key), low, f"min value {low} is greater than max value {high}")
    if over(low, request):
        detail = f"min value {low} is greater than default request value {request}"
        found.invalid(((path, "defaultRequest"), key), request, detail)
    if over(request, high):
        detail = f"default request value {request} is greater than max value {high}"
        found.invalid(((path, "defaultRequest"), key), request, detail)
    if over(request, default):
        detail = f"default request value {request} is greater than default limit value {default}"
        found.invalid(((path, "defaultRequest"), key), request, detail)
    if over(low, default):
        found.invalid(((path, "default"), key), low, f"min value {low} is greater than default value {default}")
    if over(default, high):
        found.invalid(((path, "default"), key), default, f"default value {default} is greater than max value {high}")
    ratio = one.get("maxLimitRequestRatio", {}).get(name)
    if ratio is not None and parsed(ratio) < 1:
        found.invalid(((path, "maxLimitRequestRatio"), key), ratio, f"ratio {ratio} is less than 1")
    if ratio is not None and low is not None and high is not None and parsed(low):
        most = parsed(high) / parsed(low)
        if parsed(ratio) > most:
            detail = f"ratio {ratio} is greater than max/min = {float(most):.6f}"
            found.invalid(((path, "maxLimitRequestRatio"), key), ratio, detail)


def _resource(name: str, path: Path, found: Found) -> None:
    for text in names.qualified_name(name):
        found.invalid(path, name, text)
    if "/" not in name and name not in _PLAIN and not name.startswith("hugepages-"):
        found.invalid(path, name, "must be a standard resource type or fully qualified")


def quota(spec: Json, path: Path, found: Found) -> None:
    for name, amount in spec.get("hard", {}).items():
        here = ((path, "hard"), f"[{name}]")
        _quota_resource(name, here, found)
        value = parsed(amount)
        if value < 0:
            found.invalid(here, amount, names.NEGATIVE)
        elif value.denominator != 1 and (name in _COUNTED or name.startswith("count/")):
            found.invalid(here, amount, "must be an integer")
    scopes = spec.get("scopes", [])
    for index, one in enumerate(scopes):
        if one not in _SCOPES:
            found.invalid(((path, "scopes"), index), scopes, "unsupported scope")
    _contrary(set(scopes), (path, "scopes"), scopes, found)
    _scope_selector(spec.get("scopeSelector", {}), (path, "scopeSelector"), found)


def _quota_resource(name: str, path: Path, found: Found) -> None:
    for text in names.qualified_name(name):
        found.invalid(path, name, text)
    if "/" not in name and name not in _PLAIN and not name.startswith(("requests.hugepages-", "hugepages-")):
        found.invalid(path, name, "must be a standard resource for quota")


def _scope_selector(selector: Json, path: Path, found: Found) -> None:
    terms = selector.get("matchExpressions", ())
    for index, one in enumerate(terms):
        here = ((path, "matchExpressions"), index)
        scope, operator, values = one.get("scopeName", ""), one.get("operator", ""), one.get("values", [])
        if scope not in _SCOPES:
            found.invalid((here, "scopeName"), scope, "unsupported scope")
        if scope in _EXISTS_ONLY and operator != "Exists":
            detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"  # noqa: E501  # fmt: skip
            found.invalid((here, "operator"), operator, detail)
        match operator:
            case "In" | "NotIn":
                if not values:
                    found.required((here, "values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")  # noqa: E501  # fmt: skip
            case "Exists" | "DoesNotExist":
                if values:
                    found.invalid((here, "values"), values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector")  # noqa: E501  # fmt: skip
            case other:
                found.invalid((here, "operator"), other, "not a valid selector operator")
    _contrary({one.get("scopeName") for one in terms}, (path, "matchExpressions"), list(terms), found)


def _contrary(scopes: set[Any], path: Path, value: Any, found: Found) -> None:
    if any(one in scopes and other in scopes for one, other in _CONTRARY):
        found.invalid(path, value, "conflicting scopes")


def quota_update(new: Json, old: Json, found: Found) -> None:
    """What a quota is about is for life; how much is not."""
    after, before = new.get("spec", {}), old.get("spec", {})
    if set(after.get("scopes", ())) != set(before.get("scopes", ())):
        found.invalid((_SPEC, "scopes"), after.get("scopes", []), names.IMMUTABLE)


RULES: Final[Rules] = {
    "core.v1.LimitRange": Rule(required=("spec",)),
    "core.v1.LimitRangeSpec": Rule(checks=(limit_range,)),
    "core.v1.ResourceQuotaSpec": Rule(checks=(quota,)),
}
