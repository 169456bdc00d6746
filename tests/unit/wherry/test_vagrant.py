"""The Vagrant lab, as far as it can be tried without a hypervisor: what bash says, and what `prepare` stages.

What Vagrant itself says, which takes it seconds, is in tests/node/test_vagrant.py.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import requires
from wherry import layout
from wherry.install import install

VAGRANT = Path(__file__).resolve().parents[3] / "deploy" / "vagrant"
SCRIPTS = ("prepare", "provision.sh", "smoke.sh")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_bash_and_can_be_run(script: str) -> None:
    requires("bash")
    done = subprocess.run(["bash", "-n", VAGRANT / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(VAGRANT / script, os.X_OK)


def test_prepare_stages_for_each_machine_what_it_installs(tmp_path: Path) -> None:
    requires("bash")
    here = tmp_path / "vagrant"
    here.mkdir()
    for name in ("prepare", "nodes"):
        shutil.copy(VAGRANT / name, here / name)
    command = {**os.environ, "WHERRY": str(Path(sys.prefix, "bin", "wherry"))}
    for _ in range(2):
        subprocess.run([here / "prepare"], env=command, check=True, capture_output=True)
    staged = here / "staged"
    machines = dict(line.split() for line in (here / "nodes").read_text().splitlines())
    assert {path.name for path in staged.iterdir()} == set(machines)
    for name, address in machines.items():
        about = layout.about(layout.read_bundle((staged / name / "bundle.tar").read_bytes()))
        assert (about.node, str(about.address)) == (name, address)
        root = tmp_path / name
        root.mkdir()
        install(["--root", str(root), "agent", "--bundle", str(staged / name / "bundle.tar")])
    assert [path.parent.parent.name for path in staged.rglob("ca.key")] == ["wherry"]
    assert stat.S_IMODE(staged.stat().st_mode) == 0o700
    # What provision.sh does on the first: the staged files, then the command that lays out the rest.
    server = next(iter(machines))
    root = tmp_path / "server"
    shutil.copytree(staged / server / "root" / "etc" / "wherry", root / "etc" / "wherry")
    install(["--root", str(root), "server", "--address", machines[server]])
    install(["--root", str(root), "agent", "--bundle", str(staged / server / "bundle.tar")])


def test_prepare_says_what_it_lacks(tmp_path: Path) -> None:
    requires("bash")
    shutil.copy(VAGRANT / "prepare", tmp_path / "prepare")
    done = subprocess.run(
        [tmp_path / "prepare"], env={**os.environ, "WHERRY": "/none"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "there is no /none: run make venv in the checkout, or set WHERRY\n"
