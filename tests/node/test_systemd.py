"""The units: what systemd says of them, and that daemons live, speak and work in exactly the sandbox that they get.

There is no systemd to boot here. `tests/node/host.py` runs each unit of a host that `wherry install` laid out with the
unit's own file system view, capabilities, environment and NOTIFY_SOCKET; what needs seccomp is not imitated.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.resources import NODES
from tests.leave_no_trace import Snapshot, settled
from tests.node.host import ADDRESS, Host, Service, host, until
from tests.requirements import requires

UNITS = {
    "wherry-apiserver": (f"https://{ADDRESS}:6443/healthz", f"https://{ADDRESS}:6443/metrics"),
    "wherry-scheduler": ("https://127.0.0.1:10259/healthz", "https://127.0.0.1:10259/metrics"),
    "wherry-controllers": ("https://127.0.0.1:10257/healthz", "https://127.0.0.1:10257/metrics"),
    "wherry-cni": ("", ""),
    "wherry-kubelet": ("http://127.0.0.1:10248/healthz", f"https://{ADDRESS}:10250/metrics"),
    "wherry-overlay": ("http://127.0.0.1:10262/healthz", "http://127.0.0.1:10262/metrics"),
    "wherry-proxy": ("http://127.0.0.1:10256/healthz", "http://127.0.0.1:10249/metrics"),
    "wherry-metrics": ("http://127.0.0.1:8080/healthz", "http://127.0.0.1:8080/metrics"),
}
"""Health and metrics of each that has them, in the order in which they start."""
STOP_SECONDS = 10.0
ROOT = Path(__file__).resolve().parents[2]
_CAPABILITIES = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "net_admin": 12, "net_raw": 13}
_CAPABILITIES |= {"sys_ptrace": 19, "sys_admin": 21, "syslog": 34}


class Units:
    """The units of one host. One that a test needs is started after those before it, unless it runs already."""

    def __init__(self, at: Host) -> None:
        self.host = at
        self._running: dict[str, Service] = {}

    def running(self, name: str) -> Service:
        for each in UNITS:
            if each not in self._running or not self._running[each].alive:
                self._running[each] = self.host.start(each).ready()
            if each == name:
                break
        return self._running[name]


@pytest.fixture(scope="module")
def units() -> Iterator[Units]:
    requires("root", "netns", "nsenter", "unshare", "setpriv", "ip", "iptables", "dockerd")
    before = Snapshot.take()
    with host() as made:
        made.install()
        made.start_docker()
        yield Units(made)
    left = settled(before)
    assert not left, f"the units left traces: {left}"


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> None:
    """One host serves the whole module, so the comparison frames the module: `units` makes it."""


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_speaks_to_its_supervisor_and_ends_cleanly(units: Units, name: str) -> None:
    service = units.running(name)
    until(
        lambda: service.told().count("WATCHDOG=1") >= 3, lambda: f"WATCHDOG=1: {service.told()}\n{service.log[-2000:]}"
    )
    assert service.told().count("READY=1") == 1
    assert service.end(signal.SIGTERM, STOP_SECONDS) == 0, service.log
    until(lambda: "STOPPING=1" in service.told(), lambda: f"STOPPING=1: {service.told()[-3:]}")
    assert "Traceback" not in service.log


@pytest.mark.parametrize("name", [name for name, (health, _) in UNITS.items() if health])
def test_a_unit_answers_for_its_health_and_metrics(units: Units, name: str) -> None:
    units.running(name)
    health, metrics = UNITS[name]
    until(lambda: units.host.get(health)[0] == 200, lambda: f"{health}: {units.host.get(health)}")
    status, text = units.host.get(metrics)
    assert status == 200, text
    assert "# TYPE" in text
    requires("promtool")
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_the_capabilities_it_lists_and_no_more(units: Units, name: str) -> None:
    service, listed = units.running(name), units.host.unit(name).capabilities
    status = dict(re.findall(r"^(\w+):\t(.*)$", Path(f"/proc/{service.pid}/status").read_text(), re.MULTILINE))
    if listed is None:
        assert name == "wherry-kubelet", "only the kubelet has the host's whole rights"
        return
    assert int(status["CapEff"], 16) == sum(1 << _CAPABILITIES[each] for each in listed)
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"].strip() == "0077"


def test_the_plugins_ask_their_agent_in_its_sandbox(units: Units) -> None:
    """A pod's whole network through the installed programs, whose configuration wants the agent."""
    at = units.host
    units.running("wherry-cni")
    script = """
ip netns add unit-pod 2>/dev/null || true
export CNI_CONTAINERID=unit CNI_NETNS=/run/netns/unit-pod CNI_IFNAME=eth0 CNI_PATH=/opt/wherry/cni/bin
config='{"cniVersion":"1.0.0","name":"unit","type":"wherry-cni","agent":true,"bridge":"unit0","subnet":"10.99.9.0/24"}'
echo "$config" | CNI_COMMAND=ADD /opt/wherry/cni/bin/wherry-cni
ip -n unit-pod -4 -o address show eth0
echo "$config" | CNI_COMMAND=DEL /opt/wherry/cni/bin/wherry-cni
ip link del unit0
ip netns del unit-pod
"""
    said = at.run("bash", "-ec", script)
    assert "inet 10.99.9.2/24" in said
    assert "answers at /run/wherry/cni.sock" in units.running("wherry-cni").log


