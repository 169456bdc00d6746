"""Which kernel parameters the overlay writes, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from linux import sysctl
from linux.iptables.rules import Family
from overlay import sysctls


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in {
        "net.ipv4.ip_forward": "0",
        "net.ipv6.conf.all.forwarding": "0",
        "net.ipv6.conf.eth0.accept_ra": "1",
        "net.ipv6.conf.eth0/100.accept_ra": "1",
        "net.ipv6.conf.eth1.accept_ra": "0",
    }.items():
        path = sysctl.path_of(name, tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return tmp_path


def test_each_is_written_once_and_only_where_it_is_wrong(root: Path) -> None:
    assert sysctls.ensure([Family.V4], ["eth0"], root) == ["net.ipv4.ip_forward=1 (it was 0)"]
    assert sysctl.read("net.ipv6.conf.eth0.accept_ra", root) == "1", "IPv6 is not ours here"
    assert sysctls.ensure([Family.V4], ["eth0"], root) == []


def test_router_advertisements_are_kept_before_forwarding_would_end_them(root: Path) -> None:
    underlays = ["eth0", "eth0.100", "eth1", "gone"]
    assert sysctls.ensure([Family.V6], underlays, root) == [
        "net.ipv6.conf.eth0.accept_ra=2 (it was 1)",
        "net.ipv6.conf.eth0/100.accept_ra=2 (it was 1)",
        "net.ipv6.conf.all.forwarding=1 (it was 0)",
    ]
    assert sysctl.read("net.ipv6.conf.eth1.accept_ra", root) == "0", "who listens to no router goes on so"
    assert sysctls.ensure([Family.V6], underlays, root) == []


def test_what_comes_in_over_a_device_is_forwarded_and_the_device_takes_addresses(root: Path) -> None:
    devices = {"net.ipv4.conf.flannel/1.forwarding": "0", "net.ipv6.conf.flannel-v6/1.disable_ipv6": "1"}
    for name, value in devices.items():
        path = sysctl.path_of(name, root)
        path.parent.mkdir(parents=True)
        path.write_text(value + "\n")
    assert sysctls.ensure([Family.V4], [], root, entries=["flannel.1", "gone"]) == [
        "net.ipv4.ip_forward=1 (it was 0)",
        "net.ipv4.conf.flannel/1.forwarding=1 (it was 0)",
    ]
    assert sysctls.ensure([Family.V6], [], root, entries=["flannel-v6.1"])[1:] == [
        "net.ipv6.conf.flannel-v6/1.disable_ipv6=0 (it was 1)"
    ]
    assert sysctls.all_there(Family.V4, ["flannel.1"], root)
    assert not sysctls.all_there(Family.V4, ["flannel.1", "gone"], root)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="ip_forward"):
        sysctls.ensure([Family.V4], [], tmp_path)
