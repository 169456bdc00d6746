"""What is written, word for word: upstream's names, comments and order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from linux.iptables.rules import Family, Table
from proxy.iptables import chains
from proxy.iptables.backend import TABLES, IptablesBackend
from proxy.iptables.fragments import INVALID_DROPPED, LOCALHOST_ACCEPTED, Style, Unfit, fragment
from proxy.model import Endpoint, PodBridge, PodInterfaces, PodNetwork, Policy, Protocol, Reach, ServicePort, Usable
from tests.fakes.iptables import FakeIptables
from tests.unit.proxy.flows import HERE, POLICY, THERE, endpoint, service
from tests.unit.proxy.tracing import wish

GOLDEN = Path(__file__).parent / "golden"


def made(services: Sequence[ServicePort], policy: Policy = POLICY, accounted: frozenset[str] = frozenset()) -> str:
    """The tables as written into an empty kernel, without the stamps, which any change of wording would change."""

    async def written() -> FakeIptables:
        packets = FakeIptables()
        backend = IptablesBackend(packets, accounted=accounted)
        assert not (await backend.apply(wish(services, policy))).refused
        return packets

    tables = asyncio.run(written()).tables
    lines = []
    for table in TABLES:
        lines.append(f"*{table}")
        lines += [f"-A {name} {rule}" for name, rules in tables[table].items() for rule in rules]
        lines += [f":{name} empty" for name, rules in tables[table].items() if name.startswith("KUBE") and not rules]
    text = "".join(f"{line}\n" for line in lines)
    return re.sub(r" ?wherry:[0-9a-f]{12}", "", text).replace('-m comment --comment "" ', "")


def ends(*spelt: str, local: bool = False) -> tuple[Endpoint, ...]:
    return tuple(Endpoint.at(IPv4Address(ip), 80, local=local) for ip in spelt)


# The six kinds of upstream's TestOverallIPTablesRules, with its addresses.
UPSTREAMS = (
    ServicePort(
        "ns1/svc1:p80", Protocol.TCP, IPv4Address("172.30.0.41"), 80, endpoints=Usable(ends("10.180.0.1"), (), any=True)
    ),
    ServicePort(
        "ns2/svc2:p80",
        Protocol.TCP,
        IPv4Address("172.30.0.42"),
        80,
        node_port=3001,
        external_ips=(IPv4Address("192.168.99.22"),),
        load_balancer_ips=(IPv4Address("1.2.3.4"),),
        external=Reach.LOCAL,
        health_check_node_port=30000,
        endpoints=Usable(ends("10.180.0.2"), (), any=True),
    ),
    ServicePort(
        "ns3/svc3:p80",
        Protocol.TCP,
        IPv4Address("172.30.0.43"),
        80,
        node_port=3003,
        endpoints=Usable(ends("10.180.0.3"), (), any=True),
    ),
    ServicePort(
        "ns4/svc4:p80",
        Protocol.TCP,
        IPv4Address("172.30.0.44"),
        80,
        external_ips=(IPv4Address("192.168.99.33"),),
        endpoints=Usable(ends("10.180.0.4", "10.180.0.5"), (), any=True),
    ),
    ServicePort(
        "ns5/svc5:p80",
        Protocol.TCP,
        IPv4Address("172.30.0.45"),
        80,
        node_port=3002,
        load_balancer_ips=(IPv4Address("5.6.7.8"),),
        source_ranges=(IPv4Network("203.0.113.0/25"),),
        affinity_seconds=10800,
        endpoints=Usable(ends("10.180.0.3"), (), any=True),
    ),
    ServicePort("ns6/svc6:p80", Protocol.TCP, IPv4Address("172.30.0.46"), 80),
)
BALANCED = replace(
    UPSTREAMS[4],
    source_ranges=(IPv4Network("203.0.113.0/25"), IPv4Network("192.168.0.0/24")),
    load_balancer_ips=(IPv4Address("5.6.7.8"), IPv4Address("5.6.7.9")),
)
SIXTH = ServicePort(
    "ns/six:http",
    Protocol.TCP,
    IPv6Address("fd00:30::41"),
    80,
    node_port=30080,
    load_balancer_ips=(IPv6Address("2001:db8::1"),),
    source_ranges=(IPv6Network("2001:db8:1::/48"),),
    external=Reach.LOCAL,
    endpoints=Usable(
        (Endpoint.at(IPv6Address("fd00:10::1"), 8080, local=True), Endpoint.at(IPv6Address("fd00:10::2"), 8080)),
        (Endpoint.at(IPv6Address("fd00:10::1"), 8080, local=True),),
        any=True,
    ),
)

KINDS: dict[str, tuple[Sequence[ServicePort], Policy]] = {
    "upstreams_kinds": (UPSTREAMS, replace(POLICY, pods=PodNetwork(IPv4Network("10.0.0.0/8")))),
    "cluster_ip": ([service(HERE, THERE, node_port=0)], POLICY),
    "node_port": ([service(HERE, THERE)], POLICY),
    "no_endpoints": ([service()], POLICY),
    "affinity": ([service(HERE, THERE, affinity=10800)], POLICY),
    "local_policies": ([service(HERE, THERE, internal=Reach.LOCAL, external=Reach.LOCAL)], POLICY),
    "local_policies_elsewhere": ([service(THERE, internal=Reach.LOCAL, external=Reach.LOCAL)], POLICY),
    "udp_three": (
        [service(*[endpoint(f"10.180.2.{n}") for n in (1, 2, 3)], protocol=Protocol.UDP, name="kube-system/dns")],
        POLICY,
    ),
    "balanced_no_endpoints": ([replace(BALANCED, endpoints=Usable())], POLICY),
    "source_ranges_with_the_node": ([BALANCED], replace(POLICY, node_ip=IPv4Address("192.168.0.1"))),
    "masquerade_all_by_bridge": ([UPSTREAMS[2]], Policy(pods=PodBridge("cbr0"), masquerade_all=True)),
    "pods_by_interface": ([UPSTREAMS[1]], Policy(pods=PodInterfaces("veth"))),
    "localhost_node_ports": ([UPSTREAMS[2]], replace(POLICY, localhost_node_ports=True)),
    "node_port_addresses": (
        [UPSTREAMS[2]],
        replace(POLICY, node_port_addresses=(IPv4Address("127.0.0.1"), IPv4Address("192.168.0.1"))),
    ),
    "ipv6": ([SIXTH], Policy(Family.V6, pods=PodNetwork(IPv6Network("fd00:10::/64")))),
    "ipv6_no_endpoints": (
        [
            replace(SIXTH, source_ranges=(), endpoints=Usable()),
            replace(SIXTH, name="ns/six:dns", protocol=Protocol.UDP, endpoints=Usable()),
        ],
        Policy(Family.V6),
    ),
    "liberal_conntrack": ([], replace(POLICY, drop_invalid=False, random_fully=False)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{kind}.txt", made(*KINDS[kind]))


def test_counters_are_counted_where_the_kernel_has_them(golden: Callable[[Path, str], None]) -> None:
    both = frozenset([INVALID_DROPPED, LOCALHOST_ACCEPTED])
    golden(GOLDEN / "nfacct.txt", made([UPSTREAMS[2]], replace(POLICY, localhost_node_ports=True), both))


def test_names_are_upstreams() -> None:
    assert [chains.hashed(f"{port.name}tcp") for port in UPSTREAMS[:5]] == [
        "XPGD46QRK7WJZT7O",
        "GNZBNJ2PO5MGZ6GT",
        "X27LE4BHSL4DOUIK",
        "4SW47YFZTEDKD3PK",
        "NUKIZ6OKUXPJNT4C",
    ]
    assert chains.endpoint_chain(UPSTREAMS[0], UPSTREAMS[0].endpoints.cluster[0]) == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert POLICY.mark == "0x00004000"


def test_the_node_port_jump_is_the_last_rule() -> None:
    nat = made(UPSTREAMS).partition("*nat")[2]
    services = [line for line in nat.splitlines() if line.startswith("-A KUBE-SERVICES ")]
    assert services[-1].endswith("-j KUBE-NODEPORTS")


def test_a_large_cluster_has_no_comments_on_endpoints() -> None:
    many = [
        replace(
            UPSTREAMS[0],
            name=f"ns/many-{index}",
            endpoints=Usable(ends(f"10.0.{index}.1", f"10.0.{index}.2"), (), True),
        )
        for index in range(255)
    ]
    policy = replace(POLICY, pods=None)
    assert "ns/many-7 -> 10.0.7.1:80" in made(many, policy)
    large = made([replace(port, name=f"{port.name}-{copy}") for copy in range(2) for port in many], policy)
    assert large.count("-j DNAT") == 1020
    assert "->" not in large
    assert re.search(r"-A KUBE-SEP-\S+ -s 10.0.7.1 -j KUBE-MARK-MASQ", large)
    assert "ns/many-7-1 cluster IP" in large


@pytest.mark.parametrize("name", ["", 'ns/a"b:http', "ns/a\n-A INPUT -j ACCEPT", "ns/ä:http", "ns/a b", "-j/x"])
def test_a_name_that_would_not_be_safe_in_a_rule_is_refused(name: str) -> None:
    with pytest.raises(Unfit, match="no name that Kubernetes allows"):
        fragment(service(HERE, name=name), Style(POLICY))


def test_kube_firewall_of_the_kubelet_is_shared() -> None:
    """What the kubelet wrote is found; what is missing is added; nothing of it is emptied."""
    kubelets = '-m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -j DROP'
    policy = replace(POLICY, localhost_node_ports=True)
    for there, rules in (([], 1), ([kubelets], 1), (["-m mark --mark 0x8000/0x8000 -j DROP"], 2)):
        packets = FakeIptables()
        if there:
            packets.run("-t filter -N KUBE-FIREWALL")
        for rule in there:
            packets.run(f"-t filter -A KUBE-FIREWALL {rule}")
        asyncio.run(IptablesBackend(packets).apply(wish([], policy)))
        assert len(packets.tables[Table.FILTER]["KUBE-FIREWALL"]) == rules
        assert packets.tables[Table.FILTER]["KUBE-FIREWALL"][: len(there)] == there
        assert "-j KUBE-FIREWALL" in packets.tables[Table.FILTER]["INPUT"]
