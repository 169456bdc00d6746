"""At the door: names, a second command, what people are shown."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from kube.errors import UsageError
from lab import commands, life, screen
from lab.plan import topology
from tests.unit.lab.test_plan import LAB


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a/b", "..", "ü", "x" * 21, "a-node1"])
def test_names_that_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match="--name"):
        commands.main([f"--name={name}", "status"])


def test_one_command_at_a_time_changes_a_lab() -> None:
    with life.alone("unit-test"):
        with pytest.raises(UsageError, match="another wherry lab command is at work"):
            with life.alone("unit-test"):
                pass
        with life.alone("unit-test2"):
            pass
    with life.alone("unit-test"):
        pass


def test_status_has_a_row_a_daemon_and_fits() -> None:
    made = topology(LAB)
    daemons = {
        d.name: {"state": "restarting", "pid": 4194304, "restarts": 1000, "last_exit": None, "log": d.log}
        for d in made.daemons
    }
    out = io.StringIO()
    screen.status(made, daemons, {"node1": "Ready", "node2": "NotReady"}, out)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert len([line for line in lines if "restarting" in line]) == len(made.daemons)
    assert "logs  /state/x/NODE/log/DAEMON.log, /state/x/log" in lines


def test_a_step_says_its_seconds_also_when_nobody_is_at_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.step("building"):
        time.sleep(0)
    with pytest.raises(KeyError), screen.step("breaking"):
        raise KeyError
    assert capsys.readouterr().out == "  building  0.0 s\n  breaking  failed after 0.0 s\n"


def test_a_nodes_shell_finds_wherry_without_an_activated_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("bin/wherry", "exit 7"), ("nsenter", 'shift; exec "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os.path, "exists", lambda path: path.startswith("/run/netns/"))
    assert commands.main(["shell", "node1", "--", "wherry", "proxy", "show"]) == 7
