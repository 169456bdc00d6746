"""CriRuntime: `kubelet.runtime.Runtime` on containerd or CRI-O.

Exits are noticed by pidfds, as on Docker, because containerd before 1.7 has no events and later ones tell them late; where the
runtime has a stream of events it is followed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kubelet.cri import calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import Client
from kubelet.cri.containers import Containers
from kubelet.cri.executions import Executions
from kubelet.cri.health import Health
from kubelet.cri.images import Images
from kubelet.cri.sandboxes import Sandboxes
from kubelet.hints import Hints, Source
from kubelet.runtime import (
    ContainerConfig,
    ContainerRecord,
    ContainerStatus,
    ExecResult,
    FsUsage,
    Hint,
    Image,
    LinuxResources,
    NotFound,
    Observer,
    PodIdentity,
    PodRecord,
    RegistryAuth,
    RuntimeStatus,
    RuntimeVersion,
    SandboxConfig,
    SandboxRecord,
    SandboxStatus,
    Stream,
    StreamOptions,
    unobserved,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriOptions:
    socket_path: str
    node: str
    root: str = ""  # the kubelet's root directory: tells its containers from a namesake's
    timeout: float = 120.0  # runtimeRequestTimeout, seconds


class CriRuntime:
    def __init__(self, options: CriOptions, *, observe: Observer = unobserved) -> None:
        self._client = Client(options.socket_path, timeout=options.timeout, observe=observe)
        self._owner = spec.Owner(options.node, options.root)
        self._hints = Hints()
        self._health = Health(self._client)
        self._images = Images(self._client, self._health)
        self._sandboxes = Sandboxes(self._client, self._owner, self._hints)
        self._containers = Containers(self._client, self._owner, self._hints, self._images)
        self._executions = Executions(self._client, self._containers)

    # The runtime itself

    @property
    def name(self) -> str:
        return self._health.name or "containerd"

    async def version(self) -> RuntimeVersion:
        return await self._health.version()

    async def status(self) -> RuntimeStatus:
        return await self._health.status()

    async def watch(self, notify: Callable[[Hint], None]) -> None:
        async def follow() -> None:
            await self._health.follow(self._hints, self._owner)

        await self._hints.run(notify, Source(follow, self._settled, self._pid))

    async def _settled(self, identity: str) -> None:
        if self._sandboxes.known(identity):
            await self._sandboxes.settled(identity)
        else:
            await self._containers.settled(identity)

    async def _pid(self, identity: str) -> int:
        try:
            return (await self._containers.status(identity)).pid
        except NotFound:
            return (await self._sandboxes.status(identity)).pid

    def hinting(self) -> bool:
        return self._hints.flowing()

    async def close(self) -> None:
        self._hints.close()
        self._client.close()

    # Sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        return await self._sandboxes.run(config)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._sandboxes.stop(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._sandboxes.remove(sandbox_id)
        self._forget({sandbox_id})

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        return await self._sandboxes.status(sandbox_id)

    async def list_pods(self) -> list[PodRecord]:
        if not self._health.name:
            await self.version()
        known = self._hints.known()  # before the list: what is made meanwhile is not missing from it
        found, listed = await asyncio.gather(
            self._client.ask(calls.LIST_SANDBOXES, pb.ListPodSandboxRequest()),
            self._client.ask(calls.LIST, pb.ListContainersRequest()),
        )
        homes = [each for each in found.items if self._owner.owns(each.labels)]
        inmates = [each for each in listed.containers if self._owner.owns(each.labels)]
        self._forget(known - {each.id for each in homes} - {each.id for each in inmates})
        addresses = await asyncio.gather(*(self._sandboxes.ips(each) for each in homes))
        sandboxes: dict[PodIdentity, list[SandboxRecord]] = {}
        containers: dict[PodIdentity, list[ContainerRecord]] = {}
        for home, ips in zip(homes, addresses, strict=True):
            pod = spec.pod_of(home.labels)
            self._hints.listed(home.id, pod.uid, running=home.state == pb.SANDBOX_READY)
            sandboxes.setdefault(pod, []).append(spec.sandbox_record(home, ips))
        for inmate in inmates:
            pod = spec.pod_of(inmate.labels)
            self._hints.listed(inmate.id, pod.uid, running=inmate.state == pb.CONTAINER_RUNNING)
            containers.setdefault(pod, []).append(spec.container_record(inmate))
        return [
            PodRecord(
                pod=pod,
                sandboxes=tuple(sorted(sandboxes.get(pod, ()), key=_age, reverse=True)),
                containers=tuple(sorted(containers.get(pod, ()), key=_age, reverse=True)),
            )
            for pod in dict.fromkeys([*sandboxes, *containers])
        ]

    def _forget(self, ids: Iterable[str]) -> None:
        ids = set(ids)
        self._hints.forget(ids)
        for identity in ids:
            self._sandboxes.forget(identity)
            self._containers.forget(identity)

    # Containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        return await self._containers.create(sandbox_id, config, sandbox)

    async def start_container(self, container_id: str) -> ContainerStatus | None:
        return await self._containers.start(container_id)

    async def stop_container(self, container_id: str, timeout: float) -> None:
        await self._containers.stop(container_id, timeout)

    async def remove_container(self, container_id: str) -> None:
        await self._containers.remove(container_id)
        self._forget({container_id})

    async def container_status(self, container_id: str) -> ContainerStatus:
        return await self._containers.status(container_id)

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        await self._containers.update(container_id, resources)

    @property
    def rotates_logs(self) -> bool:
        return False

    async def reopen_log(self, container_id: str) -> None:
        await self._containers.reopen_log(container_id)

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        return await self._executions.run(container_id, command, timeout)

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> Stream:
        return await self._executions.exec(container_id, command, options)

    async def attach(self, container_id: str, options: StreamOptions) -> Stream:
        return await self._executions.attach(container_id, options)

    # Images

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        return await self._images.pull(image, auth)

    async def image_status(self, image: str) -> Image | None:
        return await self._images.status(image)

    async def list_images(self) -> list[Image]:
        return await self._images.list()

    async def remove_image(self, image: str) -> None:
        await self._images.remove(image)

    async def image_fs(self) -> FsUsage:
        return await self._images.filesystem()


def _age(record: SandboxRecord | ContainerRecord) -> tuple[float, int]:
    return record.created_at.timestamp(), record.attempt
