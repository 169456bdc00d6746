"""Pods from creation to deletion through a whole kubelet, with our API server and the fake runtime."""

from pathlib import Path

import pytest

from kube.client import Patch
from kube.pods import PodStatus
from kube.resources import CONFIGMAPS, LEASES, NODES, PODS, SECRETS
from kubelet.runtime import ContainerState, ExecResult
from tests.contracts.kubelet_rig import NODE, Rig, container, eventually, ready, rig, waiting, with_a_node
from tests.fakes.runtime import FakeRuntime

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


@with_a_node
async def test_a_pod_runs_and_is_deleted_and_leaves_nothing(node: Rig) -> None:
    await node.create()
    pod = await node.until(ready, "ready")
    assert pod.status.phase == "Running"
    assert pod.status.host_ip == "10.0.0.1"
    assert pod.status.pod_ip.startswith("10.244.")
    assert pod.status.qos_class == "BestEffort"
    assert pod.status.container_statuses[0].container_id.startswith("docker://")
    assert pod.status.observed_generation == pod.metadata.generation
    uid = pod.metadata.uid
    assert (node.folder / "kubelet/pods" / uid / "etc-hosts").exists()
    await node.client.delete(PODS, "p", "default")
    await node.until_gone()
    await eventually(lambda: not node.runtime._sandboxes and not node.runtime._containers, "the runtime is empty")
    await eventually(lambda: not (node.folder / "kubelet/pods" / uid).exists(), "the directory is gone")
    await eventually(lambda: not list((node.folder / "logs").iterdir()), "the logs are gone")
    await node.until_event("Started")
    await node.until_event("Killing")


@with_a_node
async def test_an_unchanged_pod_sends_no_patch(node: Rig) -> None:
    await node.create()
    pod = await node.until(ready, "ready")
    assert node.wiring is not None
    sent = node.wiring.publisher.sent
    for _ in range(5):
        await node.another_pass(pod.metadata.uid)
    assert node.wiring.publisher.sent == sent
    again = await node.pod()
    assert again is not None
    assert again.metadata.resource_version == pod.metadata.resource_version


@with_a_node
async def test_a_crash_loop_is_told_in_upstreams_words(node: Rig) -> None:
    await node.create(containers=[container("a", "false")])
    pod = await node.until(lambda pod: waiting(pod) == "CrashLoopBackOff", "crash loop")
    status = pod.status.container_statuses[0]
    assert status.restart_count == 1
    assert status.state.waiting is not None
    assert status.state.waiting.message == (
        f"back-off 10s restarting failed container=a pod=p_default({pod.metadata.uid})"
    )
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.exit_code == 1
    assert pod.status.phase == "Running"
    event = await node.until_event("BackOff")
    assert event.message == f"Back-off restarting failed container a in pod p_default({pod.metadata.uid})"
    assert event.involved_object.field_path == "spec.containers{a}"


@with_a_node
async def test_a_pod_that_ends_is_succeeded_or_failed(node: Rig) -> None:
    await node.create("good", containers=[container("a", "true")], restartPolicy="Never")
    await node.create("bad", containers=[container("a", "false"), container("b", "true")], restartPolicy="Never")
    good = await node.until(lambda pod: pod.status.phase == "Succeeded", "succeeded", "good")
    bad = await node.until(lambda pod: pod.status.phase == "Failed", "failed", "bad")
    assert good.status.container_statuses[0].state.terminated is not None
    assert good.status.container_statuses[0].state.terminated.reason == "Completed"
    assert [c.reason for c in good.status.conditions if c.type == "Ready"] == ["PodCompleted"]
    assert [c.reason for c in bad.status.conditions if c.type == "Ready"] == ["PodFailed"]
    assert node.starts() == 3
    await node.client.delete(PODS, "good", "default")
    await node.until_gone("good")


@with_a_node
async def test_init_containers_run_in_order(node: Rig) -> None:
    await node.create(initContainers=[container("one", "true"), container("two", "true")])
    await node.until(ready, "ready")
    created = [name for operation, name in node.runtime.calls if operation == "create_container"]
    assert created == ["one", "two", "a"]


@with_a_node
async def test_a_restart_of_the_kubelet_restarts_nothing_and_moves_no_readiness(node: Rig) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    await node.create(containers=[container("a", readinessProbe=probe), container("b", "false")])
    await node.until(lambda pod: waiting(pod, 1) == "CrashLoopBackOff", "crash loop")
    before = await node.until(lambda pod: pod.status.container_statuses[0].ready, "a is ready")
    await node.kill()
    starts = node.starts()
    attempts: list[object] = []

    def unwell(*attempt: object) -> ExecResult:
        attempts.append(attempt)
        return ExecResult(1, b"not now", b"")

    node.runtime.on_exec = unwell
    await node.start()
    await eventually(lambda: attempts, "the new kubelet probes")
    after = await node.pod()
    assert after is not None
    assert node.starts() == starts
    assert after.status.container_statuses == before.status.container_statuses
    assert [c for c in after.status.conditions if c.type == "ContainersReady"] == [
        c for c in before.status.conditions if c.type == "ContainersReady"
    ]


