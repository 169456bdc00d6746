"""What a pod's author is told, and what runs around a container: refusals and lifecycle hooks, through a whole kubelet."""

from collections.abc import Sequence

import pytest

from kube.client import Patch
from kube.resources import PODS
from kubelet.runtime import ExecResult
from tests.contracts.kubelet_rig import Rig, container, eventually, ready, waiting, with_a_node

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


@with_a_node
async def test_what_this_kubelet_cannot_do_is_said_in_words(node: Rig) -> None:
    mounts = [{"name": "v", "mountPath": "/v", "subPath": "x"}]
    await node.create(containers=[container("a", volumeMounts=mounts)], volumes=[{"name": "v", "emptyDir": {}}])
    pod = await node.until(lambda pod: waiting(pod) == "CreateContainerConfigError", "refused")
    state = pod.status.container_statuses[0].state.waiting
    assert state is not None
    assert state.message.startswith("spec.containers[0].volumeMounts[0].subPath: /v: not in this version")
    assert node.starts() == 0
    assert "create_sandbox" not in [operation for operation, _ in node.runtime.calls]
    event = await node.until_event("Failed")
    assert event.message == f"Error: {state.message}"
    assert event.count == 1
    await node.client.delete(PODS, "p", "default")
    await node.until_gone()


@with_a_node
async def test_a_guest_comes_to_a_pod_that_runs_and_changes_nothing_of_it(node: Rig) -> None:
    """kubectl debug."""
    await node.create()
    before = await node.until(ready, "ready")
    wish = {"spec": {"ephemeralContainers": [container("debugger")]}}
    await node.client.patch(PODS, "p", wish, "default", kind=Patch.STRATEGIC, subresource="ephemeralcontainers")
    pod = await node.until(
        lambda pod: any(s.state.running for s in pod.status.ephemeral_container_statuses), "the guest runs"
    )
    assert pod.status.container_statuses == before.status.container_statuses
    assert ready(pod)


@with_a_node
async def test_a_forbidden_sysctl_fails_the_pod(node: Rig) -> None:
    await node.create(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]})
    pod = await node.until(lambda pod: pod.status.phase == "Failed", "rejected")
    assert pod.status.reason == "SysctlForbidden"
    assert pod.status.message == 'Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted'
    assert pod.status.container_statuses == ()
    assert node.starts() == 0


@with_a_node
async def test_hooks_run_after_the_start_and_before_the_stop(node: Rig) -> None:
    done: list[tuple[str, bool]] = []

    def hook(container_id: str, command: Sequence[str]) -> ExecResult:
        stopped = ("stop_container", container_id) in node.runtime.calls
        done.append((command[0], stopped))
        return ExecResult(0, b"", b"")

    node.runtime.on_exec = hook
    hooks = {"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}}
    await node.create(containers=[container("a", lifecycle=hooks)])
    await node.until(ready, "ready")
    assert done == [("hello", False)]
    await node.client.delete(PODS, "p", "default")
    await node.until_gone()
    assert done == [("hello", False), ("bye", False)]


@with_a_node
async def test_a_pre_stop_hook_that_fails_is_told_and_one_that_hangs_is_left_behind(node: Rig) -> None:
    node.runtime.on_exec = lambda _id, command: ExecResult(1, b"secret", b"")
    fails = container("a", lifecycle={"preStop": {"exec": {"command": ["x"]}}})
    hangs = container("b", lifecycle={"preStop": {"sleep": {"seconds": 1000}}})
    await node.create(containers=[fails, hangs])
    await node.until(ready, "ready")
    await node.client.delete(PODS, "p", "default")
    await node.until_gone(seconds=5)
    await eventually(lambda: _count(node, "FailedPreStopHook", 2), "both are told")
    assert {e.message for e in await node.events("FailedPreStopHook")} == {"PreStopHook failed"}


async def _count(node: Rig, reason: str, count: int) -> bool:
    return len(await node.events(reason)) == count


@with_a_node
async def test_a_post_start_hook_that_fails_kills_the_container(node: Rig) -> None:
    node.runtime.on_exec = lambda _id, command: ExecResult(1, b"", b"")
    await node.create(containers=[container("a", lifecycle={"postStart": {"exec": {"command": ["x"]}}})])
    await node.until(lambda pod: waiting(pod) == "CrashLoopBackOff", "crash loop")
    assert (await node.until_event("FailedPostStartHook")).message == "PostStartHook failed"
    assert node.starts() == 2


@with_a_node
async def test_a_deletion_does_not_wait_for_a_pull_or_a_post_start_hook(node: Rig) -> None:
    node.runtime.hold("pull")
    await node.create("pulls", containers=[container("a", image="elsewhere:1")])
    await eventually(lambda: "pull" in [operation for operation, _ in node.runtime.calls], "the pull begins")
    await node.client.delete(PODS, "pulls", "default")
    await node.until_gone("pulls")
    lifecycle = {"postStart": {"sleep": {"seconds": 1000}}}
    await node.create("hooked", containers=[container("a", lifecycle=lifecycle)])
    await eventually(lambda: node.starts(), "the container starts")
    await node.client.delete(PODS, "hooked", "default")
    await node.until_gone("hooked")
