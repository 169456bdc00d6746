"""The kernel's named counters: made once, counted into by rules, read back."""

from __future__ import annotations

from collections.abc import Callable

from linux import netns as kernel_netns
from linux import nfacct
from tests.conftest import Netns
from tests.requirements import requires


def test_counters_are_made_once_and_count(netns: Callable[[str], Netns]) -> None:
    requires("netns", "iptables-nft-restore")
    space = netns("acct")

    def made() -> frozenset[str]:
        return nfacct.ensure(("one", "another-of-a-longer-name"))

    assert kernel_netns.call(space.path, made) == {"one", "another-of-a-longer-name"}
    space.run("ip", "link", "set", "lo", "up")
    space.run("iptables-nft", "-A", "INPUT", "-p", "icmp", "-m", "nfacct", "--nfacct-name", "one")
    space.run("ping", "-c", "1", "-W", "1", "127.0.0.1")
    assert kernel_netns.call(space.path, made) == {"one", "another-of-a-longer-name"}
    assert kernel_netns.call(space.path, nfacct.packets) == {"one": 2, "another-of-a-longer-name": 0}
