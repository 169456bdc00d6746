"""The tracers over what the kernel gives back of each mode's rules: the flow tables again, and what is left of masks, names and
spellings after the kernel and its tools have had them."""

from __future__ import annotations

import asyncio
import subprocess
from ipaddress import ip_address

import pytest

from linux import netns as kernel_netns
from linux.iptables.rules import Family
from linux.packets import Node, Packet
from proxy import kernel_rules
from tests.node.rule_writers import Mode, writing
from tests.node.service_world import Make
from tests.unit.proxy import cases
from tests.unit.proxy.worlds import WORLDS

SOME = cases.CASES[::4]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("mode", list(Mode))
def test_the_kernels_own_rules_are_traced_as_they_were_meant(
    netns: Make, mode: Mode, family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mode.required(family)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path_factory.mktemp("lock") / "xtables.lock"))
    space = netns("node")
    world = next(each for each in WORLDS if each.family is family)
    node = Node(world.node_addresses)
    expectations = cases.Mode.IPTABLES if mode.startswith("iptables") else cases.Mode.NFTABLES
    wrong = []
    with writing(space, mode, family) as writer:
        for case in SOME:
            writer.write([world.service(case.subject)], world.policy(case.settings))
            rules = kernel_netns.call(space.path, lambda: asyncio.run(kernel_rules.read(family)))
            for flow in case.flows:
                endings = rules.trace(world.packet(flow), node)
                assert not any(ending.doubts for ending in endings)
                seen, expected = world.outcome(endings), flow.expected(expectations, family.value)
                if seen != expected:
                    wrong.append(f"{case}, {flow}: {sorted(seen)}, not {sorted(expected)}")
    assert not wrong


MIXED = """
table ip filter {
  map known { type ipv4_addr : verdict; elements = { 203.0.113.8 : accept } }
  chain mine {
    type filter hook input priority 0; policy drop
    ip saddr vmap @known
  }
}
"""


@pytest.mark.parametrize("rule", ["", "-A INPUT -s 203.0.113.9 -j DROP"])
def test_chains_that_iptables_does_not_print_of_its_own_tables_are_met_too(netns: Make, rule: str) -> None:
    def main() -> kernel_rules.KernelRules:
        subprocess.run(["nft", "-f", "-"], input=MIXED, text=True, check=True)
        if rule:
            subprocess.run(["iptables-nft", *rule.split()], check=True)
        return asyncio.run(kernel_rules.read(Family.V4))

    rules = kernel_netns.call(netns("node").path, main)
    here = ip_address("192.168.0.1")
    for source, verdict in (("203.0.113.7", "DROP"), ("203.0.113.8", "ACCEPT"), ("203.0.113.9", "DROP")):
        endings = rules.trace(Packet(ip_address(source), here, 80), Node(frozenset([here])))
        assert {(ending.verdict, ending.doubts) for ending in endings} == {(verdict, ())}


FIREWALL = """
table inet firewall {
  set clients { type ipv4_addr; flags dynamic; }
  set known { type ipv4_addr; flags dynamic; limit rate over 10/second; elements = { 203.0.113.7 } }
  quota month { over 25 mbytes }
  map months { type ipv4_addr : quota; elements = { 203.0.113.7 : "month" } }
  chain sure {
    type filter hook input priority 0
    limit rate over 100/second drop
    ct count over 20 reject
    update @clients { ip saddr limit rate over 10/second } drop
    add @clients { ip saddr ct count over 3 } drop
    quota over 1000 mbytes drop
  }
  chain unsure {
    type filter hook input priority 10
    %s drop
  }
}
"""


@pytest.mark.parametrize(
    ("unsure", "doubt"),
    [
        ("tcp dport 1", ""),
        ("quota name month", "quota month"),
        ("quota name ip saddr map @months", "map months"),
        ("ip saddr @known", "set known"),
        ("update @known { ip saddr }", "set known"),
    ],
)
def test_a_first_packet_is_below_the_limits_of_a_firewall(netns: Make, unsure: str, doubt: str) -> None:
    space = netns("node")
    text = FIREWALL % unsure
    kernel_netns.call(space.path, lambda: subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True))
    rules = kernel_netns.call(space.path, lambda: asyncio.run(kernel_rules.read(Family.V4)))
    here = ip_address("192.168.0.1")
    endings = rules.trace(Packet(ip_address("203.0.113.7"), here, 80), Node(frozenset([here])))
    assert {ending.verdict for ending in endings} == ({"ACCEPT", "DROP"} if doubt else {"ACCEPT"})
    assert all(doubt in " ".join(ending.doubts) and bool(doubt) == bool(ending.doubts) for ending in endings)
