"""The disk under the store fills up, on a server of its own whose data directory is a small tmpfs: writes are refused in words,
reads go on, and when there is room again everything works. What was acknowledged is there at every point.
"""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kube.client import Client
from kube.core import ConfigMap
from kube.errors import ApiError
from kube.informer import Informer
from kube.resources import CONFIGMAPS
from tests.leave_no_trace import Snapshot
from tests.node.apiserver import Server, running
from tests.requirements import requires

SIZE = "6m"


@pytest.fixture
def disk(tmp_path: Path, leave_no_trace: Snapshot) -> Iterator[Path]:
    """The server's data directory, with room for `SIZE`."""
    requires("root", "mount")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(data)], check=True)
    yield data
    subprocess.run(["umount", str(data)], check=True)


@pytest.fixture
async def server(disk: Path, tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


def fill(disk: Path) -> None:
    """Somebody else takes all the room there is."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


async def write_until_refused(client: Client, prefix: str) -> tuple[set[str], ApiError]:
    """Names that were acknowledged, and the first refusal. Space that the store had taken before may last for a few."""
    there: set[str] = set()
    for number in range(2000):
        try:
            made = await client.create(
                CONFIGMAPS, {"metadata": {"name": f"{prefix}-{number}"}, "data": {"text": "y" * 4000}}, "default"
            )
        except ApiError as error:
            return there, error
        there.add(made.metadata.name)
    raise AssertionError("2000 writes of 4 kB fit on a full disk")


async def names(client: Client) -> set[str]:
    return {c.metadata.name for c in (await client.list(CONFIGMAPS, "default")).items} - {"kube-root-ca.crt"}


def check(refusal: ApiError) -> None:
    assert refusal.status >= 500
    assert refusal.reason
    assert "full" in refusal.message, refusal.message


@pytest.mark.timeout(120)
async def test_a_full_disk_refuses_writes_only(server: Server, disk: Path) -> None:
    async with Client(server.connection(), timeout=10) as client:
        await client.create(CONFIGMAPS, {"metadata": {"name": "before"}, "data": {"a": "1"}}, "default")
        fill(disk)
        acknowledged, refusal = await write_until_refused(client, "full")
        check(refusal)
        acknowledged.add("before")
        # Reads, also those that ask the store itself, and updates are refused like creations.
        assert await names(client) == acknowledged
        assert (await client.get(CONFIGMAPS, "before", "default")).data == {"a": "1"}
        with pytest.raises(ApiError) as caught:
            await client.patch(CONFIGMAPS, "before", {"data": {"a": "z" * 8000}}, "default")
        check(caught.value)
        assert (await client.get(CONFIGMAPS, "before", "default")).data == {"a": "1"}
        assert await names(client) == acknowledged
        (disk / "filler").unlink()
        await client.patch(CONFIGMAPS, "before", {"data": {"a": "2"}}, "default")
        await client.create(CONFIGMAPS, {"metadata": {"name": "after"}}, "default")
        assert await names(client) == acknowledged | {"after"}


@pytest.mark.timeout(120)
async def test_a_full_disk_and_a_kill(server: Server, disk: Path) -> None:
    """Killed with -9 on a full disk and started when there is room: nothing acknowledged is lost, versions go on growing."""
    async with Client(server.connection(), timeout=10) as client:
        fill(disk)
        acknowledged, _ = await write_until_refused(client, "kept")
        version = int((await client.list(CONFIGMAPS, "default")).resource_version)
        server.kill(signal.SIGKILL)
        (disk / "filler").unlink()
        await server.start()
        assert await names(client) == acknowledged
        made: ConfigMap = await client.create(CONFIGMAPS, {"metadata": {"name": "after"}}, "default")
        assert int(made.metadata.resource_version) > version


@pytest.mark.timeout(120)
async def test_a_watch_lives_through_a_full_disk(server: Server, disk: Path) -> None:
    async with Client(server.connection(), timeout=10) as client, asyncio.TaskGroup() as group:
        informer = Informer(client, CONFIGMAPS, namespace="default")
        running_informer = group.create_task(informer.run())
        await informer.synced.wait()
        fill(disk)
        acknowledged, _ = await write_until_refused(client, "seen")
        (disk / "filler").unlink()
        await client.create(CONFIGMAPS, {"metadata": {"name": "after"}}, "default")
        async with asyncio.timeout(10):
            while {c.metadata.name for c in informer.items()} - {"kube-root-ca.crt"} != acknowledged | {"after"}:
                await asyncio.sleep(0.02)
        running_informer.cancel()
