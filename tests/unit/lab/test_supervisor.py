"""The supervisor over plain processes: no namespace, no root; `inside` of a daemon without one is nothing."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab import supervisor
from lab.model import Daemon
from lab.supervisor import Supervisor

SLEEP = "import time; time.sleep(1000)"
READY = (
    "import os, socket, time\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
    "time.sleep(1000)"
)


def daemon(folder: Path, name: str, code: str, after: tuple[str, ...] = ()) -> Daemon:
    argv = (sys.executable, "-c", code)
    return Daemon(f"node1/{name}", "node1", "", argv, str(folder / "log" / f"{name}.log"), after=after)


@asynccontextmanager
async def running(folder: Path, *daemons: Daemon) -> AsyncIterator[Supervisor]:
    made = Supervisor(daemons)
    task = asyncio.get_running_loop().create_task(made.run(str(folder)))
    try:
        async with asyncio.timeout(20):
            await until(folder, lambda _: True)
            yield made
    finally:
        made.stop()
        await task


async def ask(folder: Path, **order: str) -> dict[str, Any]:
    answer = await asyncio.to_thread(supervisor.ask, str(folder), order)
    return answer or {}


async def until(folder: Path, accept: Any) -> dict[str, Any]:
    while True:
        found = (await ask(folder, order="status")).get("daemons")
        if found is not None and accept(found):
            return found  # type: ignore[no-any-return]
        await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "inside", lambda _namespace, _spaces: [])


def state(found: dict[str, Any], name: str) -> str:
    return str(found[f"node1/{name}"]["state"])


async def test_what_is_killed_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, daemon(tmp_path, "a", SLEEP)):
        first = await until(tmp_path, lambda f: f["node1/a"]["pid"])
        os.kill(first["node1/a"]["pid"], signal.SIGKILL)
        again = await until(tmp_path, lambda f: f["node1/a"]["restarts"] == 1 and f["node1/a"]["pid"])
        assert again["node1/a"]["pid"] != first["node1/a"]["pid"]
        assert again["node1/a"]["last_exit"] == -signal.SIGKILL


async def test_one_that_names_another_starts_when_that_is_ready(tmp_path: Path) -> None:
    daemons = (daemon(tmp_path, "b", SLEEP, after=("node1/a",)), daemon(tmp_path, "a", READY))
    async with running(tmp_path, *daemons):
        found = await until(tmp_path, lambda f: f["node1/b"]["pid"])
        assert state(found, "a") == "ready"
        assert state(found, "b") == "running"


async def test_ready_is_told_by_the_senders_pid(tmp_path: Path) -> None:
    liar = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {READY!r}]).wait()"
    async with running(tmp_path, daemon(tmp_path, "a", READY), daemon(tmp_path, "b", liar)):
        found = await until(tmp_path, lambda f: state(f, "a") == "ready" and f["node1/b"]["pid"])
        assert state(found, "b") == "running"
        os.killpg(found["node1/b"]["pid"], signal.SIGKILL)


async def test_stop_and_start_of_a_node(tmp_path: Path) -> None:
    async with running(tmp_path, daemon(tmp_path, "a", SLEEP)):
        await until(tmp_path, lambda f: f["node1/a"]["pid"])
        assert await ask(tmp_path, order="stop", node="node1") == {"stopped": ["node1/a"]}
        found = await until(tmp_path, lambda f: state(f, "a") == "stopped")
        assert found["node1/a"]["pid"] is None
        assert found["node1/a"]["restarts"] == 0
        await ask(tmp_path, order="start", node="node1")
        await until(tmp_path, lambda f: state(f, "a") == "running")


async def test_stopped_at_the_very_moment_it_is_started_it_stays_down(tmp_path: Path) -> None:
    async with running(tmp_path, daemon(tmp_path, "a", SLEEP)):
        for _ in range(10):
            await ask(tmp_path, order="start", node="node1")
            await ask(tmp_path, order="stop", node="node1")
        found = await until(tmp_path, lambda f: f["node1/a"]["pid"] is None)
        assert state(found, "a") == "stopped"


@pytest.mark.parametrize("order", [{"order": "stop", "node": "node9"}, {"order": "start"}, {"order": "dance"}])
async def test_orders_that_cannot_be_obeyed(tmp_path: Path, order: dict[str, str]) -> None:
    async with running(tmp_path, daemon(tmp_path, "a", SLEEP)):
        assert "error" in await ask(tmp_path, **order)


async def test_nonsense_does_not_end_it(tmp_path: Path) -> None:
    async with running(tmp_path, daemon(tmp_path, "a", SLEEP)):
        for line in (b"\n", b"[]\n", b"x" * 200_000 + b"\n"):
            reader, writer = await asyncio.open_unix_connection(supervisor.socket_path(str(tmp_path)))
            writer.write(line)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        await until(tmp_path, lambda f: f["node1/a"]["pid"])


async def test_a_program_that_is_missing_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "late"
    late = Daemon("node1/late", "node1", "", (str(program),), str(tmp_path / "late.log"))
    async with running(tmp_path, late):
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{SLEEP}'\n")
        program.chmod(0o755)
        await until(tmp_path, lambda f: state(f, "late") == "running")


def test_a_log_is_cut_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as out:
        out.write(b"x" * 100)
        assert not supervisor.rotate(str(path), 100)
        out.write(b"y")
        assert supervisor.rotate(str(path), 100)
        out.write(b"after")
    assert path.read_bytes() == b"after"
    assert (tmp_path / "log.1").read_bytes() == b"x" * 100 + b"y"
    assert not supervisor.rotate(str(tmp_path / "none"), 100)


def test_nobody_listens(tmp_path: Path) -> None:
    assert supervisor.ask(str(tmp_path), {"order": "status"}) is None


async def test_a_program_comes_first_until_it_ends_well_and_only_once(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    first = (sys.executable, "-c", f"f = open({str(tries)!r}, 'a'); f.write('x'); raise SystemExit(f.tell() < 3)")
    waiting = replace(daemon(tmp_path, "a", SLEEP), first=first)
    async with running(tmp_path, waiting):
        begun = await until(tmp_path, lambda f: f["node1/a"]["pid"])
        assert tries.read_text() == "xxx"
        os.kill(begun["node1/a"]["pid"], signal.SIGKILL)
        await until(tmp_path, lambda f: f["node1/a"]["restarts"] == 1 and f["node1/a"]["pid"])
    assert tries.read_text() == "xxx"
