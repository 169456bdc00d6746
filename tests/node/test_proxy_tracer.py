"""The tracers over what the kernel gives back of each mode's rules: the flow tables again, and what is left of masks, names and
spellings after the kernel and its tools have had them."""

from __future__ import annotations

import asyncio

import pytest

from linux import netns as kernel_netns
from linux.iptables.rules import Family
from linux.packets import Node
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
