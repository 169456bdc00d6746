"""The program a runtime execs: it starts bare, answers by itself, and says what is wrong in CNI's way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cni import launcher, spec

CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni", "subnet": "10.1.1.0/24"}
CALL = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launcher.write_plugins(tmp_path_factory.mktemp("bin"))


def run(program: Path, command: str, stdin: object = CONFIG, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program],
        env={**CALL, "CNI_COMMAND": command, **variables},
        input=stdin if isinstance(stdin, str) else json.dumps(stdin),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> tuple[str, int, str]:
    assert done.returncode == 1
    assert done.stderr == ""
    said = json.loads(done.stdout)
    return said["cniVersion"], said["code"], said["msg"]


def test_the_program_is_replaced_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    path = launcher.write_plugins(tmp_path / "deep" / "bin")
    path.write_text("damaged")
    assert launcher.write_plugins(path.parent) == path
    assert os.listdir(path.parent) == ["wherry-cni"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_interpreter_that_no_shebang_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without blanks"):
        launcher.write_plugins(tmp_path, str(tmp_path / "my python"))


def test_the_configuration_reads_back_as_one_network(tmp_path: Path) -> None:
    path = launcher.write_conflist(tmp_path, launcher.conflist(subnet_file="/lab/subnet.env", data_dir="/lab/cni"))
    assert path.name == "10-wherry.conflist"
    network = spec.parse_network(path.read_bytes())
    (plugin,) = network.plugins
    assert (network.name, network.version, plugin.type) == ("wherry", "1.0.0", "wherry-cni")
    assert plugin.configuration["subnetFile"] == "/lab/subnet.env"
    assert plugin.configuration["hairpinMode"] is True


@pytest.mark.parametrize(
    ("stdin", "version"), [("", "1.1.0"), ('{"cniVersion": "0.4.0"}', "0.4.0"), ('{"cniVersion": "1.1.0"}', "1.1.0")]
)
def test_version_answers_in_the_callers_version(program: Path, stdin: str, version: str) -> None:
    done = run(program, "VERSION", stdin)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": list(spec.VERSIONS)}


def test_without_a_command_it_says_what_it_is(program: Path) -> None:
    done = run(program, "", "")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "a CNI plugin of Wherry" in done.stderr


def test_refusals_are_json_on_stdout_and_status_1(program: Path, tmp_path: Path) -> None:
    assert refused(run(program, "STATUS"))[1] == 1
    assert refused(run(program, "ADD", CNI_NETNS=""))[:2] == ("1.0.0", 4)
    assert refused(run(program, "ADD", "not json"))[:2] == ("1.1.0", 6)
    assert refused(run(program, "ADD", {**CONFIG, "cniVersion": "0.4.0", "mut": 1}))[:2] == ("0.4.0", 2)
    assert refused(run(program, "ADD", {**CONFIG, "cniVersion": "0.2.0"}))[:2] == ("1.1.0", 1)
    assert refused(run(program, "ADD")) == (
        "1.0.0",
        3,
        "network namespace /nowhere of container c0ffee does not exist",
    )
    assert refused(run(program, "ADD", CNI_NETNS=str(tmp_path)))[1] == 8
    assert refused(run(program, "ADD", CNI_NETNS="/proc/self/ns/net"))[1] == 8
    assert refused(run(program, "CHECK", {**CONFIG, "cniVersion": "0.3.1"}))[:2] == ("0.3.1", 1)
    assert refused(run(program, "CHECK"))[1:] == (7, "CHECK needs prevResult, the result of the ADD")


def test_it_starts_bare(program: Path) -> None:
    """What makes other plugins slow is not loaded: the start is a third of the pod's whole network time."""
    script = program.read_text().split("from cni", maxsplit=1)[0]
    script += "import cni.__main__, cni.run, cni.plugins.wherry, cni.apply, cni.store; print(*sys.modules)"
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-IS", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    heavy = {"json", "re", "typing", "enum", "dataclasses", "ipaddress", "socket", "ctypes", "contextlib", "asyncio"}
    assert heavy.isdisjoint(done.stdout.split())
