"""The whole API: who asks, what the path means, and the fixed documents beside the resources (health, version, discovery,
OpenAPI, metrics)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from apiserver import authorization, errors, schema
from apiserver.authentication import impersonation
from apiserver.authentication.request import without_proof
from apiserver.discovery import Discovery
from apiserver.http import routes
from apiserver.http.exchange import Answer, Reply, Request, json_answer
from apiserver.http.reviews import Reviews
from apiserver.http.routes import Route
from apiserver.http.verbs import Verbs
from apiserver.openapi import OpenApi
from kube.version import GIT_VERSION, MAJOR, MINOR

Check = Callable[[], str | None]  # None when all is well, else what is not

VERSION: Final = {
    "major": MAJOR,
    "minor": MINOR,
    "gitVersion": GIT_VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": "linux",
}


PATHS: Final = ("/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version")


class Api:
    """`ready` and `live` are named checks; readiness includes liveness."""

    def __init__(
        self,
        verbs: Verbs,
        reviews: Reviews,
        metrics: CollectorRegistry,
        live: Mapping[str, Check],
        ready: Mapping[str, Check],
    ) -> None:
        self._verbs = verbs
        self._reviews = reviews
        self._access = reviews.access
        self._metrics = metrics
        offered = tuple(schema.offered(schema.served(), verbs.subresources, verbs.creations))
        self._discovery, self._openapi = Discovery(offered), OpenApi(offered)
        self._health = {"/healthz": live, "/livez": live, "/readyz": {**live, **ready}}

    async def dispatch(self, request: Request) -> Reply:
        request = await self._identified(request)
        route = routes.parse(request.path)
        asked = authorization.attributes(request.user, request.method, request.path, request.query, route)
        decision = self._access.authorizer.decide(asked)
        if not decision.allowed:
            raise authorization.forbidden(asked, decision.reason)
        return await self._served(route, request)

    async def _identified(self, request: Request) -> Request:
        """With the user that its certificate or token names, or whom that one acts as. Raises 401, 403."""
        user = await self._access.authenticator.user(request.user, request.headers)
        if impersonation.asked_for(request.headers):
            user = impersonation.acting(user, request.headers, self._access.authorizer)
        if user is request.user:
            return request
        return replace(request, user=user, headers=without_proof(request.headers))

    async def _served(self, route: Route | None, request: Request) -> Reply:
        if route is not None:
            return await self._verbs.handle(route, request)
        path = request.path.rstrip("/")
        if request.method not in ("GET", "HEAD"):
            raise errors.unknown_path()
        if not path:
            return json_answer({"paths": PATHS})
        if path == "/version":
            return json_answer(VERSION)
        if path == "/metrics":
            return Answer(200, generate_latest(self._metrics), CONTENT_TYPE_LATEST)
        if found := self._healthy(path, request):
            return found
        return self._reviews.document(path, request) or self._document(path, request)

    def _healthy(self, path: str, request: Request) -> Answer | None:
        """`/readyz`, `/readyz?verbose`, and single checks such as `/readyz/cache`."""
        root, _, one = path.removeprefix("/").partition("/")
        checks = self._health.get(f"/{root}")
        if checks is None or (one and one not in checks):
            return None
        excluded = request.query.get("exclude", "")
        results = {name: check() for name, check in checks.items() if (not one or name == one) and name != excluded}
        failed = any(results.values())
        if not failed and "verbose" not in request.query:
            return Answer(200, b"ok", "text/plain; charset=utf-8")
        lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in results.items()]
        lines.append(f"{root} check {'failed' if failed else 'passed'}")
        text = "\n".join(lines) + "\n"
        return Answer(500 if failed else 200, text.encode(), "text/plain; charset=utf-8")

    def _document(self, path: str, request: Request) -> Answer:
        """Discovery and OpenAPI, which are functions of the schema table; a known ETag is answered 304."""
        wanted = request.headers.get("Accept", "")
        found = self._discovery.document(path, wanted) or self._openapi.document(path, request.query, wanted)
        if found is None:
            raise errors.unknown_path()
        headers = dict(found.headers)
        if found.etag:
            headers["ETag"] = found.etag
        if found.etag and found.etag == request.headers.get("If-None-Match"):
            return Answer(304, b"", found.content_type, headers)
        if "gzip" in request.headers.get("Accept-Encoding", "") and len(found.body) > len(found.gzipped) > 0:
            return Answer(200, found.gzipped, found.content_type, headers | {"Content-Encoding": "gzip"})
        return Answer(200, found.body, found.content_type, headers)
