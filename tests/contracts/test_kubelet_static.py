"""Static pods and their mirrors through a whole kubelet, with our API server and the fake runtime."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kube import serving
from kube.core import Event
from kube.pods import Pod
from kube.resources import EVENTS, NAMESPACES, NODES, PODS
from kubelet.observe.manifests import HTTP, Fetched, Reader
from kubelet.observe.static import StaticPod
from tests.contracts.kubelet_rig import NODE, Rig, container, eventually, ready, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")

MIRROR = f"web-{NODE}"


def manifest(*containers: dict[str, Any], name: str = "web", **spec: Any) -> str:
    body = {"containers": list(containers) or [container("a")], "terminationGracePeriodSeconds": 1, **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body})


def write(node: Rig, text: str, name: str = "web.yaml") -> Path:
    """As kubeadm writes: beside it, then moved over it."""
    path = node.folder / "manifests" / name
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{name}")
    temporary.write_text(text)
    temporary.rename(path)
    return path


def hash_of(pod: Pod | None) -> str:
    return pod.metadata.annotations.get("kubernetes.io/config.mirror", "") if pod is not None else ""


def running(node: Rig) -> list[str]:
    return [s.pod.uid for s in (c.status for c in node.runtime._containers.values()) if s.state == "running"]


async def stopping(node: Rig) -> None:
    """The stop has begun, and the mirror was looked at since."""
    await eventually(lambda: any(o == "stop_container" for o, _ in node.runtime.calls), "the stop")
    assert node.wiring is not None
    await node.wiring.mirrors._sync(MIRROR)


@with_a_node
async def test_a_manifest_becomes_a_pod_with_a_mirror_and_goes_with_its_file(node: Rig) -> None:
    path = write(node, manifest())
    mirror = await node.until(ready, "the mirror is ready", MIRROR)
    meta = mirror.metadata
    uid = hash_of(mirror)
    assert running(node) == [uid]
    assert meta.uid != uid
    assert meta.annotations["kubernetes.io/config.source"] == "file"
    assert meta.annotations["kubernetes.io/config.hash"] == uid
    (owner,) = meta.owner_references
    assert (owner.kind, owner.name, owner.controller) == ("Node", NODE, True)
    assert owner.uid == (await node.client.get(NODES, NODE)).metadata.uid
    assert any(t.operator == "Exists" and t.effect == "NoExecute" and not t.key for t in mirror.spec.tolerations)
    path.unlink()
    await node.until_gone(MIRROR)
    await eventually(lambda: not node.runtime._containers, "the pod is gone")


@with_a_node
async def test_a_mirror_stays_while_its_pod_is_stopped(node: Rig) -> None:
    path = write(node, manifest())
    before = await node.until(ready, "ready", MIRROR)
    node.runtime.hold("stop_container")
    path.unlink()
    await stopping(node)
    during = await node.pod(MIRROR)
    assert during is not None
    assert (during.metadata.uid, during.metadata.deletion_timestamp) == (before.metadata.uid, None)
    assert node.wiring is not None
    assert node.wiring.source.own_uid(during.metadata.uid) == hash_of(during), "logs and exec still find it"
    assert node.wiring.source.in_api(hash_of(during)) is not None, "its end is told"
    node.runtime.release("stop_container")
    await node.until_gone(MIRROR)
    assert not running(node)


@with_a_node
async def test_a_mirror_is_owned_by_the_node_as_it_is_now(node: Rig) -> None:
    write(node, manifest())
    first = await node.until(ready, "ready", MIRROR)
    await node.client.delete(NODES, NODE)

    async def registered() -> bool:
        return any(one.metadata.name == NODE for one in (await node.client.list(NODES)).items)

    await eventually(registered, "the node has registered again")
    await node.client.delete(PODS, MIRROR, "default", grace_period_seconds=0)
    again = await node.until(lambda pod: pod.metadata.uid != first.metadata.uid, "another mirror", MIRROR)
    assert again.metadata.owner_references[0].uid == (await node.client.get(NODES, NODE)).metadata.uid


@with_a_node
async def test_a_deleted_mirror_comes_back_and_the_pod_runs_on(node: Rig) -> None:
    write(node, manifest())
    first = await node.until(ready, "ready", MIRROR)
    await node.client.delete(PODS, MIRROR, "default")
    again = await node.until(lambda pod: pod.metadata.uid != first.metadata.uid and ready(pod), "another one", MIRROR)
    assert hash_of(again) == hash_of(first)
    assert node.starts() == 1
    assert again.status.start_time == first.status.start_time


@with_a_node
async def test_another_content_is_another_pod_once_the_first_is_gone(node: Rig) -> None:
    write(node, manifest())
    first = hash_of(await node.until(ready, "ready", MIRROR))
    node.runtime.hold("stop_container")
    write(node, manifest(container("b")))
    await stopping(node)
    assert running(node) == [first], "never both at once"
    assert hash_of(await node.pod(MIRROR)) == first, "the mirror shows who runs"
    node.runtime.release("stop_container")
    second = await node.until(lambda pod: hash_of(pod) != first and ready(pod), "ready again", MIRROR)
    assert running(node) == [hash_of(second)]
    assert [s.name for s in second.status.container_statuses] == ["b"]


@with_a_node
async def test_the_same_file_again_starts_the_pod_again(node: Rig) -> None:
    path = write(node, manifest())
    first = await node.until(ready, "ready", MIRROR)
    path.unlink()
    await node.until_gone(MIRROR)
    write(node, manifest())
    again = await node.until(ready, "ready", MIRROR)
    assert hash_of(again) == hash_of(first)
    await eventually(lambda: running(node) == [hash_of(first)], "running again")
    assert node.starts() == 2


@with_a_node
async def test_a_file_that_comes_back_while_its_pod_is_stopped_runs_again(node: Rig) -> None:
    path = write(node, manifest())
    await node.until(ready, "ready", MIRROR)
    node.runtime.hold("stop_container")
    path.unlink()
    await eventually(lambda: any(o == "stop_container" for o, _ in node.runtime.calls), "the stop")
    write(node, manifest())
    await node.until(lambda pod: True, "the mirror", MIRROR)
    node.runtime.release("stop_container")
    await eventually(lambda: node.starts() == 2 and len(running(node)) == 1, "it runs again")
    await node.until(ready, "ready", MIRROR)


@with_a_node
async def test_a_static_pod_that_has_ended_stays_ended(node: Rig) -> None:
    write(node, manifest(container("a", "true"), restartPolicy="Never"))
    await node.until(lambda pod: pod.status.phase == "Succeeded", "succeeded", MIRROR)
    await node.client.delete(PODS, MIRROR, "default")
    await node.until(lambda pod: pod.status.phase == "Succeeded", "told to the new mirror too", MIRROR)
    assert node.starts() == 1


@with_a_node
async def test_a_bad_file_disturbs_nobody_and_is_said_once(node: Rig) -> None:
    write(node, manifest())
    write(node, "kind: Deployment\napiVersion: apps/v1\n", "bad.yaml")
    write(
        node,
        manifest(container("a", env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])),
        "ref.yaml",
    )
    await node.until(ready, "ready", MIRROR)

    async def said() -> list[Event]:
        events = (await node.client.list(EVENTS, "default")).items
        return [e for e in events if e.reason == "FailedValidation"]

    async def both() -> bool:
        return len(await said()) == 2

    await eventually(both, "two Events")
    words = sorted(event.message for event in await said())
    assert words[0].endswith("bad.yaml: found kind 'Deployment': write one Pod, with apiVersion: v1 and kind: Pod")
    assert "spec.containers[0].env[0].valueFrom: static pods may not refer to objects of the API" in words[1]
    assert all(event.involved_object.kind == "Node" for event in await said())


@with_a_node
async def test_a_restarted_kubelet_finds_its_static_pod_running(node: Rig) -> None:
    write(node, manifest())
    before = await node.until(ready, "ready", MIRROR)
    await node.kill()
    await node.start()
    assert node.wiring is not None
    await eventually(lambda: node.wiring is not None and node.wiring.source.synced, "all sources have told")
    await node.another_pass(hash_of(before))
    after = await node.pod(MIRROR)
    assert after is not None
    assert node.starts() == 1
    assert ready(after)
    assert after.metadata.uid == before.metadata.uid


@with_a_node
async def test_a_mirror_nobody_asks_for_is_deleted(node: Rig) -> None:
    assert node.wiring is not None
    await node.wiring.speaker.registered.wait()
    owner = {
        "apiVersion": "v1",
        "kind": "Node",
        "name": NODE,
        "uid": (await node.client.get(NODES, NODE)).metadata.uid,
        "controller": True,
    }
    meta = {"name": MIRROR, "annotations": {"kubernetes.io/config.mirror": "old"}, "ownerReferences": [owner]}
    await node.client.create(
        PODS, {"metadata": meta, "spec": {"nodeName": NODE, "containers": [container("a")]}}, "default"
    )
    await node.until_gone(MIRROR)
    assert node.starts() == 0


@with_a_node
async def test_a_mirror_waits_for_its_namespace_and_the_pod_does_not(node: Rig) -> None:
    body = json.loads(manifest())
    body["metadata"]["namespace"] = "later"
    write(node, json.dumps(body))
    await eventually(lambda: len(running(node)) == 1, "the pod runs")
    await node.client.create(NAMESPACES, {"metadata": {"name": "later"}})

    async def shown() -> bool:
        return any(ready(pod) for pod in (await node.client.list(PODS, "later")).items)

    await eventually(shown, "its mirror is there", 15)
    assert node.starts() == 1


async def test_pods_from_a_web_server(tmp_path: Path) -> None:
    """A list, an error that changes nothing, another list; the header is sent."""
    answers = [json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [json.loads(manifest())]}), "", ""]
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers.get("X-Token", ""))
        return web.Response(text=answers[0]) if answers[0] else web.Response(status=500)

    async with serving.serve("127.0.0.1", 0, {"/pods": answer}) as port:
        said: list[str] = []
        told: list[list[str]] = []
        reader = Reader("n", HTTP, said.append, lambda: datetime.now(UTC))
        headers = {"X-Token": ("secret",)}

        def tell(source: str, pods: list[StaticPod]) -> None:
            assert source == HTTP
            told.append([one.pod.metadata.name for one in pods])

        async with asyncio.TaskGroup() as group:
            url = f"http://127.0.0.1:{port}/pods"
            task = group.create_task(Fetched(url, headers, reader, tell, 0.02).run())
            await eventually(lambda: told == [["web-n"]], "the first")
            answers[0] = ""
            await eventually(lambda: said, "the error is said")
            answers[0] = json.dumps({"apiVersion": "v1", "kind": "PodList", "items": []})
            await eventually(lambda: told == [["web-n"], []], "the second")
            task.cancel()
    assert set(asked) == {"secret"}
    assert said == [f"staticPodURL {url}: status 500; its pods stay as they are"]


async def test_an_answer_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 200 << 20:
            sent += 1 << 16
            await response.write(b"#" * (1 << 16))
        return response

    def tell(source: str, pods: list[StaticPod]) -> None:
        raise AssertionError(source, pods)

    async with serving.serve("127.0.0.1", 0, {"/pods": answer}) as port:
        said: list[str] = []
        reader = Reader("n", HTTP, said.append, lambda: datetime.now(UTC))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Fetched(f"http://127.0.0.1:{port}/pods", {}, reader, tell, 60).run())
            await eventually(lambda: said, "it is said")
            task.cancel()
    assert "more than 1048576 bytes" in said[0]
    assert sent < 100 << 20, "the rest has not been asked for"
