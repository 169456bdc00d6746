"""The ledger survives whoever was writing it, in Go host-local's own layout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni import store
from linux.rtnetlink import packed, unpacked

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


STEPS = ("write", "fdatasync", "replace", "unlink", "link")


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
