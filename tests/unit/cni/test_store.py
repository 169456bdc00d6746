"""The ledger survives whoever was writing it, in Go host-local's own layout."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni import store
from linux.rtnetlink import packed, unpacked

HUNDREDS = [packed(f"10.2.{number // 250}.{number % 250 + 1}") for number in range(400)]
HOSTS = [packed(f"10.1.1.{number}") for number in range(2, 15)]  # of a /28, without its gateway


def reserve(directory: Path, container: str, candidates: list[bytes] = HOSTS) -> bytes | None:
    """As host-local does it: round the range from the cursor on."""
    with store.Ledger(str(directory)) as ledger:
        last = ledger.last()
        start = candidates.index(last) + 1 if last in candidates else 0
        free = ledger.first_free(candidates[start:] + candidates[:start])
        if free is not None:
            ledger.reserve(free, container, "eth0")
        return free


def test_a_reservation_is_a_file_that_host_local_would_have_written(tmp_path: Path) -> None:
    assert reserve(tmp_path, "c1") == packed("10.1.1.2")
    assert (tmp_path / "10.1.1.2").read_bytes() == b"c1\r\neth0"
    assert (tmp_path / "last_reserved_ip.0").read_text() == "10.1.1.2"
    assert sorted(os.listdir(tmp_path)) == ["10.1.1.2", "last_reserved_ip.0", "lock"]


def test_release_frees_only_the_containers_own(tmp_path: Path) -> None:
    reserve(tmp_path, "c1")
    reserve(tmp_path, "c2")
    assert store.release(str(tmp_path), "c1", "net1") == []
    assert store.release(str(tmp_path), "c1", "eth0") == [packed("10.1.1.2")]
    assert store.release(str(tmp_path), "c1", "eth0") == []
    assert (tmp_path / "10.1.1.3").exists()


def test_nothing_is_made_where_nothing_was(tmp_path: Path) -> None:
    assert store.release(str(tmp_path / "none"), "c1", "eth0") == []
    assert store.held(str(tmp_path / "none"), "c1", "eth0") == []
    assert not (tmp_path / "none").exists()


def test_early_reservations_name_only_the_container(tmp_path: Path) -> None:
    (tmp_path / "10.1.1.4").write_text("c1 \n")
    assert store.release(str(tmp_path), "c1", "eth0") == [packed("10.1.1.4")]


def test_an_empty_file_is_a_crashed_writers_and_its_address_is_free(tmp_path: Path) -> None:
    (tmp_path / "10.1.1.2").touch()
    assert reserve(tmp_path, "c1") == packed("10.1.1.2")
    assert (tmp_path / "10.1.1.2").read_bytes() == b"c1\r\neth0"


def test_an_unreadable_cursor_starts_the_round_anew(tmp_path: Path) -> None:
    (tmp_path / "last_reserved_ip.0").write_bytes(b"\xff\0")
    assert reserve(tmp_path, "c1") == packed("10.1.1.2")


def test_what_is_no_reservation_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("c1\r\neth0")
    assert store.release(str(tmp_path), "c1", "eth0") == []
    assert (tmp_path / "README").exists()


STEPS = ("write", "pwrite", "fdatasync", "replace", "unlink", "link")


@pytest.mark.parametrize("call", range(1, 12))
def test_a_writer_killed_before_any_system_call_leaves_a_ledger_that_goes_on(tmp_path: Path, call: int) -> None:
    """The writer is another process that dies, uncleaned, before its n-th change to the file system."""
    reserve(tmp_path, "earlier")
    script = f"""
import os
left = {call}
def dying(function):
    def call(*args, **keywords):
        global left
        left -= 1
        if not left:
            os._exit(9)
        return function(*args, **keywords)
    return call
for name in {STEPS!r}:
    setattr(os, name, dying(getattr(os, name)))
from cni import store
with store.Ledger({str(tmp_path)!r}) as ledger:
    ledger.reserve({packed("10.1.1.9")}, "victim", "eth0")
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert done.returncode in {0, 9}
    with store.Ledger(str(tmp_path)) as ledger:
        assert set(ledger.holders().values()) <= {("earlier", "eth0"), ("victim", "eth0")}, "no torn reservation"
    store.release(str(tmp_path), "victim", "eth0")
    assert reserve(tmp_path, "later") is not None
    with store.Ledger(str(tmp_path)) as ledger:
        assert sorted(ledger.holders().values()) == [("earlier", "eth0"), ("later", "eth0")]
    assert [name for name in os.listdir(tmp_path) if name.startswith(".reserving")] == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=40))
