"""The adversary: for random Services and packets, iptables and both nftables layouts must do the same, with the same odds.

What is known to differ (stock kube-proxy's modes differ so too) is left out, here in one place:

- a port that no Service has on a cluster IP: nftables refuses it, iptables lets it pass;
- nobody to send to (no endpoints, or a Local policy and none here): iptables refuses or drops on every address of the node,
  nftables only on those that serve NodePorts;
- an endpoint of another node whose packet to itself comes by: iptables masquerades it, nftables knows its own only;
- no endpoint at all: nftables refuses the node's own packets for external addresses too, and source ranges still hold;
- one address and port that two Services ask for: the first has it in both modes, but where that one has no endpoints iptables
  lets the second serve.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from linux.iptables.rules import Family
from linux.packets import Address, Ending, Packet
from proxy.model import PodBridge, PodNetwork, Policy, Reach, ServicePort
from proxy.wanted import destinations
from tests.unit.proxy.strategies import Action, Cluster, histories
from tests.unit.proxy.tracing import Writer, tracer

NODES: Mapping[Family, tuple[Address, ...]] = {
    Family.V4: (ip_address("192.168.0.1"), ip_address("192.168.100.1")),
    Family.V6: (ip_address("fd00:192::1"), ip_address("fd00:192:100::1")),
}
OUTSIDERS: Mapping[Family, tuple[Address, ...]] = {
    Family.V4: tuple(map(ip_address, ("192.0.2.7", "198.51.100.7", "198.51.100.200", "8.8.8.8"))),
    Family.V6: tuple(map(ip_address, ("fd00:2::7", "2001:db8::7"))),
}
PODS = {Family.V4: ip_network("10.244.0.0/29"), Family.V6: ip_network("fd01::/125")}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    family = draw(st.sampled_from(Family))
    served = draw(st.sampled_from((None, None, NODES[family][:1], NODES[family], ())))
    return Policy(
        family=family,
        masquerade_all=draw(st.booleans()),
        pods=draw(st.sampled_from((PodNetwork(PODS[family]), PodBridge("cni0"), None))),
        node_port_addresses=served,
        node_ip=draw(st.sampled_from((NODES[family][0], None))),
    )


Said = tuple[str, str, bool]


def said(endings: frozenset[Ending]) -> dict[Said, float]:
    """How likely each (verdict, endpoint, masqueraded) is."""
    found: dict[Said, float] = {}
    for each in endings:
        where = f"{each.destination} {each.port}" if each.rewritten and each.verdict == "ACCEPT" else ""
        key = each.verdict, where, each.masqueraded and each.verdict == "ACCEPT"
        found[key] = found.get(key, 0.0) + each.share
    return found


def packets(
    services: Mapping[str, tuple[ServicePort, ...]], policy: Policy, seed: int
) -> Iterator[tuple[Packet, bool]]:
    """(a packet, whether the modes must treat it alike), for each place that one Service port alone asks for."""
    rolls = random.Random(seed)
    family = policy.family
    serving = NODES[family] if policy.node_port_addresses is None else policy.node_port_addresses
    ports = [port for several in services.values() for port in several]
    claims = Counter(at for port in ports for at in set(destinations(port)))
    everyone = {end for port in ports for end in port.endpoints.all}
    ends = sorted({end.ip for end in everyone} - {end.ip for end in everyone if not end.local}, key=int)
    for port in ports:
        for at in destinations(port):
            if claims[at] > 1:
                continue
            sources = [(each, False) for each in (*OUTSIDERS[family], *ends)]
            sources += [(each, True) for each in (*NODES[family], *port.load_balancer_ips[:1])]
            for source, local in rolls.sample(sources, min(5, len(sources))):
                to = at.address or rolls.choice(NODES[family])
                number = at.port if to == port.cluster_ip else rolls.choice((at.port, at.port, at.port, 999))
                arrives = rolls.choice(("cni0", "eth0"))
                alike = port.endpoints.any or not (local or port.source_ranges)
                nobody = not (port.endpoints.local if port.external is Reach.LOCAL else port.endpoints.cluster)
                if nobody and at.address is None and to not in serving:
                    alike = False
                yield Packet(source, to, number, at.protocol, local=local, in_interface=arrives), alike


def agree(history: list[Action], policy: Policy, seed: int) -> None:
    cluster = Cluster(policy.family)
    for action in history:
        cluster.do(action)
    services = cluster.take().services
    flat = [port for ports in services.values() for port in ports]
    traces = {writer: tracer(writer, flat, policy) for writer in Writer}
    for packet, alike in packets(services, policy, seed):
        node = frozenset([*NODES[policy.family], *([packet.source] if packet.local else [])])
        outcomes = {writer: said(trace(packet, node)) for writer, trace in traces.items()}
        assert all(abs(sum(each.values()) - 1) < 1e-6 for each in outcomes.values()), (packet, outcomes)
        first = outcomes[Writer.IPTABLES if alike else Writer.FLAT]
        for writer in (Writer.FLAT, Writer.FALLBACK):
            assert outcomes[writer].keys() == first.keys(), (packet, outcomes)
            for key, share in outcomes[writer].items():
                assert abs(share - first[key]) < 1e-6, (packet, outcomes)


def test_every_way_of_writing_rules_does_the_same(trial: Callable[[int, int], int]) -> None:
    check = given(histories(longest=4), policies(), st.integers(0, 1 << 32))(agree)
    settings(max_examples=trial(15, 3000), deadline=None)(check)()
