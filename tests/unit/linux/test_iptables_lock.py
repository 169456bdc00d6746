"""Who holds the lock, in words."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from linux.iptables.lock import holders


def test_the_holder_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    assert holders(lock) == f"nobody can be named who holds {lock}"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        comm = Path("/proc/self/comm").read_text().strip()
        assert holders(lock) == f"{lock} is held by {comm} ({os.getpid()})"
    assert holders(lock) == f"nobody can be named who holds {lock}"


def test_who_only_waits_is_not_named(tmp_path: Path) -> None:
    lock, locks = tmp_path / "xtables.lock", tmp_path / "locks"
    lock.touch()
    status = lock.stat()
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    locks.write_text(
        f"1: FLOCK  ADVISORY  WRITE 999999999 {file} 0 EOF\n"
        f"1: -> FLOCK  ADVISORY  WRITE 1 {file} 0 EOF\n"
        "2: POSIX  ADVISORY  WRITE 1 00:19:5 0 EOF\n"
    )
    assert holders(lock, locks) == f"{lock} is held by a process of another namespace (999999999)"
