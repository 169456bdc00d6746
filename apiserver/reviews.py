"""Reviews: questions about identity and permission, which nothing stores. Each is a function from the object that was
posted to the one that answers, in upstream's words (registry/authentication, registry/authorization)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from apiserver import errors
from apiserver.authentication import User
from apiserver.authentication.tokens import Known
from apiserver.authorization import Attributes, Authorizer, Decision
from apiserver.schema import GVK

Obj = dict[str, Any]

TOKEN_REVIEW: Final = GVK("authentication.k8s.io", "v1", "TokenReview")
SELF_SUBJECT_REVIEW: Final = GVK("authentication.k8s.io", "v1", "SelfSubjectReview")
SUBJECT_ACCESS: Final = GVK("authorization.k8s.io", "v1", "SubjectAccessReview")
LOCAL_SUBJECT_ACCESS: Final = GVK("authorization.k8s.io", "v1", "LocalSubjectAccessReview")
SELF_SUBJECT_ACCESS: Final = GVK("authorization.k8s.io", "v1", "SelfSubjectAccessReview")
SELF_SUBJECT_RULES: Final = GVK("authorization.k8s.io", "v1", "SelfSubjectRulesReview")


def self_subject(asked: Obj, user: User) -> Obj:
    return _answered(asked, {"userInfo": user.info()})


def token(asked: Obj, known: Known | None, error: str) -> Obj:
    if known is None:
        return _answered(asked, {"user": {}, "error": error} if error else {"user": {}})
    return _answered(asked, {"authenticated": True, "user": known.user.info(), "audiences": list(known.audiences)})


def token_of(asked: Obj) -> tuple[str, tuple[str, ...]]:
    """The token to look at and the audiences to look for. Raises 400."""
    spec = asked.get("spec") or {}
    if not spec.get("token"):
        raise errors.bad_request("token is required for TokenReview in authentication")
    return spec["token"], tuple(spec.get("audiences") or ())


def access(asked: Obj, gvk: GVK, authorizer: Authorizer, user: User, namespace: str = "") -> Obj:
    """The three kinds of SubjectAccessReview; `user` is whose the self-review is. Raises 400 and 422."""
    spec = asked.get("spec") or {}
    _check(spec, gvk, namespace, asked)
    subject = user if gvk == SELF_SUBJECT_ACCESS else _subject(spec)
    return _answered(asked, _status(authorizer.decide(attributes(spec, subject))))


def rules(asked: Obj, authorizer: Authorizer, user: User) -> Obj:
    namespace = (asked.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise errors.bad_request("no namespace on request")
    found = authorizer.rules(user, namespace)
    status: Obj = {
        "resourceRules": [dict(one) for one in found.resources],
        "nonResourceRules": [dict(one) for one in found.paths],
        "incomplete": found.incomplete,
    }
    return _answered(asked, status | ({"evaluationError": found.error} if found.error else {}))


def attributes(spec: Mapping[str, Any], user: User) -> Attributes:
    path = spec.get("nonResourceAttributes")
    if path:
        return Attributes(user, path.get("verb", ""), path=path.get("path", ""))
    asked = spec.get("resourceAttributes") or {}
    return Attributes(
        user,
        asked.get("verb", ""),
        asked.get("group", ""),
        asked.get("version", ""),
        asked.get("resource", ""),
        asked.get("subresource", ""),
        asked.get("namespace", ""),
        asked.get("name", ""),
    )


def _subject(spec: Mapping[str, Any]) -> User:
    extra = tuple((key, tuple(values or ())) for key, values in (spec.get("extra") or {}).items())
    return User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)


def _check(spec: Mapping[str, Any], gvk: GVK, namespace: str, asked: Obj) -> None:
    """As apis/authorization/validation: exactly one question, and somebody it is about."""
    causes = []
    both = bool(spec.get("resourceAttributes")) and bool(spec.get("nonResourceAttributes"))
    neither = not spec.get("resourceAttributes") and not spec.get("nonResourceAttributes")
    if both:
        why = "cannot be specified in combination with resourceAttributes"
        causes.append(errors.cause("spec.nonResourceAttributes", errors.INVALID, spec["nonResourceAttributes"], why))
    if neither:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        causes.append(errors.cause("spec.resourceAttributes", errors.INVALID, None, why))
    if gvk != SELF_SUBJECT_ACCESS and not spec.get("user") and not spec.get("groups"):
        why = "at least one of user or group must be specified"
        causes.append(errors.cause("spec.user", errors.INVALID, spec.get("user", ""), why))
    if gvk == LOCAL_SUBJECT_ACCESS:
        resource = spec.get("resourceAttributes") or {}
        if spec.get("nonResourceAttributes"):
            why = "disallowed on this kind of request"
            causes.append(
                errors.cause("spec.nonResourceAttributes", errors.INVALID, spec["nonResourceAttributes"], why)
            )
        if resource and resource.get("namespace", "") != namespace:
            why = "must match metadata.namespace"
            found = resource.get("namespace", "")
            causes.append(errors.cause("spec.resourceAttributes.namespace", errors.INVALID, found, why))
        if (asked.get("metadata") or {}).get("namespace", namespace) != namespace:
            raise errors.bad_request("namespace mismatch")
    if causes:
        raise errors.invalid(gvk.group, gvk.kind, "", causes)


def _status(decision: Decision) -> Obj:
    status: Obj = {"allowed": decision.allowed}
    if decision.denied:
        status["denied"] = True
    if decision.reason:
        status["reason"] = decision.reason
    return status


def _answered(asked: Obj, status: Obj) -> Obj:
    return {**asked, "metadata": asked.get("metadata") or {}, "status": status}
