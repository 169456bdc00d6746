"""The stand-alone metrics daemon: cAdvisor's port and paths."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest

from kube import serving, settings
from metrics import exposition
from metrics.collector import Collector
from metrics.config import Config
from metrics.observe import ContainerdIdentities, DockerIdentities


def _identities(config: Config) -> ContainerdIdentities | DockerIdentities | None:
    if config.containerd:
        return ContainerdIdentities(config.containerd)
    return DockerIdentities(config.docker, config.node_name) if config.docker else None


async def run(config: Config, ready: Callable[[], None]) -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    duration = Histogram(
        "wherry_metrics_scrape_duration_seconds",
        "Time to read the cgroup tree and write the text.",
        registry=registry,
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    )
    identities = _identities(config)
    collector = Collector(identities or dict, config.cgroup_root)

    async def metrics(_request: web.Request) -> web.Response:
        started = time.perf_counter()
        text = await asyncio.to_thread(lambda: exposition.cadvisor(collector.snapshot()))
        duration.observe(time.perf_counter() - started)
        body = text.encode() + generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE})

    def runtime() -> str | None:
        return identities.error or None if identities else None

    routes = {
        "/metrics": metrics,
        "/healthz": serving.health({"ping": lambda: None}),
        "/readyz": serving.health({"containerd" if config.containerd else "docker": runtime}),
        "/configz": serving.json(lambda: settings.render(config)),
    }
    if identities:
        await asyncio.to_thread(identities)  # /readyz and the log know from the start whether it answers
    async with serving.serve(config.listen_ip, config.port, routes, flag="--port"):
        ready()
        await asyncio.get_running_loop().create_future()
