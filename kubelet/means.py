"""What deeds for pods are done with: the place, the runtime, objects of the API, and threads."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from kube.core import Service
from kube.errors import Retry
from kube.informer import Informer
from kube.pods import Pod
from kube.runtimeclass import RuntimeClass
from kubelet.environment import Surroundings
from kubelet.images.presence import Images
from kubelet.metrics import Metrics
from kubelet.model import Seen
from kubelet.nodestatus.addresses import pod_addresses
from kubelet.observe.objects import Objects
from kubelet.plan import is_static
from kubelet.resources import UPSTREAMS, Policy
from kubelet.runtime import Runtime
from kubelet.threads import Threads
from kubelet.tokens import Tokens
from kubelet.told import Told
from kubelet.volumes import References

T = TypeVar("T")


class StartFailed(Exception):
    """A container (or sandbox) did not start: what its status says, and the seconds until another try."""

    def __init__(self, reason: str, message: str, retry_after: float = 10.0) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this node keeps things, and what it has to give."""

    root: str
    logs: str
    cgroup_root: str
    cluster_dns: tuple[str, ...]
    cluster_domain: str
    resolv_conf: str
    host_ips: tuple[str, ...]
    memory: int
    allocatable: Mapping[str, str]
    policy: Policy = UPSTREAMS


@dataclass(slots=True, kw_only=True)
class Means:
    place: Place
    runtime: Runtime
    objects: Objects
    services: Informer[Service]
    classes: Informer[RuntimeClass]
    tokens: Tokens
    told: Told
    images: Images
    metrics: Metrics
    clock: Callable[[], datetime]
    threads: Threads = field(default_factory=Threads)
    volumes: dict[str, Mapping[str, str]] = field(default_factory=dict)  # paths by volume name, by pod uid

    async def blocking(self, what: str, work: Callable[[], T]) -> T:
        return await self.threads.do(what, work)

    async def around(self, pod: Pod, seen: Seen, only: References | None = None) -> Surroundings:
        """What environment and volumes are made of. While the API is away, Services that an earlier kubelet knew will do."""
        config_maps, secrets = await self.objects.of(pod.metadata.uid, only)
        if not is_static(pod) and not len(self.services):  # a static one may be what the API itself runs in
            try:
                async with asyncio.timeout(10):
                    await self.services.synced.wait()
            except TimeoutError:
                raise Retry("services have not yet been read at least once, cannot construct envvars") from None
        ips = seen.sandboxes[0].ips if seen.sandboxes else ()
        return Surroundings(
            services=self.services.items(),
            config_maps=config_maps,
            secrets=secrets,
            host_ips=self.place.host_ips,
            pod_ips=pod_addresses(pod, ips, self.place.host_ips),
            allocatable=self.place.allocatable,
        )
