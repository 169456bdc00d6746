"""Client certificates: the CN is the user, each O a group.

The TLS layer has verified the certificate against --client-ca-file; here its names are only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apiserver.authentication.user import ANONYMOUS, AUTHENTICATED, User


def user_of(certificate: Mapping[str, Any] | None) -> User:
    """`certificate` is what ssl's getpeercert() gives."""
    if not certificate:
        return ANONYMOUS
    pairs = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(name, (*groups, AUTHENTICATED)) if name else ANONYMOUS
