"""CriRuntime: `kubelet.runtime.Runtime` on containerd or CRI-O.

Exits are noticed by pidfds, as on Docker, because containerd before 1.7 has no events and later ones tell them late; where the
runtime has a stream of events it is followed as well. How long the runtime is there is seen by a connection that says nothing
and waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kubelet import peer
from kubelet.cri import calls, spec, streams
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import NO_LIMIT, Client, DeadlineExceeded, Unimplemented
from kubelet.cri.processes import NOBODY, Process, process_of
from kubelet.exits import pidfd_of
from kubelet.hints import Hints, Source
from kubelet.runtime import (
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ContainerStatus,
    ExecResult,
    ExecTimeout,
    FsUsage,
    Hint,
    Image,
    IPAddress,
    LinuxResources,
    NetworkUnavailable,
    NotFound,
    Observer,
    PodIdentity,
    PodRecord,
    RegistryAuth,
    RuntimeHandler,
    RuntimeRefused,
    RuntimeStatus,
    RuntimeUnavailable,
    RuntimeVersion,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
    SandboxStatus,
    StreamOptions,
    unobserved,
)

T = TypeVar("T")

PROMPT = 3.0  # seconds in which status() has an answer
_OUTPUT = 16 * 1024 * 1024  # bytes kept of each stream of an exec_sync
_SETTLE = (0.005, 0.01, 0.02, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 2.0, 4.0)  # containerd needs some 50 ms
# What RunPodSandbox says when it was the network that refused: containerd, CRI-O.
_NETWORK = re.compile(
    r"failed to (setup|set up) network|cni (plugin not|config un)initialized|network is not ready"
    r"|failed to create pod network sandbox|error adding .* to CNI network",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriOptions:
    socket_path: str
    node: str
    root: str = ""  # the kubelet's root directory: tells its containers from a namesake's
    timeout: float = 120.0  # runtimeRequestTimeout, seconds


class CriRuntime:
    def __init__(self, options: CriOptions, *, observe: Observer = unobserved) -> None:
        self._options = options
        self._client = Client(options.socket_path, timeout=options.timeout, observe=observe)
        self._owner = spec.Owner(options.node, options.root)
        self._hints = Hints()
        self._addresses: dict[str, tuple[IPAddress, ...]] = {}  # of READY sandboxes
        self._processes: dict[str, Process] = {}  # of running containers and READY sandboxes
        self._terminals: dict[str, tuple[str, bool]] = {}  # container id -> its sandbox, whether it has a tty
        self._users: dict[str, str] = {}  # image id -> its user
        self._name = ""
        self._driver: str | None = None  # cgroup driver

    # The runtime itself

    async def version(self) -> RuntimeVersion:
        told = await self._ask(self._client.call(calls.VERSION, pb.VersionRequest(version=calls.API_VERSION)))
        self._name = told.runtime_name
        return RuntimeVersion(
            name=told.runtime_name, version=told.runtime_version, api_version=told.runtime_api_version
        )

    async def status(self) -> RuntimeStatus:
        try:
            told = await self._ask(self._client.call(calls.STATUS, pb.StatusRequest(), timeout=PROMPT))
            message = await self._misfit()
        except RuntimeUnavailable as error:
            return RuntimeStatus(runtime_ready=False, runtime_message=str(error))
        conditions = {each.type: each for each in told.status.conditions}
        runtime, network = conditions.get("RuntimeReady"), conditions.get("NetworkReady")
        if runtime is None or not runtime.status:
            message = message or (f"{runtime.reason}: {runtime.message}" if runtime is not None else "no RuntimeReady")
        ready = network is not None and network.status
        return RuntimeStatus(
            runtime_ready=not message,
            runtime_message=message,
            network_ready=ready,
            network_message="" if ready or network is None else network.message,
            handlers=tuple(
                RuntimeHandler(
                    name=each.name,
                    recursive_read_only_mounts=each.features.recursive_read_only_mounts,
                    user_namespaces=each.features.user_namespaces,
                )
                for each in told.runtime_handlers
            ),
            supplemental_groups_policy=told.features.supplemental_groups_policy,
            cgroup_driver=self._driver or "",
        )

    async def _misfit(self) -> str:
        """Why this runtime cannot serve the kubelet at all."""
        if self._driver is None:
            self._driver = await self._cgroup_driver()
        if self._driver == "systemd":
            return (
                f"the runtime at {self._options.socket_path} uses the cgroup driver 'systemd', the kubelet cgroupfs: set "
                "SystemdCgroup = false in the options of containerd's runtimes.runc (CRI-O: cgroup_manager = cgroupfs)"
            )
        return ""

    async def _cgroup_driver(self) -> str:
        """By RuntimeConfig where there is one; of an older containerd by its configuration; "" when nobody says."""
        try:
            told = await self._client.call(calls.RUNTIME_CONFIG, pb.RuntimeConfigRequest(), timeout=PROMPT)
        except Unimplemented:
            verbose = await self._ask(self._client.call(calls.STATUS, pb.StatusRequest(verbose=True), timeout=PROMPT))
        except RuntimeRefused as error:
            raise RuntimeUnavailable(f"cri: runtime config: {error.message}") from error
        else:
            return "systemd" if told.linux.cgroup_driver == pb.SYSTEMD else "cgroupfs"
        try:
            containerd = json.loads(verbose.info["config"])["containerd"]
            options = containerd["runtimes"][containerd["defaultRuntimeName"]]["options"] or {}
        except (KeyError, TypeError, ValueError):
            return ""
        return "systemd" if options.get("SystemdCgroup") else "cgroupfs"

    async def watch(self, notify: Callable[[Hint], None]) -> None:
        async def settled(container_id: str) -> None:
            for pause in (*_SETTLE, 0.0):
                if not await self._runs(container_id):
                    return
                await asyncio.sleep(pause)
            raise RuntimeUnavailable(
                f"cri: container {container_id[:12]} has exited, but the runtime does not admit it"
            )

        await self._hints.run(notify, Source(self._follow, settled, self._pid))

    async def _follow(self) -> None:
        """The runtime's events, or its presence."""
        self._driver = None  # it may have been configured anew
        try:
            async with asyncio.TaskGroup() as group:
                presence = group.create_task(self._presence())
                try:
                    async for event in self._client.follow(calls.EVENTS, pb.GetEventsRequest()):
                        uid = event.pod_sandbox_status.metadata.uid
                        if uid:
                            self._hints.say(Hint(uid, event.container_id))
                except Unimplemented:
                    await presence
                finally:
                    presence.cancel()
        except* RuntimeUnavailable as gone:
            raise gone.exceptions[0] from None

    async def _presence(self) -> None:
        """Until the runtime closes a connection: it has ended, or (a gRPC server's patience being 2 minutes) it has not."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._options.socket_path)
        except OSError as error:
            raise RuntimeUnavailable(f"cri: {self._options.socket_path}: {error.strerror or error}") from error
        try:
            self._hints.flows()
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
        finally:
            writer.close()

    def hinting(self) -> bool:
        return self._hints.flowing()

    async def close(self) -> None:
        self._hints.close()
        self._client.close()

    # Sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        request = pb.RunPodSandboxRequest(config=spec.sandbox(config, self._owner), runtime_handler=config.handler)
        subject = f"{config.pod.namespace}/{config.pod.name}"
        try:
            # Images of sandboxes are pulled, and CNI plugins may be slow: upstream too waits twice as long.
            told = await self._client.call(
                calls.RUN_SANDBOX, request, subject=subject, timeout=2 * self._options.timeout
            )
        except NotFound as error:
            raise RuntimeRefused(error.message) from error
        except RuntimeRefused as error:
            if _NETWORK.search(error.message):
                raise NetworkUnavailable(error.message) from error
            raise self._explained(error) from error
        self._hints.made(told.pod_sandbox_id, config.pod.uid)
        self._hints.started(told.pod_sandbox_id)
        return told.pod_sandbox_id

    def _explained(self, error: RuntimeRefused) -> RuntimeRefused:
        """runc says "EOF" when it may not lower the sandbox's oom_score_adj."""
        path = self._options.socket_path
        if "EOF" in error.message:
            with contextlib.suppress(OSError):
                if not peer.may_lower_oom_scores(path):
                    return RuntimeRefused(
                        f"{error.message} (the runtime at {path} lacks CAP_SYS_RESOURCE: set restrict_oom_score_adj = true "
                        "in its CRI configuration)"
                    )
        return error

    async def stop_sandbox(self, sandbox_id: str) -> None:
        self._addresses.pop(sandbox_id, None)
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        with contextlib.suppress(NotFound):
            await self._ask(self._client.call(calls.STOP_SANDBOX, request, subject=sandbox_id[:12]))
        self._processes.pop(sandbox_id, None)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.stop_sandbox(sandbox_id)
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        with contextlib.suppress(NotFound):
            await self._ask(self._client.call(calls.REMOVE_SANDBOX, request, subject=sandbox_id[:12]))
        self._forget({sandbox_id})

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=sandbox_id not in self._processes)
        answer = await self._ask(self._client.call(calls.SANDBOX_STATUS, request, subject=sandbox_id[:12]))
        told, state = answer.status, spec.sandbox_state(answer.status.state)
        process = NOBODY
        if state is SandboxState.READY:
            process = self._processes.setdefault(sandbox_id, process_of(answer.info))
        return SandboxStatus(
            id=told.id,
            pod=spec.pod_of(told.labels),
            attempt=told.metadata.attempt,
            state=state,
            created_at=spec.moment(told.created_at) or spec.EPOCH,
            ips=spec.ips_of(told),
            pid=process.pid,
            netns=f"/proc/{process.pid}/ns/net" if process.pid else "",
        )

    async def list_pods(self) -> list[PodRecord]:
        if not self._name:
            await self.version()
        known = self._hints.known()  # before the list: what is made meanwhile is not missing from it
        found, listed = await asyncio.gather(
            self._ask(self._client.call(calls.LIST_SANDBOXES, pb.ListPodSandboxRequest())),
            self._ask(self._client.call(calls.LIST, pb.ListContainersRequest())),
        )
        ours = [each for each in found.items if self._owner.owns(each.labels)]
        theirs = [each for each in listed.containers if self._owner.owns(each.labels)]
        self._forget(known - {each.id for each in ours} - {each.id for each in theirs})
        addresses = await asyncio.gather(*(self._ips(each) for each in ours))
        sandboxes: dict[PodIdentity, list[SandboxRecord]] = {}
        containers: dict[PodIdentity, list[ContainerRecord]] = {}
        for each, ips in zip(ours, addresses, strict=True):
            pod = spec.pod_of(each.labels)
            self._hints.listed(each.id, pod.uid, running=each.state == pb.SANDBOX_READY)
            sandboxes.setdefault(pod, []).append(spec.sandbox_record(each, ips))
        for one in theirs:
            pod = spec.pod_of(one.labels)
            self._hints.listed(one.id, pod.uid, running=one.state == pb.CONTAINER_RUNNING)
            containers.setdefault(pod, []).append(spec.container_record(one))
        return [
            PodRecord(
                pod=pod,
                sandboxes=tuple(sorted(sandboxes.get(pod, ()), key=_age, reverse=True)),
                containers=tuple(sorted(containers.get(pod, ()), key=_age, reverse=True)),
            )
            for pod in dict.fromkeys([*sandboxes, *containers])
        ]

    async def _ips(self, told: pb.PodSandbox) -> tuple[IPAddress, ...]:
        """Asked for once a sandbox: they do not change while it is READY."""
        if told.state != pb.SANDBOX_READY:
            self._addresses.pop(told.id, None)
            return ()
        if told.id not in self._addresses:
            request = pb.PodSandboxStatusRequest(pod_sandbox_id=told.id)
            try:
                answer = await self._ask(self._client.call(calls.SANDBOX_STATUS, request, subject=told.id[:12]))
            except NotFound:
                return ()
            self._addresses[told.id] = spec.ips_of(answer.status)
        return self._addresses[told.id]

    # Containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        config = await self._complete(config)
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=spec.container(config, sandbox, self._owner),
            sandbox_config=spec.sandbox(sandbox, self._owner),
        )
        subject = f"{sandbox.pod.name}/{config.name}"
        try:
            told = await self._client.call(calls.CREATE, request, subject=subject)
        except RuntimeRefused as error:
            if "reserved for" not in error.message or not await self._unreserved(sandbox_id, config):
                raise
            told = await self._client.call(calls.CREATE, request, subject=subject)
        self._hints.made(told.container_id, sandbox.pod.uid)
        return told.container_id

    async def _complete(self, config: ContainerConfig) -> ContainerConfig:
        """CRI wants a user where there is a group, and no oom_score_adj below what the runtime may give."""
        security, resources = config.security, config.resources
        if security.run_as_group is not None and not security.run_as_user:
            user = (await self._user(config.image)).partition(":")[0] or "0"
            config = dataclasses.replace(config, security=dataclasses.replace(security, run_as_user=user))
        if resources.oom_score_adj < 0:
            score = peer.oom_score(resources.oom_score_adj, self._options.socket_path)
            config = dataclasses.replace(config, resources=dataclasses.replace(resources, oom_score_adj=score))
        return config

    async def _user(self, image_id: str) -> str:
        if image_id not in self._users:
            image = await self.image_status(image_id)
            self._users[image_id] = image.user if image is not None else ""
        return self._users[image_id]

    async def _unreserved(self, sandbox_id: str, config: ContainerConfig) -> bool:
        """Whether the name was held by one that never started: left by a call that was cut short, by us or our predecessor."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=sandbox_id))
        listed = await self._ask(self._client.call(calls.LIST, request))
        for each in listed.containers:
            same = (each.metadata.name, each.metadata.attempt) == (config.name, config.attempt)
            if same and each.state == pb.CONTAINER_CREATED:
                await self.remove_container(each.id)
                return True
        return False

    async def start_container(self, container_id: str) -> None:
        await self._client.call(
            calls.START, pb.StartContainerRequest(container_id=container_id), subject=container_id[:12]
        )
        self._hints.started(container_id)

    async def stop_container(self, container_id: str, timeout: float) -> None:
        with contextlib.suppress(NotFound):
            timeout = await self._signalled(container_id, timeout)
            seconds = math.ceil(timeout)
            request = pb.StopContainerRequest(container_id=container_id, timeout=seconds)
            limit = self._options.timeout + seconds
            await self._ask(self._client.call(calls.STOP, request, subject=container_id[:12], timeout=limit))
        self._processes.pop(container_id, None)

    async def _signalled(self, container_id: str, timeout: float) -> float:
        """What is left of the grace period. A container with a stop signal of its own is sent it here, and given its time:
        runtimes before containerd 2.1 know only the image's."""
        status = await self.container_status(container_id)
        name = status.annotations.get(spec.STOP_SIGNAL, "")
        if not name or status.state is not ContainerState.RUNNING or timeout <= 0:
            return timeout
        number, descriptor = _signal_number(name), pidfd_of(status.pid, container_id)
        if number is None or descriptor is None:
            return timeout  # not to be seen from here: the runtime's own signal has to do
        try:
            self._hints.exits.watch(container_id, status.pid)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if self._hints.exits.known(container_id):
                await self._hints.exits.wait(container_id, timeout)
        finally:
            os.close(descriptor)
        return 0.0

    async def remove_container(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        with contextlib.suppress(NotFound):
            await self._ask(self._client.call(calls.REMOVE, request, subject=container_id[:12]))
        self._forget({container_id})

    async def container_status(self, container_id: str) -> ContainerStatus:
        """The verbose answer is asked for once, and once more for the process."""
        verbose = container_id not in self._terminals
        answer = await self._container(container_id, verbose=verbose)
        running = answer.status.state == pb.CONTAINER_RUNNING
        if running and not verbose and container_id not in self._processes:
            answer = await self._container(container_id, verbose=True)
            running = answer.status.state == pb.CONTAINER_RUNNING
        if answer.info:
            self._terminals[container_id] = _home(answer.info)
            if running and (process := process_of(answer.info)).pid:
                self._processes[container_id] = process
        if not running:
            self._processes.pop(container_id, None)
        sandbox_id, tty = self._terminals.get(container_id, ("", False))
        found = spec.container_status(answer.status, sandbox_id, tty)
        process = self._processes.get(container_id, NOBODY)
        return dataclasses.replace(
            found, pid=process.pid, cgroup=process.cgroup, resources=found.resources or process.resources
        )

    async def _container(self, container_id: str, *, verbose: bool = False) -> pb.ContainerStatusResponse:
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=verbose)
        return await self._ask(self._client.call(calls.CONTAINER_STATUS, request, subject=container_id[:12]))

    async def _runs(self, container_id: str) -> bool:
        """Of a container or a sandbox."""
        if container_id in self._addresses:
            return (await self.sandbox_status(container_id)).state is SandboxState.READY
        with contextlib.suppress(NotFound):
            return (await self._container(container_id)).status.state == pb.CONTAINER_RUNNING
        return False

    async def _pid(self, container_id: str) -> int:
        try:
            return (await self.container_status(container_id)).pid
        except NotFound:
            return (await self.sandbox_status(container_id)).pid

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=spec.resources(resources))
        await self._client.call(calls.UPDATE, request, subject=container_id[:12])
        self._processes.pop(container_id, None)

    @property
    def name(self) -> str:
        return self._name or "containerd"

    @property
    def rotates_logs(self) -> bool:
        return False

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self._client.call(calls.REOPEN_LOG, request, subject=container_id[:12])

    # Commands

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        limit = timeout or self._options.timeout
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=math.ceil(limit))
        call = self._client.call(calls.EXEC_SYNC, request, subject=container_id[:12], timeout=NO_LIMIT)
        try:
            async with asyncio.timeout(limit) as clock:
                told = await call
        except (TimeoutError, DeadlineExceeded) as error:
            if isinstance(error, TimeoutError) and not clock.expired():
                raise
            raise ExecTimeout(f"command {list(command)!r} timed out after {limit:g}s") from None
        return ExecResult(told.exit_code, told.stdout[:_OUTPUT], told.stderr[:_OUTPUT])

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> streams.SpdyStream:
        request = pb.ExecRequest(
            container_id=container_id,
            cmd=command,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr and not options.tty,
        )
        told = await self._client.call(calls.EXEC, request, subject=container_id[:12])
        return await streams.connect(told.url, options)

    async def attach(self, container_id: str, options: StreamOptions) -> streams.SpdyStream:
        status = await self.container_status(container_id)
        if status.state is not ContainerState.RUNNING:
            raise RuntimeRefused(f"container {container_id} is not running")
        options = dataclasses.replace(options, tty=status.tty)
        request = pb.AttachRequest(
            container_id=container_id,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr and not options.tty,
        )
        told = await self._client.call(calls.ATTACH, request, subject=container_id[:12])
        return await streams.connect(told.url, options)

    # Images

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=image), auth=spec.auth(auth))
        return (await self._client.call(calls.PULL, request, subject=image, timeout=NO_LIMIT)).image_ref

    async def image_status(self, image: str) -> Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image))
        told = await self._client.call(calls.IMAGE_STATUS, request, subject=image)
        return spec.image(told.image) if told.HasField("image") else None

    async def list_images(self) -> list[Image]:
        told = await self._ask(self._client.call(calls.LIST_IMAGES, pb.ListImagesRequest()))
        return [spec.image(each) for each in told.images]

    async def remove_image(self, image: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image))
        with contextlib.suppress(NotFound):
            await self._ask(self._client.call(calls.REMOVE_IMAGE, request, subject=image))

    async def image_fs(self) -> FsUsage:
        told = await self._ask(self._client.call(calls.IMAGE_FS, pb.ImageFsInfoRequest()))
        if not told.image_filesystems:
            raise RuntimeUnavailable("cri: the runtime names no filesystem of its images")
        first = told.image_filesystems[0]
        return FsUsage(
            mountpoint=first.fs_id.mountpoint,
            used_bytes=first.used_bytes.value,
            inodes_used=first.inodes_used.value,
        )

    # Inside

    async def _ask(self, call: Awaitable[T]) -> T:
        """For calls that have no author to blame: what the runtime refuses there is worth another try."""
        try:
            return await call
        except NotFound:
            raise
        except RuntimeRefused as error:
            raise RuntimeUnavailable(f"cri: {error.message}") from error

    def _forget(self, ids: set[str]) -> None:
        self._hints.forget(ids)
        for identity in ids:
            for memory in (self._addresses, self._processes, self._terminals):
                memory.pop(identity, None)  # type: ignore[attr-defined]


def _age(record: SandboxRecord | ContainerRecord) -> tuple[int, int]:
    return int(record.created_at.timestamp() * 1e6), record.attempt


def _signal_number(name: str) -> int | None:
    """SIGTERM, SIGRTMIN+3, as the API writes them."""
    base, plus, offset = name.partition("+")
    base, minus, back = base.partition("-")
    try:
        number = int(signal.Signals[base])
        return number + (int(offset) if plus else 0) - (int(back) if minus else 0)
    except (KeyError, ValueError):
        return None


def _home(info: dict[str, str] | object) -> tuple[str, bool]:
    """The sandbox of a container and whether it has a terminal, of a verbose answer."""
    try:
        told = json.loads(info["info"])  # type: ignore[index]
        config = told.get("config") or {}
        process = (told.get("runtimeSpec") or {}).get("process") or {}
        return str(told.get("sandboxID") or ""), bool(config.get("tty") or process.get("terminal"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", False
