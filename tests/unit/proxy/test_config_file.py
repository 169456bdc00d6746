"""A proxy ends when its configuration's file has another content, and only then."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.config_file import Changed, unchanged


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(unchanged(str(path)))
    await asyncio.sleep(0)  # it has read the file
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ended(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(Changed, match="has changed"):
            await task


async def test_another_content_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("a")
    async with watched(path) as task:
        path.write_text("b")
        await ended(task)


async def test_a_touch_and_a_moment_without_the_file_do_not(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("a")
    async with watched(path) as task:
        os.utime(path)
        path.unlink()
        await _turns()
        path.write_text("a")
        await _turns()
        assert not task.done()
        path.write_text("b")
        await ended(task)


async def test_a_config_map_is_replaced_by_renaming_a_directory(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "proxy.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("1")
    path = tmp_path / "proxy.yaml"
    path.symlink_to("..data/proxy.yaml")
    async with watched(path) as task:
        (tmp_path / "..new").symlink_to("2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await ended(task)


async def _turns() -> None:
    """The loop looks at its files in each of its turns, and inotify tells before a write returns."""
    for _ in range(5):
        await asyncio.sleep(0)
