"""inotify on a directory of our own."""

import asyncio
from pathlib import Path

from linux.inotify import Inotify


async def _told(told: asyncio.Event) -> bool:
    async with asyncio.timeout(5):
        await told.wait()
    told.clear()
    return True


async def test_changes_are_told_and_reading_is_none(tmp_path: Path) -> None:
    told = asyncio.Event()
    with Inotify(asyncio.get_running_loop(), told.set) as inotify:
        assert not inotify.watch(str(tmp_path / "absent"))
        assert inotify.watch(str(tmp_path))
        assert inotify.watch(str(tmp_path))
        (tmp_path / "a").write_text("1")
        assert await _told(told)
        await asyncio.sleep(0)
        told.clear()
        (tmp_path / "a").read_text()
        (tmp_path / "b").symlink_to("a")
        assert await _told(told)
        (tmp_path / "a").rename(tmp_path / "c")
        assert await _told(told)
        (tmp_path / "c").unlink()
        assert await _told(told)
