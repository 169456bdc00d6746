"""Telling the API, against our API server: the right pod is meant, and who is away hears the latest."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from kube.client import Client
from kube.errors import NotFound
from kube.pods import Pod, PodStatus
from kube.resources import PODS
from kubelet.publish import Publisher
from tests.contracts.kubelet_rig import api, container, eventually

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")


@dataclass
class Desk:
    """A publisher, and what it believes: `shown` is what stands for a uid in the API."""

    client: Client
    shown: dict[str, Pod] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.client, self.shown.get, self.gone.append)

    async def bound(self, name: str = "p", **annotations: str) -> Pod:
        spec = {"nodeName": "n1", "containers": [container("a")]}
        body = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
        return await self.client.create(PODS, body, "default")

    async def until_phase(self, phase: str) -> Pod:
        async def said() -> bool:
            return (await self.client.get(PODS, "p", "default")).status.phase == phase

        await eventually(said, f"the phase is {phase}")
        return await self.client.get(PODS, "p", "default")


@asynccontextmanager
async def a_desk(folder: Path) -> AsyncIterator[Desk]:
    (folder / "api").mkdir()
    async with api(folder / "api") as connection, Client(connection) as client, asyncio.TaskGroup() as group:
        desk = Desk(client)
        task = group.create_task(desk.publisher.run())
        try:
            yield desk
        finally:
            task.cancel()


async def test_a_namesake_is_never_meant(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        old = await desk.bound()
        await desk.client.delete(PODS, "p", "default", grace_period_seconds=0)
        new = await desk.bound()
        desk.shown[old.metadata.uid] = old  # the watch has not told of it yet
        desk.publisher.say(old.metadata.uid, PodStatus(phase="Failed"), finished=True)
        await eventually(lambda: desk.gone == [old.metadata.uid], "the old one is gone")
        found = await desk.client.get(PODS, "p", "default")
        assert found.metadata.uid == new.metadata.uid
        assert found.status.phase == "Pending"
        assert found.metadata.deletion_timestamp is None


async def test_a_static_pod_is_told_of_by_its_mirror_which_is_never_deleted(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        mirror = await desk.bound(**{"kubernetes.io/config.mirror": "static"})
        desk.shown["static"] = mirror
        desk.publisher.say("static", PodStatus(phase="Running"))
        await desk.until_phase("Running")
        # it is made anew with another uid, and the same is told of the new one
        await desk.client.delete(PODS, "p", "default", grace_period_seconds=0)
        desk.shown["static"] = await desk.bound(**{"kubernetes.io/config.mirror": "static"})
        desk.publisher.check("static")
        found = await desk.until_phase("Running")
        assert found.metadata.uid != mirror.metadata.uid
        desk.publisher.say("static", PodStatus(phase="Failed"), finished=True)
        await desk.until_phase("Failed")
        assert desk.gone == []


async def test_a_mirror_that_is_away_is_nobody_s_end(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        mirror = await desk.bound()
        desk.shown["static"] = mirror
        await desk.client.delete(PODS, "p", "default", grace_period_seconds=0)
        desk.publisher.say("static", PodStatus(phase="Running"))
        other = await desk.bound("q")
        desk.shown[other.metadata.uid] = other
        desk.publisher.say(other.metadata.uid, PodStatus(phase="Running"))  # told after the first one
        await eventually(lambda: desk.publisher.sent == 1, "the other one is told of")
        assert desk.gone == []


async def test_what_finished_is_deleted_after_its_last_word_and_not_before(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        pod = await desk.bound()
        uid = pod.metadata.uid
        desk.shown[uid] = pod
        desk.publisher.say(uid, PodStatus(phase="Running"))
        await desk.until_phase("Running")
        await desk.client.delete(PODS, "p", "default", grace_period_seconds=30)
        desk.shown[uid] = await desk.client.get(PODS, "p", "default")
        last = PodStatus(phase="Succeeded")
        desk.publisher.say(uid, last)
        told = await desk.until_phase("Succeeded")
        assert told.metadata.deletion_timestamp is not None
        desk.publisher.say(uid, msgspec.structs.replace(last), finished=True)

        async def gone() -> bool:
            try:
                await desk.client.get(PODS, "p", "default")
            except NotFound:
                return True
            return False

        await eventually(gone, "it is deleted")
