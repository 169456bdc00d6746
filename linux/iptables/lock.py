"""Who holds the xtables lock: a name for the person who has to wait.

The legacy commands serialise themselves by flock on one file ($XTABLES_LOCKFILE, else /run/xtables.lock); /proc/locks names
the process that has it by the file's device and inode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_DEFAULT = "/run/xtables.lock"


def path() -> Path:
    return Path(os.environ.get("XTABLES_LOCKFILE") or _DEFAULT)


def holders(lock: Path | None = None, locks: Path = Path("/proc/locks")) -> str:
    """In words, e.g. `/run/xtables.lock is held by iptables (4711)`."""
    lock = lock or path()
    try:
        status = lock.stat()
        found = list(
            _pids(locks.read_text(), f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
        )
    except OSError:
        found = []
    named = ", ".join(f"{_name(pid)} ({pid})" for pid in found)
    return f"{lock} is held by {named}" if named else f"nobody can be named who holds {lock}"


def _pids(locks: str, file: str) -> Iterator[int]:
    """From lines like `1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF`; those with `->` only wait."""
    for line in locks.splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == file:
            yield int(words[4])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process of another namespace"
