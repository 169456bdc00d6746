"""Who somebody is, once it is known: upstream's user.Info as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MASTERS: Final = "system:masters"
AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
SERVICE_ACCOUNTS: Final = "system:serviceaccounts"

Extra = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Extra = ()

    @property
    def anonymous(self) -> bool:
        return UNAUTHENTICATED in self.groups

    def info(self) -> dict[str, Any]:
        """As `authentication.k8s.io/v1 UserInfo`; also the form of audit events."""
        shown: dict[str, Any] = {"username": self.name}
        if self.uid:
            shown["uid"] = self.uid
        if self.groups:
            shown["groups"] = list(self.groups)
        if self.extra:
            shown["extra"] = {key: list(values) for key, values in self.extra}
        return shown


SERVER: Final = User("system:apiserver", (MASTERS, AUTHENTICATED))  # its own writes
ANONYMOUS: Final = User("system:anonymous", (UNAUTHENTICATED,))


def account_user(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def account_groups(namespace: str) -> tuple[str, ...]:
    return (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}")


def account_of(user: str) -> tuple[str, str] | None:
    """The namespace and name of the ServiceAccount that a user name means, or None."""
    match user.split(":"):
        case ["system", "serviceaccount", namespace, name] if namespace and name:
            return namespace, name
        case _:
            return None
