"""How pods end otherwise than by themselves, and what a wiped runtime does to a pod's numbers, through a whole kubelet."""

import pytest

from kube.resources import PODS
from kubelet.runtime import ContainerState
from kubelet.status import Sentence
from tests.contracts.kubelet_rig import NODE, Rig, container, eventually, ready, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


def _empty(node: Rig) -> bool:
    return not node.runtime._sandboxes and not node.runtime._containers


@with_a_node
async def test_a_pod_deleted_by_force_is_gone_at_once_and_its_containers_soon(node: Rig) -> None:
    hook = {"preStop": {"sleep": {"seconds": 600}}}
    await node.create(
        containers=[container("a"), container("b", lifecycle=hook)],
        initContainers=[container("log", restartPolicy="Always")],
        terminationGracePeriodSeconds=600,
    )
    await node.until(ready, "ready")
    node.runtime.stubborn |= {"a", "b", "log"}
    await node.client.delete(PODS, "p", "default", grace_period_seconds=0)
    assert await node.pod() is None
    await eventually(lambda: _empty(node), "nothing is left", 6)


@with_a_node
async def test_a_pod_this_node_sends_away_keeps_its_object_and_nothing_else(node: Rig) -> None:
    pod = await node.create(containers=[container("a")], terminationGracePeriodSeconds=600)
    await node.create("stays")
    await node.until(ready, "ready")
    await node.until(ready, "ready", "stays")
    node.runtime.stubborn.add("a")
    assert node.wiring is not None
    message = "The node was low on resource: memory."
    node.wiring.workers.end(pod.metadata.uid, Sentence("Failed", "Evicted", message), grace=1)
    pod = await node.until(lambda pod: pod.status.phase == "Failed", "evicted")
    assert (pod.status.reason, pod.status.message) == ("Evicted", message)
    await eventually(lambda: {c.pod.name for c in node.runtime._containers.values()} == {"stays"}, "nothing is kept")
    assert ready(await node.until(ready, "not concerned", "stays"))


@with_a_node
async def test_a_kubelet_killed_while_a_pod_ends_goes_on_with_it(node: Rig) -> None:
    await node.create(
        containers=[container("a")],
        initContainers=[container("log", restartPolicy="Always")],
        terminationGracePeriodSeconds=600,
    )
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    await node.client.delete(PODS, "p", "default")
    a, log = node.runtime.container_id("a"), node.runtime.container_id("log")
    await eventually(lambda: ("stop_container", a) in node.runtime.calls, "the app is told")
    await node.kill()
    node.runtime.calls.clear()
    await node.start()
    await eventually(lambda: ("stop_container", a) in node.runtime.calls, "and told again")
    assert ("stop_container", log) not in node.runtime.calls
    node.runtime.exit(a, 0)
    await node.until_gone()
    await eventually(lambda: _empty(node), "nothing is left")


@with_a_node
async def test_numbers_go_on_where_the_logs_of_a_wiped_runtime_end(node: Rig) -> None:
    await node.kill()
    pod = await node.create()
    logs = node.folder / "logs" / f"default_p_{pod.metadata.uid}" / "a"
    logs.mkdir(parents=True)
    for name in ("0.log", "2.log", "2.log.20260101-000000.gz", "notes"):
        (logs / name).touch()
    await node.start()
    pod = await node.until(ready, "ready")
    assert pod.status.container_statuses[0].restart_count == 3
    assert node.runtime.configuration(node.runtime.container_id("a")).log_path == "a/3.log"
    assert pod.spec.node_name == NODE


@with_a_node
async def test_a_wiped_runtime_starts_pods_anew_and_forgets_no_count(node: Rig) -> None:
    await node.create()
    await node.until(ready, "ready")
    node.runtime.exit(node.runtime.container_id("a"), 1)
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1 and ready(pod), "restarted")
    await node.kill()
    node.runtime._sandboxes.clear()
    node.runtime._containers.clear()
    await node.start()
    pod = await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 2 and ready(pod), "anew")
    last = pod.status.container_statuses[0].last_state.terminated
    assert last is not None
    assert (last.exit_code, last.reason) == (137, "ContainerStatusUnknown")
    running = [c for c in node.runtime._containers.values() if c.status.state is ContainerState.RUNNING]
    assert len(running) == 1
