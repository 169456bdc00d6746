"""What happens to a pod while somebody is busy with it: shorter graces, files that go and come back, hooks, probes."""

import asyncio
from typing import Any

import pytest

from kube.client import Patch
from kube.errors import Retry
from kube.resources import PODS
from kubelet.model import Stage
from kubelet.probing.probes import Outcome, Target
from kubelet.runtime import NotFound, RuntimeUnavailable
from tests.contracts.kubelet_rig import Rig, container, eventually, ready, with_a_node
from tests.fakes.runtime import IMAGE

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")

MANIFEST = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: s}}
spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: a, image: "{IMAGE}", command: [sleep, "1000"]}}]}}
"""
OTHER_IMAGE = {"spec": {"containers": [{"name": "a", "image": "other:1"}]}}


@with_a_node
async def test_a_shorter_grace_that_comes_while_the_runtime_is_looked_at(node: Rig) -> None:
    """Stops and hooks that were begun by that look, and have not had their first step, are begun again."""
    hook = {"preStop": {"sleep": {"seconds": 600}}}
    pod = await node.create(
        containers=[container("a"), container("b", lifecycle=hook)], terminationGracePeriodSeconds=600
    )
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    assert node.wiring is not None
    life = node.wiring.workers._lives[pod.metadata.uid]
    node.runtime.hold("list_pods")
    life.hinted = True
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: life.stage is Stage.TERMINATING, "the deletion is known")
    await node.client.delete(PODS, "p", "default", grace_period_seconds=1)
    await eventually(lambda: life.grace == 1, "the second is known")
    node.runtime.release("list_pods")
    await node.until_gone(seconds=20)


@with_a_node
async def test_a_static_pod_whose_file_goes_and_comes_back_while_it_starts(node: Rig) -> None:
    manifests = node.folder / "manifests"
    manifests.mkdir(exist_ok=True)
    file, aside = manifests / "s.yaml", node.folder / "s.yaml"
    assert node.wiring is not None
    source, lives = node.wiring.source, node.wiring.workers._lives
    node.runtime.hold("run_sandbox")
    file.write_text(MANIFEST)
    await eventually(lambda: any(name == "run_sandbox" for name, _ in node.runtime.calls), "it is being started")
    (life,) = lives.values()
    file.rename(aside)
    await eventually(lambda: source.get(life.uid) is None, "it is forgotten")
    aside.rename(file)
    await eventually(lambda: source.get(life.uid) is not None, "it is wanted again")
    node.runtime.release("run_sandbox")
    await node.until(ready, "runs", "s-node1")
    assert node.starts() == 1
    assert list(lives) == [life.uid]
    assert lives[life.uid] is not life


@with_a_node
async def test_a_hook_that_is_cut_short_by_a_deletion_is_run_again(node: Rig) -> None:
    begun: list[str] = []
    over = asyncio.Event()

    async def run(_hook: object, _container: object, container_id: str, *_more: object) -> None:
        begun.append(container_id)
        await over.wait()

    hook = {"preStop": {"exec": {"command": ["warn"]}}}
    await node.create(containers=[container("a", lifecycle=hook)], terminationGracePeriodSeconds=30)
    await node.until(ready, "ready")
    assert node.wiring is not None
    node.wiring.deeds.stops._hooks.run = run  # type: ignore[assignment,method-assign]
    await node.client.patch(PODS, "p", OTHER_IMAGE, "default", kind=Patch.STRATEGIC)
    await eventually(lambda: len(begun) == 1, "the hook runs for the new image")
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: len(begun) == 2, "the hook runs for the deletion")
    assert begun[0] == begun[1]
    assert not any(operation == "stop_container" for operation, _ in node.runtime.calls)
    over.set()
    await node.until_gone()


@with_a_node
async def test_readiness_is_told_while_another_container_is_stopped(node: Rig) -> None:
    healthy = True

    async def attempt(_target: Target) -> Outcome:
        return Outcome(healthy, "no")

    assert node.wiring is not None
    node.wiring.probes._attempt = attempt
    probe = {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.create(
        containers=[container("a"), container("b", readinessProbe=probe)], terminationGracePeriodSeconds=20
    )
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    await node.client.patch(PODS, "p", OTHER_IMAGE, "default", kind=Patch.STRATEGIC)
    await eventually(lambda: any(operation == "stop_container" for operation, _ in node.runtime.calls), "a is stopped")
    healthy = False
    pod = await node.until(lambda pod: not pod.status.container_statuses[1].ready, "b is not ready", seconds=15)
    assert not ready(pod)
    assert pod.status.container_statuses[0].state.running
    await node.client.delete(PODS, "p", "default", grace_period_seconds=0)


@with_a_node
async def test_nothing_is_kept_of_pods_that_were(node: Rig) -> None:
    assert node.wiring is not None
    wiring = node.wiring
    for name in ("p0", "p1"):
        await node.create(name)
        await node.until(ready, "ready", name)
        await node.client.delete(PODS, name, "default")
    await eventually(lambda: not wiring.workers._lives, "both are gone")
    await node.create("last")  # what comes after the others' ends is over too
    await node.until(ready, "ready", "last")
    assert not wiring._seen_at


@with_a_node
async def test_a_sidecar_that_is_started_again_is_not_waited_for_past_the_grace(node: Rig) -> None:
    runs: list[str] = []

    async def run(_hook: object, _container: object, container_id: str, *_more: object) -> None:
        runs.append(container_id)
        if len(runs) > 1:
            await asyncio.Event().wait()

    assert node.wiring is not None
    node.wiring.deeds._starts._hooks.run = run  # type: ignore[assignment,method-assign]
    hook = {"postStart": {"exec": {"command": ["warm", "up"]}}}
    await node.create(
        initContainers=[container("log", restartPolicy="Always", lifecycle=hook)], terminationGracePeriodSeconds=4
    )
    await node.until(ready, "ready")
    node.runtime.stubborn |= {"a", "log"}
    a = node.runtime.container_id("a")
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: ("stop_container", a) in node.runtime.calls, "the app is told")
    node.runtime.exit(node.runtime.container_id("log"), 1)
    await eventually(lambda: len(runs) == 2, "it is started again, and its hook hangs")
    await node.until_gone(seconds=20)
    await eventually(lambda: not node.runtime._containers, "what has ended is removed")


@with_a_node
async def test_a_pass_that_fails_twice_is_told(node: Rig) -> None:
    for _ in range(2):
        node.runtime.fail("create_container", NotFound("no such sandbox"))
    await node.create()
    event = await node.until_event("FailedSync")
    assert (event.type, event.count) == ("Warning", 1)
    assert event.message == "Error syncing pod, skipping: container a of pod default/p: no such sandbox"
    await node.until(ready, "it heals")


@with_a_node
async def test_volumes_that_are_not_to_be_had_in_time_are_told(node: Rig) -> None:
    assert node.wiring is not None
    threads = node.wiring.deeds._means.threads
    do, tries = threads.do, 0

    async def slow(what: str, work: Any) -> Any:
        nonlocal tries
        if what == "volumes of pod default/p" and (tries := tries + 1) == 1:
            raise Retry(f"{what}: not done within 123 s; is a filesystem hanging?")
        return await do(what, work)

    threads.do = slow  # type: ignore[method-assign]
    await node.create()
    event = await node.until_event("FailedMount")
    assert event.message == "volumes of pod default/p: not done within 123 s; is a filesystem hanging?"
    await node.until(ready, "it heals")
    assert not await node.events("FailedSync")


@with_a_node
async def test_a_hint_is_good_until_a_look_has_told(node: Rig) -> None:
    """No regular look comes to the aid: with hints they are ten seconds apart."""
    await node.create()
    await node.until(ready, "ready")
    assert node.wiring is not None
    wiring, before = node.wiring, node.wiring.relisted_at
    wiring.relist_wake.set()
    await eventually(lambda: wiring.relisted_at > before, "the last regular look for long")
    node.runtime.fail("list_pods", RuntimeUnavailable("away for a moment"))
    node.runtime.exit(node.runtime.container_id("a"), 1)
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1, "started again", seconds=9)
