"""What a scrape costs, and what the daemon costs that waits for it.

Figures are processor time, of one thread, for other work on the machine does not count there. Scrapes are of the families of
the mixin (what `wherry-metrics` gives unasked), each after every container has done something. The floor is the reading
alone: the same files with pread on descriptors that are held.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metrics import exposition
from metrics.collector import Collector
from tests.bench._crowd import Crowd, crowd
from tests.ports import free_port

RUNS = 11
IDLE = 20.0
SCRAPES = ("metrics.scrape.100.cpu", "metrics.scrape.500.cpu")
DAEMON = ("metrics.rss.100", "metrics.idle.cpu", "metrics.fds-per-container")
_READ = (
    *("cpu.stat", "memory.current", "memory.stat", "io.stat"),
    *("cpuacct.usage", "memory.usage_in_bytes"),
    *("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
)


def rows(only: str | None) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for name in SCRAPES:
            if not only or name.startswith(only):
                count = int(name.split(".")[2])
                with crowd(count, Path(folder, str(count))) as containers:
                    yield _scrape(name, containers)
        if not only or any(name.startswith(only) for name in DAEMON):
            with crowd(100, Path(folder, "alone")) as containers:
                yield from (row for row in _daemon(containers) if not only or row["name"].startswith(only))


def _scrape(name: str, containers: Crowd) -> dict[str, Any]:
    known = containers.identities()
    page = exposition.Page()
    collector = Collector(lambda: known, containers.root, fresh=-1.0)
    held = [os.open(file, os.O_RDONLY) for file in containers.files(_READ)]
    floor: list[float] = []
    ours: list[float] = []
    text = b""
    try:
        page.text(collector.snapshot(page.parts))
        for _ in range(RUNS):
            containers.stir()
            started = time.thread_time()
            for handle in held:
                os.pread(handle, 8192, 0)
            floor.append(time.thread_time() - started)
            containers.stir()
            started = time.thread_time()
            text = page.text(collector.snapshot(page.parts))
            ours.append(time.thread_time() - started)
    finally:
        for handle in held:
            os.close(handle)
        collector.close()
    assert text.count(b"container_memory_rss{") >= len(known)
    return {
        "name": name,
        "unit": "ms",
        "ours": statistics.median(ours) * 1e3,
        "floor": statistics.median(floor) * 1e3,
        "ratio": statistics.median(ours) / statistics.median(floor),
        "runs": RUNS,
        "note": f"{len(known)} containers, {len(text) / 1e3:.0f} kB of text; best {min(ours) * 1e3:.1f} ms; floor: reads alone",
    }


def _daemon(containers: Crowd) -> Iterator[dict[str, Any]]:
    port = free_port()
    words = [f"--port={port}", "--listen_ip=127.0.0.1", f"--cgroup-root={containers.root}"]
    words += ["--docker=", f"--containerd={containers.state}", "--crio="]
    daemon = subprocess.Popen([sys.executable, "-m", "metrics", *words], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _get(f"{url}/healthz") == b"ok")
        before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        for _ in range(5):
            containers.stir()
            assert _get(f"{url}/metrics").count(b'container="web"') >= 5 * len(containers.names)
            time.sleep(1.1)  # longer than one reading is shared
        held = len(os.listdir(f"/proc/{daemon.pid}/fd")) - before
        memory = _resident(daemon.pid)
        start = _cpu(daemon.pid)
        time.sleep(IDLE)
        idle = (_cpu(daemon.pid) - start) / IDLE
    finally:
        daemon.terminate()
        daemon.wait(10)
    count = len(containers.names)
    alone = {"floor": None, "ratio": None, "runs": 1}
    yield {
        "name": DAEMON[0],
        "unit": "MB",
        "ours": memory / 1e6,
        **alone,
        "note": f"alone, {count} containers, after 5 scrapes",
    }
    yield {
        "name": DAEMON[1],
        "unit": "%",
        "ours": idle * 100,
        **alone,
        "note": f"of a core, over {IDLE:g} s without scrapes",
    }
    yield {
        "name": DAEMON[2],
        "unit": "",
        "ours": held / count,
        **alone,
        "note": "descriptors held after scrapes of the mixin",
    }


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _cpu(pid: int) -> float:
    """Seconds that all threads of another process have run, by its own clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)
