"""A kubelet that starts while the API server is away: what ran goes on, what is static starts, and the rest is said later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kube.client import Client
from kube.resources import CONFIGMAPS, LEASES, NODES, PODS, RUNTIMECLASSES, SERVICES
from tests.contracts.kubelet_rig import NODE, Rig, api, connection_to, container, eventually, ready
from tests.contracts.test_kubelet_static import MIRROR, manifest, running, write
from tests.fakes.runtime import FakeRuntime
from tests.ports import free_port

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


@asynccontextmanager
async def lonely(folder: Path) -> AsyncIterator[tuple[Rig, Path, int]]:
    """A rig whose API server has never run; with `api(folder, port)` it does."""
    (folder / "resolv.conf").write_text("nameserver 9.9.9.9\n")
    (folder / "api").mkdir()
    port = free_port()
    connection = connection_to(folder / "api", port)
    async with Client(connection) as client, asyncio.TaskGroup() as group:
        node = Rig(connection, client, FakeRuntime(), folder, group)
        try:
            yield node, folder / "api", port
        finally:
            if node.task is not None:
                await node.kill()


async def test_static_pods_start_with_the_api_absent_and_are_shown_later(tmp_path: Path) -> None:
    async with lonely(tmp_path) as (node, folder, port):
        write(node, manifest())
        await node.start()
        await eventually(lambda: len(running(node)) == 1, "the static pod runs")
        assert node.wiring is not None
        assert not node.wiring.source.synced
        async with api(folder, port):
            mirror = await node.until(ready, "the mirror is ready", MIRROR, 60)
            assert node.starts() == 1
            assert mirror.status.pod_ip.startswith("10.244.")
            assert (await node.client.get(NODES, NODE)).metadata.name == NODE
            await eventually(lambda: node.client.get(LEASES, NODE, "kube-node-lease"), "the Lease")
            await node.kill()


async def test_a_manifest_that_changed_meanwhile_is_another_pod_at_once(tmp_path: Path) -> None:
    """Also while the API, which this may be, is away: the earlier content is ended first."""
    async with lonely(tmp_path) as (node, _, _):
        write(node, manifest())
        await node.start()
        await eventually(lambda: len(running(node)) == 1, "the first runs")
        (first,) = running(node)
        await node.kill()
        write(node, manifest(container("b")))
        node.runtime.hold("stop_container")
        await node.start()
        await eventually(
            lambda: ("stop_container", node.runtime.container_id("a")) in node.runtime.calls, "it is ended"
        )
        assert running(node) == [first], "never both at once"
        node.runtime.release("stop_container")
        await eventually(lambda: len(running(node)) == 1 and running(node) != [first], "the second runs alone")


async def test_pods_of_before_go_on_and_are_started_again(tmp_path: Path) -> None:
    async with lonely(tmp_path) as (node, folder, port):
        async with api(folder, port):
            await node.start()
            await node.client.create(CONFIGMAPS, {"metadata": {"name": "settings"}, "data": {"A": "1"}}, "default")
            mounted = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
            await node.client.create(RUNTIMECLASSES, {"metadata": {"name": "fast"}, "handler": "crun"})
            await node.create("plain", containers=[container("a")], runtimeClassName="fast")
            volume = {"name": "v", "configMap": {"name": "settings"}}
            await node.create("mounted", containers=[container("b", **mounted)], volumes=[volume])
            await node.create("leaving")
            pods = [await node.until(ready, "ready", name) for name in ("plain", "mounted", "leaving")]
            seen = tmp_path / "kubelet/seen/pods"
            await eventually(lambda: all((seen / f"{p.metadata.uid}.json").exists() for p in pods), "kept")
            assert {path.stat().st_mode & 0o777 for path in seen.iterdir()} == {0o600}

            def kept() -> bool:
                return all(b'"Ready","status":"True"' in path.read_bytes() for path in seen.iterdir())

            await eventually(kept, "kept as ready")
            for file in ("services.json", "runtimeclasses.json"):
                await eventually((tmp_path / "kubelet/seen" / file).exists, f"{file} is kept")
            await node.kill()
            await node.client.delete(PODS, "leaving", "default", grace_period_seconds=0)
        await node.start()
        for name in ("a", "b"):
            node.runtime.exit(node.runtime.container_id(name, "plain" if name == "a" else "mounted"), 1)
        await eventually(lambda: node.starts() == 5, "both are started again")
        await eventually(lambda: len(running(node)) == 3, "nothing was stopped: nobody has said so")
        variables = dict(node.runtime.configuration(node.runtime.container_id("a", "plain")).env)
        assert "KUBERNETES_SERVICE_HOST" in variables
        async with api(folder, port):
            for name in ("plain", "mounted"):
                pod = await node.until(
                    lambda pod: ready(pod) and pod.status.container_statuses[0].restart_count == 1, "told", name, 20
                )
                assert pod.status.container_statuses[0].last_state.terminated is not None
            await eventually(lambda: len(running(node)) == 2, "who was deleted meanwhile is gone")
            gone = {path.stem for path in seen.iterdir()}
            await eventually(lambda: len(list(seen.iterdir())) == 2, f"and forgotten: {gone}")
            await node.kill()


async def test_the_status_of_a_static_pod_is_carried_over(tmp_path: Path) -> None:
    async with lonely(tmp_path) as (node, folder, port):
        write(node, manifest())
        async with api(folder, port):
            await node.start()
            mirror = await node.until(ready, "ready", MIRROR)
            await node.kill()
        await node.start()
        assert node.wiring is not None
        await eventually(lambda: node.wiring is not None and len(node.wiring.workers.pods()) == 1, "it is known")
        (pod,) = node.wiring.workers.pods()
        assert pod.status.start_time == mirror.status.start_time
        async with api(folder, port):
            await node.until(lambda pod: True, "the mirror", MIRROR, 20)
            await eventually(lambda: node.wiring is not None and node.wiring.source.synced, "answered")
            after = await node.until(ready, "still ready", MIRROR)
            assert [c.last_transition_time for c in after.status.conditions] == [
                c.last_transition_time for c in mirror.status.conditions
            ]
            assert (await node.client.list(SERVICES)).items
            await node.kill()
