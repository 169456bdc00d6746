"""The power is cut at any step of a recorded run: what was acknowledged is there, and the file is whole."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apiserver.store.sqlite_child import Database
from tests.node.power_loss import Create, Disk, Said, Step, Sync, Truncate, Unlink, Write, record
from tests.node.store_writer import PARTS, WRITERS, counter_of
from tests.requirements import requires

TRANSACTIONS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Step]]:
    requires("strace")
    home = tmp_path_factory.mktemp("recorded")
    place = home / "disk"
    place.mkdir()
    argv = [sys.executable, "-m", "tests.node.store_writer", "sqlite", f"{place}/data/state.db", str(TRANSACTIONS)]
    steps = record(argv, place, home / "trace")
    (home / "trace").unlink()
    return place, steps


def test_the_record_holds_what_the_trial_is_about(run: tuple[Path, list[Step]]) -> None:
    """Else a passing trial would say little: commits, a checkpoint into the database, a log begun again from its start."""
    _, steps = run
    log = [step for step in steps if isinstance(step, Write) and step.path.endswith("-wal")]
    assert sum(isinstance(step, Said) for step in steps) == WRITERS * TRANSACTIONS + 1
    assert sum(isinstance(step, Write) and step.path.endswith("state.db") for step in steps) > 500
    assert sum(step.offset == 0 for step in log) > 1
    assert sum(isinstance(step, Sync) for step in steps) > 20
    assert any(isinstance(step, Create) for step in steps)


def moments(steps: list[Step], count: int, rng: random.Random) -> list[int]:
    """Half of them beside a sync, a truncation or a name: there the order matters."""
    turns = [n for n, step in enumerate(steps) if isinstance(step, Sync | Truncate | Create | Unlink)]
    beside = {min(max(rng.choice(turns) + rng.randint(0, 2), 0), len(steps)) for _ in range(count // 2)}
    return sorted(beside | {rng.randint(0, len(steps)) for _ in range(count // 2)})


def test_every_acknowledged_write_survives(
    run: tuple[Path, list[Step]], tmp_path: Path, trial: Callable[[int, int], int]
) -> None:
    place, steps = run
    rng = random.Random(11)
    disk, done = Disk(place), 0
    acknowledged: dict[int, int] = {}
    opened = False
    for moment in moments(steps, trial(100, 4000), rng):
        for step in steps[done:moment]:
            disk.do(step)
            if isinstance(step, Said) and step.text == b"open\n":
                opened = True
            elif isinstance(step, Said):
                writer, counter, _ = map(int, step.text.split())
                acknowledged[writer] = counter
        done = moment
        left = tmp_path / "left"
        left.mkdir()
        disk.cut(left, rng)
        check(
            left / "data" / "state.db", acknowledged, opened=opened, where=f"cut before step {moment} of {len(steps)}"
        )
        shutil.rmtree(left)
    assert sum(acknowledged.values()) > WRITERS * TRANSACTIONS / 2


def check(path: Path, acknowledged: dict[int, int], *, opened: bool, where: str) -> None:
    if not path.exists():
        assert not opened, f"{where}: the file is gone"
        return
    database = Database(str(path), 10_000, 1000, {})
    with contextlib.closing(database.db) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), where
        _, rows, _ = database.load("/k/", "/l", None)
        state = {key: counter_of(value) for key, _, value in rows}
        for writer in range(WRITERS):
            counters = {state.get(f"/k/{writer}/{part}", 0) for part in PARTS}
            assert len(counters) == 1, f"{where}: half a transaction of writer {writer}: {counters}"
            counter, now = acknowledged.get(writer, 0), counters.pop()
            assert counter <= now <= counter + 1, f"{where}: writer {writer}: {counter} acknowledged, {now} there"
        assert max((rv for _, rv, _ in rows), default=database.rv) <= database.rv, where


def test_a_store_that_did_not_wait_for_the_disk_would_be_caught(run: tuple[Path, list[Step]], tmp_path: Path) -> None:
    """The trial can fail: the same record without the log's syncs loses acknowledged writes."""
    place, steps = run
    careless = [step for step in steps if not (isinstance(step, Sync) and step.path.endswith("-wal"))]
    with pytest.raises(AssertionError, match=r"acknowledged|half|gone"):
        test_every_acknowledged_write_survives((place, careless), tmp_path, lambda short, _full: short)
