"""Pull policies, back-off, and the words people read in `kubectl describe`."""

from datetime import UTC, datetime, timedelta

import pytest

from kubelet.images import ImageRefused, Images, parse_problem
from kubelet.runtime import Image, RegistryAuth, RuntimeUnavailable
from tests.fakes.runtime import IMAGE, FakeRuntime

REMOTE = "registry.example/app:1"


class World:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.runtime = FakeRuntime(lambda: self.now)
        self.images = Images(self.runtime, now=lambda: self.now, clock=lambda: 0.0)
        self.events: list[tuple[str, str, str]] = []

    async def ensure(self, image: str, policy: str = "IfNotPresent", pod: str = "uid-1") -> Image:
        return await self.images.ensure(pod, image, policy, (), lambda *event: self.events.append(event))

    async def refusal(self, image: str, policy: str = "IfNotPresent", pod: str = "uid-1") -> ImageRefused:
        with pytest.raises(ImageRefused) as caught:
            await self.ensure(image, policy, pod)
        return caught.value

    def pulls(self) -> int:
        return sum(operation == "pull" for operation, _ in self.runtime.calls)


async def test_what_is_there_is_used() -> None:
    world = World()
    for policy in ("IfNotPresent", "Never"):
        assert (await world.ensure(IMAGE, policy)).tags == (IMAGE,)
    assert world.pulls() == 0
    assert world.events[0] == (
        "Normal", "Pulled", f'Container image "{IMAGE}" already present on machine and can be accessed by the pod',
    )  # fmt: skip


async def test_never_means_never() -> None:
    world = World()
    error = await world.refusal(REMOTE, "Never")
    assert (error.reason, error.message) == (
        "ErrImageNeverPull", f'Container image "{REMOTE}" is not present with pull policy of Never',
    )  # fmt: skip
    assert world.pulls() == 0


async def test_a_pull_that_works() -> None:
    world = World()
    world.runtime.registry[REMOTE] = Image(id="sha256:1", tags=(REMOTE,), size=7)
    assert (await world.ensure(REMOTE)).id == "sha256:1"
    assert world.events == [
        ("Normal", "Pulling", f'Pulling image "{REMOTE}"'),
        (
            "Normal",
            "Pulled",
            f'Successfully pulled image "{REMOTE}" in 0ms (0ms including waiting). Image size: 7 bytes.',
        ),
    ]


async def test_a_failed_pull_backs_off_and_doubles() -> None:
    world = World()
    first = await world.refusal(REMOTE)
    assert first.reason == "ErrImagePull"
    assert "pull access denied" in first.message
    assert first.retry_after == 10
    assert [reason for _, reason, _ in world.events] == ["Pulling", "Failed"]

    world.now += timedelta(seconds=4)
    waiting = await world.refusal(REMOTE)
    assert waiting.reason == "ImagePullBackOff"
    assert waiting.message.startswith(f'Back-off pulling image "{REMOTE}": ErrImagePull: pull access denied')
    assert waiting.retry_after == 6
    assert world.pulls() == 1

    delays = []
    for _ in range(7):
        world.now += timedelta(seconds=waiting.retry_after)
        waiting = await world.refusal(REMOTE)
        assert waiting.reason == "ErrImagePull"
        delays.append(waiting.retry_after)
    assert delays == [20, 40, 80, 160, 300, 300, 300]

    assert (await world.refusal(REMOTE, pod="another")).reason == "ErrImagePull"  # each pod waits for itself
    world.runtime.registry[REMOTE] = Image(id="sha256:1", tags=(REMOTE,))
    world.now += timedelta(seconds=300)
    assert (await world.ensure(REMOTE)).id == "sha256:1"
    del world.runtime.images[REMOTE], world.runtime.registry[REMOTE]
    assert (await world.refusal(REMOTE)).retry_after == 10  # success forgets


async def test_always_asks_the_registry_even_for_what_is_there() -> None:
    world = World()
    assert (await world.refusal(IMAGE, "Always")).reason == "ErrImagePull"
    assert world.pulls() == 1


async def test_each_credential_is_tried() -> None:
    world = World()
    with pytest.raises(ImageRefused):
        await world.images.ensure("uid", REMOTE, "Always", (RegistryAuth(username="a"), RegistryAuth(username="b")))
    assert world.pulls() == 2


async def test_a_runtime_that_is_away_is_no_refusal() -> None:
    world = World()
    world.runtime.down = True
    with pytest.raises(RuntimeUnavailable):
        await world.ensure(IMAGE)


@pytest.mark.parametrize(
    "image",
    [
        "busybox", "busybox:1.36", "a/b/c:tag", "registry:5000/x", "localhost/x@sha256:" + "a" * 64, "x_y/z__w:1-2.3_A",
        "wherry.local/busybox:dev", "[fd00::1]:5000/x", "sha256:" + "a" * 64,
    ],
)  # fmt: skip
def test_a_good_reference(image: str) -> None:
    assert parse_problem(image) == ""


@pytest.mark.parametrize("image", ["", "Busybox", "a//b", ":tag", "a:b:c", "a b", "x@sha256:short", "-x"])
async def test_a_bad_reference(image: str) -> None:
    world = World()
    error = await world.refusal(image)
    assert error.reason == "InvalidImageName"
    assert "invalid reference format" in error.message
    assert world.runtime.calls == []
