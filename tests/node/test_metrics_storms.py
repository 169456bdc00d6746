"""The collector and the daemon on a real kernel: groups by the thousand, groups that come and go, scrapers that hang up or come
all at once. Nothing leaks, nothing stalls, and what can be read is there."""

import concurrent.futures
import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linux.cgroup.tree import Hierarchies, hierarchies
from metrics.collector import MIXIN, Collector, Identity
from metrics.identities import identity
from tests.node.host import until
from tests.ports import free_port
from tests.requirements import requires

Trial = Callable[[int, int], int]

_READ = ("cpuacct", "cpu", "memory", "blkio", "pids")


class Groups:
    """Groups of our own in every hierarchy that is read."""

    def __init__(self, trees: Hierarchies) -> None:
        self.root = f"/wherry-test-{uuid.uuid4().hex[:8]}"
        mounts = [trees.unified] if trees.unified else [trees.controllers[c] for c in _READ]
        self.mounts = list(dict.fromkeys(mounts))
        self.trees = trees

    def make(self, name: str) -> str:
        for mount in self.mounts:
            os.makedirs(f"{mount}{self.root}/{name}", exist_ok=True)
        return name

    def remove(self, name: str) -> None:
        for mount in self.mounts:
            os.rmdir(f"{mount}{self.root}/{name}")

    def clear(self) -> None:
        for mount in self.mounts:
            for folder, _, _ in os.walk(f"{mount}{self.root}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


@pytest.fixture
def groups() -> Iterator[Groups]:
    requires("root")
    made = Groups(hierarchies())
    made.make("")
    yield made
    made.clear()


class Names(dict[str, Identity]):
    """Every container is somebody's."""

    def get(self, key: str, default: object = None) -> Identity | None:  # type: ignore[override]
        return identity(key, key[-6:], "web:1", {}, 1.0) if len(key) == 64 else None


def container(number: int) -> str:
    return f"{number:064x}"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_containers_that_come_and_go_leave_no_descriptor(groups: Groups, trial: Trial) -> None:
    collector = Collector(Names, groups.root, fresh=-1.0)
    collector.snapshot()
    before = descriptors()
    for number in range(trial(1000, 10000)):
        name = groups.make(container(number))
        assert [s for s in collector.snapshot().samples if s.path.endswith(name)]
        groups.remove(name)
        if number % 2:  # the other half goes unseen until the next has come
            after = collector.snapshot()
            assert not [s for s in after.samples if s.path.endswith(name)]
            assert not after.failed
    collector.snapshot()
    assert descriptors() == before
    assert collector.descriptors <= 6
    collector.close()
    assert descriptors() < before


def test_a_storm_of_groups_while_they_are_read(groups: Groups, trial: Trial) -> None:
    """Groups vanish between being listed and being read: that is no error, and those that stay are always there."""
    stay = [groups.make(container(number)) for number in range(10)]
    over = threading.Event()

    def storm() -> None:
        number = 1000
        while not over.is_set():
            some = [groups.make(container(number + i)) for i in range(20)]
            for name in some:
                groups.remove(name)
            number += 20

    collector = Collector(Names, groups.root, fresh=-1.0)
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        seen = 0
        for _ in range(trial(100, 5000)):
            snapshot = collector.snapshot(MIXIN)
            names = {s.path.rsplit("/", 1)[-1] for s in snapshot.samples}
            assert names >= set(stay)
            seen += len(names) - len(stay) - 1
    finally:
        over.set()
        thread.join()
    assert seen
    assert {s.path.rsplit("/", 1)[-1] for s in collector.snapshot().samples if s.kind == "container"} == set(stay)
    collector.close()


def test_five_thousand_groups(groups: Groups, trial: Trial) -> None:
    """Beyond the budget of descriptors they are opened each time; all are there, and so is what was made meanwhile."""
    count = trial(1000, 5000)
    for number in range(count):
        groups.make(f"slice-{number // 100}/{container(number)}")
    before = descriptors()
    collector = Collector(Names, groups.root, fresh=-1.0)
    for _ in range(2):
        snapshot = collector.snapshot(MIXIN)
        assert sum(s.kind == "container" for s in snapshot.samples) == count
        assert not snapshot.failed
    assert descriptors() - before <= 8192 + 1
    groups.make(f"slice-0/{container(count)}")
    assert sum(s.kind == "container" for s in collector.snapshot(MIXIN).samples) == count + 1
    collector.close()


def test_limits_that_are_written_are_told(groups: Groups) -> None:
    name = groups.make(container(1))
    collector = Collector(Names, groups.root, fresh=-1.0)

    def limit() -> int | None:
        return next(s for s in collector.snapshot(MIXIN).samples if s.path.endswith(name)).usage.limits.memory_bytes

    assert limit() is None
    unified = groups.trees.unified
    mount, file = (unified, "memory.max") if unified else (groups.trees.controllers["memory"], "memory.limit_in_bytes")
    Path(f"{mount}{groups.root}/{name}/{file}").write_text(str(64 * 2**20))
    assert limit() == 64 * 2**20
    collector.close()


class Exporter:
    def __init__(self, *words: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "metrics", f"--port={self.port}", "--listen_ip=127.0.0.1", "--crio=", *words]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
            assert answer.status == 200
            return bytes(answer.read())

    def answers(self) -> bool:
        try:
            return self.get("/healthz") == b"ok"
        except OSError:
            return False

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def state(groups: Groups, tmp_path: Path) -> Path:
    """Fifty containers, as containerd would have written them down."""
    for number in range(50):
        name = groups.make(container(number))
        bundle = tmp_path / "io.containerd.runtime.v2.task/k8s.io" / name
        bundle.mkdir(parents=True)
        notes = {"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.image-name": "web:1"}
        (bundle / "config.json").write_text(json.dumps({"annotations": notes}))
        (bundle / "init.pid").write_text("1")
    return tmp_path


@pytest.fixture
def exporter(groups: Groups, state: Path) -> Iterator[Exporter]:
    one = Exporter(f"--cgroup-root={groups.root}", "--docker=", f"--containerd={state}")
    try:
        until(one.answers, "the exporter to answer")
        yield one
    finally:
        one.stop()


def test_twenty_scrapers_at_once_and_some_that_hang_up(exporter: Exporter, trial: Trial) -> None:
    whole = exporter.get("/metrics").count(b"\ncontainer_memory_rss{")
    assert whole >= 50
    before = exporter.descriptors()
    for _ in range(trial(3, 100)):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", exporter.port)) as rude:
                rude.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with concurrent.futures.ThreadPoolExecutor(20) as many:
            texts = list(many.map(exporter.get, ["/metrics"] * 20))
        assert {text.count(b"\ncontainer_memory_rss{") for text in texts} == {whole}
        assert all(b"container_scrape_error 0" in text for text in texts)
    until(lambda: exporter.descriptors() <= before + 1, "the connections to be closed")


def test_a_runtime_that_hangs_is_partial_truth(groups: Groups, state: Path, tmp_path: Path) -> None:
    """A Docker that takes connections and says nothing: the rest is there, soon, and the page and /readyz say what is wrong."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "docker.sock"))
        mute.listen(50)
        one = Exporter(
            f"--cgroup-root={groups.root}", f"--docker=unix://{tmp_path}/docker.sock", f"--containerd={state}"
        )
        try:
            until(one.answers, "the exporter to answer")
            for _ in range(3):
                started = time.monotonic()
                text = one.get("/metrics")
                assert time.monotonic() - started < 10
                assert text.count(b'container="web"') >= 50
                assert b"container_scrape_error 1" in text
            with pytest.raises(urllib.error.HTTPError) as refused:
                one.get("/readyz")
            assert b"docker.sock: " in refused.value.read()
            refused.value.close()
        finally:
            one.stop()


def test_gzip_is_for_those_who_ask(exporter: Exporter) -> None:
    asked = urllib.request.Request(f"{exporter.url}/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        packed = answer.read()
        assert answer.headers["Content-Encoding"] == "gzip"
    assert len(packed) * 4 < len(gzip.decompress(packed))
    asked = urllib.request.Request(f"{exporter.url}/metrics", headers={"Accept-Encoding": "gzip;q=0, identity"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert answer.read().startswith(b"# HELP")
    assert exporter.get("/metrics").startswith(b"# HELP")


def test_a_kill_that_took_the_container_along_is_counted_on_the_pod(groups: Groups) -> None:
    """The container's group is gone before anybody reads it; the kernel's log says whose the victim was."""
    collector = Collector(Names, groups.root, fresh=-1.0)
    pod, name = "pod11111111-2222-3333-4444-555555555555", container(1)
    groups.make(pod)

    def kills() -> int:
        return next(s for s in collector.snapshot().samples if s.path.endswith(pod)).usage.oom_kills or 0

    assert kills() == 0
    for number in (1, 2):
        groups.make(f"{pod}/{name}")
        unified = groups.trees.unified
        mount, file = (
            (unified, "memory.max") if unified else (groups.trees.controllers["memory"], "memory.limit_in_bytes")
        )
        Path(f"{mount}{groups.root}/{pod}/{name}/{file}").write_text(str(16 * 2**20))
        script = (
            f"echo $$ >{mount}{groups.root}/{pod}/{name}/cgroup.procs; exec {sys.executable} -S -c 'bytearray(2**28)'"
        )
        assert subprocess.run(["sh", "-c", script], check=False).returncode == -9
        until(lambda: _removed(groups, f"{pod}/{name}"), "the victim's group to be empty")
        until(lambda number=number: kills() == number, "the kernel to say so")  # type: ignore[misc]
    collector.close()


def _removed(groups: Groups, name: str) -> bool:
    try:
        groups.remove(name)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
