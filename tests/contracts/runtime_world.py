"""A runtime and what its contract needs around it: pods that are torn down, and a pod network without a kernel's help.

The network's plugin numbers sandboxes and puts an address on an interface of the sandbox's own, so that nothing outside the
sandbox is touched.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubelet.cri import CriOptions, CriRuntime
from kubelet.docker import DockerOptions, DockerRuntime
from kubelet.network import Network
from kubelet.runtime import (
    CONTAINER_HASH,
    ContainerConfig,
    ContainerState,
    NetworkUnavailable,
    PodIdentity,
    PodRecord,
    Runtime,
    SandboxConfig,
)
from tests.containerd import Containerd
from tests.dockerd import IMAGE, Dockerd
from tests.fakes.runtime import FakeRuntime

PLUGIN = """#!/bin/sh
set -e
leases={leases}
case $CNI_COMMAND in
ADD)
    request=$(cat)
    [ ! -e {leases}/refuse ] || {{ echo '{{"cniVersion":"1.0.0","code":11,"msg":"try again later"}}'; exit 1; }}
    new=$leases/.$CNI_CONTAINERID
    mkdir -p $new
    echo $CNI_CONTAINERID > $new/owner
    echo "$request" > $new/request
    n=$(ls $leases | wc -l)
    while ! mv -T $new $leases/$n 2>/dev/null; do n=$((n + 1)); done
    nsenter --net=$CNI_NETNS ip link add $CNI_IFNAME type veth peer name other
    nsenter --net=$CNI_NETNS ip addr add 10.77.0.$((n + 10))/24 dev $CNI_IFNAME
    nsenter --net=$CNI_NETNS ip link set $CNI_IFNAME up
    echo '{{"cniVersion":"1.0.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],'
    echo '"ips":[{{"address":"10.77.0.'$((n + 10))'/24","interface":0}}]}}'
    ;;
