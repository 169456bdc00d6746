"""A container runtime in memory that refuses what a real one refuses; `tests/contracts/test_runtime.py` holds it to that.

Programs are the handful that tests need: `true`, `false`, `sleep N`, `cat`, `echo WORDS`, `sh -c "exit N"`; anything
else "is not found". A main program that ends by itself ends when started; the others run until `exit` or a stop.

What a test may do to it: `exit(id, code)`, `kill_sandbox(id)`, `fail(operation, error)` for the next call,
`hold(operation)` until the returned Event is set (`release` ends it for later calls), `down = True` (nothing answers),
`network_ready = False`, `images[...]`, `registry[...]` (what `pull` finds), `on_exec` to answer exec_sync, and
`stubborn.add(name)` for containers that ignore SIGTERM. `calls` is the log of operations.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from kubelet.runtime import (
    Channel,
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ContainerStatus,
    ExecResult,
    ExecTimeout,
    FsUsage,
    Hint,
    HostNetworkRefused,
    Image,
    IPAddress,
    LinuxResources,
    NetworkUnavailable,
    NotFound,
    PodIdentity,
    PodRecord,
    RegistryAuth,
    RuntimeRefused,
    RuntimeStatus,
    RuntimeUnavailable,
    RuntimeVersion,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
    SandboxStatus,
    StreamOptions,
)

IMAGE = "wherry.local/busybox:dev"
_CHANGEABLE = (
    "cpu_shares", "cpu_period", "cpu_quota", "memory_limit", "memory_swap_limit", "cpuset_cpus", "cpuset_mems",
)  # fmt: skip


@dataclass
class _Sandbox:
    id: str
    config: SandboxConfig
    created_at: datetime
    ips: tuple[IPAddress, ...] = ()
    state: SandboxState = SandboxState.READY


@dataclass
class _Container:
    id: str
    sandbox_id: str
    pod: PodIdentity
    config: ContainerConfig
    log_path: str
    status: ContainerStatus
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def _outcome(command: Sequence[str]) -> int | None:
    """The exit code of a program that ends by itself, None when it goes on, LookupError when there is none."""
    match list(command):
        case ["true", *_] | ["echo", *_]:
            return 0
        case ["false", *_]:
            return 1
        case ["sleep", *_] | ["cat"]:
            return None
        case ["sh", "-c", script] if script.startswith("exit "):
            return int(script.split()[1])
        case _:
            raise LookupError(command[0] if command else "")


class FakeStream:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._code = _outcome(command)
        self._output: asyncio.Queue[tuple[Channel, bytes] | None] = asyncio.Queue()
        self.size: tuple[int, int] | None = None
        self.closed = False
        if self._command[:1] == ("echo",):
            self._output.put_nowait((Channel.STDOUT, " ".join(self._command[1:]).encode() + b"\n"))
        if self._code is not None:
            self._output.put_nowait(None)

    async def read(self) -> tuple[Channel, bytes] | None:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        if self._command == ("cat",):
            self._output.put_nowait((Channel.STDOUT, data))

    async def close_stdin(self) -> None:
        if self._command == ("cat",):
            self._code = 0
            self._output.put_nowait(None)

    async def resize(self, width: int, height: int) -> None:
        self.size = (width, height)

    async def exit_code(self) -> int:
        return self._code or 0

    async def close(self) -> None:
        self.closed = True


class FakeRuntime:
    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        host_network: bool = True,
        name: str = "docker",
    ) -> None:
        self._now = now
        self.name = name
        self._host_network = host_network
        self._sandboxes: dict[str, _Sandbox] = {}
        self._containers: dict[str, _Container] = {}
        self._notify: list[Callable[[Hint], None]] = []
        self._failures: dict[str, list[Exception]] = defaultdict(list)
        self._held: dict[str, asyncio.Event] = {}
        self._count = 0
        self.calls: list[tuple[str, str]] = []
        self.down = False
        self.network_ready = True
        self.images: dict[str, Image] = {IMAGE: Image(id="sha256:" + "b" * 64, tags=(IMAGE,), size=1_982_256)}
        self.registry: dict[str, Image] = {}
        self.image_root = "/"
        self.stubborn: set[str] = set()
        self.rotates_logs = name == "docker"
        self.on_exec: Callable[[str, Sequence[str]], ExecResult] | None = None

    # What tests do to it

    def exit(self, container_id: str, code: int = 0, *, reason: str = "", message: str = "") -> None:
        """The main program ends; nothing happens to one that does not run."""
        container = self._containers[container_id]
        if container.status.state is not ContainerState.RUNNING:
            return
        container.status = replace(
            container.status,
            state=ContainerState.EXITED,
            finished_at=self._now(),
            exit_code=code,
            reason=reason or ("Error" if code else "Completed"),
            message=message,
            pid=0,
        )
        container.ended.set()
        self._hint(container.pod.uid, container_id)

    def kill_sandbox(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes[sandbox_id]
        sandbox.state = SandboxState.NOT_READY
        self._hint(sandbox.config.pod.uid, sandbox_id)

    def fail(self, operation: str, error: Exception) -> None:
        self._failures[operation].append(error)

    def hold(self, operation: str) -> asyncio.Event:
        self._held[operation] = asyncio.Event()
        return self._held[operation]

    def release(self, operation: str) -> None:
        self._held.pop(operation).set()

    def configuration(self, container_id: str) -> ContainerConfig:
        return self._containers[container_id].config

    def sandbox_configuration(self, sandbox_id: str) -> SandboxConfig:
        return self._sandboxes[sandbox_id].config

    def container_id(self, name: str, pod: str = "") -> str:
        """The newest container of that name."""
        found = [c for c in self._containers.values() if c.config.name == name and pod in ("", c.pod.name)]
        if not found:
            raise LookupError(name)
        return found[-1].id

    # The Protocol

    async def version(self) -> RuntimeVersion:
        await self._call("version")
        return RuntimeVersion(name=self.name, version="0.0-fake", api_version="1.41")

    async def status(self) -> RuntimeStatus:
        if self.down:
            return RuntimeStatus(runtime_ready=False, runtime_message="docker: no answer within 3 s")
        message = "" if self.network_ready else "cni config uninitialized"
        return RuntimeStatus(runtime_ready=True, network_ready=self.network_ready, network_message=message)

    async def run_sandbox(self, config: SandboxConfig) -> str:
        await self._call("run_sandbox", config.pod.name)
        if config.host_network and not self._host_network:
            raise HostNetworkRefused("hostNetwork needs a runtime of this node's own: start with --runtime containerd")
        for other in self._sandboxes.values():
            if other.config.pod.uid == config.pod.uid and other.config.attempt == config.attempt:
                raise RuntimeRefused(f"the sandbox name of {config.pod.name} attempt {config.attempt} is in use")
        sandbox = _Sandbox(self._id("sandbox"), config, self._now())
        self._sandboxes[sandbox.id] = sandbox
        if not config.host_network:
            if not self.network_ready:
                sandbox.state = SandboxState.NOT_READY
                raise NetworkUnavailable("cni config uninitialized")
            sandbox.ips = (IPv4Address("10.244.1.1") + self._count,)
        self._hint(config.pod.uid, sandbox.id)
        return sandbox.id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._call("stop_sandbox", sandbox_id)
        if sandbox_id in self._sandboxes:
            self._sandboxes[sandbox_id].ips = ()
            self.kill_sandbox(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._call("remove_sandbox", sandbox_id)
        for container in [c for c in self._containers.values() if c.sandbox_id == sandbox_id]:
            del self._containers[container.id]
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            self._hint(sandbox.config.pod.uid, sandbox_id)

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        await self._call("sandbox_status", sandbox_id)
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise NotFound(f"no sandbox {sandbox_id}")
        ready = sandbox.state is SandboxState.READY
        return SandboxStatus(
            id=sandbox.id,
            pod=sandbox.config.pod,
            attempt=sandbox.config.attempt,
            state=sandbox.state,
            created_at=sandbox.created_at,
            ips=sandbox.ips,
            pid=4000 if ready else 0,
            netns="/proc/4000/ns/net" if ready else "",
        )

    async def list_pods(self) -> list[PodRecord]:
        await self._call("list_pods")
        sandboxes: dict[PodIdentity, list[SandboxRecord]] = defaultdict(list)
        containers: dict[PodIdentity, list[ContainerRecord]] = defaultdict(list)
        for sandbox in reversed(self._sandboxes.values()):
            sandboxes[sandbox.config.pod].append(
                SandboxRecord(
                    id=sandbox.id,
                    attempt=sandbox.config.attempt,
                    state=sandbox.state,
                    created_at=sandbox.created_at,
                    ips=sandbox.ips,
                    annotations=sandbox.config.annotations,
                )
            )
        for container in reversed(self._containers.values()):
            status = container.status
            record = ContainerRecord(
                id=container.id,
                sandbox_id=container.sandbox_id,
                name=status.name,
                attempt=status.attempt,
                image=status.image,
                image_id=status.image_id,
                state=status.state,
                created_at=status.created_at,
                annotations=container.config.annotations,
            )
            containers[container.pod].append(record)
        return [
            PodRecord(pod=pod, sandboxes=tuple(sandboxes[pod]), containers=tuple(containers[pod]))
            for pod in dict.fromkeys([*sandboxes, *containers])
        ]

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        await self._call("create_container", config.name)
        home = self._sandboxes.get(sandbox_id)
        if home is None:
            raise NotFound(f"no sandbox {sandbox_id}")
        for other in self._containers.values():
            if (other.pod.uid, other.config.name, other.config.attempt) == (
                sandbox.pod.uid,
                config.name,
                config.attempt,
            ):
                raise RuntimeRefused(f"the container name of {config.name} attempt {config.attempt} is in use")
        if config.target_id:
            self._running(config.target_id)
        image = self._image(config.image)
        if image is None:
            raise NotFound(f"No such image: {config.image}")
        identity = self._id(f"container-{config.name}")
        log_path = f"{sandbox.log_directory}/{config.log_path}"
        status = ContainerStatus(
            id=identity,
            sandbox_id=sandbox_id,
            pod=sandbox.pod,
            name=config.name,
            attempt=config.attempt,
            state=ContainerState.CREATED,
            created_at=self._now(),
            image=image.tags[0] if image.tags else image.id,
            image_id=image.digests[0] if image.digests else image.id,
            mounts=config.mounts,
            log_path=log_path,
            tty=config.tty,
            annotations=config.annotations,
            resources=config.resources,
            cgroup=f"{sandbox.cgroup_parent}/{identity}",
        )
        self._containers[identity] = _Container(identity, sandbox_id, sandbox.pod, config, log_path, status)
        self._hint(sandbox.pod.uid, identity)
        return identity

    async def start_container(self, container_id: str) -> ContainerStatus | None:
        await self._call("start_container", container_id)
        container = self._find(container_id)
        if container.status.state is not ContainerState.CREATED:
            raise RuntimeRefused(f"container {container_id} has been started before")
        if self._sandboxes[container.sandbox_id].state is not SandboxState.READY:
            raise RuntimeRefused(f"cannot join network of a non running container: {container.sandbox_id}")
        command = (*container.config.command, *container.config.args) or ("sleep",)
        container.status = replace(
            container.status, state=ContainerState.RUNNING, started_at=self._now(), pid=5000 + self._count
        )
        try:
            code = _outcome(command)
        except LookupError:
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            self.exit(container_id, 127, reason="ContainerCannotRun", message=message)
            raise RuntimeRefused(message) from None
        self._hint(container.pod.uid, container_id)
        if code is not None:
            self.exit(container_id, code)
        return container.status

    async def stop_container(self, container_id: str, timeout: float) -> None:
        await self._call("stop_container", container_id)
        container = self._containers.get(container_id)
        if container is None or container.status.state is not ContainerState.RUNNING:
            return
        if container.config.name not in self.stubborn:
            self.exit(container_id, 143)
            return
        try:
            async with asyncio.timeout(timeout):
                await container.ended.wait()
        except TimeoutError:
            self.exit(container_id, 137)

    async def remove_container(self, container_id: str) -> None:
        await self._call("remove_container", container_id)
        container = self._containers.pop(container_id, None)
        if container is not None:
            container.ended.set()
            self._hint(container.pod.uid, container_id)

    async def container_status(self, container_id: str) -> ContainerStatus:
        await self._call("container_status", container_id)
        return self._find(container_id).status

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        await self._call("update_resources", container_id)
        container = self._find(container_id)
        if container.status.state is ContainerState.EXITED:
            raise RuntimeRefused(f"container {container_id} is not running")
        told = {name: value for name in _CHANGEABLE if (value := getattr(resources, name))}
        now = container.status.resources or LinuxResources()
        container.status = replace(container.status, resources=replace(now, **told))

    async def reopen_log(self, container_id: str) -> None:
        await self._call("reopen_log", container_id)
        if self.rotates_logs:
            raise RuntimeRefused("the runtime rotates the logs of its containers itself")
        self._running(container_id)
        log = Path(self._containers[container_id].log_path)
        if log.parent.is_dir():
            log.touch()

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        await self._call("exec_sync", container_id)
        self._running(container_id)
        if self.on_exec is not None:
            return self.on_exec(container_id, command)
        stream = await self.exec(container_id, command, StreamOptions())
        output = b""
        try:
            async with asyncio.timeout(timeout or None):
                while (piece := await stream.read()) is not None:
                    output += piece[1]
        except TimeoutError:
            raise ExecTimeout(f"command {list(command)!r} timed out after {timeout:g}s") from None
        return ExecResult(await stream.exit_code(), output, b"")

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> FakeStream:
        await self._call("exec", container_id)
        self._running(container_id)
        try:
            return FakeStream(command)
        except LookupError:
            raise RuntimeRefused(f'exec: "{command[0]}": executable file not found in $PATH') from None

    async def attach(self, container_id: str, options: StreamOptions) -> FakeStream:
        await self._call("attach", container_id)
        self._running(container_id)
        config = self._containers[container_id].config
        return FakeStream((*config.command, *config.args))

    async def watch(self, notify: Callable[[Hint], None]) -> None:
        self._notify.append(notify)
        try:
            await asyncio.Event().wait()
        finally:
            self._notify.remove(notify)

    def hinting(self) -> bool:
        return bool(self._notify) and not self.down

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        await self._call("pull", image)
        if image not in self.registry:
            raise RuntimeRefused(
                f"pull access denied for {image}, repository does not exist or may require 'docker login'"
            )
        self.images[image] = self.registry[image]
        return self.images[image].id

    async def image_status(self, image: str) -> Image | None:
        await self._call("image_status", image)
        return self._image(image)

    async def list_images(self) -> list[Image]:
        await self._call("list_images")
        return list({image.id: image for image in self.images.values()}.values())

    async def remove_image(self, image: str) -> None:
        await self._call("remove_image", image)
        found = self._image(image)
        if found is not None:
            self.images = {name: each for name, each in self.images.items() if each.id != found.id}

    async def image_fs(self) -> FsUsage:
        await self._call("image_fs")
        used = sum(image.size for image in await self.list_images())
        return FsUsage(mountpoint=self.image_root, used_bytes=used, inodes_used=len(self.images))

    async def close(self) -> None: ...

    # Inside

    async def _call(self, operation: str, subject: str = "") -> None:
        self.calls.append((operation, subject))
        await asyncio.sleep(0)
        held = self._held.get(operation)
        if held is not None:
            await held.wait()
        if self.down:
            raise RuntimeUnavailable(f"docker: {operation} {subject}: no answer")
        if self._failures[operation]:
            raise self._failures[operation].pop(0)

    def _id(self, seed: str) -> str:
        self._count += 1
        return hashlib.sha256(f"{seed}-{self._count}".encode()).hexdigest()

    def _find(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFound(f"No such container: {container_id}")
        return container

    def _running(self, container_id: str) -> None:
        if self._find(container_id).status.state is not ContainerState.RUNNING:
            raise RuntimeRefused(f"container {container_id} is not running")

    def _image(self, image: str) -> Image | None:
        return next((each for name, each in self.images.items() if image in (name, each.id)), None)

    def _hint(self, uid: str, container_id: str) -> None:
        for notify in list(self._notify):
            notify(Hint(uid, container_id))