def test_the_ledger_is_a_one_to_one_map(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    model: dict[str, bytes] = {}
    for add, number in steps:
        container = f"c{number}"
        if add and container not in model:
            address = reserve(directory, container)
            assert (address is None) == (len(model) == 13)
            if address is not None:
                assert address not in model.values()
                model[container] = address
        elif not add:
            freed = store.release(str(directory), container, "eth0")
            assert freed == ([model.pop(container)] if container in model else [])
    with store.Ledger(str(directory)) as ledger:
        assert {unpacked(each): holder[0] for each, holder in ledger.holders().items()} == {
            unpacked(address): container for container, address in model.items()
        }


def test_both_families_share_a_ledger_and_each_set_of_ranges_has_a_cursor(tmp_path: Path) -> None:
    with store.Ledger(str(tmp_path)) as ledger:
        ledger.reserve(packed("10.1.1.2"), "c1", "eth0")
        ledger.reserve(packed("fd00::2"), "c1", "eth0", 1)
        assert [unpacked(each) for each in ledger.held("c1", "eth0")] == ["10.1.1.2", "fd00::2"]
        assert (ledger.last(), ledger.last(1), ledger.last(2)) == (packed("10.1.1.2"), packed("fd00::2"), None)
    assert (tmp_path / "fd00::2").read_bytes() == b"c1\r\neth0"
    assert (tmp_path / "last_reserved_ip.1").read_text() == "fd00::2"
    assert len(store.release(str(tmp_path), "c1", "eth0")) == 2


def test_a_shorter_cursor_takes_the_place_of_a_longer_one(tmp_path: Path) -> None:
    with store.Ledger(str(tmp_path)) as ledger:
        ledger.reserve(packed("10.1.1.254"), "c1", "eth0")
        ledger.reserve(packed("10.1.1.3"), "c2", "eth0")
    assert (tmp_path / "last_reserved_ip.0").read_text() == "10.1.1.3", "as Go reads it: no blanks, no rest of the old"


def test_a_freed_address_rests_unless_no_other_is_left(tmp_path: Path) -> None:
    three = HOSTS[:3]
    for container in ("c1", "c2", "c3"):
        reserve(tmp_path, container, three)
    assert reserve(tmp_path, "c4", three) is None
    store.release(str(tmp_path), "c2", "eth0")
    store.release(str(tmp_path), "c1", "eth0")
    assert reserve(tmp_path, "c4", three) == packed("10.1.1.3"), "all rest: the one that has rested longest"
    wide = HOSTS[:4]
    assert reserve(tmp_path, "c5", wide) == packed("10.1.1.5"), "10.1.1.2 rests"


@pytest.mark.parametrize("forger", ["boot", "age", "future", "torn"])
def test_who_rests_is_known_by_boot_and_by_a_clock_that_nobody_sets(tmp_path: Path, forger: str) -> None:
    reserve(tmp_path, "c1", HOSTS[:2])
    store.release(str(tmp_path), "c1", "eth0")
    reserve(tmp_path, "c2", HOSTS[:2])
    when, boot, address = (tmp_path / ".resting").read_text().split()
    forged = {
        "boot": f"{when} 00000000 {address}\n",
        "age": f"{float(when) - 61} {boot} {address}\n",
        "future": f"{float(when) + 3600} {boot} {address}\n",
        "torn": f"{when} {boot} 10.1",
    }[forger]
    (tmp_path / "anew").write_text(forged)
    (tmp_path / "anew").rename(tmp_path / ".resting")
    with store.Ledger(str(tmp_path)) as ledger:
        assert ledger.first_free([packed(address), packed("10.9.9.9")]) == packed(address)


def test_what_rested_long_ago_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LONGEST_RESTING", 600)
    with store.Ledger(str(tmp_path)) as ledger:
        for turn in range(60):
            ledger.reserve(HOSTS[turn % 13], f"c{turn}", "eth0")
            ledger.release(f"c{turn}", "eth0")
    assert (tmp_path / ".resting").stat().st_size < 1200
    with store.Ledger(str(tmp_path)) as ledger:
        assert ledger.first_free([*HOSTS, packed("10.9.9.9")]) == packed("10.9.9.9")


def test_a_held_address_is_given_to_nobody_else(tmp_path: Path) -> None:
    reserve(tmp_path, "c1")
    with store.Ledger(str(tmp_path)) as ledger, pytest.raises(FileExistsError, match="held by c1"):
        ledger.reserve(packed("10.1.1.2"), "c2", "eth0")


def test_what_no_valid_attachment_names_is_collected(tmp_path: Path) -> None:
    for container in ("c1", "c2"):
        reserve(tmp_path, container)
    (tmp_path / "10.1.1.9").write_text("early")
    (tmp_path / "10.1.1.10").write_bytes(b"\0\0\0\0")
    (tmp_path / "10.1.1.11").write_bytes(b"c3\r\n")
    valid = {("c1", "eth0"), ("early", "net1")}
    assert sorted(store.collect(str(tmp_path), valid)) == [packed("10.1.1.3"), packed("10.1.1.11")]
    assert not (tmp_path / "10.1.1.10").exists(), "Go would take it for held"
    with store.Ledger(str(tmp_path)) as ledger:
        assert sorted(ledger.holders().values()) == [("c1", "eth0"), ("early", "")]
    assert store.collect(str(tmp_path / "none"), valid) == []


def go_reserves(directory: Path, address: str, container: str) -> None:
    """Another process, as host-local writes."""
    script = f"""
import fcntl, os
lock = os.open({str(directory / "lock")!r}, os.O_RDONLY | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
path = {str(directory / address)!r}
if {container!r}:
    os.write(os.open(path, os.O_RDWR | os.O_EXCL | os.O_CREAT, 0o600), {container.encode()!r} + b"\\r\\neth0")
else:
    os.unlink(path)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_what_another_process_wrote_is_seen_by_a_ledger_that_remembers(tmp_path: Path) -> None:
    reserve(tmp_path, "c1")
    go_reserves(tmp_path, "10.1.1.3", "theirs")
    assert reserve(tmp_path, "c2") == packed("10.1.1.4")
    go_reserves(tmp_path, "10.1.1.2", "")
    go_reserves(tmp_path, "10.1.1.2", "replaced")
    assert store.release(str(tmp_path), "c1", "eth0") == []
    assert store.release(str(tmp_path), "replaced", "eth0") == [packed("10.1.1.2")]
    assert store.release(str(tmp_path), "theirs", "eth0") == [packed("10.1.1.3")]


def test_threads_share_the_lock_and_other_processes_get_their_turn(tmp_path: Path) -> None:
    """Eight threads in one process and two processes more, on a range with room for all: each address once."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.unit.cni.test_store import HUNDREDS, reserve
for turn in range(25):
    assert reserve(Path({str(tmp_path)!r}), sys.argv[1] + str(turn), HUNDREDS)
"""
    others = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("left", "right")]
    failures: list[BaseException] = []

    def body(number: int) -> None:
        try:
            for turn in range(25):
                assert reserve(tmp_path, f"t{number}-{turn}", HUNDREDS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [other.wait(60) for other in others] == [0, 0]
    assert failures == []
    with store.Ledger(str(tmp_path)) as ledger:
        assert len(ledger.holders()) == 250
        assert len(set(ledger.holders().values())) == 250


def test_a_directory_that_was_removed_is_forgotten(tmp_path: Path) -> None:
    directory = tmp_path / "pods"
    reserve(directory, "c1")
    shutil.rmtree(directory)
    assert reserve(directory, "c1") == packed("10.1.1.2")
    assert store.held(str(directory), "c1", "eth0") == [packed("10.1.1.2")]


@pytest.mark.parametrize("step", ["fdatasync", "link"])
def test_a_disk_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    reserve(tmp_path, "c1")

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing)
        with pytest.raises(OSError, match="No space left"):
            reserve(tmp_path, "c2")
    assert sorted(os.listdir(tmp_path)) == ["10.1.1.2", "last_reserved_ip.0", "lock"]
    assert store.held(str(tmp_path), "c2", "eth0") == []
    assert reserve(tmp_path, "c2") is not None


@pytest.mark.parametrize("whole", [False, True], ids=["ticks", "whole seconds"])
def test_another_writer_in_the_same_tick_is_seen(tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """He waited for the lock, and the file system gives his change the time that ours has."""
    utime = os.utime
    if whole:
        monkeypatch.setattr(os, "utime", lambda path, ns: utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9)))
    with store.Ledger(str(tmp_path)) as ledger:
        ledger.reserve(HOSTS[0], "c1", "eth0")
        tick = tmp_path.stat().st_mtime_ns
    left = tmp_path.stat().st_mtime_ns
    (tmp_path / unpacked(HOSTS[1])).write_bytes(b"go\r\neth0")
    utime(tmp_path, ns=(left, left) if whole else (tick, tick))
    while time.time_ns() - tick < 30_000_000:
        pass
    with store.Ledger(str(tmp_path)) as ledger:
        assert set(ledger.holders()) == {HOSTS[0], HOSTS[1]}
    assert store.release(str(tmp_path), "go", "eth0") == [HOSTS[1]]
    assert not (tmp_path / unpacked(HOSTS[1])).exists()


def test_a_ledger_that_nobody_else_writes_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve(tmp_path, "c1")
    monkeypatch.setattr(os, "scandir", None)
    for container in ("c2", "c3"):
        reserve(tmp_path, container)
    assert store.release(str(tmp_path), "c2", "eth0") == [HOSTS[1]]
