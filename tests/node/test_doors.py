"""The doors of every daemon as people meet them: --help, bad input, busy ports, missing rights, and the two that hold several.

A refusal is one line that names the field and the remedy, with exit status 2, and leaves nothing behind: no rule, device or
child process, which is looked for. An API server that is away is no refusal: a daemon says so in one line, and waits.
"""

import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube import certificates, kubeconfig
from linux import netns as kernel_netns
from tests.conftest import Netns
from tests.node.host import until
from tests.requirements import requires

BIN = Path(sys.prefix, "bin")
DAEMONS = ("apiserver", "scheduler", "controllers", "kubelet", "proxy", "overlay", "metrics")
CLIENTS = ("scheduler", "controllers", "kubelet", "proxy", "overlay")
AWAY = "https://127.0.0.1:9"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# Nobody in particular, who may still read the interpreter and the checkout wherever they are.
UNPRIVILEGED = (*NOBODY, "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")


@dataclass(slots=True)
class Place:
    """Files and a network namespace for daemons to be started in."""

    home: Path
    space: Netns

    def flags(self, daemon: str) -> list[str]:
        """What makes a daemon start here, as far as the API server is not needed."""
        kubeconfig = f"--kubeconfig={self.home}/kubeconfig"
        match daemon:
            case "apiserver":
                return [
                    *(f"--data-dir={self.home}/data", "--bind-address=127.0.0.1"),
                    *(f"--tls-cert-file={self.home}/pki.crt", f"--tls-private-key-file={self.home}/pki.key"),
                    f"--client-ca-file={self.home}/ca.crt",
                ]
            case "kubelet":
                return [
                    *(kubeconfig, f"--client-ca-file={self.home}/ca.crt", "--node-ip=127.0.0.1"),
                    *(f"--root-dir={self.home}/kubelet", f"--pod-logs-dir={self.home}/pods"),
                    f"--container-runtime-endpoint=docker://{self.home}/docker.sock",
                ]
            case "overlay":
                return [
                    *(kubeconfig, "--kube-subnet-mgr", f"--net-config-path={self.home}/net-conf.json"),
                    f"--subnet-file={self.home}/subnet.env",
                ]
            case "metrics":
                return [f"--docker=unix://{self.home}/docker.sock"]
            case _:
                return [kubeconfig]

    def run(self, *argv: str | Path, seconds: float = 60.0) -> tuple[int, str]:
        """Exit status, and what was said on both streams."""
        done = subprocess.run(
            ["nsenter", f"--net={self.space.path}", *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
            cwd="/",
        )
        return done.returncode, done.stdout

    def daemon(self, name: str, *flags: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
        return self.run(*before, BIN / f"wherry-{name}", *flags)

    def remains(self) -> str:
        """Links, rules and routes of the namespace, and processes that run in it."""
        rules = self.space.run("iptables-save") + self.space.run("ip", "-o", "link") + self.space.run("ip", "route")
        rules = re.sub(r"\[\d+:\d+\]|^#.*$|^:\w+ ACCEPT.*$|^COMMIT$|^\*\w+$", "", rules, flags=re.MULTILINE)
        return rules + self.space.run("ls", "-A", str(self.home))


@pytest.fixture
def place(tmp_path: Path, netns: Callable[[str], Netns]) -> Place:
    requires("root", "nsenter", "setpriv", "ip", "iptables")
    home = tmp_path / "home"
    home.mkdir()
    authority = certificates.authority("test-ca")
    pair = certificates.issue(authority, "kube-apiserver", sans=["127.0.0.1"])
    admin = certificates.issue(authority, "admin", ["system:masters"])
    (home / "ca.crt").write_bytes(authority.certificate)
    (home / "pki.crt").write_bytes(pair.certificate)
    (home / "pki.key").write_bytes(pair.key)
    (home / "kubeconfig").write_text(kubeconfig.render(AWAY, authority.certificate, admin.certificate, admin.key))
    (home / "net-conf.json").write_text('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}')
    return Place(home, netns("doors"))


@pytest.fixture
def dockers_socket(place: Place) -> Iterator[None]:
    """Somebody accepts connections where Docker would; that he says nothing is no matter at the door."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.home / "docker.sock"))
        listening.listen(64)
        yield


def refused(answer: tuple[int, str], *words: str) -> None:
    status, said = answer
    assert "Traceback" not in said, said
    assert status == 2, (status, said)
    last = said.rstrip("\n").splitlines()
    assert len([line for line in last if line.startswith("wherry-")]) == 1, said
    assert all(word in last[-1] for word in words), (words, said)


# Help


def _processor_seconds(argv: list[str]) -> float:
    """The least of three runs: user and system time, which others on the machine disturb little."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


@pytest.mark.parametrize("name", DAEMONS)
def test_help_is_quick(name: str) -> None:
    bare = _processor_seconds([sys.executable, "-c", "pass"])
    ours = _processor_seconds([str(BIN / f"wherry-{name}"), "--help"])
    assert ours < 12 * bare + 0.1, f"wherry-{name} --help takes {ours:.2f} s of processor time, python {bare:.2f}"


@pytest.mark.parametrize("name", DAEMONS)
def test_help_names_the_file_and_the_flags(name: str) -> None:
    text = subprocess.run([BIN / f"wherry-{name}", "--help"], check=True, capture_output=True, text=True).stdout
    assert "--config FILE" in text
    assert "Configuration" in text
    version = subprocess.run([BIN / f"wherry-{name}", "--version"], check=True, capture_output=True, text=True).stdout
    assert version.startswith(f"wherry-{name} v1.")


# What is wrong with the words or the files


KINDS = {
    "apiserver": ("wherry.io/v1alpha1", "ApiServerConfiguration", "securePort"),
    "scheduler": ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration", "leaderElection"),
    "controllers": ("wherry.io/v1alpha1", "ControllersConfiguration", "securePort"),
    "kubelet": ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", "healthzPort"),
    "proxy": ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", "clusterCIDR"),
    "overlay": ("wherry.io/v1alpha1", "OverlayConfiguration", "subnetFile"),
    "metrics": ("wherry.io/v1alpha1", "MetricsConfiguration", "port"),
}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_bad_file_or_flag_is_one_line(place: Place, name: str) -> None:
    api_version, kind, key = KINDS[name]
    file = place.home / "config"

    def given(text: str) -> tuple[int, str]:
        file.write_text(text)
        return place.daemon(name, *place.flags(name), f"--config={file}")

    before = place.remains()
    head = f"apiVersion: {api_version}\nkind: {kind}\n"
    refused(place.daemon(name, f"--config={place.home}/none"), "--config", "No such file", "name a readable")
    refused(given("a: [\n- b: c"), str(file), "line 2", "name a readable")
    refused(given("- a\n"), "expected a mapping with apiVersion and kind")
    refused(given("apiVersion: v1\nkind: Pod\n"), "apiVersion: found 'v1'", api_version)
    refused(given(f"apiVersion: {api_version}\nkind: Pod\n"), "kind: found 'Pod'", kind)
    refused(given(f"{head}{key}x: 1\n"), f"{key}x: unknown key; did you mean {key}?")
    refused(given(f"{head}{key}: [[1]]\n"), f"{key}: expected", "[[1]]")
    refused(place.daemon(name, "--confg=x"), "--confg: unknown flag; did you mean --config?")
    file.unlink()
    assert place.remains() == before


@pytest.mark.parametrize("name", CLIENTS)
def test_a_bad_kubeconfig_is_one_line(place: Place, dockers_socket: None, name: str) -> None:
    flags = [flag for flag in place.flags(name) if not flag.startswith("--kubeconfig")]
    bad = place.home / "bad"

    def given(text: str) -> tuple[int, str]:
        bad.write_text(text)
        return place.daemon(name, *flags, f"--kubeconfig={bad}")

    refused(place.daemon(name, *flags), "--kubeconfig", "required")
    refused(place.daemon(name, *flags, "--kubeconfig=/none"), "--kubeconfig /none: No such file", "name a readable")
    refused(given("{"), f"--kubeconfig {bad}: line 1")
    refused(given("{}"), f"--kubeconfig {bad}: ", "current-context")


# What is wrong with the machine


def test_files_that_the_api_server_needs_are_named(place: Place) -> None:
    flags = place.flags("apiserver")
    for flag in ("--tls-cert-file", "--tls-private-key-file", "--client-ca-file"):
        refused(place.daemon("apiserver", *(f for f in flags if not f.startswith(flag))), flag)
        refused(place.daemon("apiserver", *flags, f"{flag}=/none"), flag)
    (place.home / "file").touch()
    refused(place.daemon("apiserver", *flags, f"--data-dir={place.home}/file/data"), "--data-dir", "file/data")


@pytest.mark.parametrize(
    ("name", "port", "flag"),
    [
        ("apiserver", 6443, "--secure-port"),
        ("scheduler", 10259, "--secure-port"),
        ("controllers", 10257, "--secure-port"),
        ("kubelet", 10250, "--port"),
        ("kubelet", 10248, "--healthz-port"),
        ("proxy", 10256, "--healthz-bind-address"),
        ("proxy", 10249, "--metrics-bind-address"),
        ("overlay", 10262, "--healthz-bind-address"),
        ("metrics", 8080, "--port"),
    ],
)
def test_a_busy_port_is_one_line_and_leaves_nothing(
    place: Place, dockers_socket: None, name: str, port: int, flag: str
) -> None:
    def listen() -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    made = {"apiserver": {"data"}, "kubelet": {"kubelet"}}.get(name, set())  # directories of state, which stay
    before = place.remains()
    with kernel_netns.call(place.space.path, listen):
        refused(place.daemon(name, *place.flags(name)), f":{port} (", "in use", flag, "free")
    assert [line for line in place.remains().splitlines() if line not in made] == before.splitlines()
    assert _running_in(place.space) == []


def _running_in(space: Netns) -> list[str]:
    """Processes in the namespace; a daemon that was refused has left none of its children."""
    inode = Path(space.path).stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/net").stat().st_ino == inode:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_a_kubelet_without_docker_says_so(place: Place) -> None:
    refused(
        place.daemon("kubelet", *place.flags("kubelet")),
        f"--container-runtime-endpoint docker://{place.home}/docker.sock",
        "No such file or directory",
        "start Docker",
    )
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(place.home / "docker.sock"))
        refused(place.daemon("kubelet", *place.flags("kubelet")), "Connection refused", "start Docker")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apiserver", ("--data-dir", "ermission denied")),
        ("kubelet", ("run", "as root")),
        ("proxy", ("packet filter", "run as root")),
        ("overlay", ("CAP_NET_ADMIN", "run as root")),
    ],
)
def test_a_daemon_that_needs_rights_asks_for_them(
    place: Place, dockers_socket: None, name: str, words: tuple[str, ...]
) -> None:
    before = place.remains()
    refused(place.daemon(name, *place.flags(name), before=UNPRIVILEGED), *words)
    assert place.remains() == before


