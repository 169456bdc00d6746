"""The pages that are about containers' figures: /metrics/cadvisor, /metrics/resource, /stats/summary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

from kube import serving
from kubelet.runtime import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, PodRecord
from metrics import exposition
from metrics.collector import Collector, Identity, identity

Handler = serving.Handler


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


def container_metrics(
    records: Callable[[], Iterable[PodRecord]], cgroup_root: str, pause_image: str
) -> dict[str, Handler]:
    """GET /metrics/cadvisor and /metrics/resource: the containers of `records`, read from the tree below `cgroup_root`."""
    collector = Collector(lambda: identities(records(), pause_image), cgroup_root)
    root = "/" + cgroup_root.strip("/")

    def page(render: Callable[[], str]) -> Handler:
        async def answer(_request: web.Request) -> web.Response:
            text = await asyncio.to_thread(render)
            return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

        return answer

    return {
        "/metrics/cadvisor": page(lambda: exposition.cadvisor(collector.snapshot())),
        "/metrics/resource": page(lambda: exposition.resource(collector.snapshot(), root)),
    }
