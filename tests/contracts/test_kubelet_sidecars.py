"""Sidecars, guests and the order of an end, through a whole kubelet with our API server and the fake runtime."""

from collections.abc import Sequence

import pytest

from kube.client import Patch
from kube.pods import Pod
from kube.resources import PODS
from kubelet.runtime import ContainerState, ExecResult
from tests.contracts.kubelet_rig import Rig, container, eventually, ready, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


def _created(node: Rig) -> list[str]:
    return [name for operation, name in node.runtime.calls if operation == "create_container"]


def _stopped(node: Rig) -> list[str]:
    """Names, in the order in which they were first told to stop."""
    names = {c.id: c.config.name for c in node.runtime._containers.values()}
    asked = [subject for operation, subject in node.runtime.calls if operation == "stop_container"]
    return [names[identity] for identity in dict.fromkeys(asked) if identity in names]


def _sidecar(name: str, **more: object) -> dict[str, object]:
    return container(name, restartPolicy="Always", **more)


def _guest_waits(pod: Pod) -> str:
    waits = pod.status.ephemeral_container_statuses[1].state.waiting
    return waits.reason if waits else ""


def _init_restarts(pod: Pod) -> int:
    return pod.status.init_container_statuses[0].restart_count


@with_a_node
async def test_a_job_with_a_sidecar(node: Rig) -> None:
    started = False

    def probe(_id: str, command: Sequence[str]) -> ExecResult:
        return ExecResult(0 if started else 1, b"", b"")

    node.runtime.on_exec = probe
    startup = {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 100}
    await node.create(
        initContainers=[_sidecar("log", startupProbe=startup), container("setup", "true")], restartPolicy="Never"
    )
    pod = await node.until(lambda pod: pod.status.init_container_statuses, "the sidecar runs")
    assert pod.status.phase == "Pending"
    assert _created(node) == ["log"]
    started = True
    pod = await node.until(ready, "ready")
    assert _created(node) == ["log", "setup", "a"]
    assert [s.started for s in pod.status.init_container_statuses] == [True, False]
    node.runtime.exit(node.runtime.container_id("log"), 1)
    await node.until(lambda pod: _init_restarts(pod) == 1 and ready(pod), "the sidecar is restarted")
    node.runtime.exit(node.runtime.container_id("a"), 0)
    pod = await node.until(lambda pod: pod.status.phase == "Succeeded", "the pod does not wait for its sidecar")
    assert _stopped(node) == ["log"]
    end = pod.status.init_container_statuses[0].state.terminated
    assert end is not None
    assert end.exit_code == 143


@with_a_node
async def test_an_end_goes_in_order_and_sidecars_live_as_long_as_the_apps(node: Rig) -> None:
    hook = {"preStop": {"sleep": {"seconds": 1}}}
    await node.create(
        initContainers=[_sidecar("one", lifecycle=hook), _sidecar("two", lifecycle=hook)],
        containers=[container("a"), container("b")],
        terminationGracePeriodSeconds=60,
    )
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: set(_stopped(node)) == {"a", "b"}, "the apps are asked first")
    node.runtime.exit(node.runtime.container_id("two"), 1)
    await eventually(
        lambda: _created(node).count("two") == 2, "a sidecar that ends while an app lives is started again"
    )
    node.runtime.exit(node.runtime.container_id("a"), 0)
    await eventually(lambda: _stopped(node)[2:] == ["two", "one"], "then the sidecars, the last one first")
    await node.until_gone()
    assert (await node.until_event("Killing")).message.startswith("Stopping container")


@with_a_node
async def test_a_nearer_end_is_one_for_all(node: Rig) -> None:
    slow = {"preStop": {"sleep": {"seconds": 600}}}
    await node.create(
        initContainers=[_sidecar("log")],
        containers=[container("a"), container("b", lifecycle=slow)],
        terminationGracePeriodSeconds=600,
    )
    await node.until(ready, "ready")
    node.runtime.stubborn |= {"a", "b", "log"}
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: _stopped(node) == ["a"], "b has its hook to run, the sidecar waits")
    await node.client.delete(PODS, "p", "default", grace_period_seconds=1)
    await node.until_gone(seconds=20)
    await node.until_event("FailedPreStopHook")


