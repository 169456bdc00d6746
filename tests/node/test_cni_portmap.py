"""hostPort with real packets: who reaches a pod by a port of its node, whom the pod sees, and that nothing is left.

The world is `service_world`'s: pods HERE and HERE_TOO on the node's bridge, another node, outsiders. Each packet filter is
tried: iptables on nf_tables, legacy iptables, nftables; and the reference plugin where the two must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.portmap_world import (
    BOTH,
    FLAVORS,
    HOST_PORT,
    Portmap,
    asked,
    debians,
    expected,
    ours,
    port,
    portmap_world,
    program,
    wipe,
)
from tests.node.service_world import (
    FAMILIES,
    HERE,
    HERE_TOO,
    LOOPBACK,
    NODE,
    NODE_TOO,
    OTHER_NODE,
    OUTSIDER,
    PORT,
    Site,
    World,
    spell,
)
from tests.requirements import tool


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with portmap_world() as made:
        yield made


@pytest.fixture(params=FLAVORS)
def portmap(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Portmap]:
    with ours(world, request.param, tmp_path) as made:
        yield made


@pytest.fixture
def reference(world: World, tmp_path: Path) -> Iterator[Portmap]:
    with debians(world, tmp_path) as made:
        yield made


@pytest.mark.parametrize("bridged", ["1", "0"])
def test_everybody_reaches_the_pod(portmap: Portmap, bridged: str) -> None:
    """Whether or not the packet filter sees the bridge's frames (`bridge-nf-call-iptables`)."""
    portmap.world.node.run(
        "sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{each}={bridged}" for each in ("iptables", "ip6tables"))
    )
    try:
        portmap.add(HERE, *BOTH)
        for family in FAMILIES:
            for protocol in ("tcp", "udp"):
                assert asked(portmap.world, family, protocol) == expected(), (family, protocol)
        site = Site(portmap.world, 4)
        for protocol in ("tcp", "udp"):
            assert site.ask(LOOPBACK, LOOPBACK, HOST_PORT, protocol=protocol) == {f"{HERE}:{PORT} masq": 1}
    finally:
        portmap.world.node.run(
            "sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{each}=1" for each in ("iptables", "ip6tables"))
        )


def test_the_reference_is_reached_the_same_way(reference: Portmap) -> None:
    reference.add(HERE, *BOTH)
    for family in FAMILIES:
        assert asked(reference.world, family, "tcp") == expected()
    assert Site(reference.world, 4).ask(LOOPBACK, LOOPBACK, HOST_PORT) == {f"{HERE}:{PORT} masq": 1}


def test_a_host_address_limits_the_port(portmap: Portmap) -> None:
    """To itself, and to its family; 0.0.0.0 is every address of IPv4."""
    world = portmap.world
    portmap.add(
        HERE,
        port(18081, hostIP=NODE_TOO),
        port(18082, hostIP=spell(NODE, 6)),
        port(18083, hostIP="0.0.0.0"),
        port(18084, hostIP="127.0.0.1"),
    )
    four, six = Site(world, 4), Site(world, 6)
    answer = {f"{HERE}:{PORT} {OUTSIDER}": 1}
    assert four.ask(OUTSIDER, NODE_TOO, 18081) == answer
    assert four.ask(OUTSIDER, NODE, 18081) == {"refused": 1}
    assert six.ask(OUTSIDER, NODE, 18082) == answer
    assert four.ask(OUTSIDER, NODE, 18082) == {"refused": 1}
    assert four.ask(OUTSIDER, NODE, 18083) == four.ask(OUTSIDER, NODE_TOO, 18083) == answer
    assert six.ask(OUTSIDER, NODE, 18083) == {"refused": 1}
    assert four.ask(LOOPBACK, LOOPBACK, 18084) == {f"{HERE}:{PORT} masq": 1}
    assert four.ask(OUTSIDER, NODE, 18084) == {"refused": 1}


def test_forty_ports(portmap: Portmap) -> None:
    """More than one multiport match can hold."""
    numbers = range(18100, 18140)
    portmap.add(HERE, *(port(number) for number in numbers))
    for family in FAMILIES:
        site = Site(portmap.world, family)
        found = site.ask_all([site.flow(OUTSIDER, NODE, number) for number in numbers])
        assert found == [{f"{HERE}:{PORT} {OUTSIDER}": 1}] * 40


def test_other_machines_ports_are_let_alone(portmap: Portmap) -> None:
    """A pod's packet to that port elsewhere passes through the node, and a flow that lives is not disturbed."""
    world = portmap.world
    site = Site(world, 4)
    with world.holding(
        *(site.flow(HERE_TOO, OTHER_NODE, PORT, protocol=protocol) for protocol in ("tcp", "udp"))
    ) as stop:
        portmap.add(HERE, port(PORT), port(PORT, protocol="udp"))
        for family in FAMILIES:
            for protocol in ("tcp", "udp"):
                found = Site(world, family).ask(HERE_TOO, OTHER_NODE, PORT, protocol=protocol)
                assert found == {f"{OTHER_NODE}:{PORT} {HERE_TOO}": 1}
                assert Site(world, family).ask(OUTSIDER, NODE, PORT, protocol=protocol) == {
                    f"{HERE}:{PORT} {OUTSIDER}": 1
                }
        talk = stop()
    assert talk.names == {f"{OTHER_NODE}:{PORT}"}, talk


