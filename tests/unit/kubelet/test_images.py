"""Pull policies, back-off, and the words people read in `kubectl describe`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from kubelet.images.presence import ImageRefused, Images, Pace, judged, parse_problem
from kubelet.runtime import Image, RegistryAuth, RuntimeRefused, RuntimeUnavailable
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


async def test_the_nodes_credentials_come_after_the_pods() -> None:
    world = World()
    tried: list[str] = []

    class Registry(FakeRuntime):
        async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
            tried.append(auth.username if auth else "")
            raise RuntimeRefused("no")

    async def more(image: str) -> Sequence[RegistryAuth]:
        assert image == REMOTE
        return [RegistryAuth(username="node")]

    images = Images(Registry(lambda: world.now), credentials=more)
    with pytest.raises(ImageRefused):
        await images.ensure("uid", REMOTE, "Always", (RegistryAuth(username="pod"),))
    assert tried == ["pod", "node"]


class Slow(FakeRuntime):
    """Pulls wait until they are let go; `most` is how many waited at once."""

    def __init__(self) -> None:
        super().__init__(lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.pulling = self.most = self.done = 0
        self.go = asyncio.Event()

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        self.pulling += 1
        self.most = max(self.most, self.pulling)
        await self.go.wait()
        self.pulling -= 1
        self.done += 1
        self.images[image] = Image(id=f"sha256:{image}", tags=(image,))
        return f"sha256:{image}"


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (0, 4)])
async def test_so_many_pulls_at_a_time(at_once: int, most: int) -> None:
    runtime = Slow()
    images = Images(runtime, pace=Pace(at_once=at_once))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(images.ensure("uid", f"example/{n}:1", "Always")) for n in range(4)]
        while runtime.most < most:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert runtime.most == most
        runtime.go.set()
    assert len({task.result().id for task in tasks}) == 4


async def test_who_waited_uses_what_another_has_pulled() -> None:
    runtime, seconds, heard = Slow(), 0.0, list[str]()
    images = Images(runtime, clock=lambda: seconds, pace=Pace(per_second=0))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for uid in ("a", "b", "c"):
            group.create_task(
                images.ensure(uid, REMOTE, "IfNotPresent", (), lambda _k, _r, message: heard.append(message))
            )
        while len(heard) < 3:
            await asyncio.sleep(0)
        seconds = 5.0
        runtime.go.set()
    assert runtime.done == 1
    assert sum("already present" in message for message in heard) == 2


async def test_what_was_pulled_and_cannot_be_looked_at_is_the_pods_affair() -> None:
    class Damaged(FakeRuntime):
        async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
            self.fail("image_status", RuntimeRefused("layer does not exist"))
            return "sha256:1"

    heard: list[str] = []
    with pytest.raises(ImageRefused) as refused:
        await Images(Damaged()).ensure("a", REMOTE, "IfNotPresent", (), lambda _k, reason, _m: heard.append(reason))
    assert refused.value.reason == "ImageInspectError"
    assert refused.value.message == f'Failed to inspect image "{REMOTE}": layer does not exist'
    assert heard == ["Pulling", "InspectFailed"]


async def test_so_many_pulls_a_second() -> None:
    runtime, waited = Slow(), list[float]()
    runtime.go.set()
    images = Images(runtime, clock=lambda: 0.0, pace=Pace(at_once=0, per_second=5, burst=2))
    waited = [images._turns._take() for _ in range(4)]
    assert waited == [0.0, 0.0, 0.2, 0.4]


def test_two_causes_have_reasons_of_their_own() -> None:
    assert judged("i:1", "RegistryUnavailable: 503") == (
        "RegistryUnavailable", "image pull failed for i:1 because the registry is unavailable: 503",
    )  # fmt: skip
    assert judged("i:1", "SignatureValidationFailed: bad") == (
        "SignatureValidationFailed", "image pull failed for i:1 because the signature validation failed: bad",
    )  # fmt: skip
    assert judged("i:1", "not found") == ("ErrImagePull", "not found")


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