@with_a_node
async def test_a_guest_comes_goes_and_does_not_come_again(node: Rig) -> None:
    await node.create(containers=[container("a"), container("b", image="elsewhere:1")])
    await node.until(lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].ready, "a runs")
    guests = [container("guest", targetContainerName="a"), container("lost", targetContainerName="b")]
    await node.client.patch(
        PODS,
        "p",
        {"spec": {"ephemeralContainers": guests}},
        "default",
        kind=Patch.STRATEGIC,
        subresource="ephemeralcontainers",
    )
    pod = await node.until(lambda pod: len(pod.status.ephemeral_container_statuses) == 2, "guests are told of")
    pod = await node.until(lambda pod: pod.status.ephemeral_container_statuses[0].state.running, "a guest runs")
    config = node.runtime.configuration(node.runtime.container_id("guest"))
    assert config.target_id == node.runtime.container_id("a")
    pod = await node.until(lambda pod: _guest_waits(pod) == "CreateContainerConfigError", "the other cannot")
    waits = pod.status.ephemeral_container_statuses[1].state.waiting
    assert waits is not None
    assert waits.message == "unable to find target container b"

    async def told() -> bool:
        events = await node.events("Started")
        return "spec.ephemeralContainers{guest}" in {e.involved_object.field_path for e in events}

    await eventually(told, "it is told of")
    node.runtime.exit(node.runtime.container_id("guest"), 3)
    await node.until(lambda pod: pod.status.ephemeral_container_statuses[0].state.terminated, "it has ended")
    await node.another_pass(pod.metadata.uid)
    assert _created(node).count("guest") == 1
    assert pod.status.container_statuses[0].ready
    await node.client.delete(PODS, "p", "default")
    await node.until_gone()


@with_a_node
async def test_a_containers_own_policy_and_rules(node: Rig) -> None:
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
    await node.create(
        containers=[
            container("a", restartPolicy="Never", restartPolicyRules=rules),
            container("b", restartPolicy="OnFailure"),
        ],
        restartPolicy="Never",
    )
    await node.until(ready, "ready")
    node.runtime.exit(node.runtime.container_id("a"), 42)
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1, "restarted by a rule")
    node.runtime.exit(node.runtime.container_id("b"), 0)
    node.runtime.exit(node.runtime.container_id("a"), 1)
    pod = await node.until(lambda pod: pod.status.phase == "Failed", "nothing goes on")
    assert [s.restart_count for s in pod.status.container_statuses] == [1, 0]


@with_a_node
async def test_a_container_stopped_by_its_probe_runs_again_whatever_it_answered(node: Rig) -> None:
    healthy = False

    def probe(_id: str, command: Sequence[str]) -> ExecResult:
        return ExecResult(0 if healthy else 1, b"", b"")

    node.runtime.on_exec = probe
    liveness = {
        "exec": {"command": ["x"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "terminationGracePeriodSeconds": 7,
    }
    await node.create(containers=[container("a", livenessProbe=liveness), container("b")], restartPolicy="OnFailure")
    node.runtime.stubborn.add("a")
    await eventually(lambda: _stopped(node) == ["a"], "condemned")
    healthy = True
    node.runtime.exit(node.runtime.container_id("a"), 0)
    # It may have been condemned before anything was said of it, so the list can still be empty here.
    pod = await node.until(lambda pod: [s.restart_count for s in pod.status.container_statuses] == [1, 0], "runs again")
    states = [c.status.state for c in node.runtime._containers.values() if c.config.name == "a"]
    assert states.count(ContainerState.RUNNING) == 1
    assert pod.status.phase == "Running"
    event = await node.until_event("Killing")
    assert event.message == "Container a failed liveness probe, will be restarted"
