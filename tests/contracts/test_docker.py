"""What Docker does to us: it hangs, it restarts, it loses things. And what people do through it: terminals, pipes, logs.

These tests freeze and end their dockerd, so they have one of their own.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kubelet.containerlogs import logs
from kubelet.docker import DockerOptions, DockerRuntime
from kubelet.docker.pause import PAUSE_IMAGE
from kubelet.runtime import (
    EVERYTHING,
    ContainerState,
    Hint,
    HostNetworkRefused,
    RuntimeUnavailable,
    SandboxState,
)
from tests import dockerd as daemons
from tests.contracts.runtime_world import World, network, until
from tests.dockerd import Dockerd
from tests.requirements import requires


@pytest.fixture(scope="module")
def own() -> Iterator[Dockerd]:
    requires("root", "dockerd", "nsenter", "netns")
    with daemons.private() as found:
        yield found


@pytest.fixture
async def world(own: Dockerd, tmp_path: Path, cgroup_parent: str) -> AsyncIterator[World]:
    connected, leases = network(tmp_path)
    made: list[DockerRuntime] = []

    def runtime(node: str, timeout: float = 120.0) -> DockerRuntime:
        made.append(DockerRuntime(DockerOptions(socket_path=own.socket_path, node=node, timeout=timeout), connected))
        return made[-1]

    home = World(runtime(f"node-{uuid.uuid4().hex[:6]}"), tmp_path, cgroup_parent, runtime, leases)
    try:
        yield home
    finally:
        await home.clean()
        for each in made:
            await each.close()


def docker(world: World) -> DockerRuntime:
    assert isinstance(world.runtime, DockerRuntime)
    return world.runtime


async def test_a_hung_dockerd_hangs_nobody(world: World, own: Dockerd) -> None:
    assert world.other is not None
    await world.started("sleep", "3600")
    impatient = world.other(docker(world)._options.node, timeout=1.0)  # type: ignore[call-arg]
    assert (await impatient.status()).runtime_ready
    assert own.process is not None
    os.kill(own.process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        calls = [impatient.list_pods() for _ in range(20)]  # more than there are threads
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, RuntimeUnavailable) for answer in answers), answers
        assert time.monotonic() - begun < 5
        status = await impatient.status()
        assert not status.runtime_ready
        assert "no answer" in status.runtime_message
    finally:
        os.kill(own.process.pid, signal.SIGCONT)

    async def back() -> bool:
        return (await impatient.status()).runtime_ready

    await until(back, "dockerd answers again")
    assert len(await impatient.list_pods()) == 1


async def test_an_absent_dockerd_is_said_in_one_line(tmp_path: Path) -> None:
    connected, _ = network(tmp_path)
    runtime = DockerRuntime(DockerOptions(socket_path=str(tmp_path / "none.sock"), node="n"), connected)
    status = await runtime.status()
    assert not status.runtime_ready
    assert "none.sock" in status.runtime_message
    with pytest.raises(RuntimeUnavailable, match=r"none\.sock"):
        await runtime.list_pods()
    await runtime.close()


async def test_the_pause_image_comes_back(world: World, own: Dockerd) -> None:
    client = own.client()
    if client.images(name=PAUSE_IMAGE):
        client.remove_image(PAUSE_IMAGE, force=True)
    client.close()
    both = await asyncio.gather(
        docker(world).run_sandbox(world.sandbox("a")), docker(world).run_sandbox(world.sandbox("b"))
    )
    for sandbox_id in both:
        assert (await docker(world).sandbox_status(sandbox_id)).state is SandboxState.READY


async def test_the_network_of_another_namespace_is_not_this_hosts(world: World) -> None:
    with pytest.raises(HostNetworkRefused, match="--runtime containerd"):
        await docker(world).run_sandbox(world.sandbox(host_network=True))
    assert await docker(world).list_pods() == []


async def test_host_network_where_it_is_said_to_be_ours(world: World, own: Dockerd) -> None:
    runtime = DockerRuntime(
        DockerOptions(socket_path=own.socket_path, node=docker(world)._options.node, host_network=True),
        docker(world)._network,
    )
    sandbox_id = await runtime.run_sandbox(world.sandbox(host_network=True))
    status = await runtime.sandbox_status(sandbox_id)
    assert (status.state, status.ips) == (SandboxState.READY, ())
    assert own.process is not None
    assert os.readlink(status.netns) == os.readlink(f"/proc/{own.process.pid}/ns/net")
    await runtime.close()


async def test_a_creation_cut_short_is_repeated(world: World) -> None:
    """A container that was created by a call we did not live to see is replaced by the next one of its name."""
    runtime = docker(world)
    config = world.sandbox()
    sandbox_id = await runtime.run_sandbox(config)
    wanted = await world.container("sleep", "3600")
    lost = await runtime.create_container(sandbox_id, wanted, config)
    found = await runtime.create_container(sandbox_id, wanted, config)
    assert found != lost
    await runtime.start_container(found)
    record = await world.record(config.pod)
    assert record is not None
    assert [each.id for each in record.containers] == [found]


async def test_cancelled_anywhere_a_pod_start_converges(world: World) -> None:
    """Cut a start short at many moments; a successor that follows the list always gets its pod and no address leaks."""
    runtime = docker(world)
    config = world.sandbox()
    for attempt in range(8):
        task = asyncio.gather(runtime.run_sandbox(type(config)(**{**_fields(config), "attempt": attempt})))
        done, _ = await asyncio.wait([task], timeout=0.03 * attempt)
        if not done:
            task.cancel()
        await asyncio.wait([task])
        for sandbox in record.sandboxes if (record := await world.record(config.pod)) else ():
            await runtime.remove_sandbox(sandbox.id)

    async def settled() -> bool:
        # What dockerd was still doing when its caller left may appear late; the list shows it.
        for sandbox in record.sandboxes if (record := await world.record(config.pod)) else ():
            await runtime.remove_sandbox(sandbox.id)
        assert world.leases is not None
        return await world.record(config.pod) is None and not list(world.leases.iterdir())

    await until(settled, "nothing is left")
    sandbox_id = await runtime.run_sandbox(type(config)(**{**_fields(config), "attempt": 99}))
    assert (await runtime.sandbox_status(sandbox_id)).state is SandboxState.READY


def _fields(config: object) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__slots__}  # type: ignore[attr-defined]


async def test_twenty_stops_at_once_hold_no_thread(world: World) -> None:
    """Grace periods are waited for in the loop: the ninth stop does not queue behind eight."""
    runtime = docker(world)
    config = world.sandbox()
    sandbox_id = await runtime.run_sandbox(config)
    containers = []
    for number in range(10):
        container = await world.container("sleep", "3600", name=f"c{number}")
        containers.append(await runtime.create_container(sandbox_id, container, config))
        await runtime.start_container(containers[-1])
    begun = time.monotonic()
    await asyncio.gather(*(runtime.stop_container(each, 2.0) for each in containers))
    assert time.monotonic() - begun < 6
    assert {(await runtime.container_status(each)).state for each in containers} == {ContainerState.EXITED}


async def test_logs_are_followed_through_dockers_own_rotation(world: World, own: Dockerd) -> None:
    from kubelet.docker.spec import LogLimits

    options = DockerOptions(
        socket_path=own.socket_path, node=docker(world)._options.node, logs=LogLimits(size=4096, files=3)
    )
    small = DockerRuntime(options, docker(world)._network)
    usual, world.runtime = world.runtime, small
    script = "i=0; while [ $i -lt 400 ]; do echo line-$i; i=$((i+1)); [ $((i % 20)) -ne 0 ] || sleep 0.15; done"
    _, _, container_id = await world.started("sh", "-c", script)
    status = await small.container_status(container_id)

    async def running() -> bool:
        return (await small.container_status(container_id)).state is ContainerState.RUNNING

    seen = b""
    async with asyncio.timeout(60):
        async for piece in logs.read(status.log_path, logs.LogOptions(follow=True), running):
            seen += piece
    assert seen.decode().split() == [f"line-{number}" for number in range(400)]
    world.runtime = usual
    await small.close()


async def test_dockerd_restarts_and_nothing_is_lost(world: World, own: Dockerd) -> None:
    """Killed with -9 and started again with live-restore: pods keep running, hints come back, exits are noticed."""
    runtime = docker(world)
    config, sandbox_id, container_id = await world.started("sleep", "3600")
    before = await runtime.container_status(container_id)
    hints: list[Hint] = []
    assert own.process is not None
    folder = Path(own.socket_path).parent
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(runtime.watch(hints.append))

        async def flowing() -> bool:
            return runtime.hinting()

        async def silent() -> bool:
            return not runtime.hinting()

        await until(flowing, "hints flow")
        namespace = _namespace_of(own.process.pid)
        own.process.kill()
        own.process.wait()
        await until(silent, "hints stop")
        assert not (await runtime.status()).runtime_ready
        with pytest.raises(RuntimeUnavailable):
            await runtime.list_pods()
        hints.clear()
        again = await asyncio.to_thread(daemons.start, folder, namespace)
        object.__setattr__(own, "process", again.process)
        await until(flowing, "hints flow again")
        assert EVERYTHING in hints
        after = await runtime.container_status(container_id)
        assert (after.state, after.pid) == (ContainerState.RUNNING, before.pid)
        assert (await runtime.sandbox_status(sandbox_id)).state is SandboxState.READY
        hints.clear()
        await runtime.stop_container(container_id, 0)

        async def told() -> bool:
            return Hint(config.pod.uid, container_id) in hints

        await until(told, "a hint about the exit")
        watch.cancel()


def _namespace_of(pid: int) -> str:
    """The name of a process' network namespace."""
    wanted = os.stat(f"/proc/{pid}/ns/net")
    for entry in Path("/run/netns").iterdir():
        if entry.stat().st_ino == wanted.st_ino:
            return entry.name
    raise LookupError(pid)
