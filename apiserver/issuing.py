"""TokenRequest: a ServiceAccount's token, made to order (registry/core/serviceaccount/storage/token.go).

The asked lifetime is 10 minutes at least; a token may be bound to a pod, secret or node and dies with it. Clients that read
their token only once are older than bound tokens: for a pod's own token, which admission asks for with 3607 seconds, the
server writes a token that lives a year, tells `warnafter` in it, and reports the asked time to the kubelet, which renews
by that (--service-account-extend-token-expiration).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from apiserver import errors
from apiserver.authentication import jwt
from apiserver.authentication.accounts import Grant, Look, Ref, new_id
from apiserver.errors import Cause
from apiserver.schema import GVK

Obj = dict[str, Any]

TOKEN_REQUEST: Final = GVK("authentication.k8s.io", "v1", "TokenRequest")
SHORTEST: Final = 600
LONGEST: Final = 1 << 32
USUAL: Final = 3600
WARN_ONLY: Final = 3607  # what admission writes into a pod's own volume, and nobody by chance
EXTENDED: Final = 365 * 24 * 3600
_BINDABLE: Final = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


@dataclass(frozen=True, slots=True)
class Issued:
    body: Obj
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """`longest`: --service-account-max-token-expiration in seconds, 0 for no limit of our own."""

    name: str
    audiences: tuple[str, ...]
    look: Look
    clock: Callable[[], float]
    longest: int = 0
    extend: bool = True

    def issue(self, namespace: str, name: str, asked: Obj, sign: Callable[[jwt.Claims], str]) -> Issued:
        """`asked` is a decoded TokenRequest. Raises StatusErrors."""
        account = self._found("", "serviceaccounts", namespace, name)
        spec = asked.get("spec") or {}
        audiences = tuple(spec.get("audiences") or ()) or self.audiences
        seconds = spec.get("expirationSeconds")
        seconds = USUAL if seconds is None else int(seconds)
        _check(seconds)
        bound = self._bound(spec.get("boundObjectRef"), namespace, name)
        warnings: tuple[str, ...] = ()
        if 0 < self.longest < seconds:
            warnings = (f"requested expiration of {seconds} seconds shortened to {self.longest} seconds",)
            seconds = self.longest
        now = int(self.clock())
        ours = set(audiences) <= set(self.audiences)
        of_pod = bool(bound) and bound[0].plural == "pods"
        extended = self.extend and seconds == WARN_ONLY and of_pod and ours
        grant = Grant(
            namespace,
            Ref("serviceaccounts", name, account["metadata"]["uid"]),
            audiences,
            now,
            now + (EXTENDED if extended else seconds),
            new_id(),
            bound,
            now + seconds if extended else 0,
        )
        token = sign(grant.claims(self.name))
        return Issued(_answer(asked, namespace, name, audiences, seconds, now, token), warnings)

    def _bound(self, ref: Obj | None, namespace: str, account: str) -> tuple[Ref, ...]:
        if not ref:
            return ()
        kind, version, name = ref.get("kind", ""), ref.get("apiVersion", ""), ref.get("name", "")
        plural = _BINDABLE.get(kind)
        if plural is None or "/" in version:
            group, _, bare = version.rpartition("/")
            raise errors.bad_request(f"cannot bind token to object of type {group}/{bare}, Kind={kind}")
        found = self._found("", plural, "" if plural == "nodes" else namespace, name)
        uid = found["metadata"]["uid"]
        if ref.get("uid") and ref["uid"] != uid:
            why = (
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record."
                " The object might have been deleted and then recreated"
            )
            raise errors.conflict("", kind, name, why)
        first = Ref(plural, name, uid)
        if plural != "pods":
            return (first,)
        pod = found.get("spec") or {}
        if pod.get("serviceAccountName", "") != account:
            raise errors.bad_request(
                f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
            )
        node = pod.get("nodeName")
        if not node:
            return (first,)
        entry = self.look("nodes", "", node)
        return first, Ref("nodes", node, entry.parse()["metadata"]["uid"] if entry else "")

    def _found(self, group: str, plural: str, namespace: str, name: str) -> Obj:
        entry = self.look(plural, namespace, name)
        if entry is None:
            raise errors.not_found(group, plural, name)
        return entry.parse()


def named_as_addressed(asked: Obj, namespace: str, name: str) -> None:
    """Raises 422 for a body that names another account than the URL."""
    metadata = asked.get("metadata") or {}
    for field, wanted in (("name", name), ("namespace", namespace)):
        if metadata.get(field, "") not in ("", wanted):
            rule = f"must match the service account {field} if specified"
            raise _invalid(name, [errors.cause(f"metadata.{field}", errors.INVALID, metadata[field], rule)])


def _check(seconds: int) -> None:
    field = "spec.expirationSeconds"
    if seconds < SHORTEST:
        rule = "may not specify a duration less than 10 minutes"
        raise _invalid("", [errors.cause(field, errors.INVALID, seconds, rule)])
    if seconds > LONGEST:
        rule = "may not specify a duration larger than 2^32 seconds"
        raise _invalid("", [errors.cause(field, errors.INVALID, seconds, rule)])


def _invalid(name: str, causes: list[Cause]) -> errors.StatusError:
    return errors.invalid(TOKEN_REQUEST.group, TOKEN_REQUEST.kind, name, causes)


def _answer(
    asked: Obj, namespace: str, name: str, audiences: tuple[str, ...], seconds: int, now: int, token: str
) -> Obj:
    metadata = (asked.get("metadata") or {}) | {"name": name, "namespace": namespace, "creationTimestamp": _moment(now)}
    spec = (asked.get("spec") or {}) | {"audiences": list(audiences), "expirationSeconds": seconds}
    spec.setdefault("boundObjectRef", None)
    return {
        "kind": TOKEN_REQUEST.kind,
        "apiVersion": TOKEN_REQUEST.api_version,
        "metadata": metadata,
        "spec": spec,
        "status": {"token": token, "expirationTimestamp": _moment(now + seconds)},
    }


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, _LAST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_LAST: Final = 253_402_300_799  # the end of the year 9999
