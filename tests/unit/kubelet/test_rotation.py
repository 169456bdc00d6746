"""Rotating logs of a runtime that does not: names, numbers, crashes, full disks; and the links to logs."""

import asyncio
import gzip
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet.containerlogs import loglinks, rotation
from kubelet.containerlogs.logs import LogOptions, read
from kubelet.containerlogs.rotation import Chore, Limits, Rotation, chore
from kubelet.runtime import ContainerRecord, ContainerState, NotFound, PodIdentity, PodRecord, RuntimeUnavailable

POD = PodIdentity("web", "default", "u1")


def record(*containers: tuple[str, int, ContainerState]) -> PodRecord:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        ContainerRecord(
            id=f"id-{name}-{n}", sandbox_id="s", name=name, attempt=n, image="i", state=state, created_at=when
        )
        for name, n, state in containers
    ]
    return PodRecord(pod=POD, containers=tuple(rows))


class Writer:
    """A runtime as far as its log goes: one open file, reopened on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reopened = 0
        self.refusal: Exception | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab", buffering=0)

    def write(self, text: str) -> None:
        self.file.write(f"2026-01-02T03:04:05.000000001Z stdout F {text}\n".encode())

    async def reopen_log(self, container_id: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.file.close()
        self.file = self.path.open("ab", buffering=0)
        self.reopened += 1


class World:
    def __init__(self, folder: Path, **limits: int) -> None:
        self.root = folder / "pods"
        self.path = self.root / "default_web_u1" / "main" / "0.log"
        self.writer = Writer(self.path)
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.records = [record(("main", 0, ContainerState.RUNNING))]
        self.rotation = Rotation(
            self.writer,  # type: ignore[arg-type]
            str(self.root),
            Limits(**{"size": 100, "files": 3, **limits}),
            lambda: self.records,
            lambda: self.now,
        )

    async def sync(self, seconds: int = 10) -> None:
        self.now += timedelta(seconds=seconds)
        await self.rotation.sync()

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path.parent))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.writer.file.close()


async def test_a_log_that_is_too_large_is_set_aside(world: World) -> None:
    world.writer.write("short")
    await world.sync()
    assert world.names() == ["0.log"]
    for n in range(1, 5):
        world.writer.write(f"{n} " + "x" * 100)
        await world.sync()
    # the current one, the last, and the one before it
    assert world.names() == ["0.log", "0.log.20260102-030445.gz", "0.log.20260102-030455"]
    packed = next(name for name in world.names() if name.endswith(".gz"))
    assert b"F 3 xxx" in gzip.decompress((world.path.parent / packed).read_bytes())
    assert world.writer.reopened == 4


async def test_dead_containers_and_small_logs_are_left(world: World) -> None:
    world.writer.write("x" * 200)
    world.records = [record(("main", 0, ContainerState.EXITED))]
    await world.sync()
    assert world.names() == ["0.log"]


@pytest.mark.parametrize("refusal", [RuntimeUnavailable("away"), NotFound("gone")])
async def test_a_runtime_that_does_not_reopen_gets_its_file_back(world: World, refusal: Exception) -> None:
    world.writer.write("x" * 200)
    world.writer.refusal = refusal
    await world.sync()
    assert world.names() == ["0.log"]
    world.writer.refusal = None
    await world.sync()
    assert len(world.names()) == 2


async def test_a_crash_between_renaming_and_reopening_heals(world: World) -> None:
    world.writer.write("x" * 200)
    world.path.rename(world.path.with_name("0.log.20260102-030400"))
    await world.sync()
    assert world.names() == ["0.log", "0.log.20260102-030400"]
    world.writer.write("y")
    assert world.path.read_bytes().endswith(b" y\n")


async def test_twice_in_a_second_nothing_is_overwritten(world: World) -> None:
    for _ in range(3):
        world.writer.write("x" * 200)
        await world.sync(seconds=0)
    assert len(world.names()) == 2


async def test_a_full_disk_still_rotates(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rotation, "_compress", full)
    for n in range(6):
        world.writer.write(f"{n}" + "x" * 200)
        await world.sync()
    assert len(world.names()) == 3


def test_compressing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "0.log.20260102-030405"
    path.write_bytes(b"hello\n" * 1000)
    path.chmod(0o640)
    rotation._compress(str(path))
    packed = tmp_path / "0.log.20260102-030405.gz"
    assert gzip.decompress(packed.read_bytes()) == b"hello\n" * 1000
    assert packed.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == [packed.name]


def test_what_is_no_log_is_not_compressed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pod that mounts the log directory puts a pipe among the rotated files, or a link to what it may not read."""
    (tmp_path / "secret").write_text("no\n")
    log = tmp_path / "0.log"
    os.mkfifo(f"{log}.20260102-030405")
    Path(f"{log}.20260102-030406").symlink_to(tmp_path / "secret")
    before = set(os.listdir(tmp_path))
    rotation.tidy(str(log), 5)
    assert set(os.listdir(tmp_path)) == before
    assert [record.getMessage().partition("uncompressed: ")[2] for record in caplog.records] == [
        "it is no file",
        "it is a link",
    ]