DEL)
    cat > /dev/null
    rm -rf $leases/.$CNI_CONTAINERID
    for lease in $leases/*; do
        [ "$(cat $lease/owner 2>/dev/null)" != $CNI_CONTAINERID ] || rm -r $lease
    done
    ;;
esac
"""


@dataclass
class World:
    """A runtime and what a test needs to use it; each pod is torn down afterwards."""

    runtime: Runtime
    folder: Path
    cgroups: str = ""
    other: Callable[[str], Runtime] | None = None  # a kubelet of another node on the same runtime; None: not shared
    leases: Path | None = None
    node: str = ""
    pods: list[PodIdentity] = field(default_factory=list)

    def sandbox(self, name: str = "web", attempt: int = 0, **more: object) -> SandboxConfig:
        pod = PodIdentity(name, "default", f"{name}-{uuid.uuid4().hex[:8]}")
        self.pods.append(pod)
        return SandboxConfig(
            pod=pod,
            attempt=attempt,
            hostname=name,
            log_directory=str(self.folder / "log" / f"default_{name}_{pod.uid}"),
            cgroup_parent=f"{self.cgroups}/pod{pod.uid}" if self.cgroups else "",
            **more,  # type: ignore[arg-type]
        )

    async def container(self, *command: str, name: str = "main", attempt: int = 0, **more: object) -> ContainerConfig:
        image = await self.runtime.image_status(IMAGE)
        assert image is not None
        return ContainerConfig(
            name=name,
            attempt=attempt,
            image=image.id,
            command=command,
            annotations={CONTAINER_HASH: "1a2b3c"},
            log_path=f"{name}/{attempt}.log",
            **more,  # type: ignore[arg-type]
        )

    async def started(self, *command: str, **more: object) -> tuple[SandboxConfig, str, str]:
        """A running pod of one container: its configuration, sandbox id and container id."""
        config = self.sandbox()
        sandbox_id = await self.runtime.run_sandbox(config)
        container_id = await self.runtime.create_container(sandbox_id, await self.container(*command, **more), config)
        await self.runtime.start_container(container_id)
        return config, sandbox_id, container_id

    async def network_ready(self) -> bool:
        """A containerd reads the network's configuration in its own time."""
        return (await self.runtime.status()).network_ready

    async def record(self, pod: PodIdentity) -> PodRecord | None:
        return next((each for each in await self.runtime.list_pods() if each.pod == pod), None)

    async def clean(self) -> None:
        for record in await self.runtime.list_pods():
            for container in record.containers:
                await self.runtime.remove_container(container.id)
            for sandbox in record.sandboxes:
                with contextlib.suppress(NetworkUnavailable):
                    await self.runtime.remove_sandbox(sandbox.id)


@asynccontextmanager
async def worlds(request: pytest.FixtureRequest, kind: str, folder: Path) -> AsyncIterator[World]:
    """`kind`: fake, docker or containerd; the real ones are the session's."""
    if kind == "fake":
        yield World(FakeRuntime(), folder)
        return
    cgroups: str = request.getfixturevalue("cgroup_parent")
    if kind == "docker":
        dockerd: Dockerd = request.getfixturevalue("dockerd")
        connected, leases = network(folder)

        def docker(node: str) -> Runtime:
            return DockerRuntime(DockerOptions(socket_path=dockerd.socket_path, node=node), connected)

        async with _world(docker, folder, cgroups, leases) as found:
            yield found
        return
    async with on_containerd(request.getfixturevalue("containerd"), folder, cgroups) as found:
        yield found


@asynccontextmanager
async def on_containerd(
    daemon: Containerd, folder: Path, cgroups: str, *, timeout: float = 120.0
) -> AsyncIterator[World]:
    _, leases = network(daemon.folder)

    def cri(node: str) -> Runtime:
        return CriRuntime(CriOptions(socket_path=daemon.socket_path, node=node, timeout=timeout))

    async with _world(cri, folder, cgroups, leases) as found:
        yield found


@asynccontextmanager
async def _world(make: Callable[[str], Runtime], folder: Path, cgroups: str, leases: Path) -> AsyncIterator[World]:
    made: list[Runtime] = []

    def runtime(node: str) -> Runtime:
        made.append(make(node))
        return made[-1]

    name = f"node-{uuid.uuid4().hex[:6]}"
    home = World(runtime(name), folder, cgroups, runtime, leases, name)
    await until(home.network_ready, "the pod network is ready")
    try:
        yield home
    finally:
        (leases / "refuse").unlink(missing_ok=True)
        try:
            await home.clean()
        finally:
            for each in made:
                await each.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 15.0) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.02)
            return
    raise AssertionError(f"not within {seconds:g} s: {what}")


def network(folder: Path) -> tuple[Network, Path]:
    leases, binaries, configurations = folder / "leases", folder / "bin", folder / "net.d"
    for each in (leases, binaries, configurations):
        each.mkdir(parents=True, exist_ok=True)
    plugin = binaries / "numbers"
    plugin.write_text(PLUGIN.format(leases=leases))
    plugin.chmod(0o755)
    (configurations / "10-numbers.conflist").write_text(
        json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": "numbers",
                "plugins": [{"type": "numbers", "capabilities": {"portMappings": True}}],
            }
        )
    )
    return Network(str(configurations), [str(binaries)], str(folder / "cache"), timeout=20), leases


async def said(world: World, container_id: str, script: str) -> list[str]:
    done = await world.runtime.exec_sync(container_id, ["sh", "-c", script], 10)
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode().splitlines()


async def ended(world: World, container_id: str) -> None:
    async def exited() -> bool:
        return (await world.runtime.container_status(container_id)).state is ContainerState.EXITED

    await until(exited, "the container exits")


def controller(group: str, name: str, file: str) -> str:
    """A file of a container's cgroup, on cgroup v1 below its controller, else at the root."""
    top = Path("/sys/fs/cgroup")
    base = top / name if (top / name).is_dir() else top
    return (base / group.lstrip("/") / file).read_text().strip()
