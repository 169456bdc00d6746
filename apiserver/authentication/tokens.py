"""A bearer token -> who that is.

Looked at in this order: the static file, then as a JSON Web Token of an issuer of ours. A signature is checked once and the
outcome remembered by the token's hash; its times and what it is bound to are checked at every use. A dependency that is not
there may only not be there *yet*: another server may have made it, so before refusing we wait until our cache has seen what
the store has now, and look once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from apiserver.authentication import accounts, jwt
from apiserver.authentication.accounts import Grant, Life, Refused, Seen
from apiserver.authentication.user import User

REMEMBERED: Final = 4096
UNKNOWN: Final = "invalid bearer token"


@dataclass(frozen=True, slots=True)
class Known:
    """Who shows the token, and for which of the asked audiences it is good."""

    user: User
    audiences: tuple[str, ...]


@dataclass(slots=True)
class _Memory:
    grant: Grant
    known: Known
    seen: tuple[Seen, ...] = ()


class Ring(Protocol):
    """The keys that are believed (`keys.Ring`, which is loaded when it is first asked for)."""

    def claims(self, token: str) -> jwt.Claims: ...


class Tokens:
    """`catch_up` waits until the cache shows what the store has. `audiences` are the server's own. `valid` counts the uses of
    ServiceAccount tokens, `stale` those by clients that should have read a newer one (see `issuing`)."""

    def __init__(
        self,
        ring: Callable[[], Awaitable[Ring]],
        issuers: tuple[str, ...],
        audiences: tuple[str, ...],
        static: Mapping[str, User],
        life: Life,
        catch_up: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self.audiences = audiences
        self._ring = ring
        self._issuers = frozenset(issuers)
        self._static = {_hash(token): user for token, user in static.items()}
        self._life = life
        self.catch_up = catch_up
        self._clock = clock
        self._memory: dict[bytes, _Memory] = {}
        self.valid = self.stale = 0

    async def who(self, token: str, audiences: tuple[str, ...] = ()) -> Known:
        """For the server's own audiences when none are asked for. Raises Refused."""
        wanted = audiences or self.audiences
        digest = _hash(token)
        if user := self._static.get(digest):
            return Known(user, wanted)
        memory = self._memory.get(digest) or await self._believed(token, digest)
        known = memory.known
        if audiences or not known.audiences:
            known = Known(known.user, _good_for(memory.grant, wanted))
        now = self._clock()
        accounts.check_times(memory.grant, now)
        if not self._life.unchanged(memory.seen):
            try:
                memory.seen = self._life.check(memory.grant, now)
            except Refused:
                await self.catch_up()
                memory.seen = self._life.check(memory.grant, self._clock())
        self.valid += 1
        if 0 < memory.grant.warn_after < now:
            self.stale += 1
        return known

    async def _believed(self, token: str, digest: bytes) -> _Memory:
        try:
            if jwt.parse(token).issuer not in self._issuers:
                raise Refused(UNKNOWN)
            grant = accounts.grant_of((await self._ring()).claims(token))
        except jwt.Unbelievable as error:
            raise Refused(f"{UNKNOWN}: {error}") from error
        accounts.check_times(grant, self._clock())
        while len(self._memory) >= REMEMBERED:
            del self._memory[next(iter(self._memory))]
        good_for = tuple(one for one in grant.audiences if one in self.audiences)
        memory = self._memory[digest] = _Memory(grant, Known(grant.user(), good_for))
        return memory


def _good_for(grant: Grant, wanted: tuple[str, ...]) -> tuple[str, ...]:
    good_for = tuple(one for one in grant.audiences if one in wanted)
    if not good_for:
        ours, theirs = _listed(grant.audiences), _listed(wanted)
        raise Refused(f"token audiences {ours} is invalid for the target audiences {theirs}")
    return good_for


def _listed(audiences: tuple[str, ...]) -> str:
    return f"[{' '.join(orjson.dumps(one).decode() for one in audiences)}]"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
