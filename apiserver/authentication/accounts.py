"""ServiceAccount tokens: what they claim, and whether it still holds.

    {"iss": ..., "aud": [...], "sub": "system:serviceaccount:NAMESPACE:NAME", "exp", "iat", "nbf", "jti",
     "kubernetes.io": {"namespace", "serviceaccount": {"name", "uid"}, "pod"|"secret"|"node": {"name", "uid"}, "warnafter"}}

A token is good as long as the account it names lives with the uid it names, and as long as the object it is bound to does:
a pod's token dies with the pod. That is looked up at every use (pkg/serviceaccount/claims.go); what is being deleted counts
as gone a minute after its time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from apiserver.authentication.jwt import Claims, Unbelievable
from apiserver.authentication.user import AUTHENTICATED, User, account_groups, account_user
from apiserver.cache import Entry

LEEWAY: Final = 60.0
PRIVATE: Final = "kubernetes.io"
_EXTRA: Final = "authentication.kubernetes.io"

Look = Callable[[str, str, str], Entry | None]
"""(plural, namespace, name) of a core resource -> the object as it is now."""


class Refused(Exception):
    """A token of ours that is not good (any more); the text says why, for reviews and logs."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An object by name, and by the uid that it must have; an empty uid is not checked."""

    plural: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token says. `bound` are the pod, secret or node it lives with; a pod's node comes along as a fact.
    Times are seconds since 1970."""

    namespace: str
    account: Ref
    audiences: tuple[str, ...]
    not_before: int
    expires: int
    jti: str
    bound: tuple[Ref, ...] = ()
    warn_after: int = 0

    def claims(self, issuer: str) -> Claims:
        private: Claims = {
            "namespace": self.namespace,
            "serviceaccount": {"name": self.account.name, "uid": self.account.uid},
        }
        for one in self.bound:
            private[_SINGULAR[one.plural]] = {"name": one.name} | ({"uid": one.uid} if one.uid else {})
        if self.warn_after:
            private["warnafter"] = self.warn_after
        return {
            "aud": list(self.audiences),
            "exp": self.expires,
            "iat": self.not_before,
            "iss": issuer,
            "jti": self.jti,
            PRIVATE: private,
            "nbf": self.not_before,
            "sub": account_user(self.namespace, self.account.name),
        }

    def user(self) -> User:
        extra = {"credential-id": f"JTI={self.jti}"} if self.jti else {}
        for one in self.bound:
            if one.plural in ("pods", "nodes"):
                extra |= {f"{_SINGULAR[one.plural]}-name": one.name}
                extra |= {f"{_SINGULAR[one.plural]}-uid": one.uid} if one.uid else {}
        return User(
            account_user(self.namespace, self.account.name),
            (*account_groups(self.namespace), AUTHENTICATED),
            self.account.uid,
            tuple((f"{_EXTRA}/{key}", (value,)) for key, value in sorted(extra.items())),
        )


_SINGULAR: Final = {"pods": "pod", "secrets": "secret", "nodes": "node"}


def new_id() -> str:
    return str(uuid.uuid4())


def grant_of(claims: Claims) -> Grant:
    """Raises Unbelievable for claims that no issuer of ours writes."""
    private = claims.get(PRIVATE)
    if not isinstance(private, dict):
        raise Unbelievable("no kubernetes.io claims")
    try:
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        grant = Grant(
            _text(private, "namespace"),
            _ref("serviceaccounts", private["serviceaccount"]),
            tuple(str(one) for one in audiences),
            int(claims.get("nbf") or claims.get("iat") or 0),
            int(claims["exp"]),
            str(claims.get("jti", "")),
            tuple(_ref(plural, private[key]) for plural, key in _SINGULAR.items() if private.get(key)),
            int(private.get("warnafter") or 0),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unbelievable(f"claims of another shape: {error!r}") from error
    if claims.get("sub") != account_user(grant.namespace, grant.account.name):
        raise Unbelievable("sub is not the account of the private claims")
    return grant


def _ref(plural: str, claim: Claims) -> Ref:
    return Ref(plural, _text(claim, "name"), str(claim.get("uid", "")))


def _text(claim: Claims, key: str) -> str:
    value = claim[key]
    if not isinstance(value, str) or not value:
        raise ValueError(key)
    return value


def check_times(grant: Grant, now: float) -> None:
    """Raises Refused."""
    if now - LEEWAY > grant.expires:
        raise Refused("service account token has expired")
    if now + LEEWAY < grant.not_before:
        raise Refused("service account token is not valid yet")


Seen = tuple[str, str, str, Entry | None]
"""Plural, namespace and name of an object, and the object; None when its state may change by time alone."""


@dataclass(frozen=True, slots=True)
class Life:
    """Looks after what tokens depend on."""

    look: Look

    def check(self, grant: Grant, now: float) -> tuple[Seen, ...]:
        """The objects the token depends on, as they are now. Raises Refused."""
        found = []
        for ref in _dependencies(grant):
            namespace = _namespace(ref, grant)
            entry = _examine(ref, self.look(ref.plural, namespace, ref.name), grant, now)
            found.append((ref.plural, namespace, ref.name, entry))
        return tuple(found)

    def unchanged(self, seen: tuple[Seen, ...]) -> bool:
        """Whether what a check found is still the same, so that another one would find the same."""
        look = self.look
        for plural, namespace, name, entry in seen:
            if entry is None or look(plural, namespace, name) is not entry:
                return False
        return bool(seen)


def _dependencies(grant: Grant) -> tuple[Ref, ...]:
    """The node of a pod's token goes without saying: the pod would have to be another one to be on another node."""
    pod = any(one.plural == "pods" for one in grant.bound)
    return (grant.account, *(one for one in grant.bound if not (pod and one.plural == "nodes")))


def _namespace(ref: Ref, grant: Grant) -> str:
    return "" if ref.plural == "nodes" else grant.namespace


def _examine(ref: Ref, entry: Entry | None, grant: Grant, now: float) -> Entry | None:
    """The entry when it may be remembered, None when it must be looked at again. Raises Refused."""
    account = ref.plural == "serviceaccounts"
    if entry is None:
        raise Refused(
            f'serviceaccounts "{ref.name}" not found' if account else "service account token has been invalidated"
        )
    metadata: dict[str, Any] = entry.parse()["metadata"]
    if ref.uid and metadata["uid"] != ref.uid:
        if account:
            raise Refused(f"service account UID ({metadata['uid']}) does not match claim ({ref.uid})")
        what = _SINGULAR[ref.plural]
        raise Refused(f"{what} UID ({metadata['uid']}) does not match service account {what} ref claim ({ref.uid})")
    deleted = metadata.get("deletionTimestamp")
    if deleted is None:
        return entry
    if datetime.fromisoformat(deleted).timestamp() < now - LEEWAY:
        name = f"service account {grant.namespace}/{ref.name}" if account else _SINGULAR[ref.plural]
        raise Refused(f"{name} has been deleted")
    return None
