"""Handing a call on: where the plugin is looked for, what it is given, and what becomes of its refusals."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni import delegate
from cni.call import Call
from cni.plugins import MAIN
from cni.spec import CniError

CONFIG: Any = {"cniVersion": "1.0.0", "name": "pods", "ipam": {"type": "theirs", "dataDir": "/nowhere"}, "extra": [1]}
RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}


def program(folder: Path, answers: str, name: str = "theirs") -> Path:
    """A plugin that writes down its command and stdin, and does what the case for the command says."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$CNI_COMMAND $OTHER" >> {folder}/calls\ncat > {folder}/stdin\n{answers}\n')
    path.chmod(0o755)
    return path


def call(*folders: Path, command: str = "ADD", own: bool = False) -> Call:
    environment = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "OTHER": "inherited"}
    return Call(command, "c0ffee", "eth0", "/x", path=tuple(map(str, folders)), environment=environment, own=own)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_a_program_is_given_everything_and_believed(tmp_path: Path) -> None:
    program(tmp_path / "a", f"echo '{json.dumps(RESULT)}'")
    found = delegate.add("theirs", call(tmp_path / "none", tmp_path / "a"), CONFIG)
    assert [each.address for each in found.addresses] == ["10.1.2.3/24"]
    assert calls(tmp_path / "a") == ["ADD inherited"]
    assert json.loads((tmp_path / "a" / "stdin").read_text()) == CONFIG


def test_one_that_fails_is_asked_to_delete_and_quoted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program(tmp_path / "a", 'echo to-stderr >&2; echo \'{"code": 11, "msg": "later", "details": "d"}\'; exit 1')
    with pytest.raises(CniError) as refused:
        delegate.add("theirs", call(tmp_path / "a"), CONFIG)
    assert (refused.value.code, refused.value.message, refused.value.details) == (11, "theirs: later", "d")
    assert calls(tmp_path / "a") == ["ADD inherited", "DEL inherited"]
    assert "to-stderr" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ("exit 3", 104, "exit status 3: it said nothing"),
        ("echo panic; exit 2", 104, "panic"),
        ("echo what", 6, "not JSON"),
    ],
)
def test_what_cannot_be_understood_is_said(tmp_path: Path, answers: str, code: int, says: str) -> None:
    program(tmp_path / "a", answers)
    with pytest.raises(CniError, match=says) as refused:
        delegate.add("theirs", call(tmp_path / "a"), CONFIG)
    assert refused.value.code == code


def test_one_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(CniError, match=f"no plugin 'dhcp' in {tmp_path}: install it there") as refused:
        delegate.status("dhcp", call(tmp_path), CONFIG)
    assert refused.value.code == 104
    with pytest.raises(CniError, match=r"'\.\./sh' names no plugin"):
        delegate.check("../sh", call(tmp_path), CONFIG)


def test_our_own_program_is_called_and_not_started(tmp_path: Path) -> None:
    """It is ours when it is the same file as the main program beside it, by hard link or by symbolic link."""
    main = program(tmp_path / "ours", "exit 9", MAIN)
    os.link(main, tmp_path / "ours" / "host-local")
    theirs = program(tmp_path / "theirs", "exit 0", "host-local")
    config = {**CONFIG, "ipam": {"type": "host-local", "dataDir": str(tmp_path)}}
    delegate.delete("host-local", call(tmp_path / "ours", tmp_path / "theirs", command="DEL"), config)
    assert not (tmp_path / "ours" / "calls").exists()
    delegate.delete("host-local", call(tmp_path / "theirs", tmp_path / "ours", command="DEL"), config)
    assert calls(theirs.parent) == ["DEL inherited"], "the first on the path counts, whoever's it is"
    delegate.delete("host-local", call(tmp_path / "theirs", command="DEL", own=True), config)
    assert calls(theirs.parent) == ["DEL inherited"], "unless our own is meant"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "host-local").symlink_to(tmp_path / "ours" / "host-local")
    delegate.delete("host-local", call(tmp_path / "links", command="DEL"), config)
    assert not (tmp_path / "ours" / "calls").exists(), "a link to it from among others' plugins"


def test_one_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegate, "PATIENCE", 0.2)
    program(tmp_path / "a", "exec sleep 60")
    with pytest.raises(TimeoutError, match="was killed"):
        delegate.check("theirs", call(tmp_path / "a"), CONFIG)
