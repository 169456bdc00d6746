"""Termination messages: from the file, from the log, once."""

import os
from datetime import UTC, datetime
from pathlib import Path

from kubelet.containerlogs.messages import Messages, log_tail, termination_message
from kubelet.model import Seen
from kubelet.runtime import (
    TERMINATION_MESSAGE_PATH,
    TERMINATION_MESSAGE_POLICY,
    ContainerState,
    ContainerStatus,
    Mount,
    PodIdentity,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ended(file: Path, log: Path | None = None, *, code: int = 1, policy: str = "File") -> ContainerStatus:
    return ContainerStatus(
        id="c1",
        sandbox_id="s1",
        pod=PodIdentity("p", "d", "u"),
        name="a",
        attempt=0,
        state=ContainerState.EXITED,
        created_at=NOW,
        exit_code=code,
        mounts=(Mount(host_path=str(file), container_path="/dev/termination-log"),),
        annotations={TERMINATION_MESSAGE_PATH: "/dev/termination-log", TERMINATION_MESSAGE_POLICY: policy},
        log_path=str(log or ""),
    )


def test_the_end_of_the_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_text("x" * 5000 + "end")
    message = termination_message(ended(file))
    assert (len(message), message[-4:]) == (4096, "xend")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert termination_message(ended(tmp_path / "pipe")).endswith("pipe: it is no file")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert "secret" not in termination_message(ended(tmp_path / "link")).replace(str(tmp_path), "")
    assert termination_message(ended(tmp_path / "absent")) == ""


def test_the_log_stands_in_for_an_empty_file_after_a_failure(tmp_path: Path) -> None:
    file, log = tmp_path / "message", tmp_path / "0.log"
    file.touch()
    log.write_text("2026-01-01T00:00:00Z stderr F last words\n")
    assert termination_message(ended(file, log)) == ""
    assert termination_message(ended(file, log, policy="FallbackToLogsOnError")) == "last words\n"
    assert termination_message(ended(file, log, policy="FallbackToLogsOnError", code=0)) == ""
    file.write_text("said")
    assert termination_message(ended(file, log, policy="FallbackToLogsOnError")) == "said"


def test_the_tail_of_either_kind_of_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"log":"one\\n","stream":"stdout"}\n{"log":"two\\n","stream":"stderr"}\n')
    assert log_tail(str(path)) == "one\ntwo\n"
    path.write_text(
        "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n"
    )
    assert log_tail(str(path)) == "one\ntwo\n"
    assert log_tail(str(path), lines=1) == "two\n"
    assert log_tail(str(path) + "absent") == ""
    path.write_text("".join(f"2026-01-01T00:00:00Z stdout F line {n:05}\n" for n in range(5000)))
    assert log_tail(str(path)).splitlines() == [f"line {n:05}" for n in range(4920, 5000)]
    path.write_text(f"2026-01-01T00:00:00Z stdout F {'y' * 3000}z\n")
    assert log_tail(str(path)) == "y" * 2046 + "z\n"


def test_each_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_text("bye")
    messages, seen = Messages(), Seen((), (ended(file),))
    assert messages.of(seen) == {"c1": "bye"}
    file.unlink()
    assert messages.of(seen) == {"c1": "bye"}
    assert messages.of(Seen()) == {}
