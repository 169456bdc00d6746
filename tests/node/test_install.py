"""`wherry install` and `wherry uninstall` on a live host: what the daemons put into the kernel goes with them."""

import re
import signal
from collections.abc import Iterator

import pytest

from tests.node.host import ADDRESS, BIN, Host, host, until
from tests.requirements import requires


@pytest.fixture
def at() -> Iterator[Host]:
    requires("root", "netns", "nsenter", "unshare", "setpriv", "ip", "iptables", "dockerd")
    with host() as made:
        yield made


def kernel(at: Host) -> str:
    """Links, addresses, routes and rules; without counters, and without the base chains that listing leaves."""
    said = "".join(at.run(*words.split()) for words in ("ip -o link", "ip -o -4 addr", "ip route", "iptables-save"))
    said = re.sub(
        r"\[\d+:\d+\]|^#.*$|^:[A-Z]+ ACCEPT.*$|^COMMIT$|^\*\w+$|state \w+|<.*?>", "", said, flags=re.MULTILINE
    )
    return "\n".join(sorted(line for line in said.splitlines() if line.strip()))


def files(at: Host) -> set[str]:
    return {str(path.relative_to(at.home)) for top in ("etc", "opt", "var/lib") for path in at.path(top).rglob("*")}


def test_uninstall_takes_everything_off_a_host_that_has_worked(at: Host) -> None:
    files_before, kernel_before = files(at), kernel(at)
    at.install()
    at.start_docker()
    services = [
        at.start(f"wherry-{room}").ready()
        for room in ("apiserver", "scheduler", "controllers", "cni", "kubelet", "overlay", "proxy", "metrics")
    ]
    until(lambda: "FLANNEL-POSTRTG" in kernel(at) and "KUBE-SERVICES" in kernel(at), "rules of both")
    assert "flannel.1" in kernel(at)
    for service in reversed(services):  # systemctl disable --now, where there is a systemd
        assert service.end(signal.SIGTERM) == 0
    assert "flannel.1" in kernel(at), "stopping keeps the network"
    said = at.run(BIN / "wherry", "uninstall", "--purge")
    assert "uninstalled from /" in said
    assert kernel(at) == kernel_before
    # What pods have left is theirs (docs/install.md says so), and containerd is Docker's.
    left = {
        path for path in files(at) - files_before if not re.match(r"(var/lib/(kubelet|cni)|opt/containerd)(/|$)", path)
    }
    assert left == set()


def test_uninstall_that_cannot_clean_up_removes_nothing(at: Host) -> None:
    at.install()
    before = files(at)
    unable = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-all", "--", BIN / "wherry", "uninstall")
    said = at.run(*unable, check=False)
    assert "wherry uninstall: wherry-proxy --cleanup failed (above); nothing has been removed yet" in said
    assert files(at) == before


def test_installing_twice_on_a_host_is_installing_once(at: Host) -> None:
    at.install()
    before = {path: (at.home / path).read_bytes() for path in files(at) if (at.home / path).is_file()}
    said = at.run(BIN / "wherry", "install", "server", "--address", ADDRESS, "--node", f"node1={ADDRESS}")
    said += at.run(BIN / "wherry", "install", "agent", "--bundle", "/etc/wherry/bundles/node1.tar")
    assert said.count("0 files written below /") == 2
    assert {path: (at.home / path).read_bytes() for path in files(at) if (at.home / path).is_file()} == before
