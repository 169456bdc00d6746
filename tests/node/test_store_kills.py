"""Kill -9 at any moment, of the store's process, of the server around it, of etcd: what was acknowledged is there, whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from apiserver.store import Store
from tests.etcd import running
from tests.node.store_writer import PARTS, WRITERS, counter_of, opened
from tests.requirements import requires

Acknowledged = dict[int, tuple[int, int]]  # writer -> counter, resource version


def start(kind: str, place: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.node.store_writer", kind, place]
    writer = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"open\n"
    return writer


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def collect(writer: subprocess.Popen[bytes], acknowledged: Acknowledged) -> None:
    """Every line that was written before the process died; the last may be torn."""
    assert writer.stdout is not None
    lines = writer.stdout.read().splitlines(keepends=True)
    writer.stdout.close()
    writer.wait(15)
    for line in lines:
        if line.endswith(b"\n"):
            number, counter, rv = map(int, line.split())
            acknowledged[number] = counter, rv


async def check(store: Store, acknowledged: Acknowledged, seen: dict[str, int], since: int) -> int:
    """State and history agree with each other and with what was acknowledged; the version they are at."""
    snapshot = await store.load("/k/")
    state = {entry.key: (counter_of(entry.value), entry.rv) for entry in snapshot.entries}
    for writer in range(WRITERS):
        counters = {state[key][0] for part in PARTS if (key := f"/k/{writer}/{part}") in state}
        assert len(counters) <= 1, f"writer {writer}: half a transaction: {counters}"
        counter, rv = acknowledged.get(writer, (0, 0))
        now = counters.pop() if counters else 0
        assert counter <= now <= counter + 1, f"writer {writer}: {counter} was acknowledged, {now} is there"
        assert now != counter or not rv or state[f"/k/{writer}/{PARTS[-1]}"][1] == rv
        if now:  # what was there once stays, whether its writer heard of it or not
            acknowledged[writer] = now, state[f"/k/{writer}/{PARTS[-1]}"][1]
    if not state:
        return since
    newest = max(rv for _, rv in state.values())
    if newest <= since:
        return since
    async for batch in store.watch(since):
        for change in batch.changes:
            assert change.value is not None
            counter = counter_of(change.value)
            assert counter == seen.get(change.key, 0) + 1, f"{change.key}: {seen.get(change.key)}, then {counter}"
            seen[change.key] = counter
        if batch.rv >= newest:
            break
    assert seen == {key: counter for key, (counter, _) in state.items()}
    return snapshot.rv


async def test_sqlite(tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    """The child, its parent, or both at once."""
    place, rng = tmp_path / "data" / "state.db", random.Random(20)
    acknowledged: Acknowledged = {}
    seen: dict[str, int] = {}
    since = 128
    for _ in range(trial(15, 300)):
        writer = start("sqlite", str(place))
        time.sleep(rng.random() * 0.15)  # the moment is the trial
        store_process = children(writer.pid)
        kill({0: store_process, 1: [writer.pid], 2: [*store_process, writer.pid]}[rng.randrange(3)])
        collect(writer, acknowledged)
        async with opened("sqlite", str(place)) as store, asyncio.timeout(30):
            since = await check(store, acknowledged, seen, max(since, await store.oldest()))
    assert sum(counter for counter, _ in acknowledged.values()) > 100


async def test_etcd(tmp_path: Path, trial: Callable[[int, int], int]) -> None:
    """etcd, the writing process, or both at once."""
    requires("etcd")
    rng = random.Random(21)
    acknowledged: Acknowledged = {}
    seen: dict[str, int] = {}
    since = 0
    with running(tmp_path) as server:
        for _ in range(trial(4, 100)):
            writer = start("etcd", server.url)
            time.sleep(rng.random() * 0.4)
            which = rng.randrange(3)
            if which:
                server.kill()
            if which != 1:
                kill([writer.pid])
            collect(writer, acknowledged)
            if which:
                server.start()
            async with opened("etcd", server.url) as store, asyncio.timeout(30):
                since = await check(store, acknowledged, seen, since or await store.oldest())
    assert sum(counter for counter, _ in acknowledged.values()) > 20
