"""A runtime that fails: whatever it refuses, wherever, the pod comes to the same end, and no other pod is held up."""

import asyncio

import pytest

from kube.resources import PODS
from kubelet.runtime import ContainerState, NotFound, RuntimeRefused, RuntimeUnavailable
from tests.contracts.kubelet_rig import Rig, container, eventually, ready, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")

AWAY = RuntimeUnavailable("no answer within 120 s")
NO = RuntimeRefused("no such luck")
GONE = NotFound("No such thing")
# What may come of each call, by kubelet/runtime.py's table of fates.
STARTING = [
    ("list_pods", AWAY),
    ("run_sandbox", AWAY),
    ("run_sandbox", NO),
    ("image_status", AWAY),
    ("image_status", NO),
    ("create_container", AWAY),
    ("create_container", NO),
    ("create_container", GONE),
    ("start_container", AWAY),
    ("start_container", NO),
    ("start_container", GONE),
    ("container_status", AWAY),
    ("container_status", GONE),
]
ENDING = [
    ("list_pods", AWAY),
    ("container_status", AWAY),
    ("stop_container", AWAY),
    ("stop_sandbox", AWAY),
    ("remove_container", AWAY),
    ("remove_sandbox", AWAY),
]


async def _soon(node: Rig, uid: str) -> bool:
    """What is held back for ten seconds is tried again at once: the test has no time for that."""
    assert node.wiring is not None
    life = node.wiring.workers._lives.get(uid)
    if life is not None and life.held:
        life.held.clear()
        node.wiring.workers.look(uid)
    pod = await node.pod()
    return pod is not None and ready(pod)


async def _here_and_gone(
    node: Rig, starting: tuple[str, Exception] | None, ending: tuple[str, Exception] | None
) -> None:
    if starting:
        node.runtime.fail(*starting)
    pod = await node.create(initContainers=[container("log", restartPolicy="Always")], restartPolicy="OnFailure")
    await eventually(lambda: _soon(node, pod.metadata.uid), f"ready in spite of {starting}")
    running = [c.config.name for c in node.runtime._containers.values() if c.status.state is ContainerState.RUNNING]
    assert sorted(running) == ["a", "log"]
    if ending:
        node.runtime.fail(*ending)
    await node.client.delete(PODS, "p", "default")
    await node.until_gone()
    await eventually(lambda: not node.runtime._sandboxes and not node.runtime._containers, f"in spite of {ending}")


@with_a_node
async def test_any_call_may_fail_once(node: Rig) -> None:
    for fault in STARTING:
        await _here_and_gone(node, fault, None)
    for fault in ENDING:
        await _here_and_gone(node, None, fault)


@with_a_node
async def test_a_call_that_hangs_holds_up_its_own_pod_only(node: Rig) -> None:
    for operation in ("run_sandbox", "create_container", "start_container"):
        free = node.runtime.hold(operation)
        await node.create("hangs")
        await eventually(lambda: operation in [o for o, _ in node.runtime.calls], "it hangs")  # noqa: B023
        node.runtime._held.pop(operation)  # the calls of others go through
        await node.create("goes")
        await node.until(ready, "not held up", "goes")
        await node.client.delete(PODS, "goes", "default")
        await node.until_gone("goes")
        free.set()
        await node.until(ready, "in the end", "hangs")
        await node.client.delete(PODS, "hangs", "default")
        await node.until_gone("hangs")
        node.runtime.calls.clear()


@with_a_node
async def test_a_stop_that_fails_holds_up_no_other_container_of_the_pod(node: Rig) -> None:
    await node.create(containers=[container("a"), container("b")], terminationGracePeriodSeconds=30)
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    for _ in range(3):
        node.runtime.fail("stop_container", AWAY)
    await node.client.delete(PODS, "p", "default")
    b = node.runtime.container_id("b")

    def ended() -> bool:
        return node.runtime._containers[b].status.state is ContainerState.EXITED

    await eventually(ended, "b is stopped")
    await eventually(lambda: node.runtime.calls.count(("stop_container", node.runtime.container_id("a"))) >= 2, "again")
    node.runtime.exit(node.runtime.container_id("a"), 0)
    await node.until_gone()


@with_a_node
async def test_the_runtime_away_while_a_pod_ends(node: Rig) -> None:
    await node.create()
    await node.until(ready, "ready")
    node.runtime.down = True
    await node.client.delete(PODS, "p", "default")
    await asyncio.sleep(0)
    assert await node.pod() is not None
    node.runtime.down = False
    await node.until_gone()


@with_a_node
async def test_what_nobody_foresaw_of_one_pod_takes_nobody_down(node: Rig) -> None:
    for _ in range(2):
        node.runtime.fail("run_sandbox", ValueError("embedded null byte"))
    await node.create("odd")
    told = await node.until_event("FailedSync")
    assert told.type == "Warning"
    assert told.message == "Error syncing pod, skipping: ValueError: embedded null byte"
    assert told.involved_object.name == "odd"
    await node.create("other")
    await node.until(ready, "not held up", "other")
    await node.until(ready, "tried again", "odd")
    node.runtime.fail("stop_container", KeyError("uid"))
    await node.client.delete(PODS, "odd", "default")
    await node.until_gone("odd")

    async def said() -> bool:
        return any(event.message.endswith("KeyError: 'uid'") for event in await node.events("FailedSync"))

    await eventually(said, "what happened is told, not the group of tasks around it")
    assert node.wiring is not None
    counted = "kubelet_unexpected_errors_total", {"operation_type": "pod"}
    assert node.wiring.metrics.registry.get_sample_value(*counted) == 3
