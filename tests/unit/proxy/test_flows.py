"""Where packets go by every mode's rules, asked of the tracers: kube-proxy's own tables, in both families."""

from __future__ import annotations

from dataclasses import replace

import pytest

from linux.iptables.rules import Table
from linux.iptables.tracer import trace as trace_iptables
from proxy.model import PodBridge, PodInterfaces, Protocol, ServicePort, Usable
from tests.unit.proxy.cases import (
    ALL,
    ALL_MASQ,
    BASE,
    CASES,
    DEFAULT,
    EXTERNAL_LOCAL,
    INTERNAL_LOCAL,
    PLAIN,
    Case,
    Flow,
    Mode,
)
from tests.unit.proxy.tracing import Writer, snapshot, tracer
from tests.unit.proxy.worlds import WORLDS, World


@pytest.mark.parametrize("writer", list(Writer))
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"v{world.family.value}")
def test_packets_go_where_upstreams_tables_say(writer: Writer, world: World) -> None:
    wrong = []
    for case in CASES:
        trace = tracer(writer, [world.service(case.subject)], world.policy(case.settings))
        for flow in case.flows:
            seen = world.outcome(trace(world.packet(flow, case.subject.protocol), world.node_addresses))
            expected = flow.expected(writer.mode, world.family.value)
            if seen != expected:
                wrong.append(f"{case}, {flow}: {', '.join(sorted(seen))}, not {', '.join(sorted(expected))}")
    assert not wrong


@pytest.mark.parametrize("writer", list(Writer))
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"v{world.family.value}")
def test_protocols_on_one_port_are_separate(writer: Writer, world: World) -> None:
    port = world.service(PLAIN)
    services = [
        replace(
            port, name=f"ns/dns:{protocol}", protocol=protocol, endpoints=only(port, local=protocol is Protocol.TCP)
        )
        for protocol in (Protocol.TCP, Protocol.UDP)
    ]
    trace = tracer(writer, services, world.policy(DEFAULT))
    for protocol, end in (("tcp", "here"), ("udp", "there"), ("sctp", "pass")):
        for source, to in (("outsider", "nodeport"), ("pod", "cluster")):
            seen = world.outcome(trace(world.packet(Flow(source, to, ""), protocol), world.node_addresses))
            refused = writer.mode is Mode.NFTABLES and end == "pass" and to == "cluster"
            assert {word.removesuffix(" masq") for word in seen} == {"REJECT" if refused else end}


def only(port: ServicePort, *, local: bool) -> Usable:
    """One of its endpoints."""
    chosen = tuple(end for end in port.endpoints.cluster if end.local == local)
    return replace(port.endpoints, cluster=chosen, local=())


@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.SCTP])
@pytest.mark.parametrize("writer", list(Writer))
@pytest.mark.parametrize("case", [case for case in CASES if case.subject == PLAIN and case.settings == BASE], ids=str)
def test_every_protocol_goes_the_same_ways(writer: Writer, case: Case, protocol: Protocol) -> None:
    for world in WORLDS:
        service = replace(world.service(case.subject), protocol=protocol)
        trace = tracer(writer, [service], world.policy(case.settings))
        for flow in case.flows:
            seen = world.outcome(trace(world.packet(flow, protocol), world.node_addresses))
            assert seen == flow.expected(writer.mode, world.family.value), str(flow)


@pytest.mark.parametrize("writer", list(Writer))
def test_pods_are_told_by_their_interfaces(writer: Writer) -> None:
    for world in WORLDS:
        for pods, interface in ((PodBridge("cbr0"), "cbr0"), (PodInterfaces("veth"), "veth1234")):
            policy = replace(world.policy(DEFAULT), pods=pods)
            for subject, inside, outside in ((PLAIN, ALL, ALL_MASQ), (INTERNAL_LOCAL, "here", "here masq")):
                trace = tracer(writer, [world.service(subject)], policy)
                for source, arriving, expected in (
                    ("outsider", interface, inside),
                    ("pod", "eth0", outside),
                    ("node", interface, outside),
                ):
                    packet = replace(world.packet(Flow(source, "cluster", "")), in_interface=arriving)
                    assert world.outcome(trace(packet, world.node_addresses)) == set(expected.split(", "))
            trace = tracer(writer, [world.service(EXTERNAL_LOCAL)], policy)
            packet = replace(world.packet(Flow("outsider", "balancer", "")), in_interface=interface)
            assert world.outcome(trace(packet, world.node_addresses)) == set(ALL.split(", "))


@pytest.mark.parametrize("writer", list(Writer))
def test_a_new_masquerade_bit_moves_every_mark(writer: Writer) -> None:
    for world in WORLDS:
        trace = tracer(writer, [world.service(PLAIN)], replace(world.policy(DEFAULT), masquerade_bit=20))
        for flow in (Flow("outsider", "cluster", ALL_MASQ), Flow("pod", "cluster", ALL)):
            seen = world.outcome(trace(world.packet(flow), world.node_addresses))
            assert seen == flow.expected(writer.mode, 4)


def test_health_check_ports_are_let_in_past_a_firewall_behind_ours() -> None:
    """iptables only: an accept in a table of nftables' own cannot overrule another's drop."""
    for world in WORLDS:
        service = replace(world.service(EXTERNAL_LOCAL), health_check_node_port=31000)
        rules = snapshot([service], world.policy(DEFAULT))
        closed = replace(rules, policies={(Table.FILTER, "INPUT"): "DROP"})
        for port, verdict in ((31000, "ACCEPT"), (31001, "DROP")):
            packet = replace(world.packet(Flow("outsider", "nodeport", "")), port=port)
            assert {end.verdict for end in trace_iptables(closed, packet, world.node_addresses)} == {verdict}


def test_invalid_packets_are_dropped_unless_conntrack_is_liberal() -> None:
    for world in WORLDS:
        packet = replace(world.packet(Flow("outsider", "there", "")), state="INVALID")
        for drop, verdict in ((True, "DROP"), (False, "ACCEPT")):
            rules = snapshot([world.service(PLAIN)], replace(world.policy(DEFAULT), drop_invalid=drop))
            assert {end.verdict for end in trace_iptables(rules, packet, world.node_addresses)} == {verdict}


def test_the_network_cannot_reach_loopback_through_route_localnet() -> None:
    """CVE-2020-8558: what comes for 127.0.0.1 from outside is dropped, when localhostNodePorts opened the way."""
    world = WORLDS[0]
    rules = snapshot([world.service(PLAIN)], replace(world.policy(DEFAULT), localhost_node_ports=True))
    packet = replace(world.packet(Flow("outsider", "localport", "")), port=10248)
    assert {end.verdict for end in trace_iptables(rules, packet, world.node_addresses)} == {"DROP"}
    mine = replace(world.packet(Flow("localhost", "localport", "")), port=10248)
    assert {end.verdict for end in trace_iptables(rules, mine, world.node_addresses)} == {"ACCEPT"}
