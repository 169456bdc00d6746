"""Who is asking: the client certificate's CN is the user, each O a group; without one, anonymous.

The TLS layer has verified the certificate against --client-ca-file; here its names are only read. Until there is
authorization every authenticated user may do everything, and anonymous may ask how we are and what we are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from apiserver import errors

ANONYMOUS_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz", "/version"})


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()


SERVER: Final = User("system:apiserver", ("system:masters", "system:authenticated"))  # its own writes
ANONYMOUS: Final = User("system:anonymous", ("system:unauthenticated",))


def user_of(certificate: Mapping[str, Any] | None) -> User:
    """`certificate` is what ssl's getpeercert() gives."""
    if not certificate:
        return ANONYMOUS
    pairs = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(name, (*groups, "system:authenticated")) if name else ANONYMOUS


def admit(user: User, path: str) -> None:
    """Raises 401 for what anonymous may not see."""
    path = path.rstrip("/")
    known = path in ANONYMOUS_PATHS or path.rpartition("/")[0] in {"/healthz", "/livez", "/readyz"}
    if user == ANONYMOUS and not known:
        raise errors.unauthorized()
