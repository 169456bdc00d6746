"""The one way in. Every request passes here, in this order:

authenticate   whose certificate or token it is, and whom that one acts as    401, 403
authorize      whether that user may                                          403
audit          from here on what happens to it is written down; so are refusals of who came this far
flow control   a turn, or a wait for one                                      429
serve          the verbs on resources, where every write is admitted, or a document
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

from apiserver import authorization
from apiserver.access import Access
from apiserver.audit.events import Audit
from apiserver.authentication import User, impersonation
from apiserver.authentication.request import Unproven, without_proof
from apiserver.authorization import Attributes, Decision
from apiserver.errors import StatusError
from apiserver.flow import Flow
from apiserver.http import routes
from apiserver.http.documents import Documents
from apiserver.http.ending import Ending
from apiserver.http.exchange import Reply, Request, Stream
from apiserver.http.routes import Route
from apiserver.http.verbs import Verbs

Extension = Callable[[Route, Request], Awaitable[Reply]]
NONE: Final[Mapping[tuple[str, str], Extension]] = {}

log = logging.getLogger(__name__)


class Api:
    """`extensions` answer for groups, by (group, version), that nothing stores."""

    def __init__(
        self,
        access: Access,
        verbs: Verbs,
        documents: Documents,
        flow: Flow,
        audit: Audit | None = None,
        extensions: Mapping[tuple[str, str], Extension] = NONE,
    ) -> None:
        self._access = access
        self._verbs = verbs
        self._documents = documents
        self._flow = flow
        self._audit = audit
        self._told = 0.0
        self._extensions = extensions

    async def dispatch(self, request: Request) -> Reply:
        """Raises StatusErrors."""
        route = routes.parse(request.path)
        proven, user = await self._identified(request, route)
        if user is not request.user:
            request = replace(request, user=user, headers=without_proof(request.headers))
        asked = authorization.attributes(user, request.method, request.path, request.query, route)
        decision = self._access.authorizer.decide(asked)
        record = self._audit.record(request, asked, proven, decision) if self._audit else None
        if record is None:
            return await self._allowed(request, route, asked, decision)
        return await record.follow(lambda recorded: self._allowed(recorded, route, asked, decision))

    async def _identified(self, request: Request, route: Route | None) -> tuple[User, User]:
        """Who has proved who it is, and whom that one acts as: mostly the same. Raises 401, 403."""
        try:
            user = await self._access.authenticator.user(request.user, request.headers)
        except Unproven as unproven:
            self._tell(request, unproven)
            if self._audit:
                asked = authorization.attributes(User(""), request.method, request.path, request.query, route)
                self._audit.refused(request, asked)
            raise
        if not impersonation.asked_for(request.headers):
            return user, user
        try:
            return user, impersonation.acting(user, request.headers, self._access.authorizer)
        except StatusError as error:
            if self._audit:
                asked = authorization.attributes(user, request.method, request.path, request.query, route)
                self._audit.denied(request, asked, user, error)
            raise

    def _tell(self, request: Request, unproven: Unproven) -> None:
        """Why somebody was refused, for those who run the server; once a second, because anybody can ask for it."""
        if (now := monotonic()) - self._told >= 1:
            self._told = now
            log.info("401 for %s %s of %s: %s", request.method, request.path, request.source, unproven.why)

    async def _allowed(self, request: Request, route: Route | None, asked: Attributes, decision: Decision) -> Reply:
        if not decision.allowed:
            raise authorization.forbidden(asked, decision.reason)
        turn = self._flow.enter(asked)
        if turn is None:
            return await self._served(request, route)
        try:
            if not turn.running:
                await turn.wait()
            reply = await self._served(request, route)
            if isinstance(reply, Stream):
                reply, turn = replace(reply, chunks=Ending(reply.chunks, turn.leave)), None  # work until its last chunk
            return reply
        finally:
            if turn is not None:
                turn.leave()

    async def _served(self, request: Request, route: Route | None) -> Reply:
        if route is None:
            return await self._documents.get(request)
        if extension := self._extensions.get((route.group, route.version)):
            return await extension(route, request)
        return await self._verbs.handle(route, request)
