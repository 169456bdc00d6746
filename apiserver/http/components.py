"""`componentstatuses`: who asks is told how the parts of this machine's centre are, now; nothing stores them.

Deprecated since 1.19 because it only looks at the server's own machine, but people still type `kubectl get cs`. As upstream
(pkg/registry/core/componentstatus): the scheduler and the controller manager are asked at their usual ports on 127.0.0.1,
without looking at their certificates; `etcd-0` is our store, whichever it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from apiserver import errors, schema
from apiserver.cache import Entry
from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.routes import Route
from apiserver.http.wire import method_not_allowed, view_of
from apiserver.outward import Outward
from apiserver.registry import Resource

Trouble = Callable[[], Awaitable[str | None]]  # None when all is well, else what is not

COMPONENTS: Final = ("", "v1", "componentstatuses")
WARNING: Final = "v1 ComponentStatus is deprecated in v1.19+"
_PORTS: Final = {"controller-manager": 10257, "scheduler": 10259}
_SECONDS: Final = 2.0


def asking(session: Outward, port: int) -> Trouble:
    """Whether what should listen there says `ok`."""
    url = f"https://127.0.0.1:{port}/healthz"

    async def trouble() -> str | None:
        import aiohttp

        try:
            async with asyncio.timeout(_SECONDS), session.get(url, ssl=False) as answer:
                said = (await answer.text())[:200]
                return None if answer.status == 200 else f"{answer.status}: {said}"
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            return f'Get "{url}": {str(error) or "no answer"}'

    return trouble


def usual(session: Outward, store: Trouble) -> dict[str, Trouble]:
    return {name: asking(session, port) for name, port in _PORTS.items()} | {"etcd-0": store}


class Components:
    def __init__(self, parts: Mapping[str, Trouble]) -> None:
        found = schema.resource(*COMPONENTS)
        assert found is not None
        self._parts = parts
        self._resource = Resource(found, found)

    async def handle(self, route: Route, request: Request) -> Reply:
        if request.method != "GET":
            raise method_not_allowed(self._resource, request)
        if route.namespace is not None or route.subresource or (route.name and route.name not in self._parts):
            unknown = route.namespace is not None or route.subresource
            raise errors.unknown_path() if unknown else errors.not_found("", "componentstatuses", route.name)
        view = view_of(request, self._resource)
        if route.name:
            entry = await self._entry(route.name)
            return json_answer(view.one(entry.body), warnings=(WARNING,))
        entries = await asyncio.gather(*(self._entry(name) for name in sorted(self._parts)))
        return json_answer(b"".join(view.slices(entries, {})), warnings=(WARNING,))

    async def _entry(self, name: str) -> Entry:
        why = await self._parts[name]()
        condition: dict[str, Any] = {"type": "Healthy", "status": "True", "message": "ok"}
        if why is not None:
            condition = {"type": "Healthy", "status": "False", "message": why}
        metadata = {"name": name}
        body = {"kind": "ComponentStatus", "apiVersion": "v1", "metadata": metadata, "conditions": [condition]}
        return Entry("", name, 0, (orjson.dumps(body),), {}, {})
