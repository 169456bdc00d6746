"""Who asks, and may they?

    who     a client certificate of the cluster's CA       CN and Os
            a bearer token                                 TokenReview, where authentication.webhook is on; kept for cacheTTL
            neither                                        system:anonymous, where anonymous.enabled; else 401

    may     each path is a subresource of this Node        /metrics/... -> nodes/metrics, /exec/... -> nodes/proxy
            Webhook                                        SubjectAccessReview: yes is kept 5 minutes, no 30 seconds
            AlwaysAllow                                    whoever is somebody

Where a finer subresource exists (pods, healthz, configz) it is asked for first and `proxy` after it. Members of
system:masters are let through without a question: every kube-apiserver does so before it looks at any rule, and logs and
exec then work while the API is away. (Upstream: pkg/kubelet/server/auth.go.)
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from kube.errors import ApiError, ApiUnreachable

log = logging.getLogger(__name__)

T = TypeVar("T")
Review = Callable[
    [str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]
]  # POST to a path; raises ApiError, ApiUnreachable
Mode = Literal["Webhook", "AlwaysAllow"]

TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_MASTERS: Final = "system:masters"
_AUTHENTICATED: Final = "system:authenticated"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # nobody was ever given another
_KEPT: Final = 4096  # answers, before the oldest are forgotten
_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


ANONYMOUS: Final = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Seconds; upstream's defaults."""

    anonymous: bool = False
    tokens: bool = True
    token_ttl: float = 120.0
    mode: Mode = "Webhook"
    allowed_ttl: float = 300.0
    denied_ttl: float = 30.0


@dataclass(frozen=True, slots=True)
class Denied:
    """An HTTP status and upstream's words."""

    status: int
    message: str


class _Kept(Generic[T]):
    """Answers with an end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: dict[object, tuple[float, T]] = {}

    def get(self, key: object) -> T | None:
        until, answer = self._answers.get(key, (0.0, None))
        return answer if until > self._clock() else None

    def put(self, key: object, answer: T, seconds: float) -> None:
        if seconds <= 0:
            return
        self._answers.pop(key, None)
        self._answers[key] = (self._clock() + seconds, answer)
        while len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]


class Access:
    """One a kubelet. `review` posts to the API server."""

    def __init__(
        self, node: str, policy: Policy, review: Review, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._policy = policy
        self._review = review
        self._users: _Kept[tuple[User | None]] = _Kept(clock)
        self._decisions: _Kept[bool] = _Kept(clock)

    async def who(self, certificate: Mapping[str, Any] | None, authorization: str) -> User | None:
        """From what TLS verified and the Authorization header; None is nobody."""
        if certificate and (user := of_certificate(certificate)) is not None:
            return user
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and self._policy.tokens and _TOKEN.fullmatch(token.strip()):
            return await self._of_token(token.strip())
        return ANONYMOUS if self._policy.anonymous and not authorization else None

    async def _of_token(self, token: str) -> User | None:
        key = hashlib.sha256(token.encode()).digest()  # a heap dump tells no tokens
        known = self._users.get(key)
        if known is not None:
            return known[0]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        try:
            status = (await self._review(TOKEN_REVIEWS, body)).get("status") or {}
        except (ApiError, ApiUnreachable) as error:
            log.warning("who has this token? The API server does not say: %s", error)
            return None
        user = _user_of(status.get("user") or {}) if status.get("authenticated") else None
        self._users.put(key, (user,), self._policy.token_ttl)
        return user

    async def refused(self, user: User, method: str, path: str) -> Denied | None:
        """None when they may."""
        verb, subresources = question(method, path)
        if self._policy.mode == "AlwaysAllow" or _MASTERS in user.groups:
            return None
        for subresource in subresources:
            try:
                if await self._may(user, verb, subresource):
                    return None
            except (ApiError, ApiUnreachable) as error:
                about = f"user={user.name}, verb={verb}, resource=nodes, subresource={subresource}"
                log.warning("Authorization error (%s): %s", about, error)
                return Denied(500, f"Authorization error ({about})")
        tried = " ".join(subresources)
        about = f"user={user.name}, verb={verb}, resource=nodes, subresource(s)=[{tried}]"
        return Denied(403, f"Forbidden ({about})\n")

    async def _may(self, user: User, verb: str, subresource: str) -> bool:
        key = (user, tuple(sorted(user.extra.items())), verb, subresource)
        known = self._decisions.get(key)
        if known is not None:
            return known
        attributes = {
            "verb": verb,
            "version": "v1",
            "resource": "nodes",
            "subresource": subresource,
            "name": self._node,
        }
        spec: dict[str, Any] = {"user": user.name, "groups": list(user.groups), "resourceAttributes": attributes}
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {name: list(values) for name, values in user.extra.items()}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = (await self._review(ACCESS_REVIEWS, body)).get("status") or {}
        allowed = bool(status.get("allowed")) and not status.get("denied")
        self._decisions.put(key, allowed, self._policy.allowed_ttl if allowed else self._policy.denied_ttl)
        return allowed


def of_certificate(certificate: Mapping[str, Any]) -> User | None:
    """`certificate` is what ssl's getpeercert() gives of a verified one. Without a name it is nobody's."""
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = [value for key, value in pairs if key == "organizationName"]
    return User(name, _with_authenticated(groups)) if name else None


def _user_of(found: Mapping[str, Any]) -> User:
    extra = {str(name): tuple(values or ()) for name, values in (found.get("extra") or {}).items()}
    groups = _with_authenticated(list(found.get("groups") or ()))
    return User(found.get("username", ""), groups, found.get("uid", ""), extra)


def _with_authenticated(groups: list[str]) -> tuple[str, ...]:
    return tuple(groups) if _AUTHENTICATED in groups else (*groups, _AUTHENTICATED)


def question(method: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The verb, and the subresources of the Node of which one must be allowed, finest first."""
    verb = _VERBS.get(method, method.lower())
    for prefix, subresource in (("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log")):
        if _below(path, prefix):
            return verb, (subresource,)
    for prefix, subresource in (
        ("/pods", "pods"),
        ("/runningpods", "pods"),
        ("/healthz", "healthz"),
        ("/configz", "configz"),
    ):
        if _below(path, prefix):
            return verb, (subresource, "proxy")
    return verb, ("proxy",)


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
