"""The page at /containers/ and /docker/: one HTML, one script, one style sheet, written by hand, and the JSON they poll.

The files are in the package. Nothing else is loaded, which the Content-Security-Policy holds the browser to; the script makes
text nodes only, so a container's name is never read as HTML. Only the stand-alone daemon has the page: the kubelet's port is
for machines.
"""

import asyncio
import functools
import html
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from kube.serving import Handler
from metrics import jsontext
from metrics.history import PARTS, Sampler
from metrics.model import Part, Snapshot
from metrics.page import feed

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FOLDER = Path(__file__).parent
_ASSETS = (("page.js", "text/javascript"), ("page.css", "text/css"))


def routes(read: Callable[[frozenset[Part]], Snapshot], sampler: Sampler, prefix: str = "") -> dict[str, Handler]:
    """By path, to be served below `prefix`. A poll of the feed keeps the sampler going."""
    below = "/" + prefix.strip("/") if prefix.strip("/") else ""
    root, home_address = html.escape(below, quote=True), f"{quote(below)}/containers/"
    shell = _FOLDER.joinpath("page.html").read_text().replace("{{root}}", root)

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=shell, content_type="text/html", headers=_HEADERS)

    async def home(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": home_address})

    def asset(name: str, kind: str) -> Handler:
        content = _FOLDER.joinpath(name).read_text()

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text=content, content_type=kind, headers=_HEADERS)

        return answer

    async def now(request: web.Request) -> web.Response:
        sampler.lease()
        snapshot = sampler.latest()
        if snapshot is None:
            snapshot = await asyncio.to_thread(read, PARTS)
            sampler.history.add(snapshot)
        known, since = request.query.get("groups", ""), feed.time_of(request.query.get("since", ""))
        kept, interval = sampler.history, sampler.interval
        frames = feed.wanted(kept, since)
        write = functools.partial(feed.delta, snapshot, frames, known=known, keeps=kept.duration, interval=interval)
        return await _json(write)

    async def past(request: web.Request) -> web.Response:
        frames = sampler.history.since(0.0)
        return await _json(functools.partial(feed.past, frames, request.query.get("path", "/")))

    shown = dict.fromkeys(
        ("/containers", "/containers/", "/containers/{path:.*}", "/docker", "/docker/", "/docker/{path:.*}")
    )
    return {
        "/": home,
        **dict.fromkeys(shown, page),
        **{f"/page/{name}": asset(name, kind) for name, kind in _ASSETS},
        "/page/now": now,
        "/page/past": past,
    }


async def _json(value: Callable[[], object]) -> web.Response:
    """Made and written in a thread: of hundreds of groups that takes a tenth of a second."""
    body = await asyncio.to_thread(lambda: jsontext.encoded(value()))
    return web.Response(body=body, content_type="application/json", headers=_HEADERS)
