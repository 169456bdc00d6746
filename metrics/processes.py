"""What a container's processes hold: descriptors, sockets, limits. A look at each process, so only for families that ask.

The kernel says how many descriptors a process has in the size of its fd directory (6.2 and later); before that they are
counted. Sockets cannot be told from files without reading every link, so there is a bound for each container, and none is
told beyond it.
"""

import os
from typing import Final

from linux.cgroup.files import content
from metrics.model import Processes

_PROCESSES: Final = 1024
_LINKS: Final = 2048


def count(pids: list[int]) -> Processes:
    """Processes that end meanwhile are left out."""
    total, links = 0, _LINKS
    sockets: int | None = 0
    for pid in pids[:_PROCESSES]:
        held = _descriptors(pid)
        total += held
        links -= held
        if links < 0:
            sockets = None
        if sockets is not None:
            sockets += _sockets(pid)
    whole = len(pids) <= _PROCESSES
    return Processes(len(pids), total if whole else None, sockets if whole else None, _ulimits(pids))


def _descriptors(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _sockets(pid: int) -> int:
    folder, found = f"/proc/{pid}/fd", 0
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for name in names:
        try:
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return found


def _ulimits(pids: list[int]) -> dict[str, int]:
    """`Max open files            1024                 524288               files` (proc(5), limits)."""
    data = (content(f"/proc/{pids[0]}/limits") or b"") if pids else b""
    at = data.find(b"\nMax open files")
    words = data[at + len(b"\nMax open files") :].split(maxsplit=1) if at >= 0 else []
    if not words:
        return {}
    return {"max_open_files": int(words[0]) if words[0].isdigit() else -1}
