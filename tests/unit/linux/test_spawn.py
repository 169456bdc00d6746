"""Programs run without `subprocess`: what they read and say, how they end, and that they end."""

import signal
import time
from pathlib import Path

import pytest

from linux import spawn

SH = "/bin/sh"


def test_input_output_and_status() -> None:
    ended = spawn.run([SH, "-c", "tr a-z A-Z; echo no >&2; exit 3"], b"yes")
    assert (ended.status, ended.stdout, ended.stderr) == (3, b"YES", b"no\n")
    assert str(ended) == f"{SH} -c tr a-z A-Z; echo no >&2; exit 3: exit status 3: no"


def test_more_than_a_pipe_holds() -> None:
    data = b"x" * (1 << 21)
    assert spawn.run([SH, "-c", "cat; exit 0"], data).stdout == data


def test_who_hangs_is_killed() -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"sleep 60: did not end within 0.1 s and was killed"):
        spawn.run([str(spawn.find("sleep")), "60"], timeout=0.1)
    assert time.monotonic() - before < 30


def test_a_grandchild_holds_up_nobody() -> None:
    ended = spawn.run([SH, "-c", "sleep 5 & echo done"], timeout=30)
    assert ended.stdout == b"done\n"


def test_a_signal_is_a_negative_status_and_pipes_break_as_usual() -> None:
    assert spawn.run([SH, "-c", "kill -9 $$"]).status == -signal.SIGKILL
    assert spawn.run([SH, "-c", "kill -13 $$; exit 0"]).status == -signal.SIGPIPE


def test_the_environment_is_the_callers_or_what_is_given() -> None:
    assert spawn.run([SH, "-c", 'echo "$A,$B"'], environment={"A": "1"}).stdout == b"1,\n"


def test_programs_are_found_on_a_path(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("")
    (tmp_path / "folder" / "tool").mkdir(parents=True)
    path = f"{tmp_path}/folder:{tmp_path}"
    assert spawn.find("tool", path) is None, "it cannot be executed"
    program.chmod(0o755)
    assert spawn.find("tool", path) == str(program)
    assert spawn.find("no-such-program-anywhere") is None
    with pytest.raises(FileNotFoundError):
        spawn.run([str(tmp_path / "none")])
