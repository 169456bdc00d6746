"""Whom the node lets in, and what is said of pods, through a whole kubelet: our API server, the fake runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube.client import Patch
from kube.core import Node
from kube.informer import Change, Informer
from kube.pods import Pod
from kube.resources import NODES, PODS, RUNTIMECLASSES
from kubelet.runtime import RuntimeRefused
from tests.contracts.kubelet_rig import NODE, Rig, container, eventually, ready, rig, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


def condition(pod: Pod, kind: str) -> str:
    return next((c.status for c in pod.status.conditions if c.type == kind), "")


async def own_node(node: Rig) -> Node:
    async def registered() -> bool:
        return any(one.metadata.name == NODE for one in (await node.client.list(NODES)).items)

    await eventually(registered, "the node is registered")
    return await node.client.get(NODES, NODE)


def asking(name: str, **requests: str) -> dict[str, Any]:
    return container(name, resources={"requests": requests})


# --- what is said -----------------------------------------------------------------------------------------------------


async def test_generations_converge_and_nothing_flips(tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    """As conformance has it: many changes of the spec, all of them seen, and the pod Ready all the time."""
    async with rig(tmp_path) as node:
        await _generations(node, trial(50, 500))


async def _generations(node: Rig, count: int) -> None:
    told: list[Pod] = []
    informer = Informer(node.client, PODS, namespace="default")

    def note(change: Change[Pod]) -> None:
        if change.new is not None:
            told.append(change.new)

    await node.create(activeDeadlineSeconds=100_000)
    pod = await node.until(ready, "ready")
    informer.subscribe(note)
    task = node.group.create_task(informer.run())
    starts, spec = node.starts(), {"spec": {"activeDeadlineSeconds": 0}}
    for number in range(count):
        spec["spec"]["activeDeadlineSeconds"] = 99_999 - number
        await node.client.patch(PODS, "p", spec, "default", kind=Patch.STRATEGIC)
    wanted = pod.metadata.generation + count
    after = await node.until(lambda p: p.status.observed_generation == wanted, "all generations were seen", seconds=30)
    task.cancel()
    assert after.metadata.generation == wanted
    assert {c.observed_generation for c in after.status.conditions} == {wanted}
    assert {condition(one, "Ready") for one in told} == {"True"}
    times = {(c.type, c.last_transition_time) for one in told for c in one.status.conditions}
    assert len(times) == len(after.status.conditions), "no condition moved"
    observed = [one.status.observed_generation or 0 for one in told]
    assert observed == sorted(observed)
    assert node.starts() == starts
    assert after.status.container_statuses == pod.status.container_statuses


@with_a_node
async def test_what_others_write_into_the_status_is_put_right_or_left_alone(node: Rig) -> None:
    await node.create()
    pod = await node.until(ready, "ready")
    lie = {"type": "Ready", "status": "False", "reason": "Lie"}
    theirs = {"type": "example.com/theirs", "status": "True", "reason": "Mine", "message": "hands off"}
    body = {"status": {"conditions": [lie, theirs], "podIP": "192.0.2.9"}}
    await node.client.patch(PODS, "p", body, "default", kind=Patch.STRATEGIC, subresource="status")
    after = await node.until(lambda p: ready(p) and p.status.pod_ip == pod.status.pod_ip, "the truth is told again")
    found = next(c for c in after.status.conditions if c.type == "example.com/theirs")
    assert (found.status, found.reason, found.message) == ("True", "Mine", "hands off")
    update = {"status": {"conditions": [theirs | {"status": "False"}]}}
    await node.client.patch(PODS, "p", update, "default", kind=Patch.STRATEGIC, subresource="status")
    await node.another_pass(pod.metadata.uid)
    again = await node.pod()
    assert again is not None
    assert condition(again, "example.com/theirs") == "False", "it is not written back"


@with_a_node
async def test_a_status_tells_of_mounts_resources_and_sidecars(node: Rig) -> None:
    app = container(
        "a",
        volumeMounts=[{"name": "v", "mountPath": "/v", "readOnly": True}],
        resources={"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
    )
    await node.create(
        containers=[app],
        initContainers=[container("side", restartPolicy="Always")],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    pod = await node.until(ready, "ready")
    (status,) = pod.status.container_statuses
    assert [(m.name, m.mount_path, m.read_only) for m in status.volume_mounts if m.name == "v"] == [("v", "/v", True)]
    assert status.allocated_resources == {"cpu": "10m", "memory": "64Mi"}
    assert status.resources is not None
    assert status.resources.limits == {"memory": "64Mi"}
    (side,) = pod.status.init_container_statuses
    assert side.started
    assert side.ready
    assert node.wiring is not None
    sent = node.wiring.publisher.sent
    await node.another_pass(pod.metadata.uid)
    assert node.wiring.publisher.sent == sent


# --- who is let in ----------------------------------------------------------------------------------------------------


async def rejected(node: Rig, name: str, reason: str) -> Pod:
    pod = await node.until(lambda p: p.status.phase == "Failed", f"rejected for {reason}", name)
    assert pod.status.reason == reason
    assert pod.status.message.startswith("Pod was rejected: ")
    assert pod.status.container_statuses == ()
    event = await node.until_event(reason)
    assert event.type == "Warning"
    assert pod.status.message == f"Pod was rejected: {event.message}"
    return pod


@with_a_node
async def test_pods_that_do_not_fit_fail_in_upstream_s_words_and_never_start(node: Rig) -> None:
    await own_node(node)
    await node.create("large", containers=[asking("a", cpu="1k")])
    pod = await rejected(node, "large", "OutOfcpu")
    assert "Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: " in pod.status.message
    await node.create("elsewhere", nodeSelector={"disk": "ssd"})
    await rejected(node, "elsewhere", "NodeAffinity")
    port = {"ports": [{"containerPort": 80, "hostPort": 8080}]}
    await node.create("first", containers=[container("a", **port)])
    await node.until(ready, "the first one has the port", "first")
    await node.create("second", containers=[container("a", **port)])
    await rejected(node, "second", "NodePorts")
    assert node.starts() == 1
    # a rejected pod takes no place, and goes when it is told to
    for name in ("large", "elsewhere", "second"):
        await node.client.delete(PODS, name, "default")
        await node.until_gone(name)


@with_a_node
async def test_the_node_s_own_labels_and_taints_count_as_they_are_now(node: Rig) -> None:
    await own_node(node)
    await node.client.patch(NODES, NODE, {"metadata": {"labels": {"disk": "ssd"}}})

    def labelled() -> bool:
        return node.wiring is not None and any("disk" in n.metadata.labels for n in node.wiring.nodes.items())

    await eventually(labelled, "the label is known")
    await node.create("p", nodeSelector={"disk": "ssd"})
    pod = await node.until(ready, "it is let in")
    taint = {"key": "maintenance", "value": "yes", "effect": "NoExecute"}
    await node.client.patch(NODES, NODE, {"metadata": {"labels": {"disk": None}}, "spec": {"taints": [taint]}})
    await eventually(lambda: not labelled(), "the label is gone")
    await node.create("q")
    await rejected(node, "q", "TaintToleration")
    # who is in stays in, also for a kubelet that was restarted and asks nobody
    starts = node.starts()
    await node.kill()
    await node.start()
    assert node.wiring is not None
    await eventually(lambda: pod.metadata.uid in node.wiring.workers._lives, "it is known again")  # type: ignore[union-attr]
    await node.another_pass(pod.metadata.uid)
    after = await node.pod()
    assert after is not None
    assert ready(after)
    assert node.starts() == starts


@with_a_node
async def test_a_critical_pod_gets_the_room_of_others(node: Rig) -> None:
    room = int((await own_node(node)).status.allocatable["cpu"])
    await node.create("cheap")
    await node.create("large", containers=[asking("a", cpu=f"{room * 1000 - 100}m")])
    await node.until(ready, "ready", "cheap")
    await node.until(ready, "ready", "large")
    body = {
        "metadata": {"name": "critical"},
        "spec": {
            "nodeName": NODE,
            "containers": [asking("a", cpu="500m")],
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 1,
        },
    }
    await node.client.create(PODS, body, "kube-system")

    async def runs() -> bool:
        return ready(await node.client.get(PODS, "critical", "kube-system"))

    await eventually(runs, "the critical pod runs")
    large = await node.until(lambda p: p.status.phase == "Failed", "the other one had to go", "large")
    assert (large.status.reason, large.status.message) == ("Preempting", "Preempted in order to admit critical pod")
    disruption = next(c for c in large.status.conditions if c.type == "DisruptionTarget")
    assert (disruption.status, disruption.reason) == ("True", "TerminationByKubelet")
    assert (await node.until_event("Preempting")).type == "Warning"
    cheap = await node.pod("cheap")
    assert cheap is not None
    assert ready(cheap), "nobody goes in vain"


# --- resizes ----------------------------------------------------------------------------------------------------------


def resources_of(pod: Pod, name: str = "a") -> tuple[dict[str, str], dict[str, str]]:
    (status,) = [s for s in pod.status.container_statuses if s.name == name]
    assert status.resources is not None
    return status.resources.requests, status.resources.limits


async def resize(node: Rig, name: str, **resources: Any) -> None:
    body = {"spec": {"containers": [{"name": "a", "resources": resources}]}}
    await node.client.patch(PODS, name, body, "default", kind=Patch.STRATEGIC, subresource="resize")


@with_a_node
async def test_a_pod_is_resized_while_it_runs(node: Rig) -> None:
    small = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
    large = {"requests": {"cpu": "150m", "memory": "96Mi"}, "limits": {"cpu": "300m", "memory": "96Mi"}}
    await node.create(containers=[container("a", resources=small)])
    await node.until(ready, "ready")
    await resize(node, "p", **large)
    pod = await node.until(lambda p: resources_of(p) == (large["requests"], large["limits"]), "it is resized")
    assert pod.status.container_statuses[0].allocated_resources == large["requests"]
    (running,) = node.runtime._containers.values()
    real = running.status.resources
    assert real is not None
    assert (real.cpu_shares, real.cpu_quota, real.memory_limit) == (153, 30_000, 96 << 20)
    await node.until(lambda p: not condition(p, "PodResizeInProgress"), "nothing is under way any more")
    assert (await node.until_event("ResizeCompleted")).message.startswith("Pod resize completed {")
    assert node.starts() == 1
    await resize(node, "p", **small)
    await node.until(lambda p: resources_of(p) == (small["requests"], small["limits"]), "and back")
    assert node.starts() == 1


@with_a_node
async def test_a_resize_that_fails_says_why_and_is_tried_again_also_by_the_next_kubelet(node: Rig) -> None:
    asked = {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    await node.create(containers=[container("a", resources=asked)])
    await node.until(ready, "ready")
    node.runtime.fail("update_resources", RuntimeRefused("device or resource busy"))
    await resize(node, "p", requests={"memory": "96Mi"}, limits={"memory": "96Mi"})
    assert (await node.until_event("ResizeError")).message.startswith("Pod resize error: device or resource busy {")
    pod = await node.until(lambda p: resources_of(p)[1] == {"memory": "96Mi"}, "it is tried again")
    await node.until(lambda p: not condition(p, "PodResizeInProgress"), "and is over")
    # a kubelet that dies before the runtime has done it
    node.runtime.hold("update_resources")
    await resize(node, "p", requests={"memory": "128Mi"}, limits={"memory": "128Mi"})
    await node.until(lambda p: condition(p, "PodResizeInProgress") == "True", "it is under way")
    await node.kill()
    node.runtime.release("update_resources")
    await node.start()
    pod = await node.until(lambda p: resources_of(p)[1] == {"memory": "128Mi"}, "the next one does it")
    await node.until(lambda p: not condition(p, "PodResizeInProgress"), "and it is over")
    assert pod.status.container_statuses[0].restart_count == 0
    assert node.starts() == 1


@with_a_node
async def test_a_container_that_wants_it_is_restarted_for_a_resize(node: Rig) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    asked = {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    await node.create(containers=[container("a", resources=asked, resizePolicy=policy)])
    await node.until(ready, "ready")
    await resize(node, "p", requests={"memory": "96Mi"}, limits={"memory": "96Mi"})
    pod = await node.until(lambda p: ready(p) and p.status.container_statuses[0].restart_count == 1, "it is restarted")
    assert resources_of(pod)[1] == {"memory": "96Mi"}
    assert (await node.until_event("Killing")).message == "Container a resize requires restart"


@with_a_node
async def test_a_resize_waits_for_room_and_one_that_never_fits_says_so(node: Rig) -> None:
    room = int((await own_node(node)).status.allocatable["cpu"]) * 1000
    await node.create("p", containers=[asking("a", cpu="100m")])
    await node.create("q", containers=[asking("a", cpu=f"{room - 200}m")])
    await node.until(ready, "ready")
    await node.until(ready, "ready", "q")
    await resize(node, "p", requests={"cpu": f"{room + 1}m"})
    pod = await node.until(lambda p: condition(p, "PodResizePending") == "True", "it is pending")
    (why,) = [c for c in pod.status.conditions if c.type == "PodResizePending"]
    assert (why.reason, why.message) == (
        "Infeasible",
        f"Node didn't have enough capacity: cpu, requested: {room + 1}, capacity: {room}",
    )
    assert pod.status.container_statuses[0].allocated_resources == {"cpu": "100m"}
    await resize(node, "p", requests={"cpu": "300m"})
    await node.until(
        lambda p: any(c.reason == "Deferred" for c in p.status.conditions), "it has to wait for somebody to go"
    )
    # what was promised outlives the kubelet
    await node.kill()
    await node.start()
    pod = await node.until(lambda p: condition(p, "PodResizePending") == "True", "it still waits")
    assert pod.status.container_statuses[0].allocated_resources == {"cpu": "100m"}
    await node.client.delete(PODS, "q", "default")
    pod = await node.until(lambda p: resources_of(p)[0] == {"cpu": "300m"}, "room was made")
    await node.until(lambda p: not condition(p, "PodResizePending"), "it waits no more")
    assert pod.status.container_statuses[0].restart_count == 0


@with_a_node
async def test_a_runtime_class_names_the_handler(node: Rig) -> None:
    await node.client.create(RUNTIMECLASSES, {"metadata": {"name": "fast"}, "handler": "crun"})
    await node.create("p", runtimeClassName="fast")
    await node.until(ready, "ready")
    assert [node.runtime.sandbox_configuration(one).handler for one in node.runtime._sandboxes] == ["crun"]
    # a class that is gone by the time the sandbox is made
    await node.client.create(RUNTIMECLASSES, {"metadata": {"name": "gone"}, "handler": "x"})
    pod = await node.client.create(
        PODS,
        {"metadata": {"name": "q"}, "spec": {"containers": [container("a")], "runtimeClassName": "gone"}},
        "default",
    )
    await node.client.delete(RUNTIMECLASSES, "gone")
    assert node.wiring is not None
    await eventually(lambda: [c.metadata.name for c in node.wiring.classes.items()] == ["fast"], "it is gone")  # type: ignore[union-attr]
    binding = {"metadata": {"name": "q"}, "target": {"kind": "Node", "name": NODE}}
    await node.client.request("POST", PODS.path("default", "q", "binding"), body=binding)
    event = await node.until_event("FailedCreatePodSandBox")
    assert event.message == 'Failed to create pod sandbox: runtimeclass.node.k8s.io "gone" not found'
    assert event.involved_object.uid == pod.metadata.uid
