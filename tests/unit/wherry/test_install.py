"""`wherry install --root DIR` and `wherry uninstall --root DIR`: a staging directory, no root needed."""

import importlib
import io
import json
import os
import ssl
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from kube.errors import UsageError
from kube.kubeconfig import Connection
from kubelet import config as kubelet_config
from overlay import config as overlay_config
from overlay import netconf
from tests.unit.wherry.units import exec_start
from wherry import layout
from wherry.__main__ import main
from wherry.install import install, uninstall

ADDRESS = "192.168.56.11"
DAEMONS = ("apiserver", "scheduler", "controllers", "kubelet", "proxy", "overlay", "metrics")


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below `root` with its mode and content."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


def install_server(root: Path, *more: str) -> None:
    assert install(["--root", str(root), "server", "--address", ADDRESS, "--node", "node2=192.168.56.12", *more]) == 0


def install_agent(root: Path, bundle: Path | None = None) -> None:
    bundle = bundle or root / "etc/wherry/bundles/node2.tar"
    assert install(["--root", str(root), "agent", "--bundle", str(bundle)]) == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server and a node in one directory; not to be written to."""
    root = tmp_path_factory.mktemp("root")
    install_server(root)
    install_agent(root)
    return root


@pytest.fixture
def bundle(installed: Path) -> bytes:
    return (installed / "etc/wherry/bundles/node2.tar").read_bytes()


@pytest.mark.parametrize("room", DAEMONS)
def test_a_daemon_accepts_what_its_unit_gives_it(installed: Path, room: str) -> None:
    program, *flags = exec_start(installed / f"etc/systemd/system/wherry-{room}.service")
    assert Path(program).is_file()
    assert os.access(program, os.X_OK)
    here = [flag.replace("=/etc/wherry", f"={installed}/etc/wherry") for flag in flags]
    assert any(flag.startswith("--config=") for flag in here)
    importlib.import_module(f"{room}.config").load(here)


def test_every_file_that_a_configuration_names_is_there(installed: Path) -> None:
    named = set()
    for path in [*installed.glob("etc/wherry/*.yaml"), *installed.glob("etc/systemd/system/*.service")]:
        for word in path.read_text().replace('"', " ").replace("=", " ").replace(",", " ").split():
            if word.startswith("/etc/wherry/"):
                named.add(word)
    assert len(named) > 10
    assert [name for name in sorted(named) if not (installed / name.lstrip("/")).is_file()] == []


def test_the_overlay_accepts_its_network(installed: Path) -> None:
    network = netconf.parse((installed / "etc/wherry/net-conf.json").read_bytes(), "net-conf.json")
    assert network.ipv4 == layout.PODS
    flags = exec_start(installed / "etc/systemd/system/wherry-overlay.service")[1:]
    config = overlay_config.load([flag.replace("=/etc/wherry", f"={installed}/etc/wherry") for flag in flags])
    assert (config.kube, config.ip_masq, len(config.iface)) == (True, True, 1)


def test_the_kubelet_looks_for_plugins_where_ours_is(installed: Path) -> None:
    flags = exec_start(installed / "etc/systemd/system/wherry-kubelet.service")[1:]
    config = kubelet_config.load([flag.replace("=/etc/wherry", f"={installed}/etc/wherry") for flag in flags])
    assert config.cni_bin_dir[0] == "/opt/wherry/cni/bin"
    plugin = installed / config.cni_bin_dir[0].lstrip("/") / "wherry-cni"
    answer = subprocess.run(
        [plugin], input=b'{"cniVersion": "1.0.0"}', env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True
    )
    assert "1.0.0" in json.loads(answer.stdout)["supportedVersions"]
    assert (installed / config.cni_conf_dir.lstrip("/") / "10-wherry.conflist").is_file()


def test_the_node_is_called_in_all_its_daemons_as_on_the_server(installed: Path) -> None:
    folder = installed / "etc/wherry"
    flags = exec_start(installed / "etc/systemd/system/wherry-kubelet.service")
    assert {"--hostname-override=node2", "--node-ip=192.168.56.12"} <= set(flags)
    assert json.loads((folder / "proxy.yaml").read_text())["hostnameOverride"] == "node2"
    assert json.loads((folder / "overlay.yaml").read_text())["hostnameOverride"] == "node2"
    assert json.loads((folder / "metrics.yaml").read_text())["nodeName"] == "node2"


def test_certificates_and_kubeconfigs_belong_together(installed: Path) -> None:
    folder = installed / "etc/wherry"
    for path in folder.glob("*.kubeconfig"):
        connection = Connection.from_kubeconfig(str(path))
        assert connection.server == f"https://{ADDRESS}:6443"
        assert connection.ssl_context()
        assert connection.ca == (folder / "pki/ca.crt").read_bytes()
    authority = x509.load_pem_x509_certificate((folder / "pki/ca.crt").read_bytes())
    for name in ("apiserver", "apiserver-kubelet-client", "kubelet"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / f"pki/{name}.crt", folder / f"pki/{name}.key")
        x509.load_pem_x509_certificate((folder / f"pki/{name}.crt").read_bytes()).verify_directly_issued_by(authority)
    serving = x509.load_pem_x509_certificate((folder / "pki/apiserver.crt").read_bytes())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {ADDRESS, "10.96.0.1", "127.0.0.1"} <= {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}


def test_secrets_are_roots_alone(installed: Path) -> None:
    open_to_others = [
        path.name
        for path in (installed / "etc/wherry").rglob("*")
        if path.suffix in (".key", ".kubeconfig", ".tar") and stat.S_IMODE(path.stat().st_mode) != 0o600
    ]
    assert open_to_others == []


def test_installing_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install_server(tmp_path)
    install_agent(tmp_path)
    before = tree(tmp_path)
    capsys.readouterr()
    install_server(tmp_path)
    install_agent(tmp_path)
    assert tree(tmp_path) == before
    assert "server installed: 0 files" in (said := capsys.readouterr().out)
    assert "agent installed: 0 files" in said


def test_edited_files_are_kept_and_lost_ones_come_back(tmp_path: Path) -> None:
    install_server(tmp_path)
    install_agent(tmp_path)
    edited, lost = tmp_path / "etc/wherry/kubelet.yaml", tmp_path / "etc/wherry/pki/apiserver.key"
    authority = (tmp_path / "etc/wherry/pki/ca.key").read_bytes()
    edited.write_text("# mine\n")
    lost.unlink()
    (tmp_path / "etc/systemd/system/wherry-proxy.service").write_text("of an older version")
    install_server(tmp_path)
    install_agent(tmp_path)
    assert edited.read_text() == "# mine\n"
    assert (tmp_path / "etc/wherry/pki/ca.key").read_bytes() == authority
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(lost.with_suffix(".crt"), lost)
    assert "ExecStart" in (tmp_path / "etc/systemd/system/wherry-proxy.service").read_text()


def test_a_node_that_joins_later_gets_its_bundle(tmp_path: Path) -> None:
    install_server(tmp_path)
    first = (tmp_path / "etc/wherry/bundles/node2.tar").read_bytes()
    install_server(tmp_path, "--node", "node3=192.168.56.13")
    assert (tmp_path / "etc/wherry/bundles/node2.tar").read_bytes() == first
    ours = layout.read_bundle((tmp_path / "etc/wherry/bundles/node3.tar").read_bytes())
    assert ours["pki/ca.crt"].content == (tmp_path / "etc/wherry/pki/ca.crt").read_bytes()
    assert layout.about(ours).node == "node3"


def test_uninstall_leaves_what_was_there(tmp_path: Path) -> None:
    theirs = tmp_path / "etc/cni/net.d/99-theirs.conf"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    (tmp_path / "opt/other").mkdir(parents=True)
    before = tree(tmp_path)
    install_server(tmp_path)
    install_agent(tmp_path)
    assert uninstall(["--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == before


def test_uninstall_of_either_role_leaves_nothing(tmp_path: Path, bundle: bytes) -> None:
    for root, lay in ((tmp_path / "server", install_server), (tmp_path / "agent", None)):
        root.mkdir()
        if lay:
            lay(root)
        else:
            (tmp_path / "node2.tar").write_bytes(bundle)
            install_agent(root, tmp_path / "node2.tar")
        assert uninstall(["--root", str(root)]) == 0
        assert tree(root) == {}


def test_uninstall_keeps_data_unless_told_to_purge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install_server(tmp_path)
    data = tmp_path / "var/lib/wherry/server/state.db"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"everything")
    uninstall(["--root", str(tmp_path)])
    assert data.exists()
    uninstall(["--root", str(tmp_path), "--purge"])
    assert tree(tmp_path) == {}
    assert "nothing installed" in capsys.readouterr().out


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _with(changes: dict[str, bytes | None]) -> Callable[[bytes], bytes]:
    def changed(bundle: bytes) -> bytes:
        files = {name: file.content for name, file in layout.read_bundle(bundle).items()} | changes
        return _tar({name: content for name, content in files.items() if content is not None})

    return changed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda _: b"", "file", id="empty"),
        pytest.param(lambda _: b"garbage" * 500, "", id="garbage"),
        pytest.param(lambda b: b[: len(b) // 2], "", id="cut short"),
        pytest.param(_with({"pki/kubelet.key": None}), "pki/kubelet.key is missing", id="a file too few"),
        pytest.param(_with({"apiserver.yaml": b""}), "'apiserver.yaml' does not belong there", id="a file too many"),
        pytest.param(_with({"../../root/.ssh/authorized_keys": b""}), "does not belong there", id="traversal"),
        pytest.param(_with({"node.json": b"{"}), "node.json", id="broken json"),
        pytest.param(_with({"node.json": b"[1]"}), "node.json: expected node, address and pods", id="other json"),
        pytest.param(
            _with({"node.json": b'{"node": "a b; reboot", "address": "10.0.0.1", "pods": "10.244.0.0/16"}'}),
            "is no node name",
            id="a name for a shell",
        ),
    ],
)
def test_a_bad_bundle_is_one_line_and_nothing_is_written(
    tmp_path: Path, bundle: bytes, capsys: pytest.CaptureFixture[str], spoil: Callable[[bytes], bytes], words: str
) -> None:
    (tmp_path / "b.tar").write_bytes(spoil(bundle))
    root = tmp_path / "root"
    root.mkdir()
    assert main(["install", "--root", str(root), "agent", "--bundle", str(tmp_path / "b.tar")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wherry install: --bundle")
    assert said.count("\n") == 1
    assert words in said
    assert "wherry install server --node" in said
    assert tree(root) == {}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["server", "--address", "here"], "--address: 'here' is not an IPv4 address"),
        (["server", "--address", "0.0.0.0"], "--address: 0.0.0.0 is not an address that other hosts reach"),
        (["server", "--address", ADDRESS, "--node", "node2"], "--node node2: write it as NAME=ADDRESS"),
        (["server", "--address", ADDRESS, "--node", "Node_2=10.0.0.2"], "'Node_2' is no node name"),
        (["server", "--address", ADDRESS, "--node", "a=10.0.0.1", "--node", "a=10.0.0.2"], "a is named twice"),
        (["agent", "--bundle", "/does/not/exist"], "--bundle /does/not/exist: No such file or directory"),
    ],
)
def test_bad_words_are_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main(["install", "--root", str(tmp_path), *argv]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert tree(tmp_path) == {}


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        install(["--root", str(tmp_path / "no"), "server", "--address", ADDRESS])


def test_what_contradicts_an_installation_is_refused(tmp_path: Path, installed: Path) -> None:
    install_server(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"is installed with 192\.168\.56\.11"):
        install(["--root", str(tmp_path), "server", "--address", "192.168.56.99"])
    with pytest.raises(UsageError, match="another cluster"):
        install_agent(tmp_path, installed / "etc/wherry/bundles/node2.tar")
    assert tree(tmp_path) == before
    install_server(tmp_path, "--node", "node3=192.168.56.13")
    install_agent(tmp_path)
    with pytest.raises(UsageError, match="node3's"):
        install_agent(tmp_path, tmp_path / "etc/wherry/bundles/node3.tar")


def test_a_unit_does_not_hide_its_own_program() -> None:
    unit = "ExecStart=/opt/wherry/bin/wherry-proxy --config=/x\nProtectHome=yes\nPrivateTmp=yes\n"
    assert layout.fitted(unit, Path("/opt/wherry/bin"), []) == unit
    at_home = layout.fitted(unit, Path("/srv/venv/bin"), [Path("/root/.pyenv/bin/python")], "--more")
    assert at_home.splitlines()[0] == "ExecStart=/srv/venv/bin/wherry-proxy --config=/x --more"
    assert "ProtectHome=read-only" in at_home
    assert "PrivateTmp" not in layout.fitted(unit, Path("/tmp/venv/bin"), [])


def test_the_commands_are_named_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in ("lab", "server", "agent", "install", "uninstall", "version"))
    assert main(["install-everything"]) == 2
    assert "there are lab, server" in capsys.readouterr().err
    assert main([]) == 2


def test_the_version_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("wherry 0.")


def test_an_agent_on_containerd(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kubelet and the exporter are told; the plugins that containerd needs are in one directory; another runtime later is
    refused; nothing of it is left."""
    path = installed / "etc/wherry/bundles/node2.tar"
    words = ["--root", str(tmp_path), "agent", "--bundle", str(path)]
    assert install([*words, "--runtime", "containerd"]) == 0
    assert "bin_dir" in capsys.readouterr().out
    etc = tmp_path / "etc/wherry"
    assert json.loads((etc / "kubelet.yaml").read_text())["containerRuntimeEndpoint"].startswith(
        "unix:///run/containerd/"
    )
    assert json.loads((etc / "metrics.yaml").read_text())["containerd"] == "/run/containerd"
    assert {"wherry-cni", "loopback"} <= set(os.listdir(tmp_path / "opt/wherry/cni/bin"))
    assert install(words) == 0, "as it was"
    with pytest.raises(UsageError, match=r"--runtime docker: .* says containerRuntimeEndpoint unix://"):
        install([*words, "--runtime", "docker"])
    assert uninstall(["--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == {}


def test_an_agent_on_docker_says_nothing_of_runtimes(installed: Path) -> None:
    assert "containerRuntimeEndpoint" not in json.loads((installed / "etc/wherry/kubelet.yaml").read_text())