def test_install_needs_to_write(place: Place) -> None:
    status, said = place.run(*UNPRIVILEGED, BIN / "wherry", "install", "server", "--address", "10.0.0.1")
    assert (status, said.count("\n")) == (2, 1)
    assert "--root /: cannot write there; run as root" in said


@pytest.mark.parametrize("name", CLIENTS)
def test_an_api_server_that_is_away_is_waited_for(place: Place, dockers_socket: None, name: str) -> None:
    log = place.home / "log"
    with log.open("wb") as out:
        daemon = place.space.start(str(BIN / f"wherry-{name}"), *place.flags(name), stdout=out, stderr=out, cwd="/")
    try:

        def named() -> bool:
            assert daemon.poll() is None, log.read_text()
            lines = [line for line in log.read_text().splitlines() if "WARNING" in line]
            return any(AWAY in line and re.search("connect|refused", line, re.IGNORECASE) for line in lines)

        until(named, lambda: f"a warning that names {AWAY}\n{log.read_text()}")
    finally:
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(15)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "SSLContext" not in log.read_text()


@pytest.mark.parametrize("name", ["scheduler", "controllers", "metrics"])
def test_a_daemon_that_needs_no_rights_runs_without(place: Place, name: str) -> None:
    log = place.home / "log"
    argv = [*UNPRIVILEGED, str(BIN / f"wherry-{name}"), *place.flags(name)]
    with log.open("wb") as out:
        daemon = place.space.start(*argv, stdout=out, stderr=out, cwd="/")
    try:
        until(lambda: "is ready" in log.read_text() or daemon.poll() is not None, "ready")
        if name == "metrics":
            until(lambda: f"Docker at unix://{place.home}/docker.sock" in log.read_text(), "what it goes without")
    finally:
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(15)
    assert status == 0, log.read_text()
