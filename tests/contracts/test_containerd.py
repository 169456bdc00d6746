"""What containerd does to us: it hangs, it is killed and comes back, it is away; and what it does to a pod that cannot be.

These tests freeze and end their containerd, so they have one of their own.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kubelet.cri import CriOptions, CriRuntime
from kubelet.docker.pause import static_busybox
from kubelet.runtime import (
    EVERYTHING,
    ContainerState,
    Hint,
    NetworkUnavailable,
    RuntimeRefused,
    RuntimeUnavailable,
    SandboxState,
)
from tests import containerd as daemons
from tests.containerd import Containerd
from tests.contracts.runtime_world import World, on_containerd, until
from tests.requirements import requires


@pytest.fixture(scope="module")
def own() -> Iterator[Containerd]:
    requires("root", "containerd", "loopback")
    with daemons.private() as found:
        yield found


@pytest.fixture
async def world(own: Containerd, tmp_path: Path, cgroup_parent: str) -> AsyncIterator[World]:
    async with on_containerd(own, tmp_path, cgroup_parent) as found:
        yield found


async def test_a_hung_containerd_hangs_nobody(world: World, own: Containerd) -> None:
    await world.started("sleep", "3600")
    impatient = CriRuntime(CriOptions(socket_path=own.socket_path, node=world.node, timeout=1.0))
    assert (await impatient.status()).runtime_ready
    assert own.process is not None
    os.kill(own.process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        answers = await asyncio.gather(*(impatient.list_pods() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(answer, RuntimeUnavailable) for answer in answers), answers
        assert "no answer within 1 s" in str(answers[0])
        assert time.monotonic() - begun < 5
        status = await impatient.status()
        assert not status.runtime_ready
        assert "no answer" in status.runtime_message
    finally:
        os.kill(own.process.pid, signal.SIGCONT)

    async def back() -> bool:
        return (await impatient.status()).runtime_ready

    await until(back, "containerd answers again")
    assert len(await impatient.list_pods()) == 1
    await impatient.close()


async def test_an_absent_containerd_is_said_in_one_line(tmp_path: Path) -> None:
    runtime = CriRuntime(CriOptions(socket_path=str(tmp_path / "none.sock"), node="n"))
    status = await runtime.status()
    assert not status.runtime_ready
    assert "none.sock" in status.runtime_message
    with pytest.raises(RuntimeUnavailable, match=r"No such file or directory \(socket .*none\.sock\)"):
        await runtime.list_pods()
    await runtime.close()


async def test_containerd_restarts_and_nothing_is_lost(world: World, own: Containerd) -> None:
    """Killed with -9 and started again: pods keep running, hints come back, exits are noticed, also one of the time between."""
    runtime = world.runtime
    config, sandbox_id, container_id = await world.started("sleep", "3600")
    other, _, doomed = await world.started("sleep", "3601")
    before = await runtime.container_status(container_id)
    dying = (await runtime.container_status(doomed)).pid
    hints: list[Hint] = []
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(runtime.watch(hints.append))

        async def flowing() -> bool:
            return runtime.hinting()

        async def silent() -> bool:
            return not runtime.hinting()

        await until(flowing, "hints flow")
        own.kill()
        await until(silent, "hints stop")
        assert not (await runtime.status()).runtime_ready
        with pytest.raises(RuntimeUnavailable):
            await runtime.list_pods()
        os.kill(dying, 9)
        hints.clear()
        await asyncio.to_thread(own.start)
        await until(flowing, "hints flow again")
        assert EVERYTHING in hints

        async def told(pod: str, identity: str) -> bool:
            return Hint(pod, identity) in hints

        await until(lambda: told(other.pod.uid, doomed), "a hint about what died while nobody saw it")
        status = await runtime.container_status(doomed)
        assert (status.state, status.exit_code) == (ContainerState.EXITED, 137)
        after = await runtime.container_status(container_id)
        assert (after.state, after.pid) == (ContainerState.RUNNING, before.pid)
        assert (await runtime.sandbox_status(sandbox_id)).state is SandboxState.READY
        await runtime.stop_container(container_id, 0)
        await until(lambda: told(config.pod.uid, container_id), "a hint about the exit")
        watch.cancel()


async def test_a_stop_is_shortened_while_it_runs(world: World) -> None:
    """Both calls reach containerd, which lets the second one win."""
    _, _, container_id = await world.started("sleep", "3600")  # as PID 1 it ignores SIGTERM
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        patient = group.create_task(world.runtime.stop_container(container_id, 600))
        await asyncio.sleep(0)
        await world.runtime.stop_container(container_id, 1)
        patient.cancel()
    status = await world.runtime.container_status(container_id)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 137)


async def test_a_network_that_is_not_there_is_the_networks_fault(world: World, own: Containerd) -> None:
    conflist = own.folder / "net.d" / "10-numbers.conflist"
    text = conflist.read_bytes()
    conflist.unlink()

    async def unready() -> bool:
        return not (await world.runtime.status()).network_ready

    try:
        await until(unready, "containerd has seen that its network is gone")
        assert "cni" in (await world.runtime.status()).network_message
        with pytest.raises(NetworkUnavailable, match="cni"):
            await world.runtime.run_sandbox(world.sandbox())
    finally:
        conflist.write_bytes(text)
    await until(world.network_ready, "the network is there again")


async def test_words_of_refusals_are_the_runtimes_own(world: World) -> None:
    with pytest.raises(RuntimeRefused, match=r'^no runtime for "nobody" is configured$|runtime.*nobody') as refused:
        await world.runtime.run_sandbox(world.sandbox(handler="nobody"))
    assert "rpc error" not in refused.value.message
    with pytest.raises(RuntimeRefused, match="pull"):
        await world.runtime.pull("wherry.invalid/absent:1")


async def test_cancelled_anywhere_a_pod_start_converges(world: World) -> None:
    """A start is cut short at many moments, as by a kubelet that is killed; a successor that asks for the very same pod gets
    it, and no address leaks."""
    runtime, config, container = world.runtime, world.sandbox(), await world.container("sleep", "3600")

    async def start() -> str:
        """As a kubelet would: what is there is used, and removed where it is of no use."""
        record = await world.record(config.pod)
        for each in record.containers if record is not None else ():
            await runtime.remove_container(each.id)
        ready = [each for each in (record.sandboxes if record is not None else ()) if each.state is SandboxState.READY]
        for gone in record.sandboxes if record is not None else ():
            if gone not in ready:
                await runtime.remove_sandbox(gone.id)
        sandbox_id = ready[0].id if ready else await runtime.run_sandbox(config)
        container_id = await runtime.create_container(sandbox_id, container, config)
        await runtime.start_container(container_id)
        return container_id

    for moment in range(10):
        with contextlib.suppress(TimeoutError, RuntimeRefused, RuntimeUnavailable, NetworkUnavailable):
            async with asyncio.timeout(0.02 * moment):
                await start()

    async def started() -> bool:
        with contextlib.suppress(RuntimeRefused, RuntimeUnavailable, NetworkUnavailable):
            return (await runtime.container_status(await start())).state is ContainerState.RUNNING
        return False

    await until(started, "the pod runs after all")
    record = await world.record(config.pod)
    assert record is not None
    assert len([each for each in record.sandboxes if each.state is SandboxState.READY]) == 1
    for sandbox in record.sandboxes:
        await runtime.remove_sandbox(sandbox.id)
    assert world.leases is not None
    assert not list(world.leases.iterdir())


async def test_ten_stops_at_once(world: World) -> None:
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    containers = []
    for number in range(10):
        container = await world.container("sleep", "3600", name=f"c{number}")
        containers.append(await world.runtime.create_container(sandbox_id, container, config))
        await world.runtime.start_container(containers[-1])
    begun = time.monotonic()
    await asyncio.gather(*(world.runtime.stop_container(each, 1.0) for each in containers))
    assert time.monotonic() - begun < 6
    assert {(await world.runtime.container_status(each)).state for each in containers} == {ContainerState.EXITED}


async def test_more_output_than_a_message_holds(world: World) -> None:
    """Ten megabytes of a command's output arrive; with more than fits a message the runtime says no, and nobody hangs."""
    _, _, container_id = await world.started("sleep", "3600")
    size = os.path.getsize(static_busybox())
    command = ["sh", "-c", " ".join(["cat"] + ["/bin/busybox"] * 5)]
    assert len((await world.runtime.exec_sync(container_id, command, 20)).stdout) == 5 * size
    command = ["sh", "-c", " ".join(["cat"] + ["/bin/busybox"] * (17 * 1024 * 1024 // size + 1))]
    with pytest.raises(RuntimeRefused, match="larger than max"):
        await world.runtime.exec_sync(container_id, command, 20)
