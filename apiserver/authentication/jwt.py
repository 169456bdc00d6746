"""JSON Web Tokens as ServiceAccounts carry them: header, claims and signature, each base64url, joined by dots (RFC 7515).

Here is only their form; who signs and who is believed is in `keys`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import orjson

Claims = dict[str, Any]
LONGEST: Final = 64 << 10


class Unbelievable(ValueError):
    """Not a token, or not one that any of our keys has signed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A token's parts; `signed` is what the signature is about. Nothing in it is proved."""

    header: dict[str, Any]
    claims: Claims
    signed: bytes
    signature: bytes

    @property
    def issuer(self) -> str:
        issuer = self.claims.get("iss")
        return issuer if isinstance(issuer, str) else ""


def parse(token: str) -> Shown:
    """Raises Unbelievable."""
    if len(token) > LONGEST:
        raise Unbelievable("too long")
    try:
        head, body, signature = token.split(".")
        header, claims = orjson.loads(decoded(head)), orjson.loads(decoded(body))
        signed, raw = f"{head}.{body}".encode("ascii"), decoded(signature)
    except ValueError as error:
        raise Unbelievable(f"not a token: {error}") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Unbelievable("not a token: header and claims are objects")
    return Shown(header, claims, signed, raw)


def unsigned(header: dict[str, Any], claims: Claims) -> bytes:
    """The first two parts, which the third signs."""
    return f"{encoded(orjson.dumps(header))}.{encoded(orjson.dumps(claims))}".encode()


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Raises Unbelievable."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unbelievable(f"not base64url: {error}") from error
