"""What is at paths that are no resources: health, version, metrics, discovery, OpenAPI, and the keys of our tokens."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from apiserver import errors, health
from apiserver.discovery import Discovery
from apiserver.health import Check, Report
from apiserver.http.exchange import Answer, Reply, Request, json_answer
from apiserver.openapi import OpenApi
from apiserver.schema import ResourceInfo
from kube.version import GIT_VERSION, MAJOR, MINOR

Document = Callable[[str, Request], Awaitable[Answer | None]]

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PREVIOUS: Final = str(int(MINOR) - 1)
VERSION: Final = {
    "major": MAJOR,
    "minor": MINOR,
    "emulationMajor": MAJOR,
    "emulationMinor": MINOR,
    "minCompatibilityMajor": MAJOR,
    "minCompatibilityMinor": _PREVIOUS,
    "gitVersion": GIT_VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": f"python{platform.python_version()}",
    "compiler": "cpython",
    "platform": f"linux/{_MACHINES.get(platform.machine(), platform.machine())}",
}
_FIXED: Final = (
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/version",
)
_TEXT: Final = "text/plain; charset=utf-8"
log = logging.getLogger(__name__)


class Documents:
    """`live` and `ready` are named checks; readiness includes liveness. `rows` are what discovery offers, `more` the
    documents that others answer."""

    def __init__(
        self,
        rows: Sequence[ResourceInfo],
        metrics: CollectorRegistry,
        live: Mapping[str, Check],
        ready: Mapping[str, Check],
        more: Document,
    ) -> None:
        self._discovery, self._openapi = Discovery(rows), OpenApi(rows)
        self._metrics = metrics
        self._health = {"healthz": live, "livez": live, "readyz": {**live, **ready}}
        self._more = more
        self._failing: dict[str, tuple[str, ...]] = {}
        self._paths = _paths(rows, self._health)

    async def get(self, request: Request) -> Reply:
        """Raises 404."""
        path = request.path.rstrip("/")
        if request.method not in ("GET", "HEAD"):
            raise errors.unknown_path()
        match path:
            case "" | "/index.html":
                return json_answer({"paths": self._paths})
            case "/version":
                return json_answer(VERSION)
            case "/metrics":
                return Answer(200, generate_latest(self._metrics), CONTENT_TYPE_LATEST)
            case _:
                found = await self._healthy(path, request)
                return found or await self._more(path, request) or await self._described(path, request)

    async def _healthy(self, path: str, request: Request) -> Answer | None:
        root, _, one = path.removeprefix("/").partition("/")
        checks = self._health.get(root)
        if checks is None or (one and one not in checks):
            return None
        if one:
            return _health_answer(await health.single(checks[one]))
        found = await health.report(root, checks, request.raw_query)
        if found.failed != self._failing.get(root, ()):
            self._failing[root] = found.failed
            log.info("%s: %s", root, "; ".join(found.failed) or "all checks pass again")
        return _health_answer(found)

    async def _described(self, path: str, request: Request) -> Answer:
        """Discovery and OpenAPI, which are functions of the schema table; a known ETag is answered 304."""
        wanted = request.headers.get("Accept", "")
        found = self._discovery.document(path, wanted)
        if found is None and path.startswith("/openapi/"):  # making one takes 0.1 s the first time: beside the loop
            found = await asyncio.to_thread(self._openapi.document, path, request.query, wanted)
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


def _health_answer(found: Report) -> Answer:
    return Answer(200 if found.healthy else 500, found.text.encode(), _TEXT, {"X-Content-Type-Options": "nosniff"})


def _paths(rows: Sequence[ResourceInfo], checks: Mapping[str, Mapping[str, Check]]) -> tuple[str, ...]:
    """The index at `/`."""
    groups = {f"/apis/{one.group}" for one in rows if one.group}
    versions = {f"/apis/{one.group}/{one.version}" for one in rows if one.group}
    healthy = {f"/{root}/{name}".rstrip("/") for root, named in checks.items() for name in ("", *named)}
    return tuple(sorted({*_FIXED, *groups, *versions, *healthy}))
