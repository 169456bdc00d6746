"""`--cleanup` after a stock kube-proxy that ran in every mode at some time: all of that goes, and nothing of anybody else."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Netns
from tests.requirements import requires

COMMANDS = ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")

STOCK = """\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]
:KUBE-SEP-XPGD46QRK7WJZT7A - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -m comment --comment "ns1/svc1:p80 cluster IP" -p tcp -m tcp --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O
-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80" -j KUBE-SEP-XPGD46QRK7WJZT7A
-A KUBE-SEP-XPGD46QRK7WJZT7A -m comment --comment "ns1/svc1:p80" -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes external portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
"""

OTHERS = """\
*nat
:FLANNEL-POSTRTG - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -p tcp -m tcp --dport 1234 -j ACCEPT
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
"""
"""The overlay's, the kubelet's, somebody's own."""


@pytest.fixture
def space(netns: Callable[[str], Netns], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Netns:
    requires("netns", "iptables-nft-restore", "iptables-legacy-restore", "nft")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return netns("stock")


def rules(space: Netns) -> list[str]:
    """Of all interfaces; nothing that counts, and no empty base chain, which a look may make."""
    found = [line for command in COMMANDS for line in space.run(f"{command}-save").splitlines()]
    found += space.run("nft", "-a", "list", "table", "inet", "mine").splitlines()
    found += [line for line in space.run("nft", "list", "tables").splitlines() if "kube-proxy" in line]
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in found if not re.match(r"#|COMMIT|\*|:[A-Z]+ ACCEPT", line)]


def test_a_stock_proxys_leftovers_of_every_mode_go_and_nothing_else(space: Netns) -> None:
    for command in COMMANDS:
        space.run(f"{command}-restore", "--noflush", stdin=OTHERS)
    space.run("nft", "add table inet mine; add chain inet mine c { type filter hook forward priority 0; }")
    before = rules(space)
    for command in COMMANDS:
        space.run(f"{command}-restore", "--noflush", stdin=STOCK)
    for family, address in (("ip", "ipv4_addr"), ("ip6", "ipv6_addr")):
        types = f"{{ type {address} . inet_proto . inet_service : verdict; }}"
        space.run("nft", f"add table {family} kube-proxy; add map {family} kube-proxy service-ips {types}")
    assert rules(space) != before
    for _ in range(2):  # the second time there is nothing to do, and that is well
        space.run(sys.executable, "-m", "proxy", "--cleanup")
        assert rules(space) == before
