"""The stand-alone daemon, a group that burns half a core, and what history, REST and the page then say of it."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from linux.cgroup import tree
from tests.dockerd import cgroup_parent  # noqa: F401 (a fixture)
from tests.node.chromium import PROGRAM, browser
from tests.ports import free_port
from tests.requirements import requires

V = TypeVar("V")
_PATIENCE = 30.0
_BURN = """
import time
while True:
    block = b"x" * (4 << 20)  # taken while in the group: what it had before is charged elsewhere
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass
    time.sleep(0.05)
"""


def ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as answer:
        return json.loads(answer.read())


def until(look: Callable[[], V], wanted: Callable[[V], bool]) -> V:
    deadline = time.monotonic() + _PATIENCE
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, f"after {_PATIENCE:.0f} s: {seen!r}"
        time.sleep(0.05)
    return seen


@pytest.fixture
def group(cgroup_parent: str) -> Iterator[str]:  # noqa: F811
    """A cgroup in which a process burns about half a core."""
    requires("root")
    trees = tree.hierarchies()
    path = f"{cgroup_parent}/busy"
    tree.create(trees, path, tree.Limits(cpu_quota_us=80_000, memory_bytes=256 << 20))
    burner = subprocess.Popen([sys.executable, "-S", "-c", _BURN])
    try:
        for root in trees.roots():  # in every hierarchy, as a runtime makes it
            place = Path(f"{root}{path}")
            place.mkdir(parents=True, exist_ok=True)
            if not (place / "cpuset.cpus").exists():  # version 1's wants CPUs first, and is of no use here
                (place / "cgroup.procs").write_text(str(burner.pid))
        yield path
    finally:
        burner.kill()
        burner.wait()
        tree.remove(trees, path)


@contextlib.contextmanager
def daemon(group: str, *flags: str) -> Iterator[tuple[str, int]]:
    """Its address and pid. It looks below the group's parent only."""
    port = free_port()
    none = ("--docker=", "--containerd=", "--crio=", f"--cgroup-root={group.rpartition('/')[0]}")
    argv = [sys.executable, "-m", "metrics", "--listen_ip=127.0.0.1", f"--port={port}", *none, *flags]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    prefix = next((flag.partition("=")[2] for flag in flags if flag.startswith("--url_base_prefix")), "")
    url = f"http://127.0.0.1:{port}{prefix}"
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, "no answer"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=5):
                break
            time.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_history_is_sampled_unasked_and_says_what_was_used(group: str) -> None:
    with daemon(group, "--storage_duration=2m", "--housekeeping_interval=200ms") as (url, _):
        path = f"{url}/api/v1.3/containers{group}"
        stats = until(lambda: ask(path, {"num_stats": -1})["stats"], lambda found: len(found) >= 11)
        first, last = stats[0], stats[-1]
        used = last["cpu"]["usage"]["total"] - first["cpu"]["usage"]["total"]
        assert used > 0
        spec = ask(path)["spec"]
        assert (spec["cpu"]["quota"], spec["cpu"]["period"]) == (80_000, 100_000)
        assert spec["memory"]["limit"] == 256 << 20
        assert 1 << 20 < last["memory"]["working_set"] <= 256 << 20
        assert last["cpu"]["cfs"]["periods"] > 0
        summary = ask(f"{url}/api/v2.1/summary{group}")[group]
        assert 50 < summary["minute_usage"]["cpu"]["max"] <= 2000, "thousandths of a core"
        rates = [one["cpu_inst"]["usage"]["total"] for one in ask(f"{url}/api/v2.1/stats{group}")[group]["stats"][1:]]
        assert max(rates) > 50_000_000, "nanocores"


def test_with_history_off_there_is_now_and_nothing_else(group: str) -> None:
    with daemon(group) as (url, pid):
        assert len(ask(f"{url}/api/v1.3/containers{group}", {"num_stats": -1})["stats"]) == 1
        assert ask(f"{url}/page/past?path={group}")["moments"] == []
        ticks = _ticks(pid)
        began = time.monotonic()
        while time.monotonic() - began < 2.0:  # two seconds of its life, which nobody may make it read in
            time.sleep(0.1)
        assert _ticks(pid) - ticks <= 2, "it idles"


def _ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def test_wrong_durations_are_refused_in_words(group: str) -> None:
    for flag, words in (
        ("--storage_duration=48h", "--storage_duration: 172800 s is not between 0"),
        ("--housekeeping_interval=1ms", "--housekeeping_interval: 0.001 s is not between 100ms and 1h"),
    ):
        argv = [sys.executable, "-m", "metrics", "--docker=", f"--port={free_port()}", flag]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        assert done.returncode == 2
        assert words in done.stderr


async def test_the_page_of_the_daemon_below_a_prefix(group: str, tmp_path: Path) -> None:
    requires(PROGRAM)
    with daemon(group, "--url_base_prefix=/node/one", "--housekeeping_interval=200ms") as (url, _):
        async with browser(tmp_path) as tab:
            await tab.open(f"{url}/containers{group}")
            await tab.until("document.getElementById('name').innerText", lambda name: name == "busy")
            await tab.until("document.querySelector('#plot-cpu .limit').innerText", lambda text: text == "limit 800m")
            await tab.until("document.querySelector('#plot-cpu path.line')?.getAttribute('d').split('L').length > 5")
            label = await tab.value("document.querySelector('#plot-cpu svg').getAttribute('aria-label')")
            assert label.startswith("CPU of busy: used ")
            assert label.endswith("m; limit 800m")
            assert await tab.value("location.pathname") == f"/node/one/containers{group}"
            assert tab.complaints == []
