"""Which images go when the disk is full, and what is said of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from kubelet.images.imagegc import Collection, Policy, candidates, normal, remember, to_free
from kubelet.runtime import (
    ContainerRecord,
    ContainerState,
    FsUsage,
    Image,
    PodIdentity,
    PodRecord,
    RuntimeUnavailable,
)
from kubelet.upkeep import images_in_use

START = datetime(2026, 1, 1, tzinfo=UTC)


def image(name: str, size: int = 10, *, pinned: bool = False) -> Image:
    return Image(id=f"sha256:{name}", tags=(f"docker.io/library/{name}:latest",), size=size, pinned=pinned)


class World:
    """A runtime's images on a disk of 100 bytes, which holds nothing else."""

    def __init__(self, *images: Image, policy: Policy = Policy(), others: int = 0) -> None:  # noqa: B008
        self.now = START
        self.images = list(images)
        self.others = others
        self.used: Sequence[str] = ()
        self.stubborn: set[str] = set()
        self.told: list[tuple[str, str]] = []
        self.collected: list[str] = []
        self.capacity = 100
        self.collection = Collection(
            self,  # type: ignore[arg-type]
            policy,
            lambda: self.used,
            lambda reason, message: self.told.append((reason, message)),
            lambda: self.now,
            disk=self.disk,
            collected=self.collected.append,
        )

    async def disk(self, path: str) -> tuple[int, int]:
        assert path == "/images"
        return self.capacity, 100 - self.others - sum(each.size for each in self.images)

    async def image_fs(self) -> FsUsage:
        return FsUsage(mountpoint="/images")

    async def list_images(self) -> list[Image]:
        return list(self.images)

    async def remove_image(self, name: str) -> None:
        if name in self.stubborn:
            raise RuntimeUnavailable(f"{name} is in use")
        self.images = [each for each in self.images if name not in (each.id, *each.tags)]

    async def sync(self, seconds: float = 300) -> list[str]:
        self.now += timedelta(seconds=seconds)
        await self.collection.sync()
        return sorted(each.id.removeprefix("sha256:") for each in self.images)


async def test_a_disk_with_room_keeps_everything() -> None:
    world = World(image("a", 40), image("b", 40))
    assert await world.sync() == ["a", "b"]
    assert await world.sync() == ["a", "b"]
    assert world.told == []


async def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    world = World(image("old", 30), image("older", 30), image("busy", 30))
    world.used = ("sha256:busy", "old", "older")
    world.others = -50
    await world.sync(0)
    world.used = ("sha256:busy", "docker.io/library/old:latest")
    await world.sync()
    world.used, world.others = ("sha256:busy",), 0
    assert await world.sync() == ["busy", "old"]
    assert world.collected == ["space"]
    assert world.told == []


def test_an_image_whose_name_moved_on_is_still_its_containers() -> None:
    old, new = Image(id="sha256:old"), Image(id="sha256:new", tags=("web:1",))  # web:1 was pulled anew
    container = ContainerRecord(
        id="c",
        sandbox_id="s",
        name="c",
        attempt=0,
        image="web:1",
        image_id="sha256:old",
        state=ContainerState.RUNNING,
        created_at=START,
    )
    record = PodRecord(pod=PodIdentity("p", "d", "u"), containers=(container,))
    known = remember({}, [old, new], images_in_use([record], []), START)
    assert candidates(known.values(), Policy(least_age=0), START) == []
    known = remember({}, [old, new], images_in_use([], []), START)
    assert len(candidates(known.values(), Policy(least_age=0), START)) == 2


async def test_what_is_used_pinned_or_new_stays() -> None:
    world = World(image("used", 30), image("pinned", 30, pinned=True), image("new", 30))
    world.used = ("used",)
    assert await world.sync() == ["new", "pinned", "used"]  # new to the kubelet: least age
    (event,) = world.told
    words = "Failed to garbage collect required amount of images. Attempted to free 10 bytes, but only found 0 bytes"
    assert event == ("FreeDiskSpaceFailed", f"{words} eligible to free.")
    assert await world.sync() == ["pinned", "used"]
    assert len(world.told) == 1


async def test_a_second_failure_is_told_too() -> None:
    world = World(others=95)
    await world.sync()
    await world.sync()
    assert [reason for reason, _ in world.told] == ["FreeDiskSpaceFailed", "FreeDiskSpaceFailed", "ImageGCFailed"]


async def test_an_image_that_cannot_be_removed_holds_up_nobody() -> None:
    world = World(image("a", 45), image("b", 45))
    world.stubborn = {"sha256:a", "docker.io/library/a:latest"}
    await world.sync(0)
    assert await world.sync() == ["a"]


async def test_old_images_go_however_much_room_there_is() -> None:
    world = World(image("a", 1), image("used", 1), policy=Policy(most_age=3600.0))
    world.used = ("used",)
    await world.sync(0)
    assert await world.sync(3500) == ["a", "used"]
    assert await world.sync(200) == ["used"]
    assert world.collected == ["age"]


async def test_off_is_off() -> None:
    world = World(image("a", 99), policy=Policy(high=100))
    await world.sync(0)
    assert await world.sync() == ["a"]


async def test_a_disk_of_nothing() -> None:
    world = World()
    world.capacity = 0
    await world.sync()
    assert world.told == [("InvalidDiskCapacity", "invalid capacity 0 on image filesystem")]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("a/b:1", "docker.io/a/b:1"),
        ("registry.example:5000/a", "registry.example:5000/a:latest"),
        ("a@sha256:00", "docker.io/library/a@sha256:00"),
    ],
)
def test_one_name_for_an_image(name: str, same: str) -> None:
    assert normal(name) == normal(same)


def test_the_arithmetic() -> None:
    assert to_free(Policy(), 100, 16) == 0
    assert to_free(Policy(), 100, 15) == 5
    assert to_free(Policy(high=90, low=50), 1000, 100) == 400
    known = remember({}, [image("a")], (), START)
    assert candidates(known.values(), Policy(least_age=0), START) == list(known.values())
    assert candidates(known.values(), Policy(), START) == []
