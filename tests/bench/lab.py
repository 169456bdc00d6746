"""A whole lab: cold and warm start to all nodes Ready, and what its daemons weigh once the demo runs.

Cold: no state on disk. Warm: state and images there, everything else (dockerd, namespaces, daemons) made anew. The floor of
both is dockerd and the same namespaces and links by hand: what a lab would cost if its daemons cost nothing.
"""

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import dockerd
from tests.cluster.conftest import Lab, ready, until, wherry

NAME = "bench"
RUNS = 3
DAEMONS = ("apiserver", "scheduler", "controllers", "kubelet", "proxy", "overlay", "metrics")


def rows(only: str | None) -> Iterator[dict[str, Any]]:
    wanted = [
        n
        for n in ("lab.start.cold", "lab.start.warm", "memory.")
        if not only or n.startswith(only) or only.startswith(n)
    ]
    if not wanted:
        return
    cold, warm, floor = [], [], []
    memory: dict[str, list[int]] = {}
    lab = Lab(NAME, "")
    wherry("lab", "--name", NAME, "down")
    try:
        for _ in range(RUNS):
            floor.append(_by_hand())
            cold.append(_up())
            memory = _memory(lab) or memory
            _break_off(lab)
            warm.append(_up())
            wherry("lab", "--name", NAME, "down")
    finally:
        wherry("lab", "--name", NAME, "down")
    base = statistics.median(floor)
    for name, values in (("lab.start.cold", cold), ("lab.start.warm", warm)):
        if name in wanted:
            ours = statistics.median(values)
            yield _row(name, "s", ours, base, RUNS, "3 nodes Ready; floor: dockerd, namespaces and links by hand")
    if "memory." in wanted:
        for daemon in DAEMONS:
            if not only or f"memory.{daemon}".startswith(only):
                figures = memory.get(daemon, [0])
                note = f"resident, of which {statistics.median(figures[1::2]) / 1e6:.0f} MB its own; demo running"
                yield _row(
                    f"memory.{daemon}", "MB", statistics.median(figures[::2]) / 1e6, None, len(figures) // 2, note
                )


def _row(name: str, unit: str, ours: float, floor: float | None, runs: int, note: str) -> dict[str, Any]:
    ratio = ours / floor if floor else None
    return {"name": name, "unit": unit, "ours": ours, "floor": floor, "ratio": ratio, "runs": runs, "note": note}


def _up() -> float:
    started = time.monotonic()
    wherry("lab", "--name", NAME, "up", "--nodes", "3", "--no-demo")
    return time.monotonic() - started


def _break_off(lab: Lab) -> None:
    """End everything but the files, as a power cut would."""
    from lab import remains

    remains.clear(lab.name, lab.state, docker=lab.docker)


def _memory(lab: Lab) -> dict[str, list[int]]:
    """Resident and private bytes, alternating, of every daemon by kind."""
    lab.wherry("up", "--nodes", "3")
    until(lambda: [p for p in lab.pods("app=hello") if ready(p)], lambda p: len(p) == 3, seconds=60)
    found: dict[str, list[int]] = {}
    for name, daemon in lab.daemons().items():
        kind = name.rpartition("/")[2]
        if kind in DAEMONS and daemon["pid"]:
            fields = dict(
                line.split(":") for line in Path(f"/proc/{daemon['pid']}/smaps_rollup").read_text().splitlines()[1:]
            )
            size = {key: int(value.split()[0]) * 1024 for key, value in fields.items()}
            found.setdefault(kind, []).extend([size["Rss"], size["Private_Clean"] + size["Private_Dirty"]])
    return found


def _by_hand() -> float:
    """dockerd answering, and four namespaces with a bridge and three veths, made with iproute2."""
    names = [f"wb-{i}" for i in range(4)]
    home = tempfile.mkdtemp(prefix="wherry-bench-")
    started = time.monotonic()
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        argv = dockerd.own_argv(home)
        daemon = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{names[0]}", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        inside = ["nsenter", f"--net=/run/netns/{names[0]}", "ip"]
        subprocess.run([*inside, "link", "add", "underlay", "type", "bridge"], check=True)
        for name in names[1:]:
            subprocess.run(
                [*inside, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name], check=True
            )
            subprocess.run([*inside, "link", "set", name, "master", "underlay", "up"], check=True)
        until(lambda: dockerd.answers(dockerd.own_endpoint(home)), seconds=60, pause=0.02)
        return time.monotonic() - started
    finally:
        daemon.terminate()
        daemon.wait()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=True)
        shutil.rmtree(home, ignore_errors=True)
