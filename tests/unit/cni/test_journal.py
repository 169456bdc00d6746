"""A half-done ADD is undone by whoever comes next, once, and a finished one by nobody."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cni import journal, wire
from linux.netns import OWN

STDIN = b'{"cniVersion": "1.0.0", "name": "pods"}'


def variables(command: str, container: str = "c1") -> dict[str, str]:
    return {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "PATH": "/bin"}


class Plugin:
    """Remembers what it was asked; fails while `broken`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.stdin = b""
        self.broken = False

    def __call__(self, kind: str, environment: Mapping[str, str], stdin: bytes, *_: object) -> tuple[bytes, int]:
        self.calls.append((environment["CNI_COMMAND"], environment["CNI_CONTAINERID"]))
        self.stdin = stdin
        return (b'{"code":5}', 1) if self.broken else (b"{}", 0)


def killed_add(run: Path, container: str = "c1", *, begun: bool = True, done: bool = False) -> None:
    """The journal of a process that died in an ADD, or after it."""
    script = f"""
import os
from cni import journal
def answer(kind, environment, stdin, entry):
    if {begun}:
        entry.begin()
    if not {done}:
        os._exit(9)
    return b"", 0
entry = journal.carry_out({str(run)!r}, answer, "bridge", {variables("ADD", container)!r}, {STDIN!r})[2]
entry.done()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 9


def entries(run: Path) -> int:
    return len(os.listdir(run / "journal"))


def test_an_add_is_in_the_journal_until_its_end(tmp_path: Path) -> None:
    seen = []

    def answer(*_: object) -> tuple[bytes, int]:
        seen.append(entries(tmp_path))
        return b"{}", 0

    said, status, entry = journal.carry_out(str(tmp_path), answer, "bridge", variables("ADD"), STDIN)
    assert (said, status, seen) == (b"{}", 0, [1])
    assert entry is not None
    entry.done()
    assert journal.sweep(str(tmp_path), answer) == [], "its worker lives"
    assert entries(tmp_path) == 1
    entry.end()
    assert entries(tmp_path) == 0


def test_an_add_that_failed_has_undone_itself(tmp_path: Path) -> None:
    plugin = Plugin()
    plugin.broken = True
    said, status, entry = journal.carry_out(str(tmp_path), plugin, "bridge", variables("ADD"), STDIN)
    assert (said, status, entry, plugin.calls) == (b'{"code":5}', 1, None, [("ADD", "c1")])
    assert entries(tmp_path) == 0


def test_what_a_killed_worker_left_is_undone_with_its_own_call(tmp_path: Path) -> None:
    killed_add(tmp_path)
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == ["a half-done ADD is undone: bridge c1 eth0"]
    assert (plugin.calls, plugin.stdin) == ([("DEL", "c1")], STDIN)
    assert journal.sweep(str(tmp_path), plugin) == []
    assert entries(tmp_path) == 0


def test_what_had_made_nothing_is_not_undone(tmp_path: Path) -> None:
    """It may be a second ADD of a container that is attached, and a DEL would take the first one's work away."""
    killed_add(tmp_path, begun=False)
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == []
    assert (plugin.calls, entries(tmp_path)) == ([], 0)


def test_being_killed_while_undoing_is_an_attempt(tmp_path: Path) -> None:
    killed_add(tmp_path)
    script = f"import os\nfrom cni import journal\njournal.sweep({str(tmp_path)!r}, lambda *_: os._exit(9))"
    for _ in range(10):
        assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 9
    plugin = Plugin()
    told = journal.sweep(str(tmp_path), plugin)
    assert told == ["a half-done ADD cannot be undone and is given up: bridge c1 eth0: each time it was cut off"]
    assert (plugin.calls, entries(tmp_path)) == ([], 0)


def test_what_was_tried_in_vain_rests_where_a_pod_waits(tmp_path: Path) -> None:
    killed_add(tmp_path)
    plugin = Plugin()
    plugin.broken = True
    for _ in range(3):
        journal.sweep(str(tmp_path), plugin, rest=60.0)
    assert (plugin.calls, entries(tmp_path)) == ([("DEL", "c1")], 1)
    journal.sweep(str(tmp_path), plugin)
    assert len(plugin.calls) == 2


