"""What a node does now and then: links to logs, keeping logs small, giving images' disk space back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from typing import Any

from kube import quantity
from kube.pods import Pod
from kube.reconcile import Backoff, Wake, forever
from kubelet.config import Config
from kubelet.containerlogs import loglinks, rotation
from kubelet.images import imagegc, providers
from kubelet.images.credentials import node_config
from kubelet.images.presence import Images, Pace
from kubelet.metrics import Metrics
from kubelet.runtime import PodRecord, RegistryAuth, Runtime

IMAGES_EVERY = 300.0
LINKS_EVERY = 60.0
_BACKOFF = Backoff(first=1.0, most=60.0)

Records = Callable[[], Iterable[PodRecord]]


def images_of(config: Config, runtime: Runtime, metrics: Metrics, now: Callable[[], datetime]) -> Images:
    """Raises UsageError."""
    plugins = None
    if config.image_credential_provider_config:
        folder = config.image_credential_provider_bin_dir
        plugins = providers.Providers(providers.load(config.image_credential_provider_config, folder), folder)

    async def credentials(image: str) -> list[RegistryAuth]:
        found = await plugins.credentials(image) if plugins is not None else []
        return found + await asyncio.to_thread(node_config, config.root_dir, image)

    return Images(
        runtime,
        now=now,
        pace=Pace(
            at_once=1 if config.serialize_image_pulls else config.max_parallel_image_pulls or 0,
            per_second=config.registry_pull_qps,
            burst=config.registry_burst,
        ),
        credentials=credentials,
        pulled=metrics.image_pulled,
    )


def images_in_use(records: Iterable[PodRecord], pods: Iterable[Pod]) -> Iterator[str]:
    """What containers were made from, under whatever name, and what pods will ask for."""
    for record in records:
        for container in record.containers:
            yield container.image
            yield container.image_id
    for pod in pods:
        spec = pod.spec
        for each in (*spec.containers, *spec.init_containers, *spec.ephemeral_containers):
            yield each.image


class Upkeep:
    """`changed()` says that containers may have come or gone."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        records: Records,
        pods: Callable[[], Iterable[Pod]],
        tell: imagegc.Tell,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._records = records
        self._pods = pods
        self._wake = Wake()
        self._linked: frozenset[str] | None = None  # containers that have their links
        self._linked_at = 0.0
        limits = rotation.Limits(
            size=int(quantity.integer(config.container_log_max_size)),
            files=config.container_log_max_files,
            workers=config.container_log_max_workers,
        )
        self._rotation = None
        if not runtime.rotates_logs:
            self._rotation = rotation.Rotation(runtime, config.pod_logs_dir, limits, records, now)
        self._collection = imagegc.Collection(
            runtime,
            imagegc.Policy(
                high=config.image_gc_high_threshold_percent,
                low=config.image_gc_low_threshold_percent,
                least_age=config.image_minimum_gc_age,
                most_age=config.image_maximum_gc_age,
            ),
            self._images,
            tell,
            now,
            collected=metrics.image_collected,
        )

    def changed(self) -> None:
        self._wake.set()

    def works(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield forever(
            self._links, self._wake, resync=LINKS_EVERY, min_interval=1.0, backoff=_BACKOFF, name="links to logs"
        )
        if self._rotation is not None:
            every = self._config.container_log_monitor_interval
            yield forever(self._rotation.sync, Wake(), resync=every, backoff=_BACKOFF, name="log rotation")
        if self._config.image_gc_high_threshold_percent < 100 or self._config.image_maximum_gc_age:
            yield forever(self._collection.sync, Wake(), resync=IMAGES_EVERY, backoff=_BACKOFF, name="image collection")

    async def _links(self) -> None:
        records = list(self._records())
        containers = frozenset(container.id for record in records for container in record.containers)
        now = time.monotonic()
        if containers == self._linked and now - self._linked_at < LINKS_EVERY:
            return
        root = self._config.pod_logs_dir
        whole = await asyncio.to_thread(loglinks.settle, loglinks.directory_of(root), root, records)
        self._linked, self._linked_at = (containers if whole else None), now

    def _images(self) -> Iterator[str]:
        yield self._config.pod_infra_container_image
        yield from images_in_use(list(self._records()), self._pods())
