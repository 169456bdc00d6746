"""May they? One question, `Attributes`, put to one door, `Authorizer`, for every request; reviews ask the same door.

The attributes are upstream's (endpoints/request/requestinfo.go): the verb of the API rather than of HTTP, and the resource
that the path addresses, or the bare path where it addresses none.

`Everybody` is what stands behind the door until RBAC does: whoever is authenticated may do everything, except act as
somebody else, which takes system:masters; anonymous may ask how we are, who we are, and how to check our tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from apiserver import errors
from apiserver.authentication import MASTERS, User
from apiserver.http.routes import Route

OPEN_PATHS: Final = (
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
)
_HEALTH: Final = ("/healthz/", "/livez/", "/readyz/")
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_NOT_TRUE: Final = frozenset({"", "0", "false", "False", "F", "f", "FALSE"})


@dataclass(frozen=True, slots=True)
class Attributes:
    """Empty `resource` is a request for a bare path."""

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def sentence(self) -> str:
        """`User "x" cannot list resource "pods" in API group "" in the namespace "y"`."""
        if not self.resource:
            return f'User "{self.user.name}" cannot {self.verb} path "{self.path}"'
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'User "{self.user.name}" cannot {self.verb} resource "{what}" in API group "{self.group}" {where}'


@dataclass(frozen=True, slots=True)
class Decision:
    """`denied`: refused for good, whoever else might be asked; neither allowed nor denied is no opinion."""

    allowed: bool
    reason: str = ""
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What a user may do in a namespace, as SelfSubjectRulesReview lists it."""

    resources: Sequence[Mapping[str, Any]]
    paths: Sequence[Mapping[str, Any]]
    incomplete: bool = False
    error: str = ""


class Authorizer(Protocol):
    def decide(self, asked: Attributes) -> Decision: ...

    def rules(self, user: User, namespace: str) -> Rules: ...


@dataclass(frozen=True, slots=True)
class Everybody:
    """The theory above."""

    def decide(self, asked: Attributes) -> Decision:
        if MASTERS in asked.user.groups:
            return _MASTER
        if asked.verb == "impersonate":
            return _NO
        if not asked.user.anonymous:
            return _EVERYBODY
        return _OPEN if not asked.resource and asked.verb in ("get", "head") and _open(asked.path) else _NO

    def rules(self, user: User, namespace: str) -> Rules:  # noqa: ARG002 (the same everywhere)
        if not user.anonymous:
            return Rules(
                [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            )
        paths = [*OPEN_PATHS, *(f"{path}*" for path in _HEALTH)]
        return Rules([], [{"verbs": ["get"], "nonResourceURLs": paths}])


_MASTER: Final = Decision(True)
_EVERYBODY: Final = Decision(True, "whoever is authenticated may do everything until there is RBAC")
_OPEN: Final = Decision(True, "open to everybody")
_NO: Final = Decision(False)


def _open(path: str) -> bool:
    return path.rstrip("/") in OPEN_PATHS or path.startswith(_HEALTH)


def attributes(user: User, method: str, path: str, query: Mapping[str, str], route: Route | None) -> Attributes:
    """What a request asks to do. `route` is what its path addresses."""
    if route is None:
        return Attributes(user, method.lower(), path=path)
    name = route.name
    if method in ("GET", "HEAD"):
        watching = "watch" in query and query["watch"] not in _NOT_TRUE and not route.subresource
        verb = "watch" if watching else "get" if name else "list"
        if not name and "fieldSelector" in query:
            name = _selected(query["fieldSelector"])
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = _VERBS.get(method, method.lower())
    namespace = route.namespace or ""
    if route.plural == "namespaces" and not route.group:
        namespace = route.name
    return Attributes(user, verb, route.group, route.version, route.plural, route.subresource, namespace, name, path)


def _selected(selector: str) -> str:
    """The name in `metadata.name=x`: a LIST of one object is about that object."""
    terms = [term.partition("=") for term in selector.split(",")]
    return next((value.lstrip("=") for key, _, value in terms if key.strip() == "metadata.name"), "")


def forbidden(asked: Attributes, reason: str = "") -> errors.StatusError:
    """403 in upstream's words (handlers/responsewriters/errors.go)."""
    why = f"{asked.sentence()}: {reason}" if reason else asked.sentence()
    return errors.forbidden(asked.group, asked.resource, asked.name, why)
