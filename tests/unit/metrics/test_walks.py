"""Directories counted off the scrape's path: like du, within bounds, now and then."""

import os
import threading
import time
from pathlib import Path

import pytest

from metrics import observe, walks
from metrics.model import Counted
from metrics.walks import Walks


def known(one: Walks, path: Path) -> Counted:
    deadline = time.monotonic() + 20
    while (found := one.counted(str(path))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def test_it_counts_as_du_does(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a/file", tmp_path / "again")
    os.symlink("/", tmp_path / "out")
    found = walks.count(str(tmp_path))
    assert found
    assert 100_000 <= found.bytes < 130_000
    assert (found.inodes, found.whole) == (4, True)  # itself, a, file, out
    assert walks.count(str(tmp_path / "none")) is None


def test_a_walk_has_bounds_and_says_so(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}/below").mkdir(parents=True)
    found = walks.count(str(tmp_path), inodes=31)
    assert found
    assert not found.whole
    assert found.inodes < 61


def test_files_that_go_while_it_counts_take_no_others_along(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"stays-{number}").touch()
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(20):
                (tmp_path / f"a-{number}").touch()
            for number in range(20):
                (tmp_path / f"a-{number}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        found = [walks.count(str(tmp_path)) for _ in range(10)]
    finally:
        over.set()
        thread.join()
    assert all(one and one.whole and 301 <= one.inodes <= 321 for one in found)


def test_a_directory_that_may_not_be_read_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    listed = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = walks.count(str(tmp_path))
    assert found
    assert (found.inodes, found.whole) == (2, False)


def test_it_does_not_block_and_is_not_counted_again_before_its_time(tmp_path: Path) -> None:
    now = [0.0]
    one = Walks(60.0, clock=lambda: now[0])
    assert one.counted(str(tmp_path)) is None
    first = known(one, tmp_path)
    (tmp_path / "more").write_bytes(b"x")
    now[0] = 30.0
    assert one.counted(str(tmp_path)) is first
    now[0] = 61.0
    deadline = time.monotonic() + 20
    while one.counted(str(tmp_path)) is first:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert known(one, tmp_path).inodes == 2
    one.close()


def test_a_walk_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(path: str, *_: float) -> None:
        release.wait(20)

    monkeypatch.setattr(walks, "count", hang)
    one = Walks()
    started = time.monotonic()
    for _ in range(100):
        assert one.counted(str(tmp_path)) is None
    assert time.monotonic() - started < 5
    release.set()
    one.close()


def test_where_a_container_writes() -> None:
    lines = (
        "620 500 0:55 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/A:/B,upperdir=/var/lib/x\\040y/upper,workdir=/w\n"
        "621 620 0:58 / /proc rw - proc proc rw\n"
    )
    assert observe.layer(lines) == "/var/lib/x y/upper"
    assert observe.layer("25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n") == ""
    assert observe.layer("1 2 0:9 / /merged rw - overlay overlay rw,upperdir=/u,workdir=/w\n") == ""
