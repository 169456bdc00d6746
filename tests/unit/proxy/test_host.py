"""What the proxy sets on a machine: upstream's figures, only what differs, never a refusal that takes Services away."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from linux.iptables.rules import Family
from proxy.config import Config, load
from proxy.host import Host, lacking, most_flows

MAX = "net/netfilter/nf_conntrack_max"
ESTABLISHED = "net/netfilter/nf_conntrack_tcp_timeout_established"
CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
HASHSIZE = "sys/module/nf_conntrack/parameters/hashsize"


class Machine:
    """A tree that looks like /proc and /sys."""

    def __init__(self, root: Path, **values: str) -> None:
        self.root = root
        self.set("proc/self/oom_score_adj", "0")
        self.set(HASHSIZE, "1024")
        for name, value in {MAX: "65536", ESTABLISHED: "432000", CLOSE_WAIT: "60"}.items():
            self.set(f"proc/sys/{name}", value)
        self.set("proc/sys/net/ipv4/conf/all/route_localnet", "0")
        self.set("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "0")
        self.set("proc/sys/net/netfilter/nf_conntrack_udp_timeout", "30")

    def set(self, path: str, value: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(value + "\n")

    def get(self, path: str) -> str:
        return (self.root / path).read_text().strip()

    def sysctl(self, name: str) -> str:
        return self.get(f"proc/sys/{name}")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def config(*flags: str) -> Config:
    return load(["--kubeconfig=/k", *flags])


def prepared(machine: Machine, *flags: str, cores: int = 8) -> None:
    Host(config(*flags), machine.root, cores).prepare()


def test_upstreams_limits(machine: Machine) -> None:
    prepared(machine)
    assert machine.sysctl(MAX) == "262144"
    assert machine.get(HASHSIZE) == "65536"
    assert (machine.sysctl(ESTABLISHED), machine.sysctl(CLOSE_WAIT)) == ("86400", "3600")
    assert machine.get("proc/self/oom_score_adj") == "-999"
    assert machine.sysctl("net/ipv4/conf/all/route_localnet") == "0"


@pytest.mark.parametrize(
    ("flags", "cores", "flows"),
    [
        ([], 1, 131072),
        ([], 8, 262144),
        ([], 128, 1 << 20),
        (["--conntrack-max-per-core=0"], 8, 0),
        (["--conntrack-max-per-core=1000", "--conntrack-min=0"], 8, 8000),
        (["--conntrack-min=2000000"], 8, 2000000),
    ],
)
def test_how_many_flows(flags: list[str], cores: int, flows: int) -> None:
    assert most_flows(config(*flags), cores) == flows


def test_a_larger_table_is_left_alone(machine: Machine) -> None:
    machine.set(f"proc/sys/{MAX}", "4000000")
    machine.set(HASHSIZE, "1000000")
    prepared(machine)
    assert (machine.sysctl(MAX), machine.get(HASHSIZE)) == ("4000000", "1000000")


def test_zeros_leave_everything_as_it_is(machine: Machine) -> None:
    prepared(
        machine,
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--oom-score-adj=0",
    )
    assert (machine.sysctl(MAX), machine.get(HASHSIZE)) == ("65536", "1024")
    assert (machine.sysctl(ESTABLISHED), machine.sysctl(CLOSE_WAIT)) == ("432000", "60")
    assert machine.get("proc/self/oom_score_adj") == "0"


def test_what_is_asked_for_is_set(machine: Machine) -> None:
    prepared(machine, "--conntrack-tcp-be-liberal", "--conntrack-udp-timeout=10s", cores=2)
    assert machine.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal") == "1"
    assert machine.sysctl("net/netfilter/nf_conntrack_udp_timeout") == "10"


@pytest.mark.parametrize(
    ("flags", "opened"),
    [
        ([], "1"),
        (["--proxy-mode=nftables"], "0"),
        (["--nodeport-addresses=10.0.0.0/8"], "0"),
        (["--nodeport-addresses=primary"], "0"),
        (["--nodeport-addresses=10.0.0.0/8,127.0.0.0/8"], "1"),
        (["--nodeport-addresses=127.0.0.1/32"], "1"),
        (["--nodeport-addresses=0.0.0.0/0"], "1"),
        (["--nodeport-addresses=fd00::/8"], "1"),
    ],
)
def test_loopback_is_opened_only_for_node_ports_on_it_and_behind_the_rules(
    machine: Machine, flags: list[str], opened: str
) -> None:
    host = Host(config("--iptables-localhost-nodeports", *flags), machine.root, 8)
    host.prepare()
    assert machine.sysctl("net/ipv4/conf/all/route_localnet") == "0"
    host.open_loopback()
    assert machine.sysctl("net/ipv4/conf/all/route_localnet") == opened


def test_only_what_differs_is_written(machine: Machine) -> None:
    prepared(machine)
    files = [path for path in machine.root.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (1, 1))
    prepared(machine)
    assert {path.stat().st_mtime for path in files} == {1}


def test_a_refusal_is_told_once_in_words_and_the_rest_is_set(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory in place of the file refuses writing even to root."""
    refusing = machine.root / "proc/sys" / MAX
    refusing.unlink()
    refusing.mkdir()
    host = Host(config(), machine.root, 8)
    with caplog.at_level(logging.WARNING):
        host.prepare()
        host.prepare()
    told = [line for line in caplog.messages if "nf_conntrack_max" in line]
    assert len(told) == 1
    assert "262144 is wanted" in told[0]
    assert "sysctl -w net.netfilter.nf_conntrack_max=262144" in told[0]
    assert "set conntrack.maxPerCore: 0" in told[0]
    assert machine.sysctl(ESTABLISHED) == "86400"


def test_before_conntrack_is_loaded_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/oom_score_adj").write_text("-999\n")
    with caplog.at_level(logging.INFO):
        Host(config(), tmp_path, 8).prepare()
    assert caplog.messages == []


def test_bridges_that_bypass_the_rules_are_told(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.set("proc/sys/net/bridge/bridge-nf-call-iptables", "0")
    prepared(machine)
    assert any("sysctl -w net.bridge.bridge-nf-call-iptables=1" in line for line in caplog.messages)


def test_families_of_a_machine(tmp_path: Path) -> None:
    assert lacking(Family.V4, tmp_path) == ""
    assert lacking(Family.V6, tmp_path) == "the kernel has no IPv6"
    (tmp_path / "net").mkdir()
    (tmp_path / "net/if_inet6").touch()
    assert lacking(Family.V6, tmp_path) == ""
    switch = tmp_path / "sys/net/ipv6/conf/all/disable_ipv6"
    switch.parent.mkdir(parents=True)
    switch.write_text("1\n")
    assert "switched off" in lacking(Family.V6, tmp_path)
