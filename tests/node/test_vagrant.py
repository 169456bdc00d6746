"""What Vagrant says of the Vagrantfile; it needs no hypervisor for that."""

import os
import subprocess
from pathlib import Path

from tests.requirements import requires

VAGRANT = Path(__file__).resolve().parents[2] / "deploy" / "vagrant"


def paths(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_vagrant_finds_nothing_to_say(tmp_path: Path) -> None:
    requires("vagrant")
    before = paths(VAGRANT)
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=VAGRANT,
        env={
            **os.environ,
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "dotfile"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout
    assert paths(VAGRANT) == before
