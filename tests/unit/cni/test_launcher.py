"""The program a runtime execs: it starts bare, answers by itself, and says what is wrong in CNI's way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cni import launcher, spec
from cni.plugins import NAMES
from tests.requirements import requires

CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni", "subnet": "10.1.1.0/24"}
CALL = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}


@pytest.fixture(scope="module", params=["compiled", "python"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, compiled = tmp_path_factory.mktemp("cni"), request.param == "compiled"
    if compiled:
        requires("cc")
    found = launcher.write_plugins(home / "bin", socket=f"{home}/none.sock", run=f"{home}/run", compiled=compiled)
    assert launcher.is_compiled(found) == compiled, "a compiler that makes no program lacks libc6-dev"
    return found


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


@pytest.mark.parametrize("compiled", [True, False])
def test_the_programs_are_replaced_whole_and_are_one_file(tmp_path: Path, compiled: bool) -> None:
    path = launcher.write_plugins(tmp_path / "deep" / "bin", compiled=compiled)
    path.write_text("damaged")
    (path.parent / "portmap").unlink()
    (path.parent / "portmap").symlink_to("/usr/lib/cni/portmap")  # of an earlier version's
    assert launcher.write_plugins(path.parent, compiled=compiled) == path
    assert sorted(os.listdir(path.parent)) == sorted([*NAMES, "wherry-cni-alone"])
    assert path.stat().st_mode & 0o777 == 0o755
    assert all((path.parent / name).samefile(path) for name in NAMES)


def test_paths_that_the_kernel_could_not_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be a socket: its path must fit 103 bytes"):
        launcher.write_plugins(tmp_path, socket="/run/" + "x" * 120)


def test_an_interpreter_that_no_shebang_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without blanks"):
        launcher.write_plugins(tmp_path, str(tmp_path / "my python"))


def test_the_configuration_reads_back_as_one_network(tmp_path: Path) -> None:
    path = launcher.write_conflist(tmp_path, launcher.conflist(subnet_file="/lab/subnet.env", data_dir="/lab/cni"))
    assert path.name == "10-wherry.conflist"
    network = spec.parse_network(path.read_bytes())
    plugin, ports, rates = network.plugins
    assert (network.name, network.version, plugin.type) == ("wherry", "1.1.0", "wherry-cni")
    assert json.loads(path.read_bytes())["cniVersion"] == "1.0.0", "as runtimes read it that know no cniVersions"
    assert plugin.configuration["subnetFile"] == "/lab/subnet.env"
    assert plugin.configuration["hairpinMode"] is True
    assert "agent" not in plugin.configuration
    assert (ports.capabilities, rates.capabilities) == ({"portMappings"}, {"bandwidth"})
    asking = spec.parse_network(launcher.conflist(agent=True))
    assert asking.plugins[0].configuration["agent"] is True


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
    script = (program.parent / launcher.ALONE).read_text().split("from cni", maxsplit=1)[0]
    script += "import cni.alone, cni.run, cni.plugins.wherry, cni.apply, cni.store; print(*sys.modules)"
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-IS", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    heavy = {"json", "re", "typing", "enum", "dataclasses", "ipaddress", "socket", "ctypes", "contextlib", "asyncio"}
    assert heavy.isdisjoint(done.stdout.split())


def test_a_shim_loads_nothing_but_a_socket(program: Path) -> None:
    script = (program.parent / launcher.ALONE).read_text().split("from cni", maxsplit=1)[0]
    bare = [os.path.realpath(sys.executable), "-IS", "-c"]
    before = subprocess.run([*bare, "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True)
    after = subprocess.run(
        [*bare, script + "import cni.shim; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    loaded = set(after.stdout.split()) - set(before.stdout.split())
    assert loaded == {"cni", "cni.shim", "_socket"}


def test_an_agent_that_is_away_is_waited_for_where_the_network_wants_one(program: Path) -> None:
    wanted = {**CONFIG, "agent": True}
    version, code, words = refused(run(program, "ADD", {**wanted, "cniVersion": "0.4.0"}))
    assert (version, code) == ("0.4.0", 11)
    assert "wherry-cni.service" in words
    assert refused(run(program, "ADD"))[1] == 3, "where it does not, the call is worked off"
    assert refused(run(program, "CHECK", wanted))[1] != 11
    assert run(program, "DEL", {**wanted, "dataDir": "/nowhere"}).returncode == 0


def test_a_journal_that_cannot_be_kept_refuses_adds_and_not_dels(program: Path) -> None:
    run_dir = program.parent.parent / "run"
    if run_dir.exists():
        run_dir.rename(run_dir.with_name("kept"))
    run_dir.write_text("a file")
    try:
        _, code, words = refused(run(program, "ADD"))
        assert (code, str(run_dir) in words) == (5, True)
        assert run(program, "DEL", {**CONFIG, "dataDir": "/nowhere"}).returncode == 0
    finally:
        run_dir.unlink()
        if run_dir.with_name("kept").exists():
            run_dir.with_name("kept").rename(run_dir)


def test_a_long_configuration_reaches_the_stand_alone_program_whole(program: Path) -> None:
    long = {**CONFIG, "cni.dev/filler": "x" * 300_000, "agent": True}
    assert refused(run(program, "ADD", long))[1] == 11


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        ("not json", None),
        ('{"cniVersion": 3}', None),
        ('{"cniVersion":"1.0.0\\u0000"}', None),
        ('{"cniVersion"', None),
        ('{"cniVersion":"99999999999999999999.0"}', None),
        ('{ "name": "x", "cniVersion"  :\n "0.3.1"}', "0.3.1"),
    ],
)
def test_a_version_that_is_none_breaks_nothing(program: Path, stdin: str, version: str | None) -> None:
    done = run(program, "VERSION", stdin)
    said = json.loads(done.stdout)
    assert version is None or said["cniVersion"] == version


def test_a_copy_among_other_plugins_works_alone_too(program: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(program.parent / "host-local", tmp_path / "host-local"))
    config = {**CONFIG, "type": "host-local", "ipam": {"type": "host-local", "dataDir": str(tmp_path)}}
    assert run(copy, "DEL", config).returncode == 0
    assert refused(run(copy, "ADD", config, CNI_IFNAME="a/b"))[1] == 4


def test_a_shim_whose_other_half_is_gone_says_so(tmp_path: Path) -> None:
    requires("cc")
    program = launcher.write_plugins(tmp_path / "bin", socket=f"{tmp_path}/none.sock", run=f"{tmp_path}/run")
    assert launcher.is_compiled(program)
    (program.parent / launcher.ALONE).unlink()
    _, code, message = refused(run(program, "DEL"))
    assert (code, message.endswith(f"{program.parent}/wherry-cni-alone: install Wherry again")) == (5, True)
