"""wherry-kubelet as a process, with real containers, mounts, cgroups and packets, in a namespace of the test's own."""

import asyncio
import base64
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from kube.pods import Pod
from kube.resources import CONFIGMAPS, PODS, SECRETS
from linux import mounts
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.engines import end
from tests.node.kubelet_world import ADDRESS, World, cgroups_of, container, ready, with_world

Run = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture(params=engines.NAMES)
def run(
    request: pytest.FixtureRequest,
    netns: Callable[[str], Netns],
    cgroup_parent: str,
    tmp_path: Path,
) -> Iterator[Run]:
    """Over Docker, which is the tier's, and over a containerd of the test's own."""
    node = netns("kubelet")
    with ExitStack() as stack:
        if request.param == "docker":
            engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):  # what the test starts is started in there
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test))

        yield go


LIMITS = ("memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "memory.max", "cpu.max")
WEB = "mkdir -p /www; echo up > /www/index.html; exec httpd -f -p 8080 -h /www"


def test_a_pod_from_creation_to_nothing(run: Run) -> None:
    async def test(world: World) -> None:
        await world.client.create(CONFIGMAPS, {"metadata": {"name": "cm"}, "data": {"k": "one"}}, "default")
        secret = {"pw": base64.b64encode(b"geheim").decode()}
        await world.client.create(SECRETS, {"metadata": {"name": "s"}, "data": secret}, "default")
        volumes = [
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": str(world.folder / "host"), "type": "DirectoryOrCreate"}},
        ]
        mounted = [{"name": v["name"], "mountPath": f"/{v['name']}"} for v in volumes]
        web = container(
            "web",
            f"cat /disk/init /s/pw > /host/seen; stat -f -c %T /s /memory >> /host/seen; {WEB}",
            volumeMounts=mounted,
            readinessProbe={"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            livenessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            startupProbe={"exec": {"command": ["cat", "/www/index.html"]}, "periodSeconds": 1},
            resources={"limits": {"cpu": "500m", "memory": "32Mi"}},
        )
        init = container("init", "echo -n init- > /disk/init", volumeMounts=[{"name": "disk", "mountPath": "/disk"}])
        pod = await world.create("p", [web], initContainers=[init], volumes=volumes)
        pod = await world.until("p", ready, "ready")
        uid = pod.metadata.uid
        assert (world.folder / "host/seen").read_text() == "init-geheimtmpfs\ntmpfs\n"
        assert world.node.run("busybox", "wget", "-q", "-O", "-", f"http://{pod.status.pod_ip}:8080/") == "up\n"
        groups = cgroups_of(world.cgroups, uid)
        assert groups
        limits = [g / "memory.limit_in_bytes" for g in groups] + [g / "memory.max" for g in groups]
        # the init container has no limit, so the pod has none; the container's own is the runtime's to set
        assert all(int(f.read_text()) > 1 << 40 for f in limits if f.exists() and f.read_text().strip() != "max")
        kinds = sorted(mount.kind for mount in mounts.below(str(world.root)))
        assert kinds == ["tmpfs", "tmpfs"]

        await world.client.patch(CONFIGMAPS, "cm", {"data": {"k": "two"}}, "default")
        file = world.root / "pods" / uid / "volumes/kubernetes.io~configmap/cm/k"
        await world.eventually(lambda: file.read_text() == "two", "the ConfigMap's change is in the volume", 10)

        await world.client.delete(PODS, "p", "default")
        await world.until_gone("p")
        await world.eventually(lambda: not world.remains(), "no container is left")
        assert not (world.root / "pods" / uid).exists()
        assert cgroups_of(world.cgroups, uid) == []
        assert mounts.below(str(world.root)) == ()
        assert (world.folder / "host/seen").exists()
        await world.eventually(lambda: "veth" not in world.node.run("ip", "-o", "link"), "its link is gone")
        await world.eventually(lambda: not list((world.folder / "logs").iterdir()), "its logs are gone")

    run(test)


def test_kill_9_restarts_nothing_and_orphans_are_removed(run: Run) -> None:
    async def test(world: World) -> None:
        slow = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1000}
        await world.create("stays", [container("a", WEB, readinessProbe=slow)])
        await world.create("goes", [container("a", "sleep 1000")])
        await world.create("crashes", [container("a", "exit 3")])
        before = await world.until("stays", ready, "ready")
        goes = await world.until("goes", ready, "ready")
        await world.until("crashes", lambda p: _waiting(p) == "CrashLoopBackOff", "crash loop")
        running = world.containers()
        world.kill()
        await world.client.delete(PODS, "goes", "default", grace_period_seconds=0)
        assert world.containers() == running  # they outlive the kubelet
        world.start()
        await world.eventually(lambda: len(world.containers()) == len(running) - 2, "the orphan is stopped")
        await world.eventually(lambda: not (world.root / "pods" / goes.metadata.uid).exists(), "and cleaned up")
        assert world.containers() < running  # nothing that runs now was started by the second kubelet
        after = await world.pod("stays")
        assert after is not None
        assert [c for c in after.status.conditions if c.type == "Ready"] == [
            c for c in before.status.conditions if c.type == "Ready"
        ]
        assert after.status.container_statuses == before.status.container_statuses

    run(test)


def _waiting(pod: Pod) -> str:
    state = pod.status.container_statuses[0].state if pod.status.container_statuses else None
    return state.waiting.reason if state and state.waiting else ""


def test_a_killed_container_is_restarted_and_a_stubborn_one_gets_its_grace(run: Run) -> None:
    async def test(world: World) -> None:
        limits = {"limits": {"cpu": "500m", "memory": "32Mi"}}
        await world.create("p", [container("a", "trap '' TERM; while true; do sleep 1; done", resources=limits)])
        pod = await world.until("p", ready, "ready")
        assert pod.status.qos_class == "Guaranteed"
        values = {
            f.name: f.read_text().strip()
            for g in cgroups_of(world.cgroups, pod.metadata.uid)
            for f in g.iterdir()
            if f.name in LIMITS
        }
        assert {"memory.limit_in_bytes": str(32 << 20), "cpu.cfs_quota_us": "50000", "cpu.shares": "512"} == values or (
            values["memory.max"] == str(32 << 20) and values["cpu.max"] == "50000 100000"
        )
        end(world.row("p", "a"))
        pod = await world.until(
            "p", lambda p: ready(p) and p.status.container_statuses[0].restart_count == 1, "restarted"
        )
        last = pod.status.container_statuses[0].last_state.terminated
        assert last is not None
        assert last.exit_code == 137
        await world.client.delete(PODS, "p", "default", grace_period_seconds=300)
        assert await world.pod("p") is not None
        await world.client.delete(PODS, "p", "default", grace_period_seconds=1)
        await world.until_gone("p", 15)
        await world.eventually(lambda: not world.remains(), "no container is left")

    run(test)


def test_a_killed_kubelet_finishes_what_it_was_deleting(run: Run) -> None:
    async def test(world: World) -> None:
        secret = {"metadata": {"name": "s"}, "stringData": {"k": "v"}}
        await world.client.create(SECRETS, secret, "default")
        volumes = [{"name": "s", "secret": {"secretName": "s"}}]
        spec = container("a", "trap '' TERM; while true; do sleep 1; done")
        pod = await world.create("p", [spec], volumes=volumes, terminationGracePeriodSeconds=2)
        await world.until("p", ready, "ready")
        await world.client.delete(PODS, "p", "default")

        async def killing() -> bool:
            return bool(await world.events("Killing"))

        await world.eventually(killing, "it is being stopped")
        world.kill()
        world.start()
        await world.until_gone("p")
        await world.eventually(lambda: not world.remains(), "no container is left")
        await world.eventually(lambda: not (world.root / "pods" / pod.metadata.uid).exists(), "no directory")
        assert mounts.below(str(world.root)) == ()

    run(test)


def test_what_ends_at_once_is_told_at_once(run: Run) -> None:
    """Before its process could be watched, and without waiting for a relist, which comes each 10 s."""

    async def test(world: World) -> None:
        for number in range(4):
            name = f"p{number}"
            await world.create(name, [container("a", "exit 3")], restartPolicy="Never")
            await world.until(name, lambda p: p.status.phase == "Failed", "failed", 5)

    run(test)


def test_the_nodes_network_where_the_runtime_is_in_it(run: Run) -> None:
    async def test(world: World) -> None:
        await world.create(
            "p", [container("a", "cat /proc/net/route /proc/net/fib_trie; sleep 1000")], hostNetwork=True
        )
        if world.engine.name == "docker":

            async def refused() -> bool:
                return any(
                    "--runtime containerd" in event.message for event in await world.events("FailedCreatePodSandBox")
                )

            await world.eventually(refused, "an Event names what to do")
            return
        pod = await world.until("p", ready, "ready")
        assert (pod.status.pod_ip, pod.status.host_ip) == (ADDRESS, ADDRESS)
        inside = os.stat(f"/proc/{world.row('p', 'a').pid}/ns/net")
        assert inside.st_ino == os.stat(world.node.path).st_ino
        assert pod.status.container_statuses[0].container_id.startswith("containerd://")

    run(test)


def test_a_foreign_mount_in_a_dead_pods_directory_is_not_crossed(run: Run) -> None:
    async def test(world: World) -> None:
        world.kill()
        place = world.root / "pods/dead-uid/volumes/kubernetes.io~nfs/data"
        place.mkdir(parents=True)
        mounts.tmpfs(str(place))
        (place / "precious").write_text("data")
        world.start()

        def said() -> bool:
            return "not deleting" in (world.folder / "kubelet.log").read_text()

        await world.eventually(said, "it says what stands in the way")
        assert (place / "precious").read_text() == "data"
        mounts.unmount(str(place))
        await world.eventually(lambda: not (world.root / "pods/dead-uid").exists(), "then it goes", 40)

    run(test)


def test_health_metrics_logs_and_a_clean_end(run: Run) -> None:
    async def test(world: World) -> None:
        await world.create("p", [container("a", "echo hello; sleep 1000")])
        await world.until("p", ready, "ready")
        assert await world.healthy()
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.load_cert_chain(world.folder / "api/admin.crt", world.folder / "api/admin.key")
        base = f"https://127.0.0.1:{world.port}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/metrics", ssl=tls) as answer:
                text = await answer.text()
            async with session.get(f"{base}/containerLogs/default/p/a", ssl=tls) as answer:
                assert await answer.text() == "hello\n"
            async with session.get(f"{base}/pods", ssl=tls) as answer:
                assert [item["metadata"]["name"] for item in (await answer.json())["items"]] == ["p"]
        assert "kubelet_running_pods 1.0" in text
        assert 'kubelet_running_containers{container_state="running"} 1.0' in text
        assert "kubelet_runtime_operations_total{operation_type=" in text
        running = world.containers()
        assert world.kill(signal.SIGTERM) == 0
        assert world.containers() == running

    run(test)