@with_a_node
async def test_orphans_are_removed_only_after_the_api_has_spoken(node: Rig) -> None:
    await node.create("stays")
    await node.create("goes")
    await node.until(ready, "ready", "stays")
    goes = await node.until(ready, "ready", "goes")
    await node.kill()
    await node.client.delete(PODS, "goes", "default", grace_period_seconds=0)
    await node.until_gone("goes")
    running = {c.config.name + c.pod.name for c in node.runtime._containers.values()}
    assert running == {"astays", "agoes"}
    await node.start()
    await eventually(lambda: {c.pod.name for c in node.runtime._containers.values()} == {"stays"}, "the orphan is gone")
    await eventually(lambda: not (node.folder / "kubelet/pods" / goes.metadata.uid).exists(), "its directory too")
    assert ready(await node.until(ready, "still ready", "stays"))


@with_a_node
async def test_logs_of_pods_that_nobody_knows_are_removed_and_nothing_else(node: Rig) -> None:
    await node.create()
    pod = await node.until(ready, "ready")
    await node.kill()  # as if it had died between the pod's deletion and the removal of its logs
    own = node.folder / "logs" / f"default_p_{pod.metadata.uid}"
    stray, foreign = node.folder / "logs/default_gone_some-uid/a", node.folder / "logs/not-a-pod"
    stray.mkdir(parents=True)
    foreign.mkdir()
    await node.start()
    await eventually(lambda: not stray.parent.exists(), "the stray logs are gone")
    assert own.exists()
    assert foreign.exists()


@with_a_node
async def test_a_second_delete_with_a_shorter_grace_cuts_the_first_short(node: Rig) -> None:
    await node.create(terminationGracePeriodSeconds=600)
    await node.until(ready, "ready")
    node.runtime.stubborn.add("a")
    await node.client.delete(PODS, "p", "default")
    await eventually(lambda: "stop_container" in {o for o, _ in node.runtime.calls}, "it is being stopped")
    await node.client.delete(PODS, "p", "default", grace_period_seconds=1)
    await node.until_gone(seconds=20)


@with_a_node
async def test_a_config_map_that_is_missing_and_then_there(node: Rig) -> None:
    env = [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]
    await node.create(containers=[container("a", env=env)])
    pod = await node.until(lambda pod: waiting(pod) == "CreateContainerConfigError", "config error")
    state = pod.status.container_statuses[0].state.waiting
    assert state is not None
    assert state.message == 'configmap "late" not found'
    await node.client.create(CONFIGMAPS, {"metadata": {"name": "late"}, "data": {"k": "v"}}, "default")
    await node.until(ready, "ready", seconds=9)  # at once, not after a back-off
    config = node.runtime.configuration(node.runtime.container_id("a"))
    assert dict(config.env)["V"] == "v"


@with_a_node
async def test_a_volume_that_is_missing_and_then_there_and_then_changed(node: Rig) -> None:
    mounts = [{"name": "v", "mountPath": "/v"}]
    volumes = [{"name": "v", "configMap": {"name": "late"}}]
    pod = await node.create(containers=[container("a", volumeMounts=mounts)], volumes=volumes)
    event = await node.until_event("FailedMount")
    assert event.message == 'MountVolume.SetUp failed for volume "v" : configmap "late" not found'
    await node.client.create(CONFIGMAPS, {"metadata": {"name": "late"}, "data": {"k": "v"}}, "default")
    await node.until(ready, "ready", seconds=9)
    file = node.folder / "kubelet/pods" / pod.metadata.uid / "volumes/kubernetes.io~configmap/v/k"
    assert file.read_text() == "v"
    await node.client.patch(CONFIGMAPS, "late", {"data": {"k": "changed"}}, "default")
    await eventually(lambda: file.read_text() == "changed", "the update arrives", 5)
    await node.client.delete(CONFIGMAPS, "late", "default")
    assert node.wiring is not None
    objects = node.wiring.objects

    async def unseen() -> bool:
        return (await objects.of(pod.metadata.uid))[0] == {}

    await eventually(unseen, "the kubelet sees it go")
    await node.another_pass(pod.metadata.uid)
    assert file.read_text() == "changed"  # what runs keeps what it has
    assert ready(await node.until(ready, "still ready"))