def test_a_program_that_outlives_its_worker_is_waited_for(tmp_path: Path) -> None:
    """It would reserve an address after the DEL that frees it."""
    script = f"""
import os
from cni import journal
def answer(kind, environment, stdin, entry):
    entry.begin()
    if not os.fork():
        os.read(0, 1)
    os._exit(9)
journal.carry_out({str(tmp_path)!r}, answer, "bridge", {variables("ADD")!r}, {STDIN!r})
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert worker.wait(30) == 9
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == []
    assert plugin.calls == []
    assert worker.stdin is not None
    worker.stdin.close()
    deadline = time.monotonic() + 30
    while not journal.sweep(str(tmp_path), plugin):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert (plugin.calls, entries(tmp_path)) == ([("DEL", "c1")], 0)


def test_what_was_done_is_not_undone(tmp_path: Path) -> None:
    killed_add(tmp_path, done=True)
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == []
    assert (plugin.calls, entries(tmp_path)) == ([], 0)


@pytest.mark.parametrize(("command", "asked"), [("ADD", ["DEL", "ADD"]), ("DEL", ["DEL"])])
def test_the_same_containers_next_call_settles_it(tmp_path: Path, command: str, asked: list[str]) -> None:
    killed_add(tmp_path)
    killed_add(tmp_path, "other")
    plugin = Plugin()
    _, status, entry = journal.carry_out(str(tmp_path), plugin, "bridge", variables(command), STDIN)
    if entry is not None:
        entry.end()
    assert (status, plugin.calls) == (0, [(each, "c1") for each in asked])
    assert entries(tmp_path) == 1, "the other one's"


def test_a_del_that_fails_leaves_it_to_the_next(tmp_path: Path) -> None:
    killed_add(tmp_path)
    plugin = Plugin()
    plugin.broken = True
    assert journal.carry_out(str(tmp_path), plugin, "bridge", variables("DEL"), STDIN)[1] == 1
    assert entries(tmp_path) == 1
    said = json.loads(journal.carry_out(str(tmp_path), plugin, "bridge", variables("ADD"), STDIN)[0])
    assert said["code"] == 11, "an ADD on top of it would be undone with it one day"
    plugin.broken = False
    assert journal.carry_out(str(tmp_path), plugin, "bridge", variables("DEL"), STDIN)[1] == 0
    assert entries(tmp_path) == 0


def test_what_can_never_be_undone_is_given_up(tmp_path: Path) -> None:
    killed_add(tmp_path)
    plugin = Plugin()
    plugin.broken = True
    told = [journal.sweep(str(tmp_path), plugin)[0] for _ in range(10)]
    assert [("given up" in each) for each in told] == [False] * 9 + [True]
    assert entries(tmp_path) == 0


def test_another_namespaces_calls_are_its_own_to_undo(tmp_path: Path) -> None:
    """Its links are there: a DEL from here would free the address of a pod that is still wired."""
    killed_add(tmp_path)
    (mine,) = (tmp_path / "journal").iterdir()
    theirs = mine.rename(mine.with_name("1-" + mine.name.partition("-")[2]))
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == []
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    assert journal.sweep(str(tmp_path), plugin) == []
    assert (plugin.calls, theirs.exists()) == ([], False), "a namespace that is long gone took its links along"


@pytest.mark.parametrize("content", [b"", b"W", b"W0WCN1\0\0\0\x09bri"])
def test_a_worker_that_died_before_it_began_left_nothing_to_undo(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / f"{os.stat(OWN).st_ino}-torn").write_bytes(content)
    plugin = Plugin()
    assert journal.sweep(str(tmp_path), plugin) == []
    assert (plugin.calls, entries(tmp_path)) == ([], 0)


def test_a_del_waits_for_the_add_of_its_container(tmp_path: Path) -> None:
    """The runtime lost patience and calls DEL while a worker is still at the ADD: DEL comes after it, or it would leak."""
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> tuple[bytes, int]:
        begun.set()
        assert go_on.wait(20)
        order.append("ADD")
        return b"{}", 1

    def delete(*_: object) -> tuple[bytes, int]:
        order.append("DEL")
        return b"", 0

    add = threading.Thread(
        target=journal.carry_out, args=(str(tmp_path), slow, "bridge", variables("ADD"), STDIN), daemon=True
    )
    add.start()
    assert begun.wait(20)
    late = threading.Thread(
        target=journal.carry_out, args=(str(tmp_path), delete, "bridge", variables("DEL"), STDIN), daemon=True
    )
    late.start()
    late.join(0.05)
    assert order == []
    go_on.set()
    add.join(20)
    late.join(20)
    assert order == ["ADD", "DEL"]


def test_one_that_never_ends_is_waited_for_with_patience_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.01)
    entry = journal.carry_out(str(tmp_path), Plugin(), "bridge", variables("ADD"), STDIN)[2]
    assert entry is not None
    said, status, _ = journal.carry_out(str(tmp_path), Plugin(), "bridge", variables("DEL"), STDIN)
    assert (status, json.loads(said)["code"]) == (1, 11)
    entry.end()


def test_gc_spares_what_is_being_made(tmp_path: Path) -> None:
    entry = journal.carry_out(str(tmp_path), Plugin(), "bridge", variables("ADD", "young"), STDIN)[2]
    assert entry is not None
    plugin = Plugin()
    config = {
        "cniVersion": "1.1.0",
        "name": "pods",
        "cni.dev/valid-attachments": [{"containerID": "old", "ifname": "eth0"}],
    }
    journal.carry_out(str(tmp_path), plugin, "bridge", variables("GC"), json.dumps(config).encode())
    valid = json.loads(plugin.stdin)["cni.dev/valid-attachments"]
    assert {each["containerID"] for each in valid} == {"old", "young"}
    entry.end()


def test_a_request_reads_back_as_it_was_written() -> None:
    environment = {"A": "1", "EMPTY": "", "EQUALS": "a=b", "BYTES": "\udcff"}
    packed = wire.request("bridge", environment, b"\0\xff{}\0")
    assert wire.length(packed[: wire.HEADER]) == len(packed) - wire.HEADER
    assert wire.parse(packed[wire.HEADER :]) == ("bridge", environment, b"\0\xff{}\0")
    with pytest.raises(ValueError, match="no request"):
        wire.length(b"GET / HT")
