"""The plugin's rows: one pod's network made and removed, against Debian's Go `bridge` with its `host-local`.

Both work in the same fresh namespaces on the same range, in turn, each started as a runtime starts it: a process, the call
in its environment, the configuration on its stdin. `cni.version` is what the process costs before it does anything, against
the bare interpreter; its budget is a ratio of 2.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cni import launcher
from linux import netns
from tests.requirements import missing

RUNS = 40
GO_PLUGINS = "/usr/lib/cni"
SUBNET = "10.77.1.0/24"


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows whose names begin with `only`; none where the machine cannot run them."""
    with tempfile.TemporaryDirectory(prefix="wherry-bench-cni-") as directory:
        program = str(launcher.write_plugins(Path(directory) / "bin"))
        if "cni.add".startswith(only or "") and not missing("netns", "bridge", "host-local"):
            yield _row(
                "cni.add", _attachments(program, directory), "ADD and DEL; floor: Debian's Go bridge + host-local"
            )
        if "cni.version".startswith(only or ""):
            bare = [os.path.realpath(sys.executable), "-I", "-S", "-c", "pass"]
            pairs = [(_timed(_call, program, "VERSION", {}), _timed(_run, bare, b"", {})) for _ in range(RUNS)]
            yield _row("cni.version", pairs, "a VERSION call; floor: python -I -S -c pass")


def _row(name: str, pairs: list[tuple[float, float]], note: str) -> dict[str, Any]:
    ours, floor = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    return {
        "name": name,
        "unit": "ms",
        "ours": round(ours, 2),
        "floor": round(floor, 2),
        "ratio": round(ours / floor, 2),
        "runs": len(pairs),
        "note": note,
    }


def _attachments(program: str, directory: str) -> list[tuple[float, float]]:
    mark = uuid.uuid4().hex[:6]
    host, pod = netns.create(f"bench-cni-host-{mark}"), netns.create(f"bench-cni-pod-{mark}")
    common = {"cniVersion": "1.0.0", "bridge": "cni0", "isGateway": True, "isDefaultGateway": True}
    ours = {**common, "name": "ours", "type": "wherry-cni", "subnet": SUBNET, "dataDir": directory}
    ipam = {"type": "host-local", "subnet": SUBNET, "dataDir": directory}
    theirs = {**common, "name": "theirs", "type": "bridge", "ipam": ipam}

    def pair(plugin: str, config: Mapping[str, object]) -> float:
        return sum(_timed(_call, plugin, command, config, pod.path) for command in ("ADD", "DEL"))

    try:
        with netns.enter(host.path):  # children inherit it, so that nsenter's own start is not measured
            pair(program, ours), pair(f"{GO_PLUGINS}/bridge", theirs)  # the bridge, the files, the page cache
            return [(pair(program, ours), pair(f"{GO_PLUGINS}/bridge", theirs)) for _ in range(RUNS)]
    finally:
        netns.delete(pod.name)
        netns.delete(host.name)


def _call(plugin: str, command: str, config: Mapping[str, object], pod: str = "") -> None:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "bench",
        "CNI_NETNS": pod,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": GO_PLUGINS,
    }
    _run([plugin], json.dumps(config).encode(), variables)


def _run(argv: list[str], stdin: bytes, variables: Mapping[str, str]) -> None:
    done = subprocess.run(argv, env=variables, input=stdin, capture_output=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} {variables.get('CNI_COMMAND', '')}: {(done.stdout + done.stderr).decode()}")


def _timed(function: Callable[..., None], *args: object) -> float:
    begun = time.perf_counter()
    function(*args)
    return time.perf_counter() - begun