@with_a_node
async def test_liveness_failure_restarts_and_says_why(node: Rig) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.create(containers=[container("a", livenessProbe=probe)])
    await node.until(ready, "ready")
    node.runtime.on_exec = lambda *_: ExecResult(1, b"sick", b"")
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1, "restarted", seconds=15)
    assert (await node.until_event("Unhealthy")).message == "Liveness probe failed: sick"
    assert (await node.until_event("Killing")).message == "Container a failed liveness probe, will be restarted"


@with_a_node
async def test_a_lost_sandbox_is_made_anew(node: Rig) -> None:
    await node.create()
    await node.until(ready, "ready")
    node.runtime.kill_sandbox(next(iter(node.runtime._sandboxes)))
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1 and ready(pod), "back again")
    await node.until_event("SandboxChanged")


@with_a_node
async def test_the_runtime_goes_away_and_comes_back(node: Rig) -> None:
    async def node_is(word: str) -> bool:
        found = await node.client.get(NODES, NODE)
        return any(c.type == "Ready" and c.status == word for c in found.status.conditions)

    await node.create()
    await node.until(ready, "ready")
    await eventually(lambda: node_is("True"), "the node is ready")
    node.runtime.down = True
    await eventually(lambda: node_is("False"), "the node is not ready")
    message = next(c.message for c in (await node.client.get(NODES, NODE)).status.conditions if c.type == "Ready")
    assert "container runtime is down" in message
    assert ready(await node.until(ready, "the pod is not blamed"))
    node.runtime.exit(node.runtime.container_id("a"), 1)
    node.runtime.down = False
    await eventually(lambda: node_is("True"), "the node is ready again")
    await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1, "converged")


@with_a_node
async def test_while_the_api_is_away_containers_are_restarted(node: Rig) -> None:
    await node.create()
    await node.until(ready, "ready")
    assert node.own is not None
    assert node.own._session is not None
    starts = node.starts()
    # every request of the kubelet fails from here on
    original, node.own._connection = node.own._connection, type(node.own._connection)(server="https://127.0.0.1:1")
    node.runtime.exit(node.runtime.container_id("a"), 1)
    await eventually(lambda: node.starts() == starts + 1, "restarted without the API")
    node.own._connection = original
    await node.until(
        lambda pod: pod.status.container_statuses[0].restart_count == 1, "told when it is back", seconds=20
    )


@with_a_node
async def test_an_image_nobody_has(node: Rig) -> None:
    await node.create(containers=[{"name": "a", "image": "example.invalid/none:1"}])
    await node.until(lambda pod: waiting(pod) == "ErrImagePull", "pull fails")
    await node.until(lambda pod: waiting(pod) == "ImagePullBackOff", "and waits")
    pod = await node.pod()
    assert pod is not None
    assert pod.status.phase == "Pending"


@with_a_node
async def test_no_network_yet(node: Rig) -> None:
    node.runtime.network_ready = False
    await node.create()
    await node.until_event("NetworkNotReady")
    node.runtime.network_ready = True
    await node.until(ready, "ready")


@with_a_node
async def test_active_deadline(node: Rig) -> None:
    await node.create(activeDeadlineSeconds=1)
    pod = await node.until(lambda pod: pod.status.phase == "Failed", "past its deadline")
    assert pod.status.reason == "DeadlineExceeded"
    assert all(c.state is not ContainerState.RUNNING for c in [x.status for x in node.runtime._containers.values()])


@with_a_node
async def test_a_readiness_gate_holds_the_pod_back(node: Rig) -> None:
    await node.create(readinessGates=[{"conditionType": "example.com/lb"}])
    pod = await node.until(lambda pod: pod.status.phase == "Running", "running")
    await node.until(lambda pod: any(c.reason == "ReadinessGatesNotReady" for c in pod.status.conditions), "held back")
    body = {"status": {"conditions": [{"type": "example.com/lb", "status": "True"}]}}
    await node.client.patch(PODS, "p", body, "default", kind=Patch.STRATEGIC, subresource="status")
    pod = await node.until(ready, "let go")
    assert any(c.type == "example.com/lb" for c in pod.status.conditions)


@with_a_node
async def test_the_node_registers_beats_and_comes_back_when_deleted(node: Rig) -> None:
    async def registered() -> bool:
        return any(n.metadata.name == NODE for n in (await node.client.list(NODES)).items)

    async def beating() -> bool:
        leases = await node.client.list(LEASES, "kube-node-lease")
        return any(lease.spec.holder_identity == NODE and lease.metadata.owner_references for lease in leases.items)

    await eventually(registered, "registered")
    await eventually(beating, "beating")
    found = await node.client.get(NODES, NODE)
    assert found.metadata.labels["kubernetes.io/hostname"] == NODE
    assert [c.type for c in found.status.conditions] == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
    assert found.status.addresses[0].address == "10.0.0.1"
    uid = found.metadata.uid
    await node.client.delete(NODES, NODE)

    async def anew() -> bool:
        return await registered() and (await node.client.get(NODES, NODE)).metadata.uid != uid

    await eventually(anew, "registered again")