@pytest.mark.parametrize("family", FAMILIES)
def test_a_udp_sender_that_never_rests_follows_the_port(portmap: Portmap, family: int) -> None:
    """From the node itself to the first pod, to the second, and back: its flow never ends of itself."""
    world, site = portmap.world, Site(portmap.world, family)
    flow = site.flow(OUTSIDER, NODE, PORT, protocol="udp", source_port=40404)

    def answers() -> str:
        return site.told(next(iter(world.ask_all([flow])[0])))

    assert answers() == f"{NODE}:{PORT} {OUTSIDER}"
    portmap.add(HERE, port(PORT, protocol="udp"), container="first")
    assert answers() == f"{HERE}:{PORT} {OUTSIDER}"
    portmap.delete("first")
    portmap.add(HERE_TOO, port(PORT, protocol="udp"), container="second")
    assert answers() == f"{HERE_TOO}:{PORT} {OUTSIDER}"
    portmap.delete("second")
    assert answers() == f"{NODE}:{PORT} {OUTSIDER}"


def test_of_two_containers_the_newer_has_the_port(portmap: Portmap) -> None:
    """A pod that replaces another starts before the old one has ended; which then takes nothing along."""
    site = Site(portmap.world, 4)
    portmap.add(HERE, port(), container="old")
    portmap.add(HERE_TOO, port(), container="new")
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE_TOO}:{PORT} {OUTSIDER}": 1}
    portmap.delete("old")
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE_TOO}:{PORT} {OUTSIDER}": 1}


@pytest.mark.parametrize("portmap", ["nft", "legacy"], indirect=True)  # nftables: a table of its own
def test_others_rules_stay_as_they_are(portmap: Portmap) -> None:
    """A proxy's and an overlay's, before and after ours in each chain; and hairpin works among them."""
    run, command = portmap.world.node.run, f"iptables-{portmap.flavor}"
    lines = """*nat
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/24 -d 10.180.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/16 -d 10.180.0.0/24 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
COMMIT
"""
    run(f"{command}-restore", stdin=lines)

    def others() -> list[str]:
        return [
            line
            for line in run(f"{command}-save", "-t", "nat").splitlines()
            if line[:1] in "-:*" and "CNI-" not in line
        ]

    before = [re.sub(r"\[.*", "", line) for line in others()]
    portmap.add(HERE, *BOTH)
    assert asked(portmap.world, 4, "tcp") == expected()
    portmap.delete()
    assert [re.sub(r"\[.*", "", line) for line in others()] == before
    assert run(command, "-t", "nat", "-S", "PREROUTING").splitlines()[1].endswith("-j KUBE-SERVICES"), (
        "Services come first"
    )
    assert run(command, "-t", "nat", "-S", "POSTROUTING").splitlines()[1].endswith("-j CNI-HOSTPORT-MASQ")


def test_the_reference_and_ours_follow_each_other(reference: Portmap, tmp_path: Path) -> None:
    """The same chains, names, comments and order; each removes what the other has made."""
    ours = program(tmp_path)
    ports = [
        *(port(18300 + number) for number in range(20)),
        port(18400, protocol="udp"),
        port(18401, hostIP="0.0.0.0"),
    ]
    reference.add(HERE, *ports)
    theirs = reference.rules()
    reference.delete(program=ours)
    assert reference.of_containers() == []
    wipe(reference.world)
    mine = Portmap(reference.world, ours, {}, reference.environment, "nft")
    mine.add(HERE, *ports)
    assert [rule.replace(",18401", "") for rule in theirs] == [rule.replace(",18401", "") for rule in mine.rules()]
    mine.delete(program=str(tool("portmap")))
    assert mine.of_containers() == []


def test_conditions_and_marks_are_the_authors(portmap: Portmap) -> None:
    """conditionsV4, snat, masqAll, markMasqBit and a chain of somebody else's that marks."""
    world, nft = portmap.world, portmap.flavor == "nftables"
    site = Site(world, 4)
    spared = ["ip", "saddr", "!=", OUTSIDER] if nft else ["!", "-s", OUTSIDER]
    portmap.add(HERE, port(), conditionsV4=spared)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {"refused": 1}
    assert site.ask(OTHER_NODE, NODE, HOST_PORT) == {f"{HERE}:{PORT} {OTHER_NODE}": 1}
    portmap.delete()
    wipe(world)
    portmap.add(HERE, port(), masqAll=True, markMasqBit=20)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE}:{PORT} masq": 1}
    assert "0x100000" in "\n".join(portmap.rules()).replace("0x00100000", "0x100000")
    portmap.delete()
    wipe(world)
    portmap.add(HERE, port(), snat=False)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE}:{PORT} {OUTSIDER}": 1}
    assert not [rule for rule in portmap.rules() if re.search("masquerade|MASQ|SETMARK", rule)]
    portmap.delete()
    if nft:
        return
    for stem in ("iptables", "ip6tables"):
        world.node.run(f"{stem}-{portmap.flavor}", "-t", "nat", "-N", "THEIRS")
        world.node.run(
            f"{stem}-{portmap.flavor}", "-t", "nat", "-A", "THEIRS", "-j", "MARK", "--set-xmark", "0x4000/0x4000"
        )
    portmap.add(HERE, port(), externalSetMarkChain="THEIRS")
    rules = "\n".join(portmap.rules())
    assert "-j THEIRS" in rules
    assert "CNI-HOSTPORT-MASQ" not in rules
