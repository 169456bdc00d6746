"""Acting as somebody else: `kubectl --as`, `--as-group`, `--as-uid`, `--as-user-extra`.

Each piece of the wanted identity is a question to the authorizer, with the verb `impersonate` on `users`, `groups`,
`serviceaccounts`, `uids` and `userextras/KEY` (endpoints/filters/impersonation.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from apiserver import authorization, errors
from apiserver.authentication.user import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    User,
    account_groups,
    account_of,
)
from apiserver.authorization import Attributes, Authorizer

_HEADERS: Final = frozenset({"impersonate-user", "impersonate-group", "impersonate-uid"})
_EXTRA: Final = "impersonate-extra-"
_GROUP: Final = "authentication.k8s.io"


def asked_for(headers: Mapping[str, str]) -> bool:
    """Whether there is any wish, half a one too."""
    return any(key[:12].lower() == "impersonate-" and _asks(key.lower()) for key in headers)


def _asks(key: str) -> bool:
    return key in _HEADERS or key.startswith(_EXTRA)


def acting(user: User, headers: Mapping[str, str], authorizer: Authorizer) -> User:
    """Whom `user` acts as. Raises 400 for half a wish and 403 for one that is not granted."""
    wanted = _wanted(headers)
    for asked in _questions(user, wanted):
        decision = authorizer.decide(asked)
        if not decision.allowed:
            raise authorization.forbidden(asked, decision.reason)
    return _completed(wanted)


def _wanted(headers: Mapping[str, str]) -> User:
    name, uid, groups, extra = "", "", [], dict[str, list[str]]()
    for key, value in headers.items():
        match key.lower():
            case "impersonate-user":
                name = value
            case "impersonate-uid":
                uid = value
            case "impersonate-group":
                groups.append(value)
            case other if other.startswith(_EXTRA):
                extra.setdefault(unquote(other.removeprefix(_EXTRA)), []).append(value)
            case _:
                pass
    if not name:
        raise errors.bad_request(
            "requested impersonation of groups, a UID or extra fields without impersonating a user"
        )
    return User(name, tuple(groups), uid, tuple((key, tuple(values)) for key, values in extra.items()))


def _questions(user: User, wanted: User) -> Iterator[Attributes]:
    account = account_of(wanted.name)
    if account:
        namespace, name = account
        yield Attributes(user, "impersonate", "", "v1", "serviceaccounts", namespace=namespace, name=name)
    else:
        yield Attributes(user, "impersonate", "", "v1", "users", name=wanted.name)
    for group in wanted.groups:
        yield Attributes(user, "impersonate", "", "v1", "groups", name=group)
    for key, values in wanted.extra:
        for value in values:
            yield Attributes(user, "impersonate", _GROUP, "v1", "userextras", key, name=value)
    if wanted.uid:
        yield Attributes(user, "impersonate", _GROUP, "v1", "uids", name=wanted.uid)


def _completed(wanted: User) -> User:
    """With the groups that everybody of that sort has."""
    groups = wanted.groups
    account = account_of(wanted.name)
    if account and not groups:
        groups = account_groups(account[0])
    sort = UNAUTHENTICATED if wanted.name == ANONYMOUS.name or UNAUTHENTICATED in groups else AUTHENTICATED
    if sort not in groups:
        groups = (*groups, sort)
    return User(wanted.name, groups, wanted.uid, wanted.extra)