async def test_followers_miss_nothing(world: World) -> None:
    """Each line once, in order, while the log is set aside again and again."""
    found = b""
    ended = asyncio.Event()

    async def alive() -> bool:
        return not ended.is_set()

    async def follow() -> None:
        nonlocal found
        async for piece in read(str(world.path), LogOptions(follow=True), alive):
            found += piece

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for n in range(60):
            world.writer.write(f"line {n:03} {'x' * 30}")
            if n % 10 == 9:
                await world.sync()
            until = f"line {n:03}".encode()
            while until not in found:
                await asyncio.sleep(0.002)
        ended.set()
    assert [line[:8] for line in found.decode().splitlines()] == [f"line {n:03}" for n in range(60)]
    assert world.writer.reopened >= 5


@given(
    st.sets(st.integers(0, 30).map(lambda n: f"0.log.20260102-0304{n:02}")),
    st.sets(st.integers(0, 30).map(lambda n: f"0.log.20260102-0304{n:02}.gz")),
    st.integers(2, 6),
)
def test_what_is_kept_is_the_newest(plain: set[str], packed: set[str], files: int) -> None:
    found = chore([*plain, *packed, "0.log.20260102-030459.tmp"], files)
    gone = set(found.remove)
    kept = (plain | packed) - gone
    assert "0.log.20260102-030459.tmp" in gone
    assert len(kept) <= files - 2
    assert all(name + ".gz" not in packed for name in kept)
    assert set(found.compress) == {name for name in kept if not name.endswith(".gz")}
    stems = sorted({name.removesuffix(".gz") for name in plain | packed})
    assert sorted(name.removesuffix(".gz") for name in kept) == stems[len(stems) - len(kept) :]
    assert chore(kept, files).remove == ()


def test_nothing_to_do() -> None:
    assert chore([], 5) == Chore((), ())


# --- links ------------------------------------------------------------------------------------------------------------


def links(folder: Path) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in (folder / "containers").iterdir() if path.is_symlink()}


def test_links_are_what_the_containers_make_them(tmp_path: Path) -> None:
    root = str(tmp_path / "pods")
    directory = loglinks.directory_of(root)
    main = tmp_path / "pods" / "default_web_u1" / "main"
    main.mkdir(parents=True)
    (main / "0.log").touch()
    assert loglinks.settle(directory, root, [])
    assert not (tmp_path / "containers").exists()
    both = record(("main", 0, ContainerState.EXITED), ("main", 1, ContainerState.RUNNING))
    assert not loglinks.settle(directory, root, [both])
    assert links(tmp_path) == {"web_default_main-id-main-0.log": str(main / "0.log")}  # the other has no log yet
    (main / "1.log").symlink_to("/docker/x-json.log")  # as Docker has it
    (tmp_path / "containers" / "others.log").symlink_to("/var/log/others.log")
    (tmp_path / "containers" / "file").touch()
    loglinks.settle(directory, root, [both])
    assert len(links(tmp_path)) == 3
    loglinks.settle(directory, root, [record(("main", 1, ContainerState.RUNNING))])
    assert links(tmp_path) == {
        "web_default_main-id-main-1.log": str(main / "1.log"),
        "others.log": "/var/log/others.log",
    }
    loglinks.settle(directory, root, [])
    assert set(links(tmp_path)) == {"others.log"}


def test_a_name_fits_the_filesystem() -> None:
    name = loglinks.name_of(PodIdentity("p" * 253, "default", "u"), "c", "0" * 64)
    assert len(name) == 255
    assert name.endswith(".log")


def test_erasing_takes_what_was_rotated(tmp_path: Path) -> None:
    for name in ("0.log", "0.log.20260102-030405", "0.log.20260102-030304.gz", "1.log", "00.log"):
        (tmp_path / name).touch()
    loglinks.erase(str(tmp_path / "0.log"))
    assert sorted(os.listdir(tmp_path)) == ["00.log", "1.log"]
