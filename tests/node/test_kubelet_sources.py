"""Static pods and a start without the API server: the kubelet as a process, real containers, kubectl."""

import asyncio
import base64
import json
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kube.meta import Condition
from kube.pods import Pod
from kube.resources import NODES, PODS, SIGNINGREQUESTS
from kube.signing import SigningRequest
from linux import netns as kernel
from tests.conftest import Netns
from tests.contracts.test_kubelet_certificates import sign
from tests.node import engines
from tests.node.kubelet_world import World, container, ready, with_world
from tests.requirements import kubectls

Run = Callable[[Callable[[World], Awaitable[None]]], None]

LOOP = "trap 'exit 0' TERM; echo hello from $HOSTNAME; while :; do sleep 0.1; done"


@pytest.fixture(params=engines.NAMES)
def run(
    request: pytest.FixtureRequest, netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path
) -> Iterator[Run]:
    node = netns("sources")
    with ExitStack() as stack:
        engine: engines.Engine
        if request.param == "docker":
            engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))
        settings = {"staticPodPath": str(tmp_path / "manifests")}

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test, settings=settings))

        yield go


def write(world: World, *containers: dict[str, Any]) -> Path:
    folder = world.folder / "manifests"
    folder.mkdir(exist_ok=True)
    spec = {"containers": list(containers), "terminationGracePeriodSeconds": 5}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
    (folder / ".web.yaml").write_text(json.dumps(body))
    return (folder / ".web.yaml").rename(folder / "web.yaml")


async def kubectl(world: World, *argv: str) -> str:
    command = [kubectls()[-1], "--kubeconfig", str(world.server.kubeconfig), *argv]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(root: str) -> list[int]:
    """The memory that all pods may use together, in whichever hierarchy says it."""
    files = (f"/sys/fs/cgroup/memory{root}/kubepods/memory.limit_in_bytes", f"/sys/fs/cgroup{root}/kubepods/memory.max")
    return [int(Path(file).read_text()) for file in files if Path(file).exists()]


def memory() -> int:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")]
    return int(line.split()[1]) * 1024


def readiness(pod: Pod) -> Condition:
    return next(condition for condition in pod.status.conditions if condition.type == "Ready")


def test_a_static_pod_and_its_mirror(run: Run) -> None:
    async def test(world: World) -> None:
        name = f"web-{world.node.name}"
        path = write(world, container("a", LOOP))
        mirror = await world.until(name, ready, "the mirror is ready")
        uid = mirror.metadata.annotations["kubernetes.io/config.mirror"]
        assert {row.uid for row in world.running()} == {uid}
        assert held(world.cgroups) == [memory()]
        assert await kubectl(world, "logs", name) == f"hello from {name}\n"
        assert await kubectl(world, "exec", name, "--", "echo", "inside") == "inside\n"
        assert "Started" in await kubectl(world, "describe", "pod", name)
        before = world.row(name, "a").id
        await kubectl(world, "delete", "pod", name, "--wait=false")
        await world.until(name, lambda pod: pod.metadata.uid != mirror.metadata.uid and ready(pod), "another mirror")
        assert world.row(name, "a").id == before
        write(world, container("b", LOOP))
        await world.until(
            name, lambda pod: [s.name for s in pod.status.container_statuses] == ["b"] and ready(pod), "b"
        )
        assert {row.container for row in world.running() if not row.sandbox} == {"b"}
        path.unlink()
        await world.until_gone(name)
        await world.eventually(lambda: not world.remains(), "nothing is left")

    run(test)


@pytest.mark.parametrize("run", ["containerd"], indirect=True)
def test_a_start_without_the_api(run: Run) -> None:
    """The API server dies, then the kubelet: the next one starts the static pod, and the pod of before when it exits."""

    async def test(world: World) -> None:
        name = f"web-{world.node.name}"
        script = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
        settings = {"metadata": {"name": "settings"}, "data": {"k": "v"}}
        await world.client.request("POST", "/api/v1/namespaces/default/configmaps", body=settings)
        mounted = container("p", script, volumeMounts=[{"name": "v", "mountPath": "/v"}])
        await world.create("plain", [mounted], volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        before = await world.until("plain", ready, "ready")
        kept = world.root / "seen/pods" / f"{before.metadata.uid}.json"
        await world.eventually(lambda: kept.exists() and b'"Ready","status":"True"' in kept.read_bytes(), "it is kept")
        world.server.kill()
        assert world.kill(signal.SIGTERM) == 0, "it waits for nobody"
        write(world, container("a", LOOP))
        world.start()
        await world.eventually(lambda: {row.pod for row in world.running()} == {"plain", name}, "both run")
        first = world.row("plain", "p")
        engines.end(first)
        await world.eventually(
            lambda: any(r.container == "p" and r.id != first.id for r in world.running()), "it is started again"
        )
        assert await world.healthy()
        await world.server.start()
        after = await world.until("plain", lambda pod: pod.status.container_statuses[0].restart_count == 1, "told")
        assert after.metadata.uid == before.metadata.uid
        await world.until(name, ready, "the static pod is shown")
        await world.until("plain", ready, "ready")
        assert readiness(after).type == "Ready"
        await world.client.delete(PODS, "plain", "default")
        await world.until_gone("plain")
        assert world.kill(signal.SIGTERM) == 0

    run(test)


@pytest.mark.parametrize("run", ["docker"], indirect=True)
def test_a_node_joins_with_a_certificate_that_somebody_approves(run: Run) -> None:
    """As kubeadm join does it: a bootstrap kubeconfig, a request, `kubectl certificate approve`, a signer."""

    async def test(world: World) -> None:
        assert world.kill(signal.SIGTERM) == 0
        await world.client.delete(NODES, world.node.name)
        write(world, container("a", LOOP))
        mine = world.folder / "kubelet.conf"
        world.start(
            "--kubeconfig", str(mine), "--bootstrap-kubeconfig", str(world.server.kubeconfig), "--rotate-certificates"
        )
        await world.eventually(lambda: len(world.running()) == 2, "the static pod waits for nobody")

        async def asked() -> list[SigningRequest]:
            return list((await world.client.list(SIGNINGREQUESTS)).items)

        await world.eventually(asked, "it asks")
        (request,) = await asked()
        assert not mine.exists()
        await kubectl(world, "certificate", "approve", request.metadata.name)
        issued = {"status": {"certificate": base64.b64encode(sign(world.server.authority(), request)).decode()}}
        path = SIGNINGREQUESTS.path(None, request.metadata.name, "status")
        await world.client.request("PATCH", path, body=issued, content_type="application/merge-patch+json")
        await world.eventually(lambda: world.node_is("True"), "the node is ready")
        assert (world.root / "pki/kubelet-client-current.pem").exists()
        assert str(world.root / "pki/kubelet-client-current.pem") in mine.read_text()
        await world.until(f"web-{world.node.name}", ready, "the mirror")

    run(test)
