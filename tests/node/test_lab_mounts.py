"""A node's mount namespace can be named from any namespace, whichever CPU that was made on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import requires

BUILD = """
import asyncio, os, sys
from lab import mounts
state = sys.argv[1]
try:
    asyncio.run(mounts.build({mounts.spaces(state, f"node{number}"): ["true"] for number in range(16)}))
    names = {os.stat(f"{mounts.spaces(state, f'node{number}')}/mnt").st_ino for number in range(16)}
    assert len(names) == 16, names
finally:
    mounts.unmake(state)
"""


@pytest.mark.parametrize("cpu", sorted(os.sched_getaffinity(0)))
def test_namespaces_are_named_inside_of_one_from_any_cpu(tmp_path: Path, cpu: int) -> None:
    requires("unshare", "taskset")
    started_there = ["taskset", "--cpu-list", str(cpu), "unshare", "--mount"]
    # Let go again of that CPU: what is made inside may be made on any.
    every = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    inside = ["taskset", "--cpu-list", every, sys.executable, "-c", BUILD, str(tmp_path)]
    done = subprocess.run([*started_there, *inside], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
