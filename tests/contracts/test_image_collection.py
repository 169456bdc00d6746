"""Collecting images on real runtimes: all of an image's names go, what is in use stays."""

import contextlib
import io
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubelet.images.imagegc import Collection, Policy, disk_of
from kubelet.runtime import Image
from tests.containerd import Containerd
from tests.contracts.runtime_world import World, worlds
from tests.dockerd import IMAGE, Dockerd

GONE = ("wherry.local/gone:1", "wherry.local/gone:2")


@pytest.fixture(params=["docker", "containerd"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with worlds(request, request.param, tmp_path) as found:
        load(request.param, request)
        yield found
        for name in GONE:
            await found.runtime.remove_image(name)


def load(kind: str, request: pytest.FixtureRequest) -> None:
    """An image of two names that nothing uses."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as layer:
        entry = tarfile.TarInfo("file")
        entry.size = 5
        layer.addfile(entry, io.BytesIO(b"gone\n"))
    if kind == "containerd":
        containerd: Containerd = request.getfixturevalue("containerd")
        containerd.load(GONE[0], packed.getvalue(), {"Cmd": ["/file"]})
        containerd.ctr("image", "tag", GONE[0], GONE[1])
        return
    dockerd: Dockerd = request.getfixturevalue("dockerd")
    with contextlib.closing(dockerd.client()) as client:
        client.import_image_from_data(packed.getvalue(), repository="wherry.local/gone", tag="1")
        client.tag(GONE[0], "wherry.local/gone", "2")


async def test_an_image_goes_with_all_its_names(world: World) -> None:
    gone = await world.runtime.image_status(GONE[1])
    assert gone is not None
    _, _, container_id = await world.started("sleep", "1000")
    used = (await world.runtime.container_status(container_id)).image_id
    others = {image.id for image in await world.runtime.list_images()} - {gone.id}  # they may be another test's
    told: list[str] = []
    collection = Collection(
        world.runtime,
        Policy(high=1, low=0, least_age=0),  # every disk is too full
        lambda: others | {used, IMAGE},
        lambda reason, _message: told.append(reason),
        lambda: datetime.now(UTC),
        disk=disk_of,
    )
    await collection.sync()
    assert told == ["FreeDiskSpaceFailed"]  # one image is never a whole disk
    left: dict[str, Image] = {image.id: image for image in await world.runtime.list_images()}
    assert set(left) == others
    for name in GONE:
        assert await world.runtime.image_status(name) is None
    assert await world.runtime.image_status(IMAGE) is not None
