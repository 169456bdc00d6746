"""DockerRuntime: `kubelet.runtime.Runtime` on a dockerd.

The kubelet's labels are on everything made and in every question asked, so several kubelets can share one dockerd.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kube.reconcile import forever
from kubelet import peer
from kubelet.docker import pause, spec
from kubelet.docker.containers import Containers, link_log, unlink_log
from kubelet.docker.engine import Engine
from kubelet.docker.events import Events
from kubelet.docker.executions import Executions
from kubelet.docker.images import Images
from kubelet.docker.sandboxes import Sandboxes
from kubelet.docker.wire import Wire
from kubelet.hints import Hints, Source
from kubelet.network import Network
from kubelet.runtime import (
    POD_UID,
    ContainerConfig,
    ContainerRecord,
    ContainerState,
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
    RuntimeRefused,
    RuntimeStatus,
    RuntimeUnavailable,
    RuntimeVersion,
    SandboxConfig,
    SandboxRecord,
    SandboxStatus,
    Stream,
    StreamOptions,
    unobserved,
)

SWEEP = 60.0  # seconds
PING = 3.0  # seconds dockerd may take to say that it lives


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    socket_path: str
    node: str
    root: str = ""  # the kubelet's root directory: tells its containers from a namesake's
    pause_image: str = pause.PAUSE_IMAGE
    host_network: bool | None = None  # whether dockerd's host network is this node's; None: find out
    logs: spec.LogLimits = field(default_factory=spec.LogLimits)
    timeout: float = 120.0  # runtimeRequestTimeout, seconds


class DockerRuntime:
    def __init__(self, options: DockerOptions, network: Network, *, observe: Observer = unobserved) -> None:
        self._options = options
        self._network = network
        self._engine = Engine(options.socket_path, timeout=options.timeout, observe=observe)
        self._wire = Wire(options.socket_path, silence=options.timeout)
        self._hints = Hints()
        owner = spec.Owner(options.node, options.root)
        self._owner = owner
        self._events = Events(self._wire, owner, self._hints)
        self._containers = Containers(self._engine, self._hints, owner)
        self._sandboxes = Sandboxes(
            self._containers, network, pause_image=options.pause_image, host_network=options.host_network
        )
        self._executions = Executions(self._containers, timeout=options.timeout)
        self._images = Images(self._engine, self._wire, options.pause_image)
        self._fits = False

    # The runtime itself

    async def version(self) -> RuntimeVersion:
        def ask(client: Any) -> RuntimeVersion:
            answer = client.version()
            return RuntimeVersion(name="docker", version=answer["Version"], api_version=answer["ApiVersion"])

        return await self._engine.ask("version", "", ask)

    async def status(self) -> RuntimeStatus:
        obstacle = await self._network.obstacle()
        try:
            await self._wire.ping(PING)
            message = self._engine.stuck() or await self._misfit()
        except RuntimeUnavailable as error:
            message = str(error)
        return RuntimeStatus(
            runtime_ready=not message,
            runtime_message=message,
            network_ready=not obstacle,
            network_message=obstacle,
            cgroup_driver="cgroupfs" if self._fits else "",
        )

    async def _misfit(self) -> str:
        """Why this dockerd cannot serve the kubelet at all; asked until it can."""
        if not self._fits:
            driver = await self._wire.cgroup_driver(PING)
            if driver != "cgroupfs":
                return (
                    f"dockerd at {self._options.socket_path} uses the cgroup driver {driver!r}, the kubelet cgroupfs: "
                    "start dockerd with --exec-opt native.cgroupdriver=cgroupfs"
                )
            self._fits = True
        return ""

    async def watch(self, notify: Callable[[Hint], None]) -> None:
        async def settled(container_id: str) -> None:
            await self._containers.settled("container_status", container_id)

        async def process(container_id: str) -> int:
            document = await self._containers.inspect("container_status", container_id)
            return int(document["State"]["Pid"])

        async with asyncio.TaskGroup() as group:
            group.create_task(self._hints.run(notify, Source(self._events.follow, settled, process)))
            removed = self._events.sandbox_removed
            group.create_task(forever(self._sandboxes.sweep, removed, resync=SWEEP, min_interval=1.0))

    def hinting(self) -> bool:
        return self._hints.flowing()

    async def close(self) -> None:
        self._hints.close()
        self._engine.close()
        await self._wire.close()

    # Sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        sandbox_id = await self._sandboxes.run(config)
        self._hints.made(sandbox_id, config.pod.uid)
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._sandboxes.stop(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._sandboxes.remove(sandbox_id)
        self._hints.forget({sandbox_id})

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        return await self._sandboxes.status(sandbox_id)

    async def list_pods(self) -> list[PodRecord]:
        known = self._hints.known()  # before the list: what is made meanwhile is not missing from it
        rows = await self._containers.list("list_podsandbox", POD_UID)
        self._hints.forget(known - {row["Id"] for row in rows})
        sandboxes: dict[PodIdentity, list[SandboxRecord]] = {}
        containers: dict[PodIdentity, list[ContainerRecord]] = {}
        for row in rows:
            labels = row["Labels"]
            pod = spec.pod_of(labels)
            running = spec.listed_state(row) is ContainerState.RUNNING
            self._hints.listed(row["Id"], pod.uid, running=running)
            if labels.get(spec.TYPE) == spec.SANDBOX:
                sandboxes.setdefault(pod, []).append(self._sandbox_record(row, running=running))
            else:
                containers.setdefault(pod, []).append(await self._container_record(row))
        return [
            PodRecord(
                pod=pod,
                sandboxes=tuple(sorted(sandboxes.get(pod, ()), key=_age, reverse=True)),
                containers=tuple(sorted(containers.get(pod, ()), key=_age, reverse=True)),
            )
            for pod in dict.fromkeys([*sandboxes, *containers])
        ]

    def _sandbox_record(self, row: dict[str, Any], *, running: bool) -> SandboxRecord:
        state, ips = self._sandboxes.readiness(row["Id"], running=running)
        return SandboxRecord(
            id=row["Id"],
            attempt=spec.attempt_of(row["Labels"]),
            state=state,
            created_at=datetime.fromtimestamp(row["Created"], UTC),
            ips=ips,
            annotations=spec.annotations_of(row["Labels"]),
        )

    async def _container_record(self, row: dict[str, Any]) -> ContainerRecord:
        record = spec.container_record(row)
        if record.state is ContainerState.CREATED:
            # The list cannot tell a container that was never started from one that could not be.
            with contextlib.suppress(NotFound):
                document = await self._containers.inspect("container_status", record.id)
                return dataclasses.replace(record, state=spec.container_status(document, None).state)
        return record

    # Containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        obstacle = spec.unsupported(config)
        if obstacle:
            raise RuntimeRefused(obstacle)
        config = _with_profile(config)
        user = await self._user(config)
        body = spec.container_body(config, sandbox, sandbox_id, self._owner, self._options.logs, user)
        subject, settings, path = f"{sandbox.pod.name}/{config.name}", body["HostConfig"], self._options.socket_path
        wanted = settings["OomScoreAdj"]
        if wanted < 0:
            score = await self._engine.call("create_container", subject, lambda _: peer.oom_score(wanted, path))
            settings["OomScoreAdj"] = score
        name = spec.container_name(config.name, sandbox.pod, config.attempt)
        container_id = await self._containers.create("create_container", subject, body, name)
        self._hints.made(container_id, sandbox.pod.uid)
        return container_id

    async def _user(self, config: ContainerConfig) -> str:
        user, group = config.security.run_as_user, config.security.run_as_group
        if group is None:
            return user
        if not user:
            image = await self._images.status(config.image)
            user = (image.user if image is not None else "").partition(":")[0]
        return f"{user or 0}:{group}"

    async def start_container(self, container_id: str) -> ContainerStatus | None:
        document = await self._containers.inspect("start_container", container_id)
        if spec.container_status(document, None).state is not ContainerState.CREATED:
            raise RuntimeRefused(f"container {container_id} has been started before")
        document = await self._containers.start("start_container", container_id)
        link, target = document["Config"]["Labels"].get(spec.LOG_PATH, ""), document.get("LogPath", "")
        if link and target:
            link_log(link, target)
        return await self._status(document)

    async def stop_container(self, container_id: str, timeout: float) -> None:
        with contextlib.suppress(NotFound):
            document = await self._containers.inspect("stop_container", container_id)
            signal = document["Config"].get("StopSignal") or "SIGTERM"
            await self._containers.end("stop_container", document, first=signal, timeout=timeout)

    async def remove_container(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            document = await self._containers.inspect("remove_container", container_id)
            await self._containers.remove("remove_container", container_id)
            unlink_log(document["Config"]["Labels"].get(spec.LOG_PATH, ""))
        self._hints.forget({container_id})

    async def container_status(self, container_id: str) -> ContainerStatus:
        return await self._status(await self._containers.inspect("container_status", container_id))

    async def _status(self, document: dict[str, Any]) -> ContainerStatus:
        return spec.container_status(document, await self._images.by_id(str(document["Image"])))

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        return await self._executions.run(container_id, command, timeout)

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> Stream:
        return await self._executions.exec(container_id, command, options)

    async def attach(self, container_id: str, options: StreamOptions) -> Stream:
        return await self._executions.attach(container_id, options)

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        def update(client: Any) -> None:
            url = client._url("/containers/{0}/update", container_id)
            client._raise_for_status(client._post_json(url, data=spec.limits(resources)))

        await self._engine.call("update_container", container_id[:12], update)

    @property
    def name(self) -> str:
        return "docker"

    @property
    def rotates_logs(self) -> bool:
        return True

    async def reopen_log(self, container_id: str) -> None:
        raise RuntimeRefused(f"container {container_id[:12]}: dockerd rotates its logs itself (containerLogMaxSize)")

    # Images

    async def image_fs(self) -> FsUsage:
        return await self._images.filesystem()

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        return await self._images.pull(image, auth)

    async def image_status(self, image: str) -> Image | None:
        return await self._images.status(image)

    async def list_images(self) -> list[Image]:
        return await self._images.list()

    async def remove_image(self, image: str) -> None:
        await self._images.remove(image)


def _with_profile(config: ContainerConfig) -> ContainerConfig:
    """The Engine API takes the text of a seccomp profile, not its path."""
    profile = config.security.seccomp
    if not profile.startswith("/"):
        return config
    try:
        path = Path(profile)
        if path.exists() and not path.is_file():  # a pipe would hold us up
            raise RuntimeRefused(f"seccomp profile {profile}: it is no file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RuntimeRefused(f"seccomp profile {profile}: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL, a file that is no text
        raise RuntimeRefused(f"seccomp profile {profile!r}: {error}") from error
    return dataclasses.replace(config, security=dataclasses.replace(config.security, seccomp=text))


def _age(record: SandboxRecord | ContainerRecord) -> tuple[datetime, int]:
    return record.created_at, record.attempt
