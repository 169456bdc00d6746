"""The Node's words: figures, labels, conditions; and when they are said."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kube.client import Patch
from kube.core import Node, NodeStatus, NodeSystemInfo
from kube.errors import AlreadyExists, NotFound
from kube.meta import Condition, ObjectMeta
from kubelet.config import Config, Taint
from kubelet.nodestatus import node
from kubelet.nodestatus.machine import Machine, Pressure, amount, available_memory
from kubelet.nodestatus.speaker import Speaker
from kubelet.runtime import Image, RuntimeStatus, RuntimeVersion

GI = 1 << 30
MACHINE = Machine(
    cpus=4,
    memory=8 * GI,
    storage=100 * GI,
    swap=2 * GI,
    machine="x86_64",
    kernel="6.1",
    os_image="Debian",
    machine_id="m",
    system_uuid="s",
    boot_id="boot-2",
)
UP = RuntimeStatus(runtime_ready=True, network_ready=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def config(**more: Any) -> Config:
    return Config(kubeconfig="/k", **more)


# --- figures


def test_capacity_and_allocatable_are_upstreams() -> None:
    assert node.capacity(config(), MACHINE) == {
        "cpu": "4",
        "memory": "8388608Ki",
        "pods": "110",
        "ephemeral-storage": "104857600Ki",
    }
    left = node.allocatable(
        config(
            kube_reserved={"cpu": "100m", "memory": "1Gi"}, system_reserved={"cpu": "400m", "ephemeral-storage": "1Gi"}
        ),
        MACHINE,
    )
    # memory: less 1Gi and memory.available 100Mi; storage: less 1Gi and nodefs.available 10 %
    assert left == {
        "cpu": "3500m",
        "memory": f"{7 * 1024 * 1024 - 100 * 1024}Ki",
        "pods": "110",
        "ephemeral-storage": str(89 * GI),
    }


def test_thresholds_of_the_file_are_the_only_ones() -> None:
    assert node.allocatable(config(eviction_hard={}), MACHINE)["memory"] == "8388608Ki"
    assert node.allocatable(config(eviction_hard={"memory.available": "50%"}), MACHINE)["memory"] == "4194304Ki"
    merged = config(eviction_hard={"nodefs.available": "1Gi"}, merge_default_eviction_settings=True)
    assert node.allocatable(merged, MACHINE)["memory"] == f"{8 * 1024 * 1024 - 100 * 1024}Ki"
    assert node.allocatable(merged, MACHINE)["ephemeral-storage"] == str(99 * GI)


def test_nothing_is_below_nothing() -> None:
    assert node.allocatable(config(kube_reserved={"memory": "1Ti", "cpu": "9"}), MACHINE)["memory"] == "0Ki"
    assert node.allocatable(config(kube_reserved={"cpu": "9"}), MACHINE)["cpu"] == "0"


def test_huge_pages_are_a_resource_and_no_memory() -> None:
    machine = dataclasses.replace(MACHINE, hugepages={2 << 20: 512, 1 << 30: 0})
    assert node.capacity(config(), machine)["hugepages-2Mi"] == "1Gi"
    assert node.capacity(config(), machine)["hugepages-1Gi"] == "0"
    left = node.allocatable(config(eviction_hard={}), machine)
    assert (left["memory"], left["hugepages-2Mi"]) == ("7340032Ki", "1Gi")


def test_pods_per_core_is_within_max_pods() -> None:
    assert node.capacity(config(pods_per_core=10), MACHINE)["pods"] == "40"
    assert node.capacity(config(pods_per_core=100), MACHINE)["pods"] == "110"
    assert "ephemeral-storage" not in node.capacity(config(local_storage_capacity_isolation=False), MACHINE)


def test_memory_counts_pages_in_use_as_used() -> None:
    assert available_memory({"MemFree": 10, "Inactive(file)": 5, "MemAvailable": 100, "Active(file)": 50}) == 15
    assert amount("10%", 200) == 20
    assert amount("1Ki", 200) == 1024


# --- who it is


def test_registration() -> None:
    taint = Taint(key="b", effect="NoExecute")
    body = node.registration(
        "n", config(node_labels={"a": "b"}, register_with_taints=("x=y:NoSchedule", taint)), MACHINE
    )
    assert body["metadata"]["labels"]["kubernetes.io/hostname"] == "n"
    assert body["metadata"]["labels"]["kubernetes.io/arch"] == "amd64"
    assert body["metadata"]["labels"]["a"] == "b"
    assert body["spec"] == {
        "taints": [{"key": "x", "value": "y", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}]
    }
    cloud = node.registration("n", config(cloud_provider="external", node_ip="1.2.3.4", provider_id="p://1"), MACHINE)
    assert cloud["spec"]["taints"] == [node.UNINITIALIZED]
    assert cloud["spec"]["providerID"] == "p://1"
    assert cloud["metadata"]["annotations"] == {"alpha.kubernetes.io/provided-node-ip": "1.2.3.4"}


def portrait(**more: Any) -> node.Portrait:
    version = RuntimeVersion(name="containerd", version="1.6.20", api_version="v1")
    return node.Portrait(
        name="n", config=config(**more), machine=MACHINE, addresses=("10.0.0.1", "fd00::1"), version=version
    )


def test_a_portrait() -> None:
    fixed = portrait().fixed()
    assert fixed["addresses"] == [
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "fd00::1"},
        {"type": "Hostname", "address": "n"},
    ]
    assert fixed["nodeInfo"]["containerRuntimeVersion"] == "containerd://1.6.20"
    assert fixed["nodeInfo"]["swap"] == {"capacity": 2 * GI}
    assert fixed["declaredFeatures"] == ["ExtendWebSocketsToKubelet"]
    assert "addresses" not in portrait(cloud_provider="external").fixed()


def test_images_are_the_largest() -> None:
    images = [Image(id=f"i{n}", tags=(f"t:{n}",), size=n) for n in range(5)] + [Image(id="bare", size=99)]
    assert [entry["sizeBytes"] for entry in node.image_list(images, 2)] == [4, 3]
    assert len(node.image_list(images, -1)) == 5


def test_the_runtimes_handlers_without_features_that_pods_are_refused_for() -> None:
    said = node.runtime_facts(RuntimeStatus(runtime_ready=True, handlers=("runc", "")))
    assert [entry["name"] for entry in said["runtimeHandlers"]] == ["", "runc"]
    features = [*(entry["features"] for entry in said["runtimeHandlers"]), said["features"]]
    assert not any(value for each in features for value in each.values())
    assert node.runtime_facts(RuntimeStatus(runtime_ready=True)) == {"features": {"supplementalGroupsPolicy": False}}


# --- how it fares


@pytest.mark.parametrize(
    ("runtime", "problems", "message"),
    [
        (UP, (), "kubelet is posting ready status"),
        (
            RuntimeStatus(runtime_ready=True, network_message="cni plugin not initialized"),
            (),
            (
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
                "message:cni plugin not initialized"
            ),
        ),
        (
            RuntimeStatus(runtime_ready=False, runtime_message="no answer", network_ready=True),
            ("PLEG is not healthy",),
            "[container runtime is down: no answer, PLEG is not healthy]",
        ),
    ],
)
def test_ready_is_last_and_says_why_not(runtime: RuntimeStatus, problems: Sequence[str], message: str) -> None:
    found = node.verdicts(Pressure(), runtime, problems)
    assert list(found) == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
    assert found["Ready"].message == message
    assert found["Ready"].reason == ("KubeletReady" if found["Ready"].status else "KubeletNotReady")


def test_a_transition_time_moves_only_with_the_status() -> None:
    before = (Condition(type="Ready", status="True", reason="Old", last_transition_time=NOW),)
    later = NOW + timedelta(hours=1)
    said = node.conditions(before, node.verdicts(Pressure(memory=True), UP), later)
    times = {entry["type"]: entry["lastTransitionTime"] for entry in said}
    assert times["Ready"] == "2026-01-01T00:00:00Z"
    assert times["MemoryPressure"] == "2026-01-01T01:00:00Z"
    assert {entry["lastHeartbeatTime"] for entry in said} == {"2026-01-01T01:00:00Z"}


# --- saying it


class Centre:
    """An API server of one Node, as the client shows it."""

    def __init__(self, there: Node | None = None) -> None:
        self.there = there
        self.created: list[Mapping[str, Any]] = []
        self.patches: list[tuple[Mapping[str, Any], Patch, str]] = []
        self.events: list[tuple[str, str]] = []

    async def get(self, _resource: object, name: str) -> Node:
        if self.there is None:
            raise NotFound(404, "NotFound", name)
        return self.there

    async def create(self, _resource: object, body: Mapping[str, Any]) -> None:
        if self.there is not None:
            raise AlreadyExists(409, "AlreadyExists", "")
        self.created.append(body)
        self.there = Node(metadata=ObjectMeta(name="n", labels=body["metadata"]["labels"]))

    async def patch(
        self, _resource: object, _name: str, body: Mapping[str, Any], *, kind: Patch, subresource: str = ""
    ) -> None:
        self.patches.append((body, kind, subresource))
        assert self.there is not None
        if "status" in body:
            found = tuple(
                Condition(type=c["type"], status=c["status"], reason=c["reason"], message=c["message"])
                for c in body["status"]["conditions"]
            )
            self.there = Node(metadata=self.there.metadata, status=NodeStatus(conditions=found))

    def event(self, _about: object, kind: str, reason: str, _message: str) -> None:
        self.events.append((kind, reason))


class World:
    def __init__(self, there: Node | None = None, **more: Any) -> None:
        self.centre = Centre(there)
        self.now, self.pressure, self.runtime = NOW, Pressure(), UP
        self.speaker = Speaker(
            client=self.centre,  # type: ignore[arg-type]  # what it uses of a client, and of a recorder
            recorder=self.centre,  # type: ignore[arg-type]
            portrait=self._portrait,
            runtime_status=self._runtime,
            images=self._images,
            pressure=self._pressure,
            problems=lambda: (),
            clock=lambda: self.now,
            name="n",
            config=config(**more),
        )

    async def _portrait(self) -> node.Portrait:
        return portrait()

    async def _runtime(self) -> RuntimeStatus:
        return self.runtime

    async def _images(self) -> Sequence[Image]:
        return ()

    async def _pressure(self) -> Pressure:
        return self.pressure

    async def later(self, seconds: float) -> float | None:
        self.now += timedelta(seconds=seconds)
        return await self.speaker.sync()


async def test_a_node_is_registered_told_and_then_left_in_peace() -> None:
    world = World()
    assert await world.speaker.sync() == 10
    assert len(world.centre.created) == 1
    assert [reason for _, reason in world.centre.events] == [
        "NodeHasSufficientMemory",
        "NodeHasNoDiskPressure",
        "NodeHasSufficientPID",
        "NodeReady",
    ]
    for _ in range(29):
        await world.later(10)
    assert len(world.centre.patches) == 1
    await world.later(10)
    assert len(world.centre.patches) == 2, "nodeStatusReportFrequency"
    assert all(subresource == "status" and kind is Patch.STRATEGIC for _, kind, subresource in world.centre.patches)


async def test_a_deleted_node_comes_back() -> None:
    world = World()
    await world.speaker.sync()
    world.centre.there = None
    assert await world.later(10) == 0.0
    await world.later(0)
    assert len(world.centre.created) == 2


async def test_an_existing_node_gets_its_labels_and_keeps_its_taints() -> None:
    world = World(
        Node(metadata=ObjectMeta(name="n", labels={"mine": "1"}), status=NodeStatus()), node_labels={"a": "b"}
    )
    await world.speaker.sync()
    body, kind, subresource = world.centre.patches[0]
    assert set(body) == {"metadata"}
    assert set(body["metadata"]["labels"]) >= {"a", "kubernetes.io/hostname"}
    assert (kind, subresource) == (Patch.STRATEGIC, "")


async def test_a_reboot_is_told() -> None:
    there = Node(metadata=ObjectMeta(name="n"), status=NodeStatus(node_info=NodeSystemInfo(boot_id="boot-1")))
    world = World(there)
    await world.speaker.sync()
    assert ("Warning", "Rebooted") in world.centre.events
    again = World(Node(metadata=ObjectMeta(name="n"), status=NodeStatus(node_info=NodeSystemInfo(boot_id="boot-2"))))
    await again.speaker.sync()
    assert ("Warning", "Rebooted") not in again.centre.events


async def test_a_pressure_stays_for_its_period_and_is_told_twice() -> None:
    world = World()
    await world.speaker.sync()
    world.centre.events.clear()
    world.pressure = Pressure(memory=True)
    await world.later(10)
    world.pressure = Pressure()
    await world.later(290)
    assert world.speaker.felt == Pressure(memory=True)
    await world.later(20)
    assert world.speaker.felt == Pressure()
    assert [reason for _, reason in world.centre.events] == ["NodeHasInsufficientMemory", "NodeHasSufficientMemory"]


async def test_who_is_not_ready_is_looked_at_soon() -> None:
    world = World()
    world.runtime = RuntimeStatus(runtime_ready=False, runtime_message="x")
    assert await world.speaker.sync() == 0.5
    world.runtime = UP
    assert await world.later(1) == 10
    assert [reason for _, reason in world.centre.events][-2:] == ["NodeNotReady", "NodeReady"]
