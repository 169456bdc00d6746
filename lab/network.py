"""Making and unmaking a lab's namespaces and links, and finding what runs in them.

The kernel is the record: a lab is its namespaces `wherry-<lab>` and `wherry-<lab>-*`, and its processes are those whose
network namespace is one of them. So `down` needs no file to know what to end.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from linux import netns, process


def namespaces_of(lab: str) -> list[str]:
    """The lab's namespaces that exist, the outer one first. A lab `a` has nothing to do with one named `a-b`."""
    ours = re.compile(rf"wherry-{re.escape(lab)}(-node\d+)?")
    return sorted(name for name in netns.names() if ours.fullmatch(name))


def labs() -> list[str]:
    """Every namespace of every lab on this machine."""
    return [name for name in netns.names() if name.startswith("wherry-")]


async def build(links: Mapping[str, Sequence[str]], sysctls: Mapping[str, Mapping[str, str]]) -> None:
    """Create the namespaces, run each one's `ip -batch` lines in it, set its sysctls."""
    for name in links:
        netns.create(name)
    for name, lines in links.items():
        batch = "\n".join(lines).encode() + b"\n"
        await process.run([*inside(name), "ip", "-batch", "-"], input=batch)
    for name, settings in sysctls.items():
        # /proc/sys/net is that of the reader's namespace, so a shell inside does the writing.
        script = "\n".join(f"echo {value} > /proc/sys/{key}" for key, value in settings.items())
        await process.run([*inside(name), "sh", "-ec", script])


def unmake(lab: str) -> list[str]:
    """Delete the lab's namespaces, and with them every link, route and rule inside; their names."""
    names = namespaces_of(lab)
    for name in names:
        netns.delete(name)
    return names


def inside(namespace: str, spaces: str = "") -> list[str]:
    """The argv prefix that runs a program in a network namespace, and in the mount and UTS namespaces that the directory
    `spaces` names. Not `ip netns exec`: that remounts /sys, and whoever needs cgroups then finds none."""
    more = [f"--mount={spaces}/mnt", f"--uts={spaces}/uts"] if spaces else []
    return ["nsenter", f"--net=/run/netns/{namespace}", *more]


def processes_in(names: Iterable[str]) -> list[int]:
    """Processes whose network namespace is one of `names`, oldest first; never the caller."""
    wanted: set[tuple[int, int]] = set()
    for name in names:
        try:
            status = os.stat(f"/run/netns/{name}")
        except OSError:
            continue
        wanted.add((status.st_dev, status.st_ino))
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            status = os.stat(entry / "ns/net")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            found.append(int(entry.name))
    return sorted(found)


def end(names: Sequence[str], *, grace: float = 5.0) -> list[int]:
    """End every process of these namespaces: SIGTERM, then after `grace` seconds SIGKILL; the pids that were there."""
    pids = processes_in(names)
    if pids:
        _end(pids, names, grace)
    for _ in range(3):
        late = processes_in(names)
        if not late:
            break
        _end(late, names, grace)
    return pids


def _end(pids: Sequence[int], names: Sequence[str], grace: float) -> None:
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        left = [pid for pid in processes_in(names) if pid in pids]
        for pid in left:
            _signal(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not any(pid in pids for pid in processes_in(names)):
                return
            time.sleep(0.05)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
