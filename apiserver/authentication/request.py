"""The proof in a request: what its headers show beside the certificate that TLS has seen.

    Authorization: Bearer TOKEN
    Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.TOKEN64, v5.channel.k8s.io    (browsers have no headers)

A certificate goes before a token, as upstream's order has it. Any other use of `Authorization` (Basic, Negotiate) is one that
we cannot serve, and refusing says so sooner than answering a stranger's questions as anonymous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict

from apiserver import errors
from apiserver.authentication.accounts import Refused
from apiserver.authentication.jwt import Unbelievable, decoded
from apiserver.authentication.tokens import Tokens
from apiserver.authentication.user import ANONYMOUS, User

PROTOCOLS: Final = "Sec-WebSocket-Protocol"
BEARER_PROTOCOL: Final = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True)
class Authenticator:
    """`anonymous`: whether who shows nothing is anonymous, or nobody (--anonymous-auth)."""

    tokens: Tokens
    anonymous: bool = True

    async def user(self, certified: User, headers: Mapping[str, str]) -> User:
        """`certified` is whom the certificate names. Raises 401."""
        if certified is not ANONYMOUS and certified != ANONYMOUS:
            return certified
        token = bearer(headers)
        if token is not None:
            try:
                return (await self.tokens.who(token)).user
            except Refused as refused:
                raise Unproven(str(refused)) from refused
        if not self.anonymous:
            raise Unproven("no credentials, and --anonymous-auth=false")
        return ANONYMOUS


class Unproven(errors.StatusError):
    """401. The client is told nothing else; `why` is for those who run the server."""

    def __init__(self, why: str) -> None:
        super().__init__(401, "Unauthorized", "Unauthorized")
        self.why = why


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token shown, None when there is none. Raises 401 for a proof of another kind."""
    shown = headers.get("Authorization")
    if shown is not None and (shown := shown.strip()):
        scheme, _, token = shown.partition(" ")
        if scheme.lower() != "bearer":
            raise Unproven(f"Authorization: {scheme[:20]} is not served")
        if not token.strip():
            raise Unproven("an empty bearer token")
        return token.strip()
    offered = headers.get(PROTOCOLS)
    if offered is None or BEARER_PROTOCOL not in offered:
        return None
    protocols = [one.strip() for one in offered.split(",")]
    tokens = [one.removeprefix(BEARER_PROTOCOL) for one in protocols if one.startswith(BEARER_PROTOCOL)]
    if len(tokens) != 1:
        raise Unproven("multiple base64.bearer.authorization tokens specified")
    if len(protocols) == 1:
        raise Unproven("missing additional subprotocol")
    try:
        return decoded(tokens[0].rstrip("=")).decode()
    except (Unbelievable, UnicodeDecodeError):
        raise Unproven("invalid base64.bearer.authorization token encoding") from None


def without_proof(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers without a token in the subprotocols, which is nothing to choose, echo or pass on."""
    offered = headers.get(PROTOCOLS)
    if offered is None or BEARER_PROTOCOL not in offered:
        return headers
    rest = CIMultiDict(headers.items())
    kept = [one.strip() for one in offered.split(",") if not one.strip().startswith(BEARER_PROTOCOL)]
    rest[PROTOCOLS] = ", ".join(kept)
    return rest