def test_the_overlay_works_in_its_sandbox(units: Units) -> None:
    at = units.host
    units.running("wherry-overlay")
    pods = at.api(lambda client: client.get(NODES, "node1")).spec.pod_cidr
    at.run("ip", "link", "del", "flannel.1")
    until(lambda: f"vxlan id 1 local {ADDRESS}" in at.run("ip", "-d", "link", check=False), "flannel.1 comes back")
    at.run("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG")
    until(lambda: "MASQUERADE" in at.run("iptables", "-t", "nat", "-S", "FLANNEL-POSTRTG"), "masquerade comes back")
    assert f"FLANNEL_SUBNET={pods.replace('.0/', '.1/')}" in at.path("run/flannel/subnet.env").read_text()
    assert at.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_the_proxy_works_in_its_sandbox(units: Units) -> None:
    at = units.host
    service = units.running("wherry-proxy")
    assert "10.96.0.1/32" in at.run("iptables", "-t", "nat", "-S", "KUBE-SERVICES")
    at.run("iptables", "-t", "nat", "-F", "KUBE-SERVICES")
    until(
        lambda: "10.96.0.1/32" in at.run("iptables", "-t", "nat", "-S", "KUBE-SERVICES"),
        lambda: f"the rules come back\n{service.log[-2000:]}",
    )
    # The rules lead somewhere: Service kubernetes answers on the host by its ClusterIP.
    until(lambda: at.get("https://10.96.0.1/readyz")[0] == 200, lambda: str(at.get("https://10.96.0.1/readyz")))


def test_the_api_server_keeps_its_store_where_its_unit_may_write(units: Units) -> None:
    service = units.running("wherry-apiserver")
    assert list(units.host.path("var/lib/wherry/server").glob("state.db*"))
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    assert children, "the store's process"
    assert service.end(signal.SIGTERM, STOP_SECONDS) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_metrics_see_docker_and_other_processes_networks_in_their_sandbox(units: Units) -> None:
    at = units.host
    units.running("wherry-metrics")
    assert at.docker
    client = at.docker.client()
    labels = {
        "io.wherry.node": "node1",
        "io.kubernetes.pod.name": "seen",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.container.name": "c",
    }
    made = client.create_container(at.docker.image, ["sleep", "1000"], labels=labels, user="65534")
    client.start(made)
    try:
        url = UNITS["wherry-metrics"][1]
        until(
            lambda: re.search(r'container_cpu_usage_seconds_total\{[^}]*pod="seen"', at.get(url)[1]),
            "the container's CPU series",
        )
        assert at.get("http://127.0.0.1:8080/readyz") == (200, "ok")
    finally:
        client.remove_container(made, force=True)
        client.close()


def test_systemd_finds_nothing_to_say_about_the_units_as_shipped(tmp_path: Path) -> None:
    """Their programs live in /opt/wherry/bin, which need not exist here: only that is replaced."""
    requires("systemd-analyze")
    for unit in (ROOT / "systemd").iterdir():
        text = unit.read_text().replace("/opt/wherry/bin", "/bin")
        (tmp_path / unit.name).write_text(re.sub(r"/bin/wherry-[\w-]+", "/bin/true", text))
    assert verified(tmp_path) == ""


def test_systemd_finds_nothing_to_say_about_the_units_as_installed(units: Units) -> None:
    requires("systemd-analyze")
    assert verified(units.host.path("etc/systemd/system")) == ""


def verified(folder: Path) -> str:
    """What `systemd-analyze verify` says about Wherry's units in `folder`; it must also like them."""
    names = sorted([*folder.glob("wherry-*.service"), folder / "wherry.target"])
    assert len(names) == len(UNITS) + 1
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "wherry" in line or done.returncode]
    return "\n".join(said)
