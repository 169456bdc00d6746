"""The stand-alone metrics daemon: cAdvisor's port and paths."""

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from kube import serving, settings
from kube.errors import UsageError
from metrics import exposition, history, influx, observe, page, rest
from metrics.collector import Collector
from metrics.config import CONTAINERD, CRIO, Config
from metrics.identities import Source, Sources
from metrics.identities.containerd import ContainerdIdentities
from metrics.identities.crio import CrioIdentities
from metrics.identities.docker import DockerIdentities

log = logging.getLogger(__name__)

_FILES = 65536


def _sources(config: Config) -> dict[str, Source]:
    """By the name of its check. What stands at its usual place is asked if it is there."""
    found: dict[str, Source] = {}
    env = config.env_metadata_whitelist
    if config.docker:
        found["docker"] = DockerIdentities(config.docker, config.node_name, env)
    if config.containerd:
        state = config.containerd.removeprefix("unix://").removesuffix("/containerd.sock").rstrip("/")
        found["containerd"] = ContainerdIdentities(state, env, optional=state == CONTAINERD)
    if config.crio:
        found["crio"] = CrioIdentities(config.crio, env, optional=config.crio == CRIO)
    return found


def _collector(config: Config, sources: Sources) -> Collector:
    return Collector(
        sources,
        config.cgroup_root,
        services=not config.docker_only or bool(config.raw_cgroup_prefix_whitelist),
        prefixes=config.raw_cgroup_prefix_whitelist,
        status=lambda: (sources.error, sources.version),
        machine=lambda: observe.machine(config.machine_id_file, config.boot_id_file),
        fresh=min(1.0, config.housekeeping_interval),  # who samples more often than each second wants to see it
    )


def _path(flag: str, path: str) -> str:
    if path and (not path.startswith("/") or set(path) & set("{}?#")):
        raise UsageError(f"{flag}: {path!r} is not a path; write one that begins with a slash, such as /metrics")
    return path.rstrip("/")


def _page(config: Config) -> exposition.Page:
    chosen = exposition.select(
        config.metrics, enable=config.enable_metrics, disable=config.disable_metrics, deny=config.deny_metrics
    )
    labels = exposition.Labels(config.store_container_labels, frozenset(config.whitelisted_container_labels))
    return exposition.Page(chosen, labels, timestamps=config.timestamps)


def _push(config: Config, collector: Collector, registry: CollectorRegistry) -> influx.Push | None:
    if not config.storage_driver:
        return None
    if config.storage_driver != "influxdb":
        raise UsageError(
            f"--storage_driver: {config.storage_driver!r} is not written to; say influxdb, or leave it out and let"
            " Prometheus scrape"
        )
    return influx.Push(
        collector.snapshot,
        influx.database(
            config.storage_driver_host,
            config.storage_driver_db,
            config.storage_driver_user,
            config.storage_driver_password,
            config.storage_driver_influxdb_retention_policy,
            config.storage_driver_secure,
        ),
        config.node_name or os.uname().nodename,
        interval=config.housekeeping_interval,
        every=config.storage_driver_buffer_duration,
        registry=registry,
    )


def _shown(config: Config) -> Config:
    """What everybody may see of it."""
    return msgspec.structs.replace(config, storage_driver_password="...")


def _raise_limit() -> None:
    """Descriptors are held for each group; nothing that we start inherits the limit, for we start nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def metrics(
    collector: Collector, shown: exposition.Page, registry: CollectorRegistry, thread: Executor
) -> serving.Handler:
    """The page of metrics, and behind it those of the daemon itself. Read, written and packed in the one `thread`: whoever comes
    meanwhile waits for it and shares what it finds."""
    duration = Histogram(
        "wherry_metrics_scrape_duration_seconds",
        "Time to read the cgroup tree and write the text.",
        registry=registry,
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    )

    def write(wants_openmetrics: bool, encodings: str) -> tuple[bytes, bytes | None]:
        started = time.perf_counter()
        snapshot = collector.snapshot(shown.parts)
        text = shown.text(snapshot, wants_openmetrics)
        took = time.perf_counter() - started
        duration.observe(took)
        log.debug("read %d groups in %.1f ms", len(snapshot.samples), took * 1e3)
        own = openmetrics.generate_latest if wants_openmetrics else generate_latest
        body = text + own(registry)
        return body, exposition.packed(body, encodings)

    async def answer(request: web.Request) -> web.Response:
        wanted = exposition.openmetrics(request.headers.get("Accept", ""))
        encodings = request.headers.get("Accept-Encoding", "")
        body, packed = await asyncio.get_running_loop().run_in_executor(thread, write, wanted, encodings)
        headers = {"Content-Type": exposition.content_type(wanted), "Vary": "Accept, Accept-Encoding"}
        if packed is not None:
            body, headers["Content-Encoding"] = packed, "gzip"
        return web.Response(body=body, headers=headers)

    return answer


def _check(source: Source) -> serving.Check:
    return lambda: source.error or None


async def run(config: Config, ready: Callable[[], None]) -> None:
    if config.v >= 4:
        log.setLevel(logging.DEBUG)
    prefix, endpoint = (
        _path("--url_base_prefix", config.url_base_prefix),
        _path("--prometheus_endpoint", config.prometheus_endpoint),
    )
    shown, by_name = _page(config), _sources(config)
    _raise_limit()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    sources = Sources(by_name.values())
    collector = _collector(config, sources)
    sampler = history.Sampler(
        collector.snapshot, duration=config.storage_duration, interval=config.housekeeping_interval
    )
    push = _push(config, collector, registry)
    thread = ThreadPoolExecutor(1, "metrics-scrape")
    api = rest.routes(collector.snapshot, sampler)
    routes = {
        endpoint or "/metrics": metrics(collector, shown, registry, thread),
        "/healthz": serving.health({"ping": lambda: None}),
        "/readyz": serving.health({name: _check(source) for name, source in by_name.items()}),
        "/configz": serving.json(lambda: settings.render(_shown(config))),
        **api,
        **page.routes(collector.snapshot, sampler, prefix),
    }
    try:
        await asyncio.to_thread(sources)  # /readyz and the log know from the start who answers
        served = {f"{prefix}{path}": handler for path, handler in routes.items()}
        posts = {f"{prefix}{path}": handler for path, handler in api.items()}
        async with (
            serving.serve(config.listen_ip, config.port, served, posts=posts, flag="--port"),
            asyncio.TaskGroup() as group,
        ):
            ready()
            if push is not None:
                group.create_task(push.run(), name="influxdb")
            await sampler.run()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(collector.close)
        await asyncio.to_thread(sources.close)