async def test_a_node_that_exists_keeps_what_others_gave_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as node:
        await eventually(lambda: _labels_are_there(node), "registered")
        await node.kill()
        await node.client.patch(NODES, NODE, {"metadata": {"labels": {"mine": "1", "kubernetes.io/os": "plan9"}}})
        await node.start()

        async def put_right() -> bool:
            return (await node.client.get(NODES, NODE)).metadata.labels.get("kubernetes.io/os") == "linux"

        await eventually(put_right, "the kubelet's own label is put right")
        assert (await node.client.get(NODES, NODE)).metadata.labels["mine"] == "1"


async def _labels_are_there(node: Rig) -> bool:
    return any("kubernetes.io/hostname" in n.metadata.labels for n in (await node.client.list(NODES)).items)


@with_a_node
async def test_environment_command_and_furniture(node: Rig) -> None:
    await node.client.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "geheim"}}, "default")
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    spec = container("a", "sleep", "$(K)", env=env, resources={"limits": {"cpu": "500m", "memory": "64Mi"}})
    await node.create(containers=[spec], hostname="h")
    pod = await node.until(ready, "ready")
    config = node.runtime.configuration(node.runtime.container_id("a"))
    known = dict(config.env)
    assert known["IP"] == pod.status.pod_ip
    assert known["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert config.command == ("sleep", "geheim")
    assert config.resources.cpu_quota == 50_000
    assert config.resources.memory_limit == 64 * 2**20
    mounted = {mount.container_path: Path(mount.host_path) for mount in config.mounts}
    assert f"{pod.status.pod_ip}\th\n" in mounted["/etc/hosts"].read_text()
    assert mounted["/etc/hostname"].read_text() == "h\n"
    assert "9.9.9.9" in mounted["/etc/resolv.conf"].read_text()
    mounted["/dev/termination-log"].write_text("last words")
    node.runtime.exit(node.runtime.container_id("a"), 2)
    pod = await node.until(lambda pod: pod.status.container_statuses[0].restart_count == 1, "restarted")
    last = pod.status.container_statuses[0].last_state.terminated
    assert last is not None
    assert last.message == "last words"


@with_a_node
async def test_what_a_container_waits_for_is_said_until_the_next_try_has_an_outcome(node: Rig) -> None:
    await node.create(containers=[container("a", "false"), container("b", image="elsewhere:1")])
    assert node.wiring is not None
    said: list[tuple[str, ...]] = []
    say = node.wiring.publisher.say

    def listen(uid: str, status: PodStatus, *, finished: bool = False) -> None:
        states = (c.state.waiting for c in status.container_statuses)
        said.append(tuple(s.reason if s else "" for s in states))
        say(uid, status, finished=finished)

    node.wiring.publisher.say = listen  # type: ignore[method-assign]
    pod = await node.until(lambda pod: waiting(pod) == "CrashLoopBackOff" and "ImagePull" in waiting(pod, 1), "both")
    (life,) = node.wiring.workers._lives.values()
    life.held.clear()
    life.backoffs.clear()
    del said[:]
    starts = node.starts()
    await node.another_pass(pod.metadata.uid)
    await eventually(lambda: node.starts() > starts and waiting_again(said), "another try")
    assert "ContainerCreating" not in {reason for both in said for reason in both}


def waiting_again(said: list[tuple[str, ...]]) -> bool:
    return bool(said) and said[-1][0] == "CrashLoopBackOff"


async def test_host_network_where_there_is_none_is_refused_with_its_remedy(tmp_path: Path) -> None:
    async with rig(tmp_path, FakeRuntime(host_network=False)) as node:
        await node.create(hostNetwork=True)
        event = await node.until_event("FailedCreatePodSandBox")
        assert "--runtime containerd" in event.message
        pod = await node.pod()
        assert pod is not None
        assert pod.status.phase == "Pending"


@with_a_node
async def test_a_phase_that_somebody_else_ended_is_final(node: Rig) -> None:
    await node.create()
    await node.until(ready, "ready")
    body = {"status": {"phase": "Failed", "reason": "NodeLost", "message": "gone"}}
    await node.client.patch(PODS, "p", body, "default", kind=Patch.STRATEGIC, subresource="status")
    await eventually(lambda: not _running(node), "its containers are stopped")
    pod = await node.until(lambda pod: pod.status.container_statuses[0].state.terminated, "told so")
    assert (pod.status.phase, pod.status.reason) == ("Failed", "NodeLost")


def _running(node: Rig) -> list[str]:
    found = node.runtime._containers.values()
    return [c.id for c in found if c.status.state is ContainerState.RUNNING]
