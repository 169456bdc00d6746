"""The whole API: who asks, what the path means, and the fixed documents beside the resources (health, version, discovery,
OpenAPI, metrics)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from apiserver import authentication, discovery, errors, openapi
from apiserver.http import routes
from apiserver.http.exchange import Answer, Reply, Request, json_answer
from apiserver.http.verbs import Verbs
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
        self, verbs: Verbs, metrics: CollectorRegistry, live: Mapping[str, Check], ready: Mapping[str, Check]
    ) -> None:
        self._verbs = verbs
        self._metrics = metrics
        self._health = {"/healthz": live, "/livez": live, "/readyz": {**live, **ready}}

    async def dispatch(self, request: Request) -> Reply:
        authentication.admit(request.user, request.path)
        route = routes.parse(request.path)
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
        return _document(path, request)

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


def _document(path: str, request: Request) -> Answer:
    """Discovery and OpenAPI, which are functions of the schema table; a known ETag is answered 304."""
    wanted = request.headers.get("Accept", "")
    found = discovery.document(path, wanted) or openapi.document(path, request.query, wanted)
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
