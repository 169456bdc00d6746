"""The pages that are about containers' figures: /metrics/cadvisor, /metrics/resource, /stats/summary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import lru_cache

import msgspec
from aiohttp import web

from kube import serving
from kube.errors import Retry, UsageError
from kube.pods import Pod
from kubelet.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    FsUsage,
    PodRecord,
    Runtime,
    RuntimeRefused,
    RuntimeUnavailable,
)
from kubelet.server import resource
from kubelet.server.summary import BRIEF, WHOLE, Site, Summary
from kubelet.threads import Threads
from metrics import exposition
from metrics.collector import Collector, Identity, Walks, identity

Handler = serving.Handler

_PATIENCE = 30.0  # seconds
_RUNTIME_PATIENCE = 5.0  # seconds for it to say where its images are
_HANGING = 4  # calls
_SELECTIONS = 4  # of families that are asked for in turn; each keeps its rendered lines


def identities(records: Iterable[PodRecord], pods: Iterable[Pod], pause_image: str) -> dict[str, Identity]:
    """Whose each container is, by its id. Its image is called what the pod calls it: a runtime that was given an image's id
    (Docker) knows no other name, and people group by it."""
    named = {
        (pod.metadata.uid, each.name): each.image
        for pod in pods
        for each in (*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers)
    }
    found = {}
    for record in list(records):
        pod = record.pod
        labels = {POD_NAME: pod.name, POD_NAMESPACE: pod.namespace, POD_UID: pod.uid}
        for each in record.sandboxes:
            started = each.created_at.timestamp()
            found[each.id] = identity(each.id, each.id, pause_image, {**labels, CONTAINER_NAME: "POD"}, started)
        for one in record.containers:
            started = one.created_at.timestamp()
            image = named.get((pod.uid, one.name)) or one.image
            found[one.id] = identity(one.id, one.id, image, {**labels, CONTAINER_NAME: one.name}, started)
    return found


def container_pages(
    stack: AsyncExitStack,
    records: Callable[[], Iterable[PodRecord]],
    pods: Callable[[], Iterable[Pod]],
    runtime: Runtime,
    site: Site,
    pause_image: str,
    *,
    patience: float = _PATIENCE,
) -> dict[str, Handler]:
    """The containers of `records`, read from the tree below the site's cgroup root, on files that the stack closes. What has
    not been read within `patience` seconds is 503: a disk that hangs holds up these pages, in threads of their own, and
    nothing else."""
    walks = Walks(abs(site.volume_period) or 60.0)
    collector = Collector(lambda: identities(records(), pods(), pause_image), site.cgroup_root, walks=walks)
    stack.callback(collector.close)
    threads = Threads(timeout=patience, left_behind=_HANGING, name="figures")
    stack.callback(threads.close)
    root = "/" + site.cgroup_root.strip("/")
    summary = Summary(site, walks)
    rendered = lru_cache(_SELECTIONS)(lambda words: exposition.Page(exposition.select(words)))

    async def read(request: web.Request, kind: str, make: Callable[[], bytes]) -> web.Response:
        encodings = request.headers.get("Accept-Encoding", "")

        def whole() -> tuple[bytes, bytes | None]:
            body = make()
            return body, exposition.packed(body, encodings)

        try:
            body, packed = await threads.do(request.path, whole)
        except Retry as late:
            return web.Response(status=503, text=str(late))
        headers = {"Content-Type": kind, "Vary": "Accept-Encoding"}
        if packed is not None:
            body, headers["Content-Encoding"] = packed, "gzip"
        return web.Response(body=body, headers=headers)

    async def cadvisor(request: web.Request) -> web.Response:
        """The mixin's families, or those that `?metrics=` names, as the flag --metrics of the stand-alone daemon does."""
        words = ",".join(request.query.getall("metrics", [])) or "mixin"
        try:
            page = rendered(tuple(words.split(",")))
        except UsageError as error:
            return web.Response(status=400, text=str(error))
        modern = exposition.openmetrics(request.headers.get("Accept", ""))
        return await read(
            request, exposition.content_type(modern), lambda: page.whole(collector.snapshot(page.parts), modern)
        )

    async def usage(request: web.Request) -> web.Response:
        def make() -> bytes:
            return resource.page(collector.snapshot(resource.PARTS), root).encode()

        return await read(request, exposition.content_type(), make)

    async def stats(request: web.Request) -> web.Response:
        brief = request.query.get("only_cpu_and_memory", "").lower() in ("1", "true")
        images = None if brief else await _images(runtime)

        def make() -> bytes:
            snapshot = collector.snapshot(BRIEF if brief else WHOLE)
            return msgspec.json.encode(summary.make(snapshot, records(), images, brief=brief))

        return await read(request, "application/json", make)

    return {"/metrics/cadvisor": cadvisor, "/metrics/resource": usage, "/stats/summary": stats}


async def _images(runtime: Runtime) -> FsUsage | None:
    try:
        async with asyncio.timeout(_RUNTIME_PATIENCE):
            return await runtime.image_fs()
    except (RuntimeUnavailable, RuntimeRefused, TimeoutError):
        return None  # the rest of the page is worth having
