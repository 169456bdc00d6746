"""What only a real runtime can be held to: namespaces, cgroups, signals, logs, and what a later kubelet still knows."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubelet import peer
from kubelet.cri import CriRuntime, calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.docker import DockerRuntime
from kubelet.network import Network
from kubelet.runtime import (
    DNS,
    EVERYTHING,
    RUNTIME_DEFAULT,
    ContainerState,
    Hint,
    LinuxResources,
    Mount,
    PortMapping,
    RuntimeRefused,
    SandboxSecurity,
    SandboxState,
    SecurityContext,
)
from tests.contracts.runtime_world import World, controller, ended, on_containerd, said, until, worlds
from tests.dockerd import IMAGE
from tests.requirements import requires


@pytest.fixture(params=["docker", "containerd"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with worlds(request, str(request.param), tmp_path) as found:
        yield found


def docker(world: World) -> DockerRuntime:
    if not isinstance(world.runtime, DockerRuntime):
        pytest.skip("a fact about Docker")
    return world.runtime


def cri(world: World) -> CriRuntime:
    if not isinstance(world.runtime, CriRuntime):
        pytest.skip("a fact about CRI")
    return world.runtime


async def test_the_containers_of_a_pod_share_network_and_ipc(world: World) -> None:
    runtime = world.runtime
    config, sandbox_id, container_id = await world.started("sleep", "3600")
    sandbox, container = await runtime.sandbox_status(sandbox_id), await runtime.container_status(container_id)
    assert sandbox.netns == f"/proc/{sandbox.pid}/ns/net"
    for space in ("net", "ipc"):
        assert os.readlink(f"/proc/{sandbox.pid}/ns/{space}") == os.readlink(f"/proc/{container.pid}/ns/{space}")
    for space in ("mnt", "pid"):
        assert os.readlink(f"/proc/{sandbox.pid}/ns/{space}") != os.readlink(f"/proc/{container.pid}/ns/{space}")
    shown = "\n".join(await said(world, container_id, "ip -4 addr"))
    assert f"inet {sandbox.ips[0]}/24" in shown
    assert "inet 127.0.0.1/8" in shown
    assert container.cgroup == f"{config.cgroup_parent}/{container_id}"
    assert f":{container.cgroup}\n" in Path(f"/proc/{container.pid}/cgroup").read_text()


async def test_a_shared_pid_namespace_and_a_targets(world: World) -> None:
    runtime = world.runtime
    holder = SandboxSecurity(run_as_user=1000, run_as_group=2000, supplemental_groups=(3000,))
    config = world.sandbox(share_pid=True, security=holder)
    sandbox_id = await runtime.run_sandbox(config)
    told = Path(f"/proc/{(await runtime.sandbox_status(sandbox_id)).pid}/status").read_text().splitlines()
    facts = {line.partition(":")[0]: line.partition(":")[2].split() for line in told}
    assert (facts["Uid"][0], facts["Gid"][0]) == ("1000", "2000")
    one = await runtime.create_container(sandbox_id, await world.container("sleep", "3600"), config)
    await runtime.start_container(one)
    spaces = [(await runtime.sandbox_status(sandbox_id)).pid, (await runtime.container_status(one)).pid]
    assert len({os.readlink(f"/proc/{pid}/ns/pid") for pid in spaces}) == 1

    config, sandbox_id, target = await world.started("sleep", "3601")
    debugger = await world.container("sleep", "3602", name="debugger", target_id=target)
    container_id = await runtime.create_container(sandbox_id, debugger, config)
    await runtime.start_container(container_id)
    spaces = [(await runtime.container_status(each)).pid for each in (target, container_id)]
    assert len({os.readlink(f"/proc/{pid}/ns/pid") for pid in spaces}) == 1
    assert "sleep 3601" in " ".join(await said(world, container_id, "tail -c 100 /proc/1/cmdline")).replace("\0", " ")


async def test_the_nodes_network(world: World) -> None:
    """Where the runtime is in the kubelet's network namespace; Docker's here is not, and says so."""
    runtime = cri(world)
    config = world.sandbox(host_network=True)
    sandbox_id = await runtime.run_sandbox(config)
    status = await runtime.sandbox_status(sandbox_id)
    assert status.ips == ()
    assert os.readlink(f"/proc/{status.pid}/ns/net") == os.readlink("/proc/self/ns/net")
    record = await world.record(config.pod)
    assert record is not None
    assert record.sandboxes[0].state is SandboxState.READY


async def test_the_kubelets_files_and_mounts_win(world: World) -> None:
    runtime = world.runtime
    for name in ("hosts", "resolv.conf", "data"):
        (world.folder / name).write_text(f"the kubelet's {name}\n")
    mounts = (
        Mount(host_path=str(world.folder / "hosts"), container_path="/etc/hosts"),
        Mount(host_path=str(world.folder / "resolv.conf"), container_path="/etc/resolv.conf"),
        Mount(host_path=str(world.folder / "data"), container_path="/data", read_only=True),
    )
    _, _, container_id = await world.started("sleep", "3600", mounts=mounts, env=(("GREETING", "hello $(x)"),))
    script = "cat /etc/hosts /etc/resolv.conf /data; echo $GREETING; cat /proc/sys/kernel/hostname; echo x > /data"
    done = await runtime.exec_sync(container_id, ["sh", "-c", script], 10)
    assert done.stdout.decode().splitlines() == [
        "the kubelet's hosts", "the kubelet's resolv.conf", "the kubelet's data", "hello $(x)", "web",
    ]  # fmt: skip
    assert b"Read-only" in done.stderr
    told = {mount.container_path: mount for mount in (await runtime.container_status(container_id)).mounts}
    assert told["/data"].host_path == str(world.folder / "data")
    assert told["/data"].read_only
    if isinstance(runtime, CriRuntime):
        return  # containerd makes a folder of what is missing
    config = world.sandbox()
    sandbox_id = await runtime.run_sandbox(config)
    missing = Mount(host_path=str(world.folder / "missing"), container_path="/m")
    with pytest.raises(RuntimeRefused, match="missing"):
        await runtime.create_container(sandbox_id, await world.container("true", mounts=(missing,)), config)


async def test_without_mounts_the_sandboxs_dns_is_what_it_was_given(world: World) -> None:
    cri(world)
    given = DNS(servers=("10.96.0.10",), searches=("default.svc.cluster.local", "cluster.local"), options=("ndots:5",))
    config = world.sandbox(dns=given)
    sandbox_id = await world.runtime.run_sandbox(config)
    container_id = await world.runtime.create_container(sandbox_id, await world.container("sleep", "3600"), config)
    await world.runtime.start_container(container_id)
    assert await said(world, container_id, "cat /etc/resolv.conf") == [
        "search default.svc.cluster.local cluster.local", "nameserver 10.96.0.10", "options ndots:5",
    ]  # fmt: skip


async def test_host_ports_are_told_to_the_network(world: World) -> None:
    ports = (
        PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
        PortMapping(protocol="UDP", container_port=53, host_port=5353),
    )
    config = world.sandbox(port_mappings=ports)
    sandbox_id = await world.runtime.run_sandbox(config)
    assert world.leases is not None
    (lease,) = [each for each in world.leases.iterdir() if (each / "owner").read_text().strip() == sandbox_id]
    rows = json.loads((lease / "request").read_text())["runtimeConfig"]["portMappings"]
    told = [{key.lower(): value for key, value in row.items()} for row in rows]  # containerd spells them HostPort, ...
    assert [(each["hostport"], each["containerport"], each["protocol"].lower()) for each in told] == [
        (8080, 80, "tcp"), (5353, 53, "udp"),
    ]  # fmt: skip
    assert told[0].get("hostip") == "127.0.0.1"


async def test_identity_and_rights_are_as_asked(world: World) -> None:
    wanted = SecurityContext(
        run_as_user="1000",
        run_as_group=2000,
        supplemental_groups=(3000,),
        read_only_root=True,
        no_new_privileges=True,
        drop_capabilities=("ALL",),
        add_capabilities=("NET_BIND_SERVICE",),
        seccomp=RUNTIME_DEFAULT,
    )
    _, _, container_id = await world.started("sleep", "3600", security=wanted)
    assert await said(world, container_id, "id -u; id -g; id -G") == ["1000", "2000", "2000 3000"]
    lines = await said(world, container_id, "cat /proc/self/status; echo x 2>&1 > /x || true")
    facts = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert int(facts["CapBnd"], 16) == 1 << 10
    _, _, container_id = await world.started("sleep", "3600", security=SecurityContext(run_as_group=2000))
    assert await said(world, container_id, "id -u; id -g") == ["0", "2000"]


async def test_a_seccomp_profile_of_ones_own(world: World) -> None:
    profile = world.folder / "no-mkdir.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    _, _, container_id = await world.started("sleep", "3600", security=SecurityContext(seccomp=str(profile)))
    done = await world.runtime.exec_sync(container_id, ["busybox", "mkdir", "/tmp/x"], 10)
    assert (done.exit_code, b"not permitted" in done.stderr) == (1, True)
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    missing = await world.container("true", security=SecurityContext(seccomp=f"{world.folder}/missing.json"))
    with pytest.raises(RuntimeRefused, match=r"missing\.json"):
        await world.runtime.create_container(sandbox_id, missing, config)


async def test_a_stop_signal_of_its_own(world: World) -> None:
    """SIGTERM is ignored, SIGUSR1 is the way out, and it is not SIGKILL that ends it."""
    script = "trap '' TERM; trap 'exit 7' USR1; echo set; while :; do sleep 0.05; done"
    _, _, container_id = await world.started("sh", "-c", script, stop_signal="SIGUSR1")

    async def trapped() -> bool:
        log = (await world.runtime.container_status(container_id)).log_path
        return os.path.exists(log) and "set" in Path(log).read_text()

    await until(trapped, "the trap is set")
    begun = time.monotonic()
    await world.runtime.stop_container(container_id, 20)
    status = await world.runtime.container_status(container_id)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 7)
    assert time.monotonic() - begun < 15


async def test_out_of_memory_is_told(world: World) -> None:
    limits = LinuxResources(memory_limit=16 << 20)
    _, _, container_id = await world.started("tail", "/dev/zero", resources=limits)
    await ended(world, container_id)
    status = await world.runtime.container_status(container_id)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_limits_change_in_place(world: World) -> None:
    given = LinuxResources(cpu_shares=102, cpu_quota=20_000, cpu_period=100_000, memory_limit=64 << 20)
    _, _, container_id = await world.started("sleep", "3600", resources=given)
    before = await world.runtime.container_status(container_id)
    assert before.resources is not None
    assert (before.resources.cpu_shares, before.resources.memory_limit) == (102, 64 << 20)
    more = LinuxResources(cpu_shares=204, cpu_quota=40_000, cpu_period=100_000, memory_limit=96 << 20)
    await world.runtime.update_resources(container_id, more)
    after = await world.runtime.container_status(container_id)
    assert after.resources is not None
    assert (after.resources.cpu_shares, after.resources.cpu_quota) == (204, 40_000)
    assert after.resources.memory_limit == 96 << 20
    assert after.pid == before.pid
    file = "memory.limit_in_bytes" if Path("/sys/fs/cgroup/memory").is_dir() else "memory.max"
    assert controller(after.cgroup, "memory", file) == str(96 << 20)


async def test_a_lowered_oom_score_is_what_the_runtime_may_give(world: World) -> None:
    path = world.runtime._client.socket_path if isinstance(world.runtime, CriRuntime) else ""
    cri(world)
    _, _, container_id = await world.started("sleep", "3600", resources=LinuxResources(oom_score_adj=-997))
    pid = (await world.runtime.container_status(container_id)).pid
    score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    assert score == (-997 if peer.may_lower_oom_scores(path) else 0)


async def test_the_log_stands_where_upstream_has_it(world: World) -> None:
    runtime = world.runtime
    config, _, container_id = await world.started("echo", "hello")
    log = Path(config.log_directory) / "main" / "0.log"
    wanted = '"log":"hello\\n"' if isinstance(runtime, DockerRuntime) else " stdout F hello\n"

    async def written() -> bool:
        return log.exists() and wanted in log.read_text()

    await until(written, "the log has the line")
    assert os.path.samefile((await runtime.container_status(container_id)).log_path, log)
    await runtime.remove_container(container_id)
    assert not log.is_symlink()


async def test_a_renamed_log_is_opened_anew(world: World) -> None:
    runtime = world.runtime
    config, _, container_id = await world.started("sh", "-c", "while :; do echo tick; sleep 0.02; done")
    log = Path(config.log_directory) / "main" / "0.log"
    if runtime.rotates_logs:
        with pytest.raises(RuntimeRefused, match="rotates"):
            await runtime.reopen_log(container_id)
        return

    async def written() -> bool:
        return log.exists() and "tick" in log.read_text()

    await until(written, "the log has lines")
    log.rename(log.with_name("0.log.20260101-000000"))
    await runtime.reopen_log(container_id)
    await until(written, "the new log has lines")
    await runtime.stop_container(container_id, 0)
    with pytest.raises(RuntimeRefused):
        await runtime.reopen_log(container_id)


async def test_images_and_where_they_are(world: World) -> None:
    found = await world.runtime.image_status(IMAGE)
    assert found is not None
    assert IMAGE in found.tags
    assert found.size > 1_000_000
    assert await world.runtime.image_status(found.id) == found
    assert [image.id for image in await world.runtime.list_images() if IMAGE in image.tags] == [found.id]
    await world.runtime.status()  # an older containerd tells its sandbox image by its configuration

    async def pinned() -> bool:
        images = [image for image in await world.runtime.list_images() if "wherry.local/pause:1" in image.tags]
        return bool(images) and images[0].pinned

    await world.runtime.run_sandbox(world.sandbox())  # Docker's is built for the first
    await until(pinned, "nobody may collect the sandbox image")
    place = await world.runtime.image_fs()
    assert os.path.isdir(place.mountpoint)


async def test_kubelets_share_a_runtime_without_seeing_each_other(world: World) -> None:
    assert world.other is not None
    config, sandbox_id, _ = await world.started("sleep", "3600")
    assert [each for each in await world.other("another-node").list_pods() if each.pod == config.pod] == []
    same = world.other(world.node)
    assert [record.pod for record in await same.list_pods()] == [config.pod]
    assert (await same.sandbox_status(sandbox_id)).state is SandboxState.READY


async def test_after_a_restart_everything_is_known_and_exits_are_noticed(world: World) -> None:
    assert world.other is not None
    config, sandbox_id, container_id = await world.started("sleep", "3600")
    before = await world.runtime.sandbox_status(sandbox_id)
    heir = world.other(world.node)
    if isinstance(heir, DockerRuntime):  # which no longer finds its configuration
        heir._network = heir._sandboxes._network = Network("/nonexistent", [], str(world.folder / "cache"))
    hints: list[Hint] = []
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(heir.watch(hints.append))

        async def flowing() -> bool:
            return EVERYTHING in hints

        await until(flowing, "hints flow again, with one about everything")
        records = await heir.list_pods()
        assert [(each.pod, each.sandboxes[0].ips) for each in records] == [(config.pod, before.ips)]

        async def adopted() -> bool:
            return bool(heir._hints.exits.watched(container_id))  # type: ignore[attr-defined]

        await until(adopted, "the container's process is watched")
        os.kill((await heir.container_status(container_id)).pid, 9)

        async def told() -> bool:
            return Hint(config.pod.uid, container_id) in hints

        await until(told, "a hint about the exit")
        assert (await heir.container_status(container_id)).exit_code == 137
        watch.cancel()


async def test_a_dead_sandbox_is_noticed(world: World) -> None:
    hints: list[Hint] = []
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(world.runtime.watch(hints.append))

        async def flowing() -> bool:
            return world.runtime.hinting()

        await until(flowing, "hints flow")
        config, sandbox_id, _ = await world.started("sleep", "3600")
        await world.record(config.pod)
        os.kill((await world.runtime.sandbox_status(sandbox_id)).pid, 9)

        async def told() -> bool:
            """By a hint: it is looked at only when one has come."""
            if Hint(config.pod.uid, sandbox_id) not in hints:
                return False
            hints.clear()
            record = await world.record(config.pod)
            return record is not None and record.sandboxes[0].state is SandboxState.NOT_READY

        await until(told, "a hint about the sandbox, and a look that sees it dead")
        watch.cancel()


async def test_what_was_created_and_forgotten_gives_its_name_back(world: World) -> None:
    """A call that was cut short may have made its container."""
    config = world.sandbox()
    sandbox_id = await world.runtime.run_sandbox(config)
    container = await world.container("sleep", "3600")
    first = await world.runtime.create_container(sandbox_id, container, config)
    second = await world.runtime.create_container(sandbox_id, container, config)
    assert first != second
    await world.runtime.start_container(second)


async def test_a_stock_kubelets_pods_are_seen(world: World) -> None:
    """Pods that carry upstream's labels and none of ours count as this node's."""
    runtime = cri(world)
    config = world.sandbox()
    request = spec.sandbox(config, runtime._owner)
    for label in runtime._owner.labels:
        del request.labels[label]
    await runtime._client.call(calls.RUN_SANDBOX, pb.RunPodSandboxRequest(config=request))
    assert await world.record(config.pod) is not None


async def test_crun(request: pytest.FixtureRequest, tmp_path: Path, cgroup_parent: str) -> None:
    """Another OCI runtime below the same containerd; where the kernel's unified hierarchy has controllers besides cgroup v1, crun
    wants it out of sight."""
    requires("root", "containerd", "crun", "unshare", "loopback")
    from tests.containerd import private

    hidden = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    enter = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hidden, "sh")
    with private(enter, "crun") as daemon:
        async with on_containerd(daemon, tmp_path, cgroup_parent) as world:
            _, _, container_id = await world.started("sleep", "3600")
            assert await said(world, container_id, "echo from crun") == ["from crun"]
            await world.runtime.stop_container(container_id, 0)
            assert (await world.runtime.container_status(container_id)).exit_code == 137


# Docker's own


async def test_a_sandbox_removed_behind_our_back_gives_its_address_back(
    world: World, request: pytest.FixtureRequest
) -> None:
    runtime = docker(world)
    assert world.leases is not None
    _, sandbox_id, container_id = await world.started("sleep", "3600")
    assert len(list(world.leases.iterdir())) == 1
    client = request.getfixturevalue("dockerd").client()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(runtime.watch(lambda hint: None))

        async def flowing() -> bool:
            return runtime.hinting()

        await until(flowing, "hints flow")
        client.remove_container(container_id, force=True)
        client.remove_container(sandbox_id, force=True)
        client.close()
        leases = world.leases

        async def returned() -> bool:
            return not list(leases.iterdir())

        await until(returned, "the address is given back")
        watch.cancel()


async def test_an_ungranted_network_is_a_sandbox_without_address(world: World) -> None:
    """A kubelet killed between the pause process and CNI's answer leaves a sandbox that runs, and has to be stopped."""
    runtime = docker(world)
    config = world.sandbox()
    sandbox_id = await runtime.run_sandbox(config)
    cached = next((world.folder / "cache" / "results").iterdir())
    document = json.loads(cached.read_text())
    cached.write_text(json.dumps({**document, "result": None}))
    assert world.other is not None
    heir = world.other(runtime._options.node)
    folder = world.folder
    heir._network = heir._sandboxes._network = Network(
        str(folder / "net.d"), [str(folder / "bin")], str(folder / "cache")
    )
    status = await heir.sandbox_status(sandbox_id)
    assert (status.state, status.ips) == (SandboxState.READY, ())
    await heir.remove_sandbox(sandbox_id)
    assert world.leases is not None
    assert not list(world.leases.iterdir())
