"""The pages that are about containers' figures: /metrics/cadvisor, /metrics/resource, /stats/summary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from aiohttp import web

from kube import serving
from kubelet.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    PodRecord,
    Runtime,
    RuntimeRefused,
    RuntimeUnavailable,
)
from kubelet.server import resource
from kubelet.server.summary import Site, Summary
from metrics import exposition
from metrics.collector import Collector, Identity, identity

Handler = serving.Handler

_PATIENCE = 5.0  # seconds for the runtime to say where its images are


def identities(records: Iterable[PodRecord], pause_image: str) -> dict[str, Identity]:
    """Whose each container is, by its id."""
    found = {}
    for record in list(records):
        pod = record.pod
        labels = {POD_NAME: pod.name, POD_NAMESPACE: pod.namespace, POD_UID: pod.uid}
        for each in record.sandboxes:
            started = each.created_at.timestamp()
            found[each.id] = identity(each.id, each.id, pause_image, {**labels, CONTAINER_NAME: "POD"}, started)
        for one in record.containers:
            started = one.created_at.timestamp()
            found[one.id] = identity(one.id, one.id, one.image, {**labels, CONTAINER_NAME: one.name}, started)
    return found


def container_pages(
    records: Callable[[], Iterable[PodRecord]], runtime: Runtime, site: Site, pause_image: str
) -> dict[str, Handler]:
    """The containers of `records`, read from the tree below the site's cgroup root."""
    collector = Collector(lambda: identities(records(), pause_image), site.cgroup_root)
    root = "/" + site.cgroup_root.strip("/")
    summary = Summary(site)

    def page(render: Callable[[], str]) -> Handler:
        async def answer(_request: web.Request) -> web.Response:
            text = await asyncio.to_thread(render)
            return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

        return answer

    async def stats(request: web.Request) -> web.Response:
        brief = request.query.get("only_cpu_and_memory", "").lower() in ("1", "true")
        image_fs = "" if brief else await _image_fs(runtime)

        def make() -> bytes:
            document = summary.make(collector.snapshot(), records(), image_fs, brief=brief)
            return msgspec.json.encode(document)

        return web.Response(body=await asyncio.to_thread(make), content_type="application/json")

    return {
        "/metrics/cadvisor": page(lambda: exposition.cadvisor(collector.snapshot())),
        "/metrics/resource": page(lambda: resource.page(collector.snapshot(resource.PARTS), root)),
        "/stats/summary": stats,
    }


async def _image_fs(runtime: Runtime) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            return (await runtime.image_fs()).mountpoint
    except (RuntimeUnavailable, RuntimeRefused, TimeoutError):
        return ""  # the rest of the page is worth having
